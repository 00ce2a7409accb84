"""Triton kernels that reduce rows: element r goes to lane r % LANES in ascending order, lanes are added in pairs.

A tile of fewer lanes than the plan's gives the same bits when the row fits it: the missing lanes hold zeros. ``tl.sum`` runs
only over pairs, so no layout, warp count or number of rows in the tile can change the tree. Products that feed a sum
are explicit fmas; compile with enable_fp_fusion=False.
"""

import triton
import triton.language as tl

from lowerings.cuda.overlap_kernels import follow


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
    return by_pairs(acc, ROWS, LANES, LOG)


@triton.jit(do_not_specialize=["rows"])
def sum_rows(
    x_ptr, out_ptr, rows, inner, extent, s_outer, s_inner, s_r,
    KIND: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    """KIND: sum, mean, prod, sum_squares, mean_squares, norm1, norm2."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < rows)[:, None]
    ptrs = x_ptr + _base(tl.where(row < rows, row, 0), inner, s_outer, s_inner)
    SQUARES: tl.constexpr = KIND == "sum_squares" or KIND == "mean_squares" or KIND == "norm2"
    if KIND == "prod":
        total = _product(ptrs, ok, extent, s_r, ROWS, LANES, LOG, UNROLL)
    else:
        total = _total(
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
    ptrs = x_ptr + _base(tl.where(row < rows, row, 0), inner, s_outer, s_inner)
    total = _total(ptrs, ok, 0.0, extent, s_r, False, False, False, ROWS, LANES, LOG, UNROLL)
    mean = tl.div_rn(total, tl.zeros_like(total) + extent)
    square = _total(ptrs, ok, mean, extent, s_r, True, True, False, ROWS, LANES, LOG, UNROLL)
    var = tl.div_rn(square, tl.zeros_like(square) + divisor)
    tl.store(mean_ptr + row[:, None], mean.to(mean_ptr.dtype.element_ty), mask=ok)
    tl.store(var_ptr + row[:, None], var.to(var_ptr.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=["rows"])
def norm_rows(
    x_ptr, weight_ptr, bias_ptr, out_ptr, mean_ptr, rstd_ptr, rows, extent, s_row, eps,
    CENTRED: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, HELD: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr, OVERLAP: tl.constexpr,
) -> None:  # fmt: skip
    """layer_norm (CENTRED) or rms_norm of rows with unit stride."""
    follow(OVERLAP)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < rows)[:, None]
    ptrs = x_ptr + _base(tl.where(row < rows, row, 0), 1, s_row, 0)
    mean = tl.zeros((ROWS, 1), tl.float32)
    count = mean + extent
    lane = tl.arange(0, LANES)
    held_mask = ok & (lane < extent)[None, :]
    if HELD:
        # the row is read once and stays in registers
        held = tl.load(ptrs + lane[None, :], mask=held_mask, other=0.0).to(tl.float32)
    if CENTRED:
        if HELD:
            total = by_pairs(held, ROWS, LANES, LOG)
        else:
            total = _total(ptrs, ok, 0.0, extent, 1, False, False, False, ROWS, LANES, LOG, UNROLL)
        mean = tl.div_rn(total, count)
        tl.store(mean_ptr + row[:, None], mean.to(mean_ptr.dtype.element_ty), mask=ok)
    if HELD:
        left = tl.where(held_mask, held - mean, 0.0) if CENTRED else held
        square = by_pairs(left * left, ROWS, LANES, LOG)
    else:
        square = _total(ptrs, ok, mean, extent, 1, True, CENTRED, False, ROWS, LANES, LOG, UNROLL)
    rstd = tl.rsqrt(tl.div_rn(square, count) + eps)
    tl.store(rstd_ptr + row[:, None], rstd.to(rstd_ptr.dtype.element_ty), mask=ok)
    outs = out_ptr + row.to(tl.int64)[:, None] * extent
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + tl.arange(0, LANES)
            inside = r < extent
            mask = ok & inside[None, :]
            x = held if HELD else tl.load(ptrs + r[None, :], mask=mask, other=0.0).to(tl.float32)
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
def add_rms_rows(
    x_ptr, residual_ptr, weight_ptr, out_ptr, sum_ptr, rows, extent, s_x, s_residual, eps,
    HAS_RESIDUAL: tl.constexpr, HAS_WEIGHT: tl.constexpr, FMA: tl.constexpr, ROUNDED: tl.constexpr, HELD: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr, OVERLAP: tl.constexpr,
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
    held = acc
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + tl.arange(0, LANES)
            mask = ok & (r < extent)[None, :]
            x = _added(xs, residuals, r, mask, HAS_RESIDUAL)
            acc = tl.fma(x, x, acc) if FMA else acc + x * x
            if HELD:
                held = x
            if HAS_RESIDUAL:
                tl.store(sums + r[None, :], x.to(sum_ptr.dtype.element_ty), mask=mask)
    square = by_pairs(acc, ROWS, LANES, LOG)
    rstd = tl.rsqrt(tl.div_rn(square, tl.zeros_like(square) + extent) + eps)
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + tl.arange(0, LANES)
            inside = r < extent
            mask = ok & inside[None, :]
            x = held if HELD else _added(xs, residuals, r, mask, HAS_RESIDUAL)
            y = x * rstd
            if ROUNDED:
                y = y.to(out_ptr.dtype.element_ty).to(tl.float32)
            if HAS_WEIGHT:
                y = y * tl.load(weight_ptr + r, mask=inside, other=0.0).to(tl.float32)[None, :]
            tl.store(outs + r[None, :], y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def softmax_rows(
    x_ptr, out_ptr, rows, inner, extent, s_outer, s_inner, s_r,
    LOG_OUT: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
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
            top = tl.maximum(
                top, tl.load(x_ptr + at, mask=mask, other=float("-inf")).to(tl.float32)
            )
    top = tl.max(top, axis=1)[:, None]
    acc = tl.zeros((ROWS, LANES), tl.float32)
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + tl.arange(0, LANES)
            mask = ok & (r < extent)[None, :]
            at = offsets + r.to(tl.int64)[None, :] * s_r
            x = tl.load(x_ptr + at, mask=mask, other=float("-inf")).to(tl.float32)
            acc += tl.where(mask, tl.exp(x - top), 0.0)
    total = by_pairs(acc, ROWS, LANES, LOG)
    if LOG_OUT:
        total = tl.log(total)
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + tl.arange(0, LANES)
            mask = ok & (r < extent)[None, :]
            at = offsets + r.to(tl.int64)[None, :] * s_r
            x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
            y = x - top - total if LOG_OUT else tl.exp(x - top) / total
            tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def softmax_held(
    x_ptr, out_ptr, rows, inner, extent, s_outer, s_inner, s_r,
    LOG_OUT: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    """The form of ``softmax_rows`` for a row of at most LANES elements: read once."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    r = tl.arange(0, LANES)
    mask = (row < rows)[:, None] & (r < extent)[None, :]
    at = (
        _base(tl.where(row < rows, row, 0), inner, s_outer, s_inner) + r.to(tl.int64)[None, :] * s_r
    )
    x = tl.load(x_ptr + at, mask=mask, other=float("-inf")).to(tl.float32)
    x = x - tl.max(x, axis=1)[:, None]
    e = tl.where(mask, tl.exp(x), 0.0)
    total = by_pairs(e, ROWS, LANES, LOG)
    y = x - tl.log(total) if LOG_OUT else e / total
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def top_part(x_ptr, part_ptr, rows, extent, PARTS: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr,
             UNROLL: tl.constexpr) -> None:  # fmt: skip
    """Maximum of the lanes [part * WIDTH, ...) of one contiguous row."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    lane = part * WIDTH + tl.arange(0, WIDTH)
    top = tl.full((WIDTH,), float("-inf"), tl.float32)
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + lane
            x = tl.load(x_ptr + row * extent + r, mask=r < extent, other=float("-inf"))
            top = tl.maximum(top, x.to(tl.float32))
    tl.store(part_ptr + row * PARTS + part, tl.max(top, axis=0))


@triton.jit(do_not_specialize=["rows"])
def exp_part(x_ptr, top_ptr, part_ptr, rows, extent, PARTS: tl.constexpr, WIDTH: tl.constexpr,
             LOG: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr) -> None:  # fmt: skip
    """Sum of exp(x - max) over the same lanes: a subtree of the row's."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    lane = part * WIDTH + tl.arange(0, WIDTH)
    top = tl.max(tl.load(top_ptr + row * PARTS + tl.arange(0, PARTS)), axis=0)
    acc = tl.zeros((WIDTH,), tl.float32)
    for begin in range(0, extent, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + lane
            x = tl.load(x_ptr + row * extent + r, mask=r < extent, other=float("-inf")).to(
                tl.float32
            )
            acc += tl.where(r < extent, tl.exp(x - top), 0.0)
    total = by_pairs(acc[None, :], 1, WIDTH, LOG)
    one = tl.arange(0, 1)
    tl.store(part_ptr + row * PARTS + part + one[None, :], total)


@triton.jit(do_not_specialize=["rows"])
def softmax_write(x_ptr, top_ptr, part_ptr, out_ptr, rows, extent, LOG_OUT: tl.constexpr,
                  PARTS: tl.constexpr, LOG: tl.constexpr, BLOCK: tl.constexpr) -> None:  # fmt: skip
    """The top of the tree, and one block of the row's quotients or differences."""
    row = tl.program_id(0).to(tl.int64)
    parts = row * PARTS + tl.arange(0, PARTS)
    top = tl.max(tl.load(top_ptr + parts), axis=0)
    total = by_pairs(tl.load(part_ptr + parts)[None, :], 1, PARTS, LOG)
    if LOG_OUT:
        total = tl.log(total)
    r = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    x = tl.load(x_ptr + row * extent + r, mask=r < extent, other=0.0).to(tl.float32)
    y = x - top - total if LOG_OUT else tl.exp(x - top) / total
    tl.store(out_ptr + row * extent + r, y.to(out_ptr.dtype.element_ty), mask=r < extent)
