"""Gluon kernel of a product for Hopper: one chain over K in float32, on specialised warps.

One warp copies slices of both operands into a ring of stages with the tensor copy engine; one to three groups of four
warps multiply. The tensor core's tile has ``GROUPS * ROWS`` rows of one operand, in 64s, and one or two pieces of the
other, so that its width need not be a power of two. With SWAP the weights are the rows.
A tile that would pass the end of an operand begins earlier instead: rows computed twice are stored twice with the same
bits, and the copy engine is slow at filling in zeros (M=77 in tiles of 64: 1.5 times M=128's time on an H200).
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from lowerings.cuda.overlap_kernels import follow


@gluon.constexpr_function
def _accumulator(columns):
    return gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, columns, 16]
    )


@gluon.jit
def _inside(at, size, extent):
    """Begin earlier where ``size`` rows from ``at`` would pass the end."""
    return gl.minimum(at, gl.maximum(extent - size, 0))


@gluon.jit
def _place(tile, M, N, TM, TN, GROUP):
    """First row and column of a tile: GROUP tiles of rows share their weights in the L2 cache."""
    tiles_m = gl.cdiv(M, TM)
    tiles_n = gl.cdiv(N, TN)
    first = tile // (GROUP * tiles_n) * GROUP
    height = gl.minimum(tiles_m - first, GROUP)
    inside = tile % (GROUP * tiles_n)
    row = (first + inside % height) * TM
    column = inside // height * TN
    return _inside(row, TM, M), _inside(column, TN, N)


@gluon.jit
def _copy(desc, row, k, ready, smem, BY_K: gl.constexpr):
    if BY_K:
        tma.async_copy_global_to_shared(desc, [k, row], ready, smem)
    else:
        tma.async_copy_global_to_shared(desc, [row, k], ready, smem)


@gluon.jit
def _load(
    a_desc, b_desc, c_desc, a_smem, b_smem, c_smem, ready, free, M, N, K, GROUP,
    SWAP: gl.constexpr, BY_K: gl.constexpr, GROUPS: gl.constexpr, ROWS: gl.constexpr, FIRST: gl.constexpr,
    SECOND: gl.constexpr, BK: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Slices of both operands for every tile of this program, one behind the other."""
    SIDE: gl.constexpr = GROUPS * ROWS
    WIDE: gl.constexpr = FIRST + SECOND
    TM: gl.constexpr = WIDE if SWAP else SIDE
    TN: gl.constexpr = SIDE if SWAP else WIDE
    slot = 0
    phase = 1
    for tile in range(gl.program_id(0), gl.cdiv(M, TM) * gl.cdiv(N, TN), gl.num_programs(0)):
        row, column = _place(tile, M, N, TM, TN, GROUP)
        a0 = column if SWAP else row
        b0 = row if SWAP else column
        for k in range(0, K, BK):
            mbarrier.wait(free.index(slot), phase)
            mbarrier.expect(ready.index(slot), (SIDE + WIDE) * BK * 2)
            for part in gl.static_range(GROUPS):
                _copy(
                    a_desc,
                    _inside(a0 + part * ROWS, ROWS, N if SWAP else M),
                    k,
                    ready.index(slot),
                    a_smem.index(slot * GROUPS + part),
                    BY_K and SWAP,
                )
            _copy(b_desc, b0, k, ready.index(slot), b_smem.index(slot), BY_K and not SWAP)
            if SECOND:
                _copy(
                    c_desc,
                    _inside(b0 + FIRST, SECOND, M if SWAP else N),
                    k,
                    ready.index(slot),
                    c_smem.index(slot),
                    BY_K and not SWAP,
                )
            slot += 1
            phase = phase ^ (slot == STAGES).to(gl.int32)
            slot = gl.where(slot == STAGES, 0, slot)


@gluon.jit
def _scaled(acc, bias_ptr, a0, b0, M, N, alpha, beta, bias_row, bias_column,
            SWAP: gl.constexpr, HAS_BIAS: gl.constexpr, SCALED: gl.constexpr):  # fmt: skip
    # an explicit fma whose addend is the product: nothing is left for the compiler to contract
    if SCALED:
        acc = acc * alpha
    if HAS_BIAS:
        layout: gl.constexpr = acc.type.layout
        a = (a0 + gl.arange(0, acc.shape[0], gl.SliceLayout(1, layout)))[:, None]
        b = (b0 + gl.arange(0, acc.shape[1], gl.SliceLayout(0, layout)))[None, :]
        if SWAP:
            mask = (b < M) & (a < N)
            at = b.to(gl.int64) * bias_row + a.to(gl.int64) * bias_column
        else:
            mask = (a < M) & (b < N)
            at = a.to(gl.int64) * bias_row + b.to(gl.int64) * bias_column
        bias = gl.load(bias_ptr + at, mask=mask, other=0.0).to(gl.float32)
        acc = gl.fma(bias, gl.zeros_like(acc) + beta, acc) if SCALED else acc + bias
    return acc


