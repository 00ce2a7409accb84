"""Builds the matmul kernels as a plain C library for each instruction set; the torch ops are the product's own."""

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import tempfile
from pathlib import Path

import torch

from lowerings.cpu import build

CSRC = Path(__file__).parents[2] / "lowerings" / "cpu" / "csrc"
FLAGS = ["-O3", "-std=c++20", "-fPIC", "-fopenmp", "-ffp-contract=off", "-fno-math-errno",
         "-fsigned-zeros"]  # fmt: skip
ISAS = {
    "avx512_bf16": ["-march=native", "-DBI_ISA_AVX512", "-DBI_HAS_BF16_DOT"],
    "avx512": ["-march=skylake-avx512", "-DBI_ISA_AVX512"],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-DBI_ISA_AVX2"],
    "portable": ["-DBI_ISA_PORTABLE"],
}
PLAIN = """
#include "conv.h"
#include "gemm.h"
extern "C" void product(int dtype, const int64_t* mnk, const void* a, const int64_t* a_strides, const void* b,
                        const int64_t* b_strides, void* out, int64_t split, int threads) {
  bi::gemm::Problem p;
  p.dtype = static_cast<bi::gemm::Dtype>(dtype);
  p.m = mnk[0], p.n = mnk[1], p.k = mnk[2];
  p.a = {a, 0, a_strides[0], a_strides[1]};
  p.b = {b, 0, b_strides[0], b_strides[1]};
  p.out = out, p.out_row_stride = p.n, p.split = split, p.threads = threads;
  bi::gemm::run(p);
}
// geometry: samples, groups, channels in and out, then input, output, kernel, stride, padding, dilation [h, w]
extern "C" void convolve(int dtype, const int64_t* geometry, int transposed, const void* x, const void* weight,
                         void* out, int64_t split, int threads) {
  bi::conv::Problem p;
  bi::conv::Shape& s = p.shape;
  s.samples = geometry[0], s.groups = geometry[1], s.in_channels = geometry[2], s.out_channels = geometry[3];
  int64_t* const fields[] = {s.in, s.out, s.kernel, s.stride, s.padding, s.dilation};
  for (int f = 0; f < 6; f++)
    for (int d = 0; d < 2; d++) fields[f][1 + d] = geometry[4 + 2 * f + d];
  s.transposed = transposed != 0;
  p.dtype = static_cast<bi::gemm::Dtype>(dtype);
  p.x = x, p.weight = weight, p.out = out, p.split = split, p.threads = threads;
  bi::conv::run(p);
}
"""
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def host_isas() -> list[str]:
    """The instruction sets that run here, the fastest first."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ["portable"]
    capability = torch.backends.cpu.get_cpu_capability()
    isas = {"AVX512": ["avx512", "avx2"], "AVX2": ["avx2"]}.get(capability, [])
    cpuinfo = Path("/proc/cpuinfo")
    if "avx512" in isas and cpuinfo.exists() and " avx512_bf16" in cpuinfo.read_text():
        isas.insert(0, "avx512_bf16")
    return [*isas, "portable"]


def _build(isa: str) -> Path:
    key = hashlib.sha256("".join((torch.__version__, PLAIN, *FLAGS, *ISAS[isa])).encode())
    parts = ("gemm", "conv", "simd", "half", "parallel")
    for source in sorted(p for p in CSRC.rglob("*") if p.name.split(".")[0].startswith(parts)):
        key.update(source.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"bi_inductor_gemm_{isa}_{key.hexdigest()[:16]}"
    path = folder / "gemm.so"
    if path.exists():
        return path
    folder.mkdir(exist_ok=True)
    main = folder / "main.cpp"
    main.write_text(PLAIN)
    objects = []
    for source in (*sorted(CSRC.glob("gemm*.cpp")), *sorted(CSRC.glob("conv*.cpp")), main):
        objects.append(folder / f"{source.stem}.{os.getpid()}.o")
        command = ["g++", *FLAGS, *ISAS[isa], f"-I{CSRC}", "-c", source, "-o", objects[-1]]
        subprocess.run(command, check=True)
    partial = folder / f"gemm.{os.getpid()}.so"
    subprocess.run(["g++", "-shared", "-fopenmp", *objects, "-o", partial], check=True)
    partial.rename(path)
    return path


def load() -> None:
    """Registers mm, bmm, grouped_mm and convolution: the product's own library."""
    build.load()


@functools.cache
def plain(isa: str) -> ctypes.CDLL:
    """The kernels of one instruction set, without torch."""
    return ctypes.CDLL(str(_build(isa)))


def mm_of_isa(
    isa: str, a: torch.Tensor, b: torch.Tensor, split_size: int, threads: int = 1
) -> torch.Tensor:
    """``a @ b`` by the kernels of one instruction set."""
    out = torch.empty(a.shape[0], b.shape[1], dtype=a.dtype)
    numbers = ctypes.c_int64 * 3
    plain(isa).product(
        DTYPES.index(a.dtype),
        numbers(a.shape[0], b.shape[1], a.shape[1]),
        ctypes.c_void_p(a.data_ptr()),
        numbers(*a.stride()),
        ctypes.c_void_p(b.data_ptr()),
        numbers(*b.stride()),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_int64(split_size),
        threads,
    )
    return out


def conv2d_of_isa(
    isa: str,
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    groups: int,
    split_size: int,
) -> torch.Tensor:
    """A 2-d convolution without bias by the kernels of one instruction set, in two threads, into ``out``."""
    if transposed:
        weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).contiguous()
    geometry = [x.shape[0], groups, x.shape[1], out.shape[1], *x.shape[2:], *out.shape[2:]]
    geometry += [*weight.shape[-2:], *stride, *padding, *dilation]
    plain(isa).convolve(
        DTYPES.index(x.dtype),
        (ctypes.c_int64 * len(geometry))(*geometry),
        transposed,
        ctypes.c_void_p(x.data_ptr()),
        ctypes.c_void_p(weight.data_ptr()),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_int64(split_size),
        2,
    )
    return out
