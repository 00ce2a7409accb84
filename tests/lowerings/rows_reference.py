"""The order of the row plans, written slowly with element-wise torch ops: the oracle of the tests.

Element j of a row goes to lane j % 64, lanes fold in ascending j, then halves are folded onto
halves. Nothing here knows about strides, vectors or threads.
"""

from collections.abc import Callable

import numpy
import torch
from torch import Tensor

LANES = 64
Combine = Callable[[Tensor, Tensor], Tensor]


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """float32 for halves, the type itself otherwise."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def fold_rows(x: Tensor, combine: Combine, identity: float) -> Tensor:
    """Fold the last dim of ``x [..., N]`` (already in the accumulator's dtype) by the lane plan."""
    lanes = torch.full((*x.shape[:-1], LANES), identity, dtype=x.dtype)
    for start in range(0, x.shape[-1], LANES):
        chunk = x[..., start : start + LANES]
        width = chunk.shape[-1]
        lanes[..., :width] = combine(lanes[..., :width], chunk)
    width = LANES // 2
    while width:
        lanes = combine(lanes[..., :width], lanes[..., width : 2 * width])
        width //= 2
    return lanes[..., 0]


def sqrt(x: Tensor) -> Tensor:
    """Correctly rounded: torch's own float32 sqrt is an ulp off for some values (2.13, MKL)."""
    return torch.from_numpy(numpy.asarray(numpy.sqrt(x.numpy())))


def sum_rows(x: Tensor) -> Tensor:
    return fold_rows(x, torch.add, 0.0)


def prod_rows(x: Tensor) -> Tensor:
    return fold_rows(x, torch.mul, 1.0)


def rows_of(x: Tensor, dims: list[int]) -> Tensor:
    """``x`` as contiguous [kept..., N] with the reduced dims flattened in ascending dim order."""
    reduced = sorted(d % x.dim() for d in dims) if dims else list(range(x.dim()))
    kept = [d for d in range(x.dim()) if d not in reduced]
    moved = x.permute(*kept, *reduced)
    return moved.reshape(*moved.shape[: len(kept)], -1).contiguous()


def reduction(x: Tensor, kind: str, dims: list[int]) -> Tensor:
    rows = rows_of(x, dims).to(accumulator(x.dtype))
    n = rows.shape[-1]
    match kind:
        case "sum":
            total = sum_rows(rows)
        case "mean":
            total = sum_rows(rows) / n
        case "prod":
            total = prod_rows(rows)
        case "sum_squares":
            total = sum_rows(rows * rows)
        case "mean_squares":
            total = sum_rows(rows * rows) / n
        case "norm":
            total = sqrt(sum_rows(rows * rows))
        case "amax":
            total = rows.amax(-1)
        case "amin":
            total = rows.amin(-1)
        case _:
            raise ValueError(kind)
    return total.to(x.dtype)


def var_mean(x: Tensor, dims: list[int], correction: float) -> tuple[Tensor, Tensor]:
    rows = rows_of(x, dims).to(accumulator(x.dtype))
    n = rows.shape[-1]
    mean = sum_rows(rows) / n
    deviations = rows - mean.unsqueeze(-1)
    var = sum_rows(deviations * deviations) / max(0.0, n - correction)
    return var.to(x.dtype), mean.to(x.dtype)


def fma(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """One rounding to float32: the product is exact in float64 (a tie twice rounded is 1 in 2^29)."""
    wide = [t.double() if isinstance(t, Tensor) else t for t in (a, b, c)]
    return (wide[0] * wide[1] + wide[2]).float()


EXP_COEFFICIENTS = (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
                    5.0000001201e-1)  # fmt: skip
LOG_COEFFICIENTS = (-1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
                    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1,
                    3.3333331174e-1)  # fmt: skip


def single(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


def polynomial(x: Tensor, first: float, rest: tuple[float, ...]) -> Tensor:
    acc = torch.full_like(x, first)
    for c in rest:
        acc = fma(acc, x, single(c))
    return acc


def exp(x: Tensor) -> Tensor:
    """float32 e^x for x <= 0, as simd.h computes it."""
    x = x.clamp(min=-104.0)
    n = torch.round(x.double() * single(1.44269504088896341)).float()
    r = fma(n, -single(0.693147180559945309), x)
    r = fma(n, 1.904654323148236017e-9, r)
    p = polynomial(r, 1.9875691500e-4, EXP_COEFFICIENTS)
    p = fma(r * r, p, r) + 1.0
    return torch.ldexp(p.double(), n.double()).float()


def log(x: Tensor) -> Tensor:
    """float32 log of normal positive x, as simd.h computes it."""
    half = torch.tensor(0x3F3504F3, dtype=torch.int32)
    shifted = x.view(torch.int32) + (0x3F800000 - half)
    e = ((shifted >> 23) - 127).float()
    f = ((shifted & 0x7FFFFF) + half).view(torch.float32) - 1.0
    z = f * f
    p = polynomial(f, single(7.0376836292e-2), LOG_COEFFICIENTS)
    y = fma(e, single(-2.12194440e-4), f * z * p)
    y = fma(z, -0.5, y)
    return fma(e, 0.693359375, f + y)


def softmax(x: Tensor, log_of_it: bool) -> Tensor:
    """Over the last dim of float32, bfloat16 or float16 ``x``; float32 result, not rounded yet."""
    wide = x.float().contiguous()
    centered = wide - wide.amax(-1, keepdim=True)
    e = exp(centered)
    total = sum_rows(e).unsqueeze(-1)
    return centered - log(total) if log_of_it else e * (1.0 / total)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
    wide = x.float().contiguous()
    n = wide.shape[-1]
    mean = (sum_rows(wide) / n).unsqueeze(-1)
    d = wide - mean
    rstd = 1.0 / sqrt((sum_rows(d * d) / n).unsqueeze(-1) + single(eps))
    return fma(d * rstd, weight.float(), bias.float()).to(x.dtype), mean, rstd


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    wide = x.float().contiguous()
    mean_squares = (sum_rows(wide * wide) / wide.shape[-1]).unsqueeze(-1)
    rstd = 1.0 / sqrt(mean_squares + single(eps))
    return (wide * rstd * weight.float()).to(x.dtype), rstd
