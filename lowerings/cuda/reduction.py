"""reduction and var_mean: the launchers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bi_inductor.errors import LoweringError
from lowerings.cuda import row_kernels as kernels
from lowerings.cuda.launching import Memory, Repeat, launch
from lowerings.cuda.rows import check, constants, programs, rows_of

_SUMS = ("sum", "mean", "prod", "sum_squares", "mean_squares", "norm")
#: (launch, sizes and dtype of the result) of what was reduced where it lay
_repeats: Memory[tuple[Repeat, list[int], torch.dtype]] = Memory()


def reduction(
    x: Tensor,
    kind: str,
    dims: Sequence[int],
    keepdim: bool = False,
    *,
    param: float = 0.0,
    dtype: torch.dtype | None = None,
    lanes: int,
) -> Tensor:
    """Reduce ``dims`` (all when empty).

    Kinds whose result has no order (amax, amin, any, all, argmax, argmin, sums of integers) are ATen's own kernels.

    Raises:
        LoweringError: a kind or dtype without a kernel.
    """
    place = x.data_ptr() & 15, x.get_device()
    key = (kind, tuple(dims), keepdim, param, dtype, lanes, x.dtype, x.shape, x.stride(), place)
    again = _repeats.get(key)
    if again is not None:
        launch_again, sizes, wanted = again
        out = x.new_empty(sizes, dtype=wanted)
        launch_again(x, out)
        return out
    given = x
    dims = sorted(d % max(x.dim(), 1) for d in (dims or range(x.dim())))
    exact = _exact(x, kind, dims, keepdim, dtype)
    if exact is not None:
        return exact.contiguous()
    if kind == "norm" and param not in (1.0, 2.0):
        return _p_norm(x, param, dims, keepdim, dtype, lanes)
    if not x.dtype.is_floating_point and dtype is not None:
        x = x.to(dtype)
    check(x, lanes, f"reduction {kind}")
    if kind not in _SUMS:
        raise LoweringError(
            f"reduction {kind!r} of {x.dtype} has no CUDA kernel; there are {', '.join(_SUMS)}"
        )
    sizes, wanted = _sizes(x, dims, keepdim), dtype or x.dtype
    out = x.new_empty(sizes, dtype=wanted)
    if not out.numel():
        return out
    view = rows_of(x, dims)
    tile = constants(view)
    repeat = launch(
        kernels.sum_rows,
        programs(view, tile),
        (view.x, out),
        (view.rows, *view.arguments()),
        KIND=f"norm{int(param)}" if kind == "norm" else kind,
        **tile,
    )
    if repeat is not None and view.x is given:
        _repeats.keep(key, (repeat, sizes, wanted))
    return out


def var_mean(
    x: Tensor, dims: Sequence[int], correction: float, keepdim: bool = False, *, lanes: int
) -> tuple[Tensor, Tensor]:
    """Return variance and mean over ``dims`` in x's dtype; the divisor is ``max(n - correction, 0)``."""
    check(x, lanes, "var_mean")
    sizes = _sizes(x, sorted(d % max(x.dim(), 1) for d in (dims or range(x.dim()))), keepdim)
    var, mean = x.new_empty(sizes), x.new_empty(sizes)
    if not var.numel():
        return var, mean
    view = rows_of(x, dims)
    tile = constants(view)
    inner, extent, *strides = view.arguments()
    divisor = max(float(extent) - correction, 0.0)
    launch(
        kernels.var_mean_rows,
        programs(view, tile),
        (view.x, var, mean),
        (view.rows, inner, extent, divisor, *strides),
        **tile,
    )
    return var, mean


def _exact(
    x: Tensor, kind: str, dims: Sequence[int], keepdim: bool, dtype: torch.dtype | None
) -> Tensor | None:
    if kind in ("amax", "amin"):
        return getattr(torch, kind)(x, dims, keepdim)
    if kind in ("any", "all"):
        return getattr(torch, kind)(x, tuple(dims), keepdim)
    if kind in ("argmax", "argmin"):
        if len(dims) == x.dim():
            found = getattr(torch, kind)(x)
            return found.reshape((1,) * x.dim()) if keepdim else found
        return getattr(torch, kind)(x, dims[0], keepdim)
    integers = not x.dtype.is_floating_point and not (dtype or torch.int64).is_floating_point
    if kind == "sum" and integers:
        return torch.sum(x, tuple(dims), keepdim, dtype=dtype)
    if kind == "prod" and integers:
        for d in reversed(dims):
            x = torch.prod(x, d, keepdim, dtype=dtype)
        return x
    return None


def _p_norm(
    x: Tensor, p: float, dims: Sequence[int], keepdim: bool, dtype: torch.dtype | None, lanes: int
) -> Tensor:
    """Norms besides p = 1 and 2: an exact extreme or count, or the sum of powers."""
    if math.isinf(p):
        found = (torch.amax if p > 0 else torch.amin)(x.abs(), list(dims), keepdim)
        return found.to(dtype or x.dtype).contiguous()
    powers = (x != 0).to(torch.float32) if p == 0 else x.to(torch.float32).abs().pow(p)
    total = reduction(powers, "sum", dims, keepdim, lanes=lanes)
    return (total if p == 0 else total.pow(1 / p)).to(dtype or x.dtype)


def _sizes(x: Tensor, dims: Sequence[int], keepdim: bool) -> list[int]:
    sizes = [1 if d in dims else size for d, size in enumerate(x.shape)]
    return sizes if keepdim else [size for d, size in enumerate(sizes) if d not in dims]
