"""Gluon kernel of softmax for long rows: a row waits in shared memory, so that it is read from memory once.

The order of ``softmax_kernels.py``: the exact maximum, lanes of exp(x - max), pairs of lanes. Three looks at a row of
128256 numbers by 132 programs are more than an H100's L2 cache keeps: the Triton kernel reads each row three times.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

from lowerings.cuda.overlap_kernels import follow


@gluon.jit
def _by_pairs(x, LANES: gl.constexpr, LOG: gl.constexpr):
    """Lanes 2i and 2i + 1 meet, then their sums, as in ``row_kernels.by_pairs``."""
    for level in gl.static_range(LOG):
        x = gl.sum(gl.reshape(x, (LANES >> (level + 1), 2)), axis=1)
    return gl.max(x, axis=0)


@gluon.jit
def _result(x, top, total, LOG_OUT: gl.constexpr):
    return x - top - total if LOG_OUT else gl.exp(x - top) / total


@gluon.jit
def _fetch(held, x_ptr, row, rows, extent, i, lane, LANES: gl.constexpr):
    """Begin to copy lanes of step i; nothing behind the last row or the end of a row."""
    r = i * LANES + lane
    async_copy.async_copy_global_to_shared(
        held.index(i), x_ptr + row * extent + r, mask=(r < extent) & (row < rows)
    )
    async_copy.commit_group()


@gluon.jit(do_not_specialize=["rows"])
def softmax_shared(
    x_ptr, out_ptr, rows, extent,
    LOG_OUT: gl.constexpr, OVERLAP: gl.constexpr, LANES: gl.constexpr, LOG: gl.constexpr,
    HELD: gl.constexpr, WAITS: gl.constexpr,
) -> None:  # fmt: skip
    """Contiguous rows of whole 16 bytes; a program takes every n-th row.

    HELD steps of LANES numbers wait in shared memory, arriving in WAITS parts, and the rest is read again; the next row
    comes while one is written.
    """
    follow(OVERLAP)
    wide: gl.constexpr = LANES // (32 * gl.num_warps())
    layout: gl.constexpr = gl.BlockedLayout([wide], [32], [gl.num_warps()], [0])
    dtype: gl.constexpr = x_ptr.dtype.element_ty
    held = gl.allocate_shared_memory(
        dtype, [HELD, LANES], gl.SwizzledSharedLayout(wide, 1, 1, order=[0])
    )
    lane = gl.arange(0, LANES, layout)
    programs = gl.num_programs(0)
    first = gl.program_id(0).to(gl.int64)
    for i in range(HELD):
        _fetch(held, x_ptr, first, rows, extent, i, lane, LANES)
    for turn in range(gl.cdiv(rows - gl.program_id(0), programs)):
        row = first + turn.to(gl.int64) * programs
        x_row = x_ptr + row * extent
        out_row = out_ptr + row * extent
        tops = gl.full((LANES,), float("-inf"), gl.float32, layout)
        for part in gl.static_range(WAITS):
            async_copy.wait_group(HELD - HELD // WAITS * (part + 1))
            for i in range(HELD // WAITS * part, HELD // WAITS * (part + 1)):
                x = held.index(i).load(layout).to(gl.float32)
                tops = gl.maximum(tops, gl.where(i * LANES + lane < extent, x, float("-inf")))
        for begin in range(HELD * LANES, extent, LANES):
            r = begin + lane
            x = gl.load(x_row + r, mask=r < extent, other=float("-inf")).to(gl.float32)
            tops = gl.maximum(tops, x)
        top = gl.max(tops, axis=0)
        acc = gl.zeros((LANES,), gl.float32, layout)
        for i in range(HELD):
            x = held.index(i).load(layout).to(gl.float32)
            acc += gl.where(i * LANES + lane < extent, gl.exp(x - top), 0.0)
        for begin in range(HELD * LANES, extent, LANES):
            r = begin + lane
            x = gl.load(x_row + r, mask=r < extent, other=float("-inf")).to(gl.float32)
            acc += gl.where(r < extent, gl.exp(x - top), 0.0)
        total = _by_pairs(acc, LANES, LOG)
        if LOG_OUT:
            total = gl.log(total)
        for i in range(HELD):
            r = i * LANES + lane
            x = held.index(i).load(layout).to(gl.float32)
            y = _result(x, top, total, LOG_OUT).to(out_ptr.dtype.element_ty)
            gl.store(out_row + r, y, mask=r < extent)
            _fetch(held, x_ptr, row + programs, rows, extent, i, lane, LANES)
        for begin in range(HELD * LANES, extent, LANES):
            r = begin + lane
            x = gl.load(x_row + r, mask=r < extent, other=0.0).to(gl.float32)
            y = _result(x, top, total, LOG_OUT).to(out_ptr.dtype.element_ty)
            gl.store(out_row + r, y, mask=r < extent)
    async_copy.wait_group(0)
