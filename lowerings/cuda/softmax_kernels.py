"""Triton kernels of softmax and log_softmax: the exact maximum, lanes of exp(x - max), then quotients or differences."""

import triton
import triton.language as tl

from lowerings.cuda.overlap_kernels import follow
from lowerings.cuda.row_kernels import base, by_pairs


@triton.jit(do_not_specialize=["rows"])
def softmax_rows(
    x_ptr, out_ptr, rows, inner, extent, s_outer, s_inner, s_r,
    LOG_OUT: tl.constexpr, OVERLAP: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    """The exact maximum, lanes of exp(x - max), then the quotient or the difference of logarithms."""
    follow(OVERLAP)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < rows)[:, None]
    offsets = base(tl.where(row < rows, row, 0), inner, s_outer, s_inner)
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
    LOG_OUT: tl.constexpr, OVERLAP: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    """The form of ``softmax_rows`` for a row of at most LANES elements: read once."""
    follow(OVERLAP)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    r = tl.arange(0, LANES)
    mask = (row < rows)[:, None] & (r < extent)[None, :]
    at = base(tl.where(row < rows, row, 0), inner, s_outer, s_inner) + r.to(tl.int64)[None, :] * s_r
    x = tl.load(x_ptr + at, mask=mask, other=float("-inf")).to(tl.float32)
    x = x - tl.max(x, axis=1)[:, None]
    e = tl.where(mask, tl.exp(x), 0.0)
    total = by_pairs(e, ROWS, LANES, LOG)
    y = x - tl.log(total) if LOG_OUT else e / total
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def softmax_long(
    x_ptr, out_ptr, rows, extent, LOG_OUT: tl.constexpr, OVERLAP: tl.constexpr, LANES: tl.constexpr, LOG: tl.constexpr,
    UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    """A contiguous row of a program: the second and the third look at it find it in the L2 cache."""
    follow(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * extent
    out_ptr += row * extent
    lane = tl.arange(0, LANES)
    whole = extent // (LANES * UNROLL) * (LANES * UNROLL)
    tops = tl.full((LANES,), float("-inf"), tl.float32)
    for begin in range(0, whole, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            at = x_ptr + begin + step * LANES + lane
            tops = tl.maximum(tops, tl.load(at, eviction_policy="evict_last").to(tl.float32))
    for begin in range(whole, extent, LANES):
        r = begin + lane
        x = tl.load(x_ptr + r, mask=r < extent, other=float("-inf"))
        tops = tl.maximum(tops, x.to(tl.float32))
    top = tl.max(tops, axis=0)
    acc = tl.zeros((LANES,), tl.float32)
    for begin in range(0, whole, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            at = x_ptr + begin + step * LANES + lane
            acc += tl.exp(tl.load(at, eviction_policy="evict_last").to(tl.float32) - top)
    for begin in range(whole, extent, LANES):
        r = begin + lane
        x = tl.load(x_ptr + r, mask=r < extent, other=float("-inf")).to(tl.float32)
        acc += tl.where(r < extent, tl.exp(x - top), 0.0)
    total = tl.sum(tl.sum(by_pairs(acc[None, :], 1, LANES, LOG), axis=1), axis=0)
    if LOG_OUT:
        total = tl.log(total)
    for begin in range(0, whole, LANES * UNROLL):
        for step in tl.static_range(UNROLL):
            r = begin + step * LANES + lane
            x = tl.load(x_ptr + r, eviction_policy="evict_first").to(tl.float32)
            y = x - top - total if LOG_OUT else tl.exp(x - top) / total
            y = y.to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + r, y, eviction_policy="evict_first")
    for begin in range(whole, extent, LANES):
        r = begin + lane
        x = tl.load(x_ptr + r, mask=r < extent, other=0.0).to(tl.float32)
        y = x - top - total if LOG_OUT else tl.exp(x - top) / total
        tl.store(out_ptr + r, y.to(out_ptr.dtype.element_ty), mask=r < extent)


@triton.jit(do_not_specialize=["rows"])
def top_part(x_ptr, part_ptr, rows, extent, PARTS: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr,
             UNROLL: tl.constexpr, OVERLAP: tl.constexpr) -> None:  # fmt: skip
    """Maximum of the lanes [part * WIDTH, ...) of one contiguous row."""
    follow(OVERLAP)
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
             LOG: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr, OVERLAP: tl.constexpr) -> None:  # fmt: skip
    """Sum of exp(x - max) over the same lanes: a subtree of the row's."""
    follow(OVERLAP)
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
                  PARTS: tl.constexpr, LOG: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr) -> None:  # fmt: skip
    """The top of the tree, and one block of the row's quotients or differences."""
    follow(OVERLAP)
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
