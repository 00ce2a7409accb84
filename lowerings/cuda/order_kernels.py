"""Triton kernels whose order is a walk: scans, ordered adds, bags of rows, pooling windows.

Every output element is one chain in ascending order, so no tile or warp count can change it; only the tree inside a
block of ``scan_rows`` follows a layout, and that kernel is compiled for one layout whatever it is called with.
"""

import triton
import triton.language as tl


@triton.jit
def _add(a, b):
    return a + b


@triton.jit
def _multiply(a, b):
    return a * b


@triton.jit
def _log_add_exp(a, b):
    high = tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
    low = tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
    # inf - inf would be NaN
    gap = tl.where(low == high, 0.0, low - high)
    return high + tl.log(1.0 + tl.exp(gap))


@triton.jit(
    do_not_specialize=["extent"], do_not_specialize_on_alignment=["x_ptr", "out_ptr", "extent"]
)
def scan_rows(
    x_ptr, out_ptr, extent, KIND: tl.constexpr, ACC: tl.constexpr, FIRST: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """One contiguous row: a tree inside each block of BLOCK elements, a chain from block to block."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    carry = tl.full((BLOCK,), FIRST, ACC)
    for begin in range(0, extent, BLOCK):
        r = begin + lane
        inside = r < extent
        x = tl.load(x_ptr + row * extent + r, mask=inside, other=0).to(ACC)
        x = tl.where(inside, x, tl.full((BLOCK,), FIRST, ACC))
        if KIND == "cumsum":
            y = carry + tl.associative_scan(x, 0, _add)
        elif KIND == "cumprod":
            y = carry * tl.associative_scan(x, 0, _multiply)
        else:
            y = _log_add_exp(carry, tl.associative_scan(x, 0, _log_add_exp))
        tl.store(out_ptr + row * extent + r, y.to(out_ptr.dtype.element_ty), mask=inside)
        # one element and zeros: exact in any order
        last = tl.sum(tl.where(lane == BLOCK - 1, y, tl.zeros_like(y)), axis=0)
        carry = tl.zeros_like(carry) + last


@triton.jit(do_not_specialize=["count"])
def segment_add(
    x_ptr, src_ptr, out_ptr, order_ptr, starts_ptr, count, width, alpha,
    SCALED: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """out[i] = x[i] + alpha * src[order[j]] for j in [starts[i], starts[i + 1]), in that order; rows of ``width``."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    here = row < count
    mask = here[:, None] & (column < width)[None, :]
    at = row[:, None] * width + column[None, :]
    acc = tl.load(x_ptr + at, mask=mask, other=0).to(ACC)
    start = tl.load(starts_ptr + row, mask=here, other=0)
    end = tl.load(starts_ptr + row + 1, mask=here, other=0)
    longest = tl.max(end - start, axis=0)
    for step in range(longest):
        live = start + step < end
        source = tl.load(order_ptr + start + step, mask=live, other=0)
        wanted = mask & live[:, None]
        value = tl.load(
            src_ptr + source[:, None] * width + column[None, :], mask=wanted, other=0
        ).to(ACC)
        if SCALED:
            value = value * alpha
        acc = tl.where(wanted, acc + value, acc)
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["bags", "total"])
def bag_rows(
    weight_ptr, index_ptr, offset_ptr, sample_ptr, out_ptr, bags, total, width, padding,
    MODE: tl.constexpr, WEIGHTED: tl.constexpr, LAST: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Sum, mean or max of the rows of bag ``pid``, in the order of its indices; ``padding`` is left out."""
    bag = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < width
    start = tl.load(offset_ptr + bag).to(tl.int64)
    end = start * 0 + total
    if LAST or bag + 1 < bags:
        end = tl.load(offset_ptr + bag + 1).to(tl.int64)
    acc = tl.zeros((COLUMNS,), tl.float32)
    used = start * 0
    for j in range(start, end):
        index = tl.load(index_ptr + j).to(tl.int64)
        if index != padding:
            row = tl.load(weight_ptr + index * width + column, mask=mask, other=0).to(tl.float32)
            if WEIGHTED:
                row = row * tl.load(sample_ptr + j).to(tl.float32)
            if MODE == "max":
                larger = tl.maximum(acc, row, propagate_nan=tl.PropagateNan.ALL)
                acc = tl.where(used == 0, row, larger)
            else:
                acc = acc + row
            used += 1
    if MODE == "mean":
        acc = tl.div_rn(acc, tl.zeros_like(acc) + tl.maximum(used, 1).to(tl.float32))
    at = bag.to(tl.int64) * width + column
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["count"])
def average_windows(
    x_ptr, out_ptr, count, depth, height, width, out_depth, out_height, out_width,
    kernel_d, kernel_h, kernel_w, step_d, step_h, step_w, pad_d, pad_h, pad_w, divisor,
    COUNT_PADDING: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Mean over windows of a contiguous [planes, depth, height, width], added in row-major order."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    w0 = (at % out_width) * step_w - pad_w
    h0 = (at // out_width % out_height) * step_h - pad_h
    d0 = (at // out_width // out_height % out_depth) * step_d - pad_d
    plane = x_ptr + at // out_width // out_height // out_depth * depth * height * width
    acc = tl.zeros((BLOCK,), tl.float32)
    for i in range(kernel_d):
        for j in range(kernel_h):
            for k in range(kernel_w):
                d, h, w = d0 + i, h0 + j, w0 + k
                inside = (d >= 0) & (d < depth) & (h >= 0) & (h < height) & (w >= 0) & (w < width)
                cell = plane + (d * height + h) * width + w
                acc += tl.load(cell, mask=mask & inside, other=0).to(tl.float32)
    if divisor > 0:
        cells = at * 0 + divisor
    elif COUNT_PADDING:
        cells = (
            (tl.minimum(d0 + kernel_d, depth + pad_d) - d0)
            * (tl.minimum(h0 + kernel_h, height + pad_h) - h0)
            * (tl.minimum(w0 + kernel_w, width + pad_w) - w0)
        )
    else:
        cells = (
            (tl.minimum(d0 + kernel_d, depth) - tl.maximum(d0, 0))
            * (tl.minimum(h0 + kernel_h, height) - tl.maximum(h0, 0))
            * (tl.minimum(w0 + kernel_w, width) - tl.maximum(w0, 0))
        )
    out = tl.div_rn(acc, tl.where(mask, cells, 1).to(tl.float32))
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=mask)
