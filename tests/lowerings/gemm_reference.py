"""The order of a matrix product, written down in numpy: exact fused multiply-adds, lanes, tree, chunks."""

from fractions import Fraction

import numpy as np
import torch

LANES = {torch.float32: 16, torch.float16: 16, torch.bfloat16: 16, torch.float64: 8}
SPLIT_SIZE = {torch.float32: 768, torch.float16: 768, torch.bfloat16: 1024, torch.float64: 384}
TINY = np.float32(2.0**-126)


def fma32(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """float32 ``x * y + z`` with one rounding: sum in float64, rounded to odd, then to float32."""
    product = x.astype(np.float64) * y.astype(np.float64)  # exact
    addend = z.astype(np.float64)
    total = product + addend
    part = total - product
    lost = (product - (total - part)) + (addend - part)
    bits = total.view(np.int64)
    odd = np.where(
        (lost != 0) & (bits & 1 == 0) & np.isfinite(total),
        np.where((lost > 0) == (total > 0), bits + 1, bits - 1),
        bits,
    )
    return odd.view(np.float64).astype(np.float32)


def fma64(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """float64 ``x * y + z`` with one rounding, by exact fractions: slow, finite values only."""
    exact = np.frompyfunc(lambda a, b, c: float(Fraction(a) * Fraction(b) + Fraction(c)), 3, 1)
    return exact(x, y, z).astype(np.float64)


def flush(x: np.ndarray) -> np.ndarray:
    """Denormals to zeros of the same sign."""
    return np.where(np.abs(x) < TINY, np.copysign(np.float32(0), x), x)


def tree(lanes: np.ndarray) -> np.ndarray:
    """Adds the last axis: lane l + 8, then 4, 2, 1."""
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def chunk_sum(a_mk: np.ndarray, b_kn: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """One chunk: lane chains in ascending k, then the tree. ``a`` and ``b`` are widened already."""
    lanes, pairs = LANES[dtype], 2 if dtype is torch.bfloat16 else 1
    fma = fma64 if dtype is torch.float64 else fma32
    step = lanes * pairs
    missing = -a_mk.shape[1] % step
    a = np.pad(a_mk, ((0, 0), (0, missing)))[:, None, :]
    b = np.pad(b_kn, ((0, missing), (0, 0))).T[None, :, :]
    acc = np.zeros((a.shape[0], b.shape[1], lanes), a.dtype)
    for k in range(0, a.shape[2], step):
        for part in reversed(range(pairs)):  # bf16: the odd k of a pair first
            acc = fma(a[..., k + part : k + step : pairs], b[..., k + part : k + step : pairs], acc)
            acc = flush(acc) if pairs == 2 else acc
    return tree(acc)


def mm(
    a_mk: torch.Tensor,
    b_kn: torch.Tensor,
    bias: torch.Tensor | None = None,
    alpha: float = 1,
    beta: float = 1,
    split_size: int | None = None,
) -> torch.Tensor:
    """``alpha * (a @ b) + beta * bias`` in the order of the plan, for normal finite values."""
    dtype = a_mk.dtype
    split = split_size or SPLIT_SIZE[dtype]
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    a, b = a_mk.to(wide).numpy(), b_kn.to(wide).numpy()
    total = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    for k in range(0, a.shape[1], split):
        part = chunk_sum(a[:, k : k + split], b[k : k + split], dtype)
        total = part if k == 0 else total + part
    out = torch.from_numpy(np.ascontiguousarray(total)) * alpha
    if bias is not None and beta != 0:
        out = out + bias.to(wide) * beta
    return out.to(dtype)
