"""Reductions over any dims, and argmax, argmin, variance with mean."""

import math
from typing import Any

import torch
from torch import Tensor

from bi_inductor.errors import LoweringError
from lowerings.mps import library, plans
from lowerings.mps.rows import Rows, normal_dims, rows_of

_ADD, _SQUARE, _MULTIPLY, _MAX, _MIN = range(5)
_VALUE, _MAGNITUDE, _NONZERO = range(3)
_NOTHING, _DIVIDE, _ROOT = range(3)
#: kind -> (fold, map, finish)
KINDS = {
    "sum": (_ADD, _VALUE, _NOTHING),
    "mean": (_ADD, _VALUE, _DIVIDE),
    "prod": (_MULTIPLY, _VALUE, _NOTHING),
    "amax": (_MAX, _VALUE, _NOTHING),
    "amin": (_MIN, _VALUE, _NOTHING),
    "any": (_MAX, _NONZERO, _NOTHING),
    "all": (_MIN, _NONZERO, _NOTHING),
    "sum_squares": (_SQUARE, _VALUE, _NOTHING),
    "mean_squares": (_SQUARE, _VALUE, _DIVIDE),
}
#: the p of a norm -> the same
NORMS = {
    0.0: (_ADD, _NONZERO, _NOTHING),
    1.0: (_ADD, _MAGNITUDE, _NOTHING),
    2.0: (_SQUARE, _VALUE, _ROOT),
    math.inf: (_MAX, _MAGNITUDE, _NOTHING),
    -math.inf: (_MIN, _MAGNITUDE, _NOTHING),
}
_IDENTITY = {_ADD: 0, _SQUARE: 0, _MULTIPLY: 1}
_LIMITS = {
    "float": ("(-INFINITY)", "INFINITY"),
    "long": ("(-0x7fffffffffffffffL - 1)", "0x7fffffffffffffffL"),
}


def reduction(
    x: Tensor,
    kind: str,
    dims: list[int],
    keepdim: bool = False,
    *,
    param: float = 0.0,
    dtype: torch.dtype | None = None,
    lanes: int,
) -> Tensor:
    """Reduce ``dims`` of ``x`` (all when empty); float32 or int64 accumulator, one rounding to ``dtype``."""
    library.check_number("reduction", "lanes", lanes, plans.ROW_LANES)
    library.check_size("reduction", x)
    dims_ = normal_dims(x, dims)
    if kind in ("argmax", "argmin"):
        return _shaped(_arg(x, kind, dims_), x, dims_, keepdim)
    fold, map_, finish = _steps(kind, param)
    if x.is_complex() or x.dtype == torch.float64:
        library.metal_type(x.dtype, "reduction")
    if dtype is not None and dtype.is_floating_point and not x.dtype.is_floating_point:
        x = x.to(dtype)
    out_dtype = dtype or _result_dtype(x, kind)
    rows = rows_of(x, dims_)
    if not rows.extent and fold not in _IDENTITY and kind not in ("any", "all"):
        raise LoweringError(f"reduction: {kind} over no elements of {tuple(x.shape)} has no value")
    if not rows.extent:
        value = float("nan") if kind.startswith("mean") else _IDENTITY.get(fold, kind == "all")
        return _shaped(x.new_full((rows.rows,), value, dtype=out_dtype), x, dims_, keepdim)
    out = x.new_empty(rows.rows, dtype=out_dtype)
    p = [*_numbers(rows), 1, fold, map_, finish]
    _run(rows, rows.width, "bi_reduce", out, p)
    return _shaped(out, x, dims_, keepdim)


def var_mean(
    x: Tensor, dims: list[int], correction: float, keepdim: bool = False, *, lanes: int
) -> tuple[Tensor, Tensor]:
    """Variance (two passes, divided by ``L - correction``) and mean over ``dims``."""
    library.check_number("var_mean", "lanes", lanes, plans.ROW_LANES)
    library.check_size("var_mean", x)
    metal = library.metal_type(x.dtype, "var_mean")
    dims_ = normal_dims(x, dims)
    rows = rows_of(x, dims_)
    var = x.new_full((rows.rows,), float("nan"))
    mean = torch.full_like(var, float("nan"))
    if rows.rows and rows.extent:
        p = [*_numbers(rows), 1]
        lib = norm_library(rows.width, T=metal)
        divisor = [max(float(rows.extent - correction), 0.0)]
        groups = [rows.groups(rows.width)]
        library.launch(lib.bi_var_mean, rows.x, var, mean, p, divisor, groups=groups, size=256)
    return _shaped(var, x, dims_, keepdim), _shaped(mean, x, dims_, keepdim)


def norm_library(width: int, T: str, **defines: object) -> Any:
    """Return the library of the row kernels that give more than one result."""
    low, high = _LIMITS["float"]
    types = {"T": T, "A": "float", "O": T, "W": T, "LOWEST": low, "HIGHEST": high}
    return library.load("rows", "norm", **{**types, "WIDTH": width, **defines})


def _run(rows: Rows, width: int, name: str, out: Tensor, p: list[int]) -> None:
    metal, acc = library.TYPES[rows.x.dtype]
    low, high = _LIMITS[acc]
    lib = library.load(
        "rows",
        "reduction",
        T=metal,
        A=acc,
        O=library.metal_type(out.dtype, "reduction"),
        WIDTH=width,
        LOWEST=low,
        HIGHEST=high,
    )
    if out.numel():
        kernel = getattr(lib, name)
        library.launch(kernel, rows.x, out, p, groups=[rows.groups(width)], size=256)


def _arg(x: Tensor, kind: str, dims: tuple[int, ...]) -> Tensor:
    rows = rows_of(x, dims)
    if not rows.extent:
        raise LoweringError(f"reduction: {kind} over no elements of {tuple(x.shape)} has no value")
    out = x.new_empty(rows.rows, dtype=torch.int64)
    p = [*_numbers(rows), 1, _MAX if kind == "argmax" else _MIN]
    _run(rows, rows.width, "bi_arg", out, p)
    return out


def _steps(kind: str, param: float) -> tuple[int, int, int]:
    if kind == "norm":
        if param not in NORMS:
            known = ", ".join(map(str, NORMS))
            raise LoweringError(
                f"reduction: norm of p={param} is not available on mps; p is {known}"
            )
        return NORMS[param]
    if kind not in KINDS:
        raise LoweringError(f"reduction: unknown kind {kind!r}; known: {', '.join(KINDS)}")
    return KINDS[kind]


def _result_dtype(x: Tensor, kind: str) -> torch.dtype:
    if kind in ("any", "all"):
        return torch.bool
    summed = kind in ("sum", "prod", "sum_squares") and not x.dtype.is_floating_point
    return torch.int64 if summed else x.dtype


def _numbers(rows: Rows) -> list[int]:
    return [rows.rows, rows.extent, rows.inner, *rows.steps, rows.inner]


def _shaped(out: Tensor, x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    kept = [1 if d in dims else n for d, n in enumerate(x.shape) if keepdim or d not in dims]
    return out.view(kept)
