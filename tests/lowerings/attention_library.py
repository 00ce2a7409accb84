"""Builds the attention kernel for each instruction set, and calls it without torch's dispatcher."""

import ctypes
import functools
import hashlib
import math
import os
import platform
import subprocess
import tempfile
from pathlib import Path

import torch

from lowerings.cpu import build

CSRC = Path(__file__).parents[2] / "lowerings" / "cpu" / "csrc"
REFERENCE = Path(__file__).with_name("attention_reference.cpp")
FLAGS = [
    "-O3",
    "-std=c++20",
    "-fPIC",
    "-fopenmp",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fsigned-zeros",
]
ISAS = {
    "avx512": ["-march=native", "-DBI_ISA_AVX512"],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-DBI_ISA_AVX2"],
    "portable": ["-DBI_ISA_PORTABLE"],
}
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
MASK_TYPES = {
    torch.bool: 1,
    torch.float32: 2,
    torch.bfloat16: 3,
    torch.float16: 4,
    torch.float64: 5,
}

Strides = ctypes.c_int64 * 3


class Arguments(ctypes.Structure):
    """The struct of attention.h, field by field."""

    _fields_ = (
        ("type", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "out", "lse")),
        *((name, ctypes.c_int64) for name in ("batch", "heads", "kv_heads", "queries", "keys")),
        *((name, ctypes.c_int64) for name in ("dim", "value_dim")),
        *((name, Strides) for name in ("q_strides", "k_strides", "v_strides", "out_strides")),
        ("mask_type", ctypes.c_int),
        ("mask", ctypes.c_void_p),
        ("mask_strides", ctypes.c_int64 * 4),
        ("is_causal", ctypes.c_bool),
        ("scale", ctypes.c_double),
        ("threads", ctypes.c_int),
    )


def host_isas() -> list[str]:
    """The instruction sets that run here, the fastest first."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ["portable"]
    capability = torch.backends.cpu.get_cpu_capability()
    first = {"AVX512": 0, "AVX2": 1}.get(capability, 2)
    return list(ISAS)[first:]


def _folder() -> Path:
    key = hashlib.sha256(repr((torch.__version__, FLAGS, ISAS)).encode())
    for source in (REFERENCE, *sorted(CSRC.rglob("attention*"))):
        key.update(source.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"bi_inductor_attention_{key.hexdigest()[:16]}"
    folder.mkdir(exist_ok=True)
    return folder


def _built(name: str, *command: str | Path) -> Path:
    path = _folder() / name
    if not path.exists():
        partial = path.with_name(f"{os.getpid()}.{name}")
        subprocess.run(["g++", *FLAGS, *command, f"-I{CSRC}", "-o", partial], check=True)
        partial.rename(path)
    return path


def _kernel(isa: str) -> Path:
    return _built(f"kernel_{isa}.o", *ISAS[isa], "-c", CSRC / "attention.cpp")


@functools.cache
def library(isa: str) -> ctypes.CDLL:
    """The kernel of one instruction set, with the reference beside it."""
    return ctypes.CDLL(str(_built(f"{isa}.so", "-shared", _kernel(isa), REFERENCE)))


def load() -> None:
    """Register ``torch.ops.bi_inductor.attention`` for the CPU: the product's own library."""
    build.load()


def attend_with(isa, q, k, v, mask=None, *, is_causal=False, threads=1):
    """The kernel of ``isa`` on [B, H, L, D] tensors with dense features; returns (out, lse)."""
    (batch, heads, queries, dim), (_, kv_heads, keys, value_dim) = q.shape, v.shape
    out = q.new_empty(batch, heads, queries, value_dim)
    lse = torch.empty(
        batch, heads, queries, dtype=torch.float64 if q.dtype == torch.float64 else torch.float32
    )
    wide = None if mask is None else mask.expand(batch, heads, queries, keys)
    args = Arguments(
        TYPES[q.dtype], *(x.data_ptr() for x in (q, k, v, out, lse)), batch, heads, kv_heads, queries,
        keys, dim, value_dim, *(Strides(*x.stride()[:3]) for x in (q, k, v, out)),
        0 if wide is None else MASK_TYPES[wide.dtype], None if wide is None else wide.data_ptr(),
        (ctypes.c_int64 * 4)(*((0,) * 4 if wide is None else wide.stride())), is_causal, 1 / math.sqrt(dim), threads,
    )  # fmt: skip
    library(isa).run_attention(ctypes.byref(args))
    return out, lse


def reference(q, k, v, mask=None, *, is_causal=False):
    """The plan in scalar C++, row by row; returns out [B, H, Lq, Dv] in q's dtype."""
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    name = "reference_row_double" if kind == torch.float64 else "reference_row_float"
    run = getattr(library(host_isas()[0]), name)
    (batch, heads, queries, dim), (_, kv_heads, keys, value_dim) = q.shape, v.shape
    keep = torch.ones(batch, heads, queries, keys, dtype=torch.bool)
    bias = None
    if mask is not None and mask.dtype == torch.bool:
        keep = keep & mask
    elif mask is not None:
        lowest = -65504.0 if mask.dtype == torch.float16 else torch.finfo(torch.bfloat16).min
        keep = keep & ~(mask <= lowest)
        bias = mask.to(kind).expand(keep.shape).contiguous()
    if is_causal:
        keep = keep & torch.ones(queries, keys, dtype=torch.bool).tril()
    keep = keep.contiguous()
    q, k, v = (x.to(kind).contiguous() for x in (q, k, v))
    out = torch.empty(batch, heads, queries, value_dim, dtype=kind)
    pointer = lambda x: None if x is None else ctypes.c_void_p(x.data_ptr())  # noqa: E731
    sizes = [ctypes.c_int64(n) for n in (keys, dim, value_dim)]
    for b in range(batch):
        for h in range(heads):
            kv = (b, h * kv_heads // heads)
            for i in range(queries):
                row = None if bias is None else bias[b, h, i]
                run(pointer(q[b, h, i]), pointer(k[kv]), pointer(v[kv]), pointer(keep[b, h, i]),
                    pointer(row), *sizes, ctypes.c_double(1 / math.sqrt(dim)), pointer(out[b, h, i]))  # fmt: skip
    return out
