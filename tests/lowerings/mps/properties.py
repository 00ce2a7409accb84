"""What every test of this folder compares with: bits, the C reference, and a budget of accuracy."""

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from msl_cpu import _compiler

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
HALF_ULP = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
SPLIT, LANES, KEYS = 128, 256, 256


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal shapes and equal bits, NaN payloads and the sign of zero included."""
    width = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[a.element_size()]
    return a.shape == b.shape and torch.equal(
        a.contiguous().view(width), b.contiguous().view(width)
    )


def data(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Normals over some 20 binary orders of magnitude, so that any other order of addition shows."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    return (x * torch.exp2(torch.randint(-8, 4, shape, generator=generator))).to(dtype)


@cache
def _c() -> ctypes.CDLL:
    source = Path(__file__).with_name("plan_reference.c")
    made = Path(tempfile.mkdtemp()) / "plan_reference.so"
    flags = ["-O1", "-ffp-contract=off", "-shared", "-fPIC", "-x", "c", str(source), "-lm"]
    subprocess.run([_compiler(), *flags, "-o", str(made)], check=True)
    return ctypes.CDLL(str(made))


def _pointer(x: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def reference_matmul(a, b, bias=None):
    """The plan in C, from float32 values, rounded to the dtype of ``a``."""
    x, y = a.float().contiguous(), b.float().contiguous()
    c = None if bias is None else bias.float().contiguous()
    out = torch.empty(a.shape[0], b.shape[1])
    sizes = (a.shape[0], b.shape[1], a.shape[1], SPLIT)
    _c().reference_matmul(*map(_pointer, (x, y, c, out)), *sizes)
    return out.to(a.dtype)


def reference_rows(x, kind):
    """Sum, mean or mean of squares of each row in C."""
    rows, out = x.float().contiguous(), torch.empty(x.shape[0])
    number = ("sum", "mean", "mean_squares").index(kind)
    _c().reference_rows(_pointer(rows), _pointer(out), *x.shape, LANES, number)
    return out.to(x.dtype)