@gluon.jit
def _halves(acc):
    """Left and right columns; no register moves."""
    ROWS: gl.constexpr = acc.shape[0]
    HALF: gl.constexpr = acc.shape[1] // 2
    left, right = acc.reshape((ROWS, 2, HALF)).permute((0, 2, 1)).split()
    return (
        gl.convert_layout(left, _accumulator(HALF), assert_trivial=True),
        gl.convert_layout(right, _accumulator(HALF), assert_trivial=True),
    )


@gluon.jit
def _put(acc, desc, smem, a0, b0, bias_ptr, M, N, alpha, beta, bias_row, bias_column,
         SWAP: gl.constexpr, HAS_BIAS: gl.constexpr, SCALED: gl.constexpr,
         CHUNK: gl.constexpr, BASE: gl.constexpr, INDEX: gl.constexpr, BUFFERS: gl.constexpr):  # fmt: skip
    """Round and store columns of a tile, CHUNK at a time, in turn through BUFFERS buffers."""
    if acc.shape[1] > CHUNK:
        left, right = _halves(acc)
        _put(left, desc, smem, a0, b0, bias_ptr, M, N, alpha, beta, bias_row, bias_column,
             SWAP, HAS_BIAS, SCALED, CHUNK, BASE, INDEX, BUFFERS)  # fmt: skip
        _put(right, desc, smem, a0, b0 + acc.shape[1] // 2, bias_ptr, M, N, alpha, beta, bias_row, bias_column,
             SWAP, HAS_BIAS, SCALED, CHUNK, BASE, INDEX + acc.shape[1] // 2 // CHUNK, BUFFERS)  # fmt: skip
    else:
        acc = _scaled(
            acc, bias_ptr, a0, b0, M, N, alpha, beta, bias_row, bias_column, SWAP, HAS_BIAS, SCALED
        )
        # the store before this one may be reading the other buffer
        tma.store_wait(BUFFERS - 1)
        buffer = smem.index(BASE + INDEX % BUFFERS)
        if SWAP:
            buffer.permute((1, 0)).store(acc.to(desc.dtype))
            fence_async_shared()
            tma.async_copy_shared_to_global(desc, [b0, a0], buffer)
        else:
            buffer.store(acc.to(desc.dtype))
            fence_async_shared()
            tma.async_copy_shared_to_global(desc, [a0, b0], buffer)


@gluon.jit
def _step(a, b, c, acc, more, SWAP: gl.constexpr, BY_K: gl.constexpr, SECOND: gl.constexpr):
    """Start the products of one stage."""
    if BY_K and SWAP:
        a = a.permute((1, 0))
    if not BY_K or SWAP:
        b = b.permute((1, 0))
    acc = warpgroup_mma(a, b, acc, is_async=True)
    if SECOND:
        if not BY_K or SWAP:
            c = c.permute((1, 0))
        more = warpgroup_mma(a, c, more, is_async=True)
    return acc, more


@gluon.jit
def _consume(
    PART: gl.constexpr, out_desc, more_desc, bias_ptr, a_smem, b_smem, c_smem, out_smem, more_smem, ready, free,
    M, N, K, GROUP, alpha, beta, bias_row, bias_column,
    SWAP: gl.constexpr, BY_K: gl.constexpr, HAS_BIAS: gl.constexpr, SCALED: gl.constexpr,
    GROUPS: gl.constexpr, ROWS: gl.constexpr, FIRST: gl.constexpr, SECOND: gl.constexpr,
    BK: gl.constexpr, STAGES: gl.constexpr, CHUNK: gl.constexpr, BUFFERS: gl.constexpr,
):  # fmt: skip
    """ROWS rows of every tile of this program."""
    SIDE: gl.constexpr = GROUPS * ROWS
    WIDE: gl.constexpr = FIRST + SECOND
    TM: gl.constexpr = WIDE if SWAP else SIDE
    TN: gl.constexpr = SIDE if SWAP else WIDE
    slot = 0
    phase = 0
    for tile in range(gl.program_id(0), gl.cdiv(M, TM) * gl.cdiv(N, TN), gl.num_programs(0)):
        row, column = _place(tile, M, N, TM, TN, GROUP)
        a0 = _inside((column if SWAP else row) + PART * ROWS, ROWS, N if SWAP else M)
        b0 = row if SWAP else column
        c0 = _inside(b0 + FIRST, SECOND, M if SWAP else N)
        acc = gl.zeros((ROWS, FIRST), gl.float32, _accumulator(FIRST))
        # a dummy where there is no second piece
        more = gl.zeros(
            (ROWS, SECOND if SECOND else 8), gl.float32, _accumulator(SECOND if SECOND else 8)
        )
        mbarrier.wait(ready.index(slot), phase)
        acc, more = _step(a_smem.index(slot * GROUPS + PART), b_smem.index(slot), c_smem.index(slot) if SECOND else None,
                          acc, more, SWAP, BY_K, SECOND)  # fmt: skip
        if SECOND:
            acc, more = warpgroup_mma_wait(2, deps=(acc, more))
        else:
            acc = warpgroup_mma_wait(1, deps=(acc,))
        for _k in range(BK, K, BK):
            before = slot
            slot += 1
            phase = phase ^ (slot == STAGES).to(gl.int32)
            slot = gl.where(slot == STAGES, 0, slot)
            mbarrier.wait(ready.index(slot), phase)
            acc, more = _step(a_smem.index(slot * GROUPS + PART), b_smem.index(slot), c_smem.index(slot) if SECOND else None,
                              acc, more, SWAP, BY_K, SECOND)  # fmt: skip
            if SECOND:
                acc, more = warpgroup_mma_wait(2, deps=(acc, more))
            else:
                acc = warpgroup_mma_wait(1, deps=(acc,))
            mbarrier.arrive(free.index(before), count=1)
        if SECOND:
            acc, more = warpgroup_mma_wait(0, deps=(acc, more))
        else:
            acc = warpgroup_mma_wait(0, deps=(acc,))
        mbarrier.arrive(free.index(slot), count=1)
        slot += 1
        phase = phase ^ (slot == STAGES).to(gl.int32)
        slot = gl.where(slot == STAGES, 0, slot)
        _put(acc, out_desc, out_smem, a0, b0, bias_ptr, M, N, alpha, beta, bias_row, bias_column,
             SWAP, HAS_BIAS, SCALED, CHUNK, PART * BUFFERS, 0, BUFFERS)  # fmt: skip
        if SECOND:
            # a second piece of whole chunks goes through the same buffers
            if SECOND % CHUNK == 0:
                _put(more, out_desc, out_smem, a0, c0, bias_ptr, M, N, alpha, beta, bias_row, bias_column,
                     SWAP, HAS_BIAS, SCALED, CHUNK, PART * BUFFERS, FIRST // CHUNK, BUFFERS)  # fmt: skip
            else:
                _put(more, more_desc, more_smem, a0, c0, bias_ptr, M, N, alpha, beta, bias_row, bias_column,
                     SWAP, HAS_BIAS, SCALED, SECOND, PART, 0, 1)  # fmt: skip
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["M", "N", "K", "GROUP", "bias_row"])
def product_hopper(
    a_desc, b_desc, c_desc, out_desc, more_desc, bias_ptr, M, N, K, GROUP, alpha, beta, bias_row, bias_column,
    SWAP: gl.constexpr, BY_K: gl.constexpr, HAS_BIAS: gl.constexpr, SCALED: gl.constexpr,
    GROUPS: gl.constexpr, ROWS: gl.constexpr, FIRST: gl.constexpr, SECOND: gl.constexpr,
    BK: gl.constexpr, STAGES: gl.constexpr, CHUNK: gl.constexpr, BUFFERS: gl.constexpr, OVERLAP: gl.constexpr,
) -> None:  # fmt: skip
    """``out [M, N] = alpha * x [M, K] @ w + beta * bias``; ``w`` is [N, K], or [K, N] with BY_K.

    ``a_desc`` is over the tensor core's rows (x, or the weights with SWAP), ``b_desc`` and ``c_desc`` over both pieces of
    its columns, ``out_desc`` and ``more_desc`` over the same of the output.
    """
    dtype: gl.constexpr = a_desc.dtype
    a_smem = gl.allocate_shared_memory(
        dtype,
        [STAGES * GROUPS, a_desc.block_type.shape[0], a_desc.block_type.shape[1]],
        a_desc.layout,
    )
    b_smem = gl.allocate_shared_memory(
        dtype, [STAGES, b_desc.block_type.shape[0], b_desc.block_type.shape[1]], b_desc.layout
    )
    out_smem = gl.allocate_shared_memory(
        dtype,
        [GROUPS * BUFFERS, out_desc.block_type.shape[0], out_desc.block_type.shape[1]],
        out_desc.layout,
    )
    c_smem = b_smem
    more_smem = out_smem
    if SECOND:
        c_smem = gl.allocate_shared_memory(
            dtype, [STAGES, c_desc.block_type.shape[0], c_desc.block_type.shape[1]], c_desc.layout
        )
    if SECOND % CHUNK:
        more_smem = gl.allocate_shared_memory(
            dtype,
            [GROUPS, more_desc.block_type.shape[0], more_desc.block_type.shape[1]],
            more_desc.layout,
        )
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(ready.index(i), count=1)
        mbarrier.init(free.index(i), count=GROUPS)
    fence_async_shared()
    # the other warps begin below
    follow(OVERLAP)
    if GROUPS == 1:
        gl.warp_specialize(
            [
                (_consume, (
                    0, out_desc, more_desc, bias_ptr, a_smem, b_smem, c_smem, out_smem, more_smem, ready, free,
                    M, N, K, GROUP, alpha, beta, bias_row, bias_column,
                    SWAP, BY_K, HAS_BIAS, SCALED, GROUPS, ROWS, FIRST, SECOND, BK, STAGES, CHUNK, BUFFERS,
                )),
                (_load, (
                    a_desc, b_desc, c_desc, a_smem, b_smem, c_smem, ready, free, M, N, K, GROUP,
                    SWAP, BY_K, GROUPS, ROWS, FIRST, SECOND, BK, STAGES,
                )),
            ],
            [1],
            [40],
        )  # fmt: skip
    elif GROUPS == 2:
        gl.warp_specialize(
            [
                (_consume, (
                    0, out_desc, more_desc, bias_ptr, a_smem, b_smem, c_smem, out_smem, more_smem, ready, free,
                    M, N, K, GROUP, alpha, beta, bias_row, bias_column,
                    SWAP, BY_K, HAS_BIAS, SCALED, GROUPS, ROWS, FIRST, SECOND, BK, STAGES, CHUNK, BUFFERS,
                )),
                (_consume, (
                    1, out_desc, more_desc, bias_ptr, a_smem, b_smem, c_smem, out_smem, more_smem, ready, free,
                    M, N, K, GROUP, alpha, beta, bias_row, bias_column,
                    SWAP, BY_K, HAS_BIAS, SCALED, GROUPS, ROWS, FIRST, SECOND, BK, STAGES, CHUNK, BUFFERS,
                )),
                (_load, (
                    a_desc, b_desc, c_desc, a_smem, b_smem, c_smem, ready, free, M, N, K, GROUP,
                    SWAP, BY_K, GROUPS, ROWS, FIRST, SECOND, BK, STAGES,
                )),
            ],
            [4, 1],
            [232, 40],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (_consume, (
                    0, out_desc, more_desc, bias_ptr, a_smem, b_smem, c_smem, out_smem, more_smem, ready, free,
                    M, N, K, GROUP, alpha, beta, bias_row, bias_column,
                    SWAP, BY_K, HAS_BIAS, SCALED, GROUPS, ROWS, FIRST, SECOND, BK, STAGES, CHUNK, BUFFERS,
                )),
                (_consume, (
                    1, out_desc, more_desc, bias_ptr, a_smem, b_smem, c_smem, out_smem, more_smem, ready, free,
                    M, N, K, GROUP, alpha, beta, bias_row, bias_column,
                    SWAP, BY_K, HAS_BIAS, SCALED, GROUPS, ROWS, FIRST, SECOND, BK, STAGES, CHUNK, BUFFERS,
                )),
                (_consume, (
                    2, out_desc, more_desc, bias_ptr, a_smem, b_smem, c_smem, out_smem, more_smem, ready, free,
                    M, N, K, GROUP, alpha, beta, bias_row, bias_column,
                    SWAP, BY_K, HAS_BIAS, SCALED, GROUPS, ROWS, FIRST, SECOND, BK, STAGES, CHUNK, BUFFERS,
                )),
                (_load, (
                    a_desc, b_desc, c_desc, a_smem, b_smem, c_smem, ready, free, M, N, K, GROUP,
                    SWAP, BY_K, GROUPS, ROWS, FIRST, SECOND, BK, STAGES,
                )),
            ],
            [4, 4, 1],
            [160, 160, 32],
        )  # fmt: skip
