"""Triton kernels that reduce rows: element r goes to lane r % LANES in ascending order, lanes are added in pairs.

A tile of fewer lanes than the plan's gives the same bits when the row fits it: the missing lanes hold zeros. ``tl.sum`` runs
only over pairs, so no layout, warp count or number of rows in the tile can change the tree. Products that feed a sum
are explicit fmas; compile with enable_fp_fusion=False.
"""

import triton
import triton.language as tl


@triton.jit
def by_pairs(x, ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr):
    """[ROWS, LANES] -> [ROWS, 1]: lanes 2i and 2i + 1 meet, then their sums: neighbours share a thread, then a warp."""
    for level in tl.static_range(LOG):
        x = tl.sum(tl.reshape(x, (ROWS, LANES >> (level + 1), 2)), axis=2)
    return tl.reshape(x, (ROWS, 1))


@triton.jit
def _multiply(a, b):
    return a * b


@triton.jit
def _product(ptrs, ok, extent, s_r, ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """The lanes and pairs of a sum, with factors."""
    acc = tl.full((ROWS, LANES), 1.0, tl.float32)
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + tl.arange(0, LANES)
            mask = ok & (r < extent)[None, :]
            x = tl.load(ptrs + r.to(tl.int64)[None, :] * s_r, mask=mask, other=1.0)
            acc = acc * x.to(tl.float32)
    for level in tl.static_range(LOG):
        pairs = tl.reshape(acc, (ROWS, LANES >> (level + 1), 2))
        acc = tl.reduce(pairs, 2, _multiply)
    return tl.reshape(acc, (ROWS, 1))


@triton.jit
def base(rows, inner, s_outer, s_inner):
    row = rows.to(tl.int64)
    return ((row // inner) * s_outer + (row % inner) * s_inner)[:, None]


@triton.jit
def total_of(ptrs, ok, shift, extent, s_r, SQUARES: tl.constexpr, SHIFTED: tl.constexpr, ABS: tl.constexpr,
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
    return by_pairs(acc, ROWS, LANES, LOG)


@triton.jit(do_not_specialize=["rows"])
def sum_rows(
    x_ptr, out_ptr, rows, inner, extent, s_outer, s_inner, s_r,
    KIND: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    """KIND: sum, mean, prod, sum_squares, mean_squares, norm1, norm2."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < rows)[:, None]
    ptrs = x_ptr + base(tl.where(row < rows, row, 0), inner, s_outer, s_inner)
    SQUARES: tl.constexpr = KIND == "sum_squares" or KIND == "mean_squares" or KIND == "norm2"
    if KIND == "prod":
        total = _product(ptrs, ok, extent, s_r, ROWS, LANES, LOG, UNROLL)
    else:
        total = total_of(
            ptrs, ok, 0.0, extent, s_r, SQUARES, False, KIND == "norm1", ROWS, LANES, LOG, UNROLL
        )
    if KIND == "mean" or KIND == "mean_squares":
        total = tl.div_rn(total, tl.zeros_like(total) + extent)
    if KIND == "norm2":
        total = tl.sqrt_rn(total)
    tl.store(out_ptr + row[:, None], total.to(out_ptr.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["rows"])
def var_mean_rows(
    x_ptr, var_ptr, mean_ptr, rows, inner, extent, divisor, s_outer, s_inner, s_r,
    ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    """Mean, then the squares of what is left over ``divisor``."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < rows)[:, None]
    ptrs = x_ptr + base(tl.where(row < rows, row, 0), inner, s_outer, s_inner)
    total = total_of(ptrs, ok, 0.0, extent, s_r, False, False, False, ROWS, LANES, LOG, UNROLL)
    mean = tl.div_rn(total, tl.zeros_like(total) + extent)
    square = total_of(ptrs, ok, mean, extent, s_r, True, True, False, ROWS, LANES, LOG, UNROLL)
    var = tl.div_rn(square, tl.zeros_like(square) + divisor)
    tl.store(mean_ptr + row[:, None], mean.to(mean_ptr.dtype.element_ty), mask=ok)
    tl.store(var_ptr + row[:, None], var.to(var_ptr.dtype.element_ty), mask=ok)
