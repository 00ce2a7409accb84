"""Triton kernels of layer_norm and rms_norm: rows of ``row_kernels.py`` with unit stride.

A row of at most LANES elements is read once and stays in registers.
"""

import triton
import triton.language as tl

from lowerings.cuda.overlap_kernels import follow
from lowerings.cuda.row_kernels import base, by_pairs, total_of


@triton.jit
def _affine(y, weight, bias, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr):
    """[ROWS, LANES] times weight plus bias, rounded once."""
    if HAS_WEIGHT:
        weight = tl.broadcast_to(weight.to(tl.float32)[None, :], y.shape)
        if HAS_BIAS:
            y = tl.fma(y, weight, tl.broadcast_to(bias.to(tl.float32)[None, :], y.shape))
        else:
            y = y * weight
    elif HAS_BIAS:
        y = y + bias.to(tl.float32)[None, :]
    return y


@triton.jit(do_not_specialize=["rows"])
def norm_held(
    x_ptr, weight_ptr, bias_ptr, out_ptr, mean_ptr, rstd_ptr, rows, extent, s_row, eps,
    CENTRED: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, OVERLAP: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    """layer_norm (CENTRED) or rms_norm of rows of at most LANES elements."""
    follow(OVERLAP)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < rows)[:, None]
    at = tl.where(row < rows, row, 0).to(tl.int64)[:, None]
    lane = tl.arange(0, LANES)
    inside = lane < extent
    mask = ok & inside[None, :]
    x = tl.load(x_ptr + at * s_row + lane[None, :], mask=mask, other=0.0).to(tl.float32)
    # all loads before the first sum
    weight = tl.load(weight_ptr + lane, mask=inside, other=0.0) if HAS_WEIGHT else 0
    bias = tl.load(bias_ptr + lane, mask=inside, other=0.0) if HAS_BIAS else 0
    mean = tl.zeros((ROWS, 1), tl.float32)
    count = mean + extent
    if CENTRED:
        mean = tl.div_rn(by_pairs(x, ROWS, LANES, LOG), count)
        x = tl.where(mask, x - mean, 0.0)
    rstd = tl.rsqrt(tl.div_rn(by_pairs(x * x, ROWS, LANES, LOG), count) + eps)
    y = _affine(x * rstd, weight, bias, HAS_WEIGHT, HAS_BIAS)
    tl.store(out_ptr + at * extent + lane[None, :], y.to(out_ptr.dtype.element_ty), mask=mask)
    if CENTRED:
        tl.store(mean_ptr + row[:, None], mean.to(mean_ptr.dtype.element_ty), mask=ok)
    tl.store(rstd_ptr + row[:, None], rstd.to(rstd_ptr.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["rows"])
def norm_rows(
    x_ptr, weight_ptr, bias_ptr, out_ptr, mean_ptr, rstd_ptr, rows, extent, s_row, eps,
    CENTRED: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, OVERLAP: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    """The same of rows of any length."""
    follow(OVERLAP)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < rows)[:, None]
    ptrs = x_ptr + base(tl.where(row < rows, row, 0), 1, s_row, 0)
    mean = tl.zeros((ROWS, 1), tl.float32)
    count = mean + extent
    if CENTRED:
        total = total_of(ptrs, ok, 0.0, extent, 1, False, False, False, ROWS, LANES, LOG, UNROLL)
        mean = tl.div_rn(total, count)
        tl.store(mean_ptr + row[:, None], mean.to(mean_ptr.dtype.element_ty), mask=ok)
    square = total_of(ptrs, ok, mean, extent, 1, True, CENTRED, False, ROWS, LANES, LOG, UNROLL)
    rstd = tl.rsqrt(tl.div_rn(square, count) + eps)
    tl.store(rstd_ptr + row[:, None], rstd.to(rstd_ptr.dtype.element_ty), mask=ok)
    outs = out_ptr + row.to(tl.int64)[:, None] * extent
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + tl.arange(0, LANES)
            inside = r < extent
            mask = ok & inside[None, :]
            x = tl.load(ptrs + r[None, :], mask=mask, other=0.0).to(tl.float32)
            y = (x - mean) * rstd if CENTRED else x * rstd
            weight = tl.load(weight_ptr + r, mask=inside, other=0.0) if HAS_WEIGHT else 0
            bias = tl.load(bias_ptr + r, mask=inside, other=0.0) if HAS_BIAS else 0
            y = _affine(y, weight, bias, HAS_WEIGHT, HAS_BIAS)
            tl.store(outs + r[None, :], y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _added(
    x_ptrs, residual_ptrs, r, s_mask, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """x, or x + residual rounded to x's type, in float32."""
    x = tl.load(x_ptrs + r[None, :], mask=s_mask, other=0.0)
    if HAS_RESIDUAL:
        left = tl.load(residual_ptrs + r[None, :], mask=s_mask, other=0.0)
        x = (x.to(tl.float32) + left.to(tl.float32)).to(x.dtype)
    return x.to(tl.float32)


@triton.jit(do_not_specialize=["rows"])
def add_rms_held(
    x_ptr, residual_ptr, weight_ptr, out_ptr, sum_ptr, rows, extent, s_x, s_residual, eps,
    HAS_RESIDUAL: tl.constexpr, HAS_WEIGHT: tl.constexpr, FMA: tl.constexpr, ROUNDED: tl.constexpr, OVERLAP: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    """``add_rms_rows`` of rows of at most LANES elements: a lane has one square, so FMA is all the same."""
    follow(OVERLAP)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = tl.where(row < rows, row, 0).to(tl.int64)[:, None]
    lane = tl.arange(0, LANES)
    inside = lane < extent
    mask = (row < rows)[:, None] & inside[None, :]
    x = _added(x_ptr + at * s_x, residual_ptr + at * s_residual, lane, mask, HAS_RESIDUAL)
    weight = tl.load(weight_ptr + lane, mask=inside, other=0.0) if HAS_WEIGHT else 0
    if HAS_RESIDUAL:
        total = x.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + at * extent + lane[None, :], total, mask=mask)
    square = by_pairs(x * x, ROWS, LANES, LOG)
    y = x * tl.rsqrt(tl.div_rn(square, tl.zeros_like(square) + extent) + eps)
    if ROUNDED:
        y = y.to(out_ptr.dtype.element_ty).to(tl.float32)
    y = _affine(y, weight, 0, HAS_WEIGHT, False)
    tl.store(out_ptr + at * extent + lane[None, :], y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def add_rms_rows(
    x_ptr, residual_ptr, weight_ptr, out_ptr, sum_ptr, rows, extent, s_x, s_residual, eps,
    HAS_RESIDUAL: tl.constexpr, HAS_WEIGHT: tl.constexpr, FMA: tl.constexpr, ROUNDED: tl.constexpr, OVERLAP: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    """Residual add and rms norm; ROUNDED: before the product with the weight. FMA: no rounding of a square."""
    follow(OVERLAP)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < rows)[:, None]
    safe = tl.where(row < rows, row, 0).to(tl.int64)[:, None]
    xs = x_ptr + safe * s_x
    residuals = residual_ptr + safe * s_residual
    outs = out_ptr + safe * extent
    sums = sum_ptr + safe * extent
    acc = tl.zeros((ROWS, LANES), tl.float32)
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + tl.arange(0, LANES)
            mask = ok & (r < extent)[None, :]
            x = _added(xs, residuals, r, mask, HAS_RESIDUAL)
            acc = tl.fma(x, x, acc) if FMA else acc + x * x
            if HAS_RESIDUAL:
                tl.store(sums + r[None, :], x.to(sum_ptr.dtype.element_ty), mask=mask)
    square = by_pairs(acc, ROWS, LANES, LOG)
    rstd = tl.rsqrt(tl.div_rn(square, tl.zeros_like(square) + extent) + eps)
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + tl.arange(0, LANES)
            inside = r < extent
            mask = ok & inside[None, :]
            x = _added(xs, residuals, r, mask, HAS_RESIDUAL)
            y = x * rstd
            if ROUNDED:
                y = y.to(out_ptr.dtype.element_ty).to(tl.float32)
            weight = tl.load(weight_ptr + r, mask=inside, other=0.0) if HAS_WEIGHT else 0
            y = _affine(y, weight, 0, HAS_WEIGHT, False)
            tl.store(outs + r[None, :], y.to(out_ptr.dtype.element_ty), mask=mask)
