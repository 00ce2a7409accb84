"""Triton kernels that reduce rows: element r goes to lane r % LANES in ascending order, lanes are added by halves.

A tile of fewer lanes than the plan's gives the same bits when the row fits it: the missing lanes hold zeros. ``tl.sum`` runs
only over pairs, so no layout, warp count or number of rows in the tile can change the tree. Products that feed a sum
are explicit fmas; compile with enable_fp_fusion=False.
"""

import triton
import triton.language as tl


@triton.jit
def by_halves(x, ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr):
    """[ROWS, LANES] -> [ROWS, 1]: lane i + lane i + LANES/2, and so on."""
    for level in tl.static_range(LOG):
        x = tl.sum(tl.reshape(x, (ROWS, 2, LANES >> (level + 1))), axis=1)
    return x


@triton.jit
def _base(rows, inner, s_outer, s_inner):
    row = rows.to(tl.int64)
    return ((row // inner) * s_outer + (row % inner) * s_inner)[:, None]


@triton.jit
def _total(ptrs, ok, shift, extent, s_r, SQUARES: tl.constexpr, SHIFTED: tl.constexpr, ABS: tl.constexpr,
           ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """Sum, sum of squares or of absolute values of ``x - shift``; ptrs [ROWS, 1], shift [ROWS, 1]."""
    acc = tl.zeros((ROWS, LANES), tl.float32)
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + tl.arange(0, LANES)
            mask = ok & (r < extent)[None, :]
            x = tl.load(ptrs + r.to(tl.int64)[None, :] * s_r, mask=mask, other=0.0).to(tl.float32)
            if SHIFTED:
                x = tl.where(mask, x - shift, 0.0)
            if SQUARES:
                acc = tl.fma(x, x, acc)
            elif ABS:
                acc += tl.abs(x)
            else:
                acc += x
    return by_halves(acc, ROWS, LANES, LOG)


@triton.jit
def sum_rows(
    x_ptr, out_ptr, rows, inner, extent, s_outer, s_inner, s_r,
    KIND: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """KIND: sum, mean, sum_squares, mean_squares, norm1, norm2."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < rows)[:, None]
    ptrs = x_ptr + _base(tl.where(row < rows, row, 0), inner, s_outer, s_inner)
    SQUARES: tl.constexpr = KIND == "sum_squares" or KIND == "mean_squares" or KIND == "norm2"
    total = _total(ptrs, ok, 0.0, extent, s_r, SQUARES, False, KIND == "norm1", ROWS, LANES, LOG, UNROLL)
    if KIND == "mean" or KIND == "mean_squares":
        total = tl.div_rn(total, tl.zeros_like(total) + extent)
    if KIND == "norm2":
        total = tl.sqrt_rn(total)
    tl.store(out_ptr + row[:, None], total.to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit
def var_mean_rows(
    x_ptr, var_ptr, mean_ptr, rows, inner, extent, divisor, s_outer, s_inner, s_r,
    ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Mean, then the squares of what is left over ``divisor``."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < rows)[:, None]
    ptrs = x_ptr + _base(tl.where(row < rows, row, 0), inner, s_outer, s_inner)
    total = _total(ptrs, ok, 0.0, extent, s_r, False, False, False, ROWS, LANES, LOG, UNROLL)
    mean = tl.div_rn(total, tl.zeros_like(total) + extent)
    square = _total(ptrs, ok, mean, extent, s_r, True, True, False, ROWS, LANES, LOG, UNROLL)
    var = tl.div_rn(square, tl.zeros_like(square) + divisor)
    tl.store(mean_ptr + row[:, None], mean.to(mean_ptr.dtype.element_ty), mask=ok)
    tl.store(var_ptr + row[:, None], var.to(var_ptr.dtype.element_ty), mask=ok)


@triton.jit
def norm_rows(
    x_ptr, weight_ptr, bias_ptr, out_ptr, mean_ptr, rstd_ptr, rows, extent, s_row, eps,
    CENTRED: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """layer_norm (CENTRED) or rms_norm of rows with unit stride."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < rows)[:, None]
    ptrs = x_ptr + _base(tl.where(row < rows, row, 0), 1, s_row, 0)
    mean = tl.zeros((ROWS, 1), tl.float32)
    count = mean + extent
    if CENTRED:
        total = _total(ptrs, ok, 0.0, extent, 1, False, False, False, ROWS, LANES, LOG, UNROLL)
        mean = tl.div_rn(total, count)
        tl.store(mean_ptr + row[:, None], mean.to(mean_ptr.dtype.element_ty), mask=ok)
    square = _total(ptrs, ok, mean, extent, 1, True, CENTRED, False, ROWS, LANES, LOG, UNROLL)
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
            if HAS_WEIGHT:
                weight = tl.load(weight_ptr + r, mask=inside, other=0.0).to(tl.float32)[None, :]
                if HAS_BIAS:
                    bias = tl.load(bias_ptr + r, mask=inside, other=0.0).to(tl.float32)[None, :]
                    y = tl.fma(y, tl.broadcast_to(weight, y.shape), tl.broadcast_to(bias, y.shape))
                else:
                    y = y * weight
            elif HAS_BIAS:
                y = y + tl.load(bias_ptr + r, mask=inside, other=0.0).to(tl.float32)[None, :]
            tl.store(outs + r[None, :], y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def softmax_rows(
    x_ptr, out_ptr, rows, inner, extent, s_outer, s_inner, s_r,
    LOG_OUT: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """The exact maximum, lanes of exp(x - max), then the quotient or the difference of logarithms."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < rows)[:, None]
    offsets = _base(tl.where(row < rows, row, 0), inner, s_outer, s_inner)
    top = tl.full((ROWS, LANES), float("-inf"), tl.float32)
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + tl.arange(0, LANES)
            mask = ok & (r < extent)[None, :]
            at = offsets + r.to(tl.int64)[None, :] * s_r
            top = tl.maximum(top, tl.load(x_ptr + at, mask=mask, other=float("-inf")).to(tl.float32))
    top = tl.max(top, axis=1)[:, None]
    acc = tl.zeros((ROWS, LANES), tl.float32)
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + tl.arange(0, LANES)
            mask = ok & (r < extent)[None, :]
            at = offsets + r.to(tl.int64)[None, :] * s_r
            x = tl.load(x_ptr + at, mask=mask, other=float("-inf")).to(tl.float32)
            acc += tl.where(mask, tl.exp(x - top), 0.0)
    total = by_halves(acc, ROWS, LANES, LOG)
    if LOG_OUT:
        total = tl.log(total)
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + tl.arange(0, LANES)
            mask = ok & (r < extent)[None, :]
            at = offsets + r.to(tl.int64)[None, :] * s_r
            x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
            if LOG_OUT:
                y = x - top - total
            else:
                y = tl.exp(x - top) / total
            tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)
