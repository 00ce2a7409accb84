"""Gluon kernel of a float32 product: IEEE multiply-adds from registers, several pieces of K side by side.

A sum has four levels, each from zero and ascending: CHAIN multiply-adds, the chains of a piece of SPLIT elements, RUN
pieces, all runs. The square of its error goes with the sum of the levels' lengths: little more than half of the error of
one level of pieces, and less than cuBLAS's (blocked sums: Higham, "The accuracy of floating point summation", 1993).
A program has a tile ``[BM, BN]`` and PIECES pieces of K at a time: with few rows or columns the pieces are what fills its
threads. Whatever PIECES is, the order is that of ``matmul_kernels.product``: the same bits.
Operands lie in shared memory by k, so that a thread reads 4 rows, or 4 columns, of one k at once.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from lowerings.cuda.overlap_kernels import follow


@gluon.constexpr_function
def _copied(pieces, side, depth, warps, by_k):
    """Layout of a slice ``[PIECES, SIDE, BK]`` on its way from global memory: 16 bytes a thread where memory allows."""
    if by_k:
        quads = depth // 4
        lanes = min(32 // quads, side)
        across = min(warps, max(1, side // lanes))
        return gl.BlockedLayout(
            [1, 1, 4],
            [32 // (quads * lanes), lanes, quads],
            [warps // across, across, 1],
            [2, 1, 0],
        )
    lanes = min(32, max(1, side // 4))
    deep = min(32 // lanes, depth)
    across = min(warps, max(1, depth // deep))
    return gl.BlockedLayout(
        [1, min(4, side), 1],
        [32 // (lanes * deep), lanes, deep],
        [warps // across, 1, across],
        [1, 2, 0],
    )


@gluon.constexpr_function
def _multiplied(pieces, rows, columns, warps, tall, wide):
    """Layout of ``[PIECES, BM, BN]``: a thread has ``tall`` times ``wide`` squares of 4 by 4 of one piece."""
    down, across = rows // (4 * tall), columns // (4 * wide)
    assert pieces * down * across == 32 * warps
    # threads of a piece are as square as they can be inside a warp
    lanes_m = min(down, 8 if across <= 4 else 4)
    lanes_n = min(across, 32 // lanes_m)
    lanes_m = min(down, 32 // lanes_n)
    lanes_p = 32 // (lanes_m * lanes_n)
    warps_m = min(warps, down // lanes_m)
    warps_n = min(warps // warps_m, across // lanes_n)
    return gl.BlockedLayout(
        [1, 4, 4],
        [lanes_p, lanes_m, lanes_n],
        [warps // (warps_m * warps_n), warps_m, warps_n],
        [2, 1, 0],
    )


@gluon.constexpr_function
def _added(rows, columns, warps):
    """Layout of a total ``[1, BM, BN]`` that all threads share."""
    lanes = min(32, columns)
    return gl.BlockedLayout([1, 1, 1], [1, 32 // lanes, lanes], [1, warps, 1], [2, 1, 0])


@gluon.constexpr_function
def _by_depth(depth, pieces, side, by_k):
    """Layout ``[BK, PIECES, SIDE]`` in shared memory; four k of one thread and the next thread's four in other banks."""
    if by_k:
        return gl.PaddedSharedLayout.with_identity_for(
            [[4 * pieces * side, 128 // depth]], [depth, pieces, side], [2, 1, 0]
        )
    return gl.SwizzledSharedLayout(1, 1, 1, order=[2, 1, 0])


@gluon.jit
def _axes(SIZE: gl.constexpr, DIM: gl.constexpr, layout: gl.constexpr):
    """Indices along one dim of a 3-d layout."""
    if DIM == 0:
        at = gl.arange(0, SIZE, gl.SliceLayout(1, gl.SliceLayout(2, layout)))[:, None, None]
    elif DIM == 1:
        at = gl.arange(0, SIZE, gl.SliceLayout(0, gl.SliceLayout(2, layout)))[None, :, None]
    else:
        at = gl.arange(0, SIZE, gl.SliceLayout(0, gl.SliceLayout(1, layout)))[None, None, :]
    return at


@gluon.jit(do_not_specialize=["M"])
def product_float32(
    a_ptr, b_ptr, out_ptr, bias_ptr, M, N, K, alpha, beta,
    a_batch, a_row, a_col, b_batch, b_row, b_col, out_batch, out_row, out_col,
    bias_batch, bias_row, bias_col,
    BM: gl.constexpr, BN: gl.constexpr, BK: gl.constexpr, PIECES: gl.constexpr, TALL: gl.constexpr, WIDE: gl.constexpr,
    GROUP: gl.constexpr, CHAIN: gl.constexpr, SPLIT: gl.constexpr, RUN: gl.constexpr, A_BY_K: gl.constexpr, B_BY_K: gl.constexpr,
    HAS_BIAS: gl.constexpr, SCALED: gl.constexpr, OVERLAP: gl.constexpr,
) -> None:  # fmt: skip
    """One tile of ``out [B, M, N] = alpha * a [B, M, K] @ b [B, K, N] + beta * bias``, any strides."""
    follow(OVERLAP)
    warps: gl.constexpr = gl.num_warps()
    tile: gl.constexpr = _multiplied(PIECES, BM, BN, warps, TALL, WIDE)
    a_copied: gl.constexpr = _copied(PIECES, BM, BK, warps, A_BY_K)
    b_copied: gl.constexpr = _copied(PIECES, BN, BK, warps, B_BY_K)
    pid = gl.program_id(0)
    batch = gl.program_id(1).to(gl.int64)
    tiles_m = gl.cdiv(M, BM)
    tiles_n = gl.cdiv(N, BN)
    first = pid // (GROUP * tiles_n) * GROUP
    height = gl.minimum(tiles_m - first, GROUP)
    row0 = (first + pid % (GROUP * tiles_n) % height) * BM
    col0 = pid % (GROUP * tiles_n) // height * BN

    a_rows = row0 + _axes(BM, 1, a_copied)
    b_cols = col0 + _axes(BN, 1, b_copied)
    a_k = _axes(PIECES, 0, a_copied) * SPLIT + _axes(BK, 2, a_copied)
    b_k = _axes(PIECES, 0, b_copied) * SPLIT + _axes(BK, 2, b_copied)
    a_real = a_rows < M
    b_real = b_cols < N
    a_at = a_ptr + batch * a_batch + a_rows.to(gl.int64) * a_row + a_k.to(gl.int64) * a_col
    b_at = b_ptr + batch * b_batch + b_cols.to(gl.int64) * b_col + b_k.to(gl.int64) * b_row
    a_smem = gl.allocate_shared_memory(
        gl.float32, [BK, PIECES, BM], _by_depth(BK, PIECES, BM, A_BY_K)
    )
    b_smem = gl.allocate_shared_memory(
        gl.float32, [BK, PIECES, BN], _by_depth(BK, PIECES, BN, B_BY_K)
    )
    added: gl.constexpr = _added(BM, BN, warps) if PIECES > 1 else tile
    # with one piece at a time two levels fill the registers; runs and the total wait in shared memory
    kept = gl.allocate_shared_memory(
        gl.float32,
        [PIECES if PIECES > 1 else 2, BM, BN],
        gl.SwizzledSharedLayout(1, 1, 1, order=[2, 1, 0]),
    )
    run = gl.zeros((1, BM, BN), gl.float32, added)
    total = gl.zeros((1, BM, BN), gl.float32, added)
    if PIECES == 1:
        kept.slice(0, 1).store(run)
        kept.slice(1, 1).store(total)
    step: gl.constexpr = max(BK, CHAIN)
    a = gl.load(a_at, mask=a_real & (a_k < K), other=0.0)
    b = gl.load(b_at, mask=b_real & (b_k < K), other=0.0)
    for begin in range(0, K, PIECES * SPLIT):
        piece = gl.zeros((PIECES, BM, BN), gl.float32, tile)
        for k in range(begin, gl.minimum(begin + SPLIT, K), step):
            for i in gl.static_range(step):
                if i % BK == 0:
                    a_smem.permute((1, 2, 0)).store(a)
                    b_smem.permute((1, 2, 0)).store(b)
                    after = k + (i + BK)
                    if PIECES > 1:
                        after = gl.where(after < begin + SPLIT, after, begin + PIECES * SPLIT)
                    past = K - after
                    a_next = a_at + after.to(gl.int64) * a_col
                    b_next = b_at + after.to(gl.int64) * b_row
                    a = gl.load(a_next, mask=a_real & (a_k < past), other=0.0)
                    b = gl.load(b_next, mask=b_real & (b_k < past), other=0.0)
                if i % CHAIN == 0:
                    chain = gl.zeros((PIECES, BM, BN), gl.float32, tile)
                left = a_smem.slice(i % BK, 1).permute((1, 2, 0)).load(tile)
                right = b_smem.slice(i % BK, 1).permute((1, 0, 2)).load(tile)
                left, right = gl.broadcast(left, right)
                chain = gl.fma(left, right, chain)
                if i % CHAIN == CHAIN - 1:
                    piece += chain
        if PIECES > 1:
            kept.store(piece)
            for i in gl.static_range(PIECES):
                run += kept.slice(i, 1).load(added)
                if (i + 1) % RUN == 0:
                    total += run
                    run = gl.zeros((1, BM, BN), gl.float32, added)
            if PIECES < RUN and (begin // SPLIT + PIECES) % RUN == 0:
                total += run
                run = gl.zeros((1, BM, BN), gl.float32, added)
        else:
            run = kept.slice(0, 1).load(tile) + piece
            if (begin // SPLIT + 1) % RUN == 0:
                kept.slice(1, 1).store(kept.slice(1, 1).load(tile) + run)
                run = gl.zeros((1, BM, BN), gl.float32, added)
            kept.slice(0, 1).store(run)
    if PIECES == 1:
        run, total = kept.slice(0, 1).load(tile), kept.slice(1, 1).load(tile)
    total += run

    # an explicit fma whose addend is the product: nothing is left for the compiler to contract
    rows = row0 + _axes(BM, 1, added)
    columns = col0 + _axes(BN, 2, added)
    mask = (rows < M) & (columns < N)
    r = rows.to(gl.int64)
    c = columns.to(gl.int64)
    if SCALED:
        total = total * alpha
    if HAS_BIAS:
        bias = gl.load(
            bias_ptr + batch * bias_batch + r * bias_row + c * bias_col, mask=mask, other=0.0
        ).to(gl.float32)
        total = gl.fma(bias, gl.zeros_like(total) + beta, total) if SCALED else total + bias
    gl.store(out_ptr + batch * out_batch + r * out_row + c * out_col, total, mask=mask)
