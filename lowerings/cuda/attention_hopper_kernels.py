"""Gluon kernel of attention for Hopper: the plan of ``attention_kernels.py`` on specialised warps.

One warp copies blocks of keys and values into shared memory with the tensor copy engine; two groups of four warps take
64 rows each, and start the scores of the next block before the values of the last are added. Every sum and rescale is
that of the Triton kernel in the same order, so a tile may be computed by either. What this kernel leaves to it is noted in
``note``: a tile where some row keeps no plain range of keys, or where a NaN showed up.
A fourth of the time goes into the ends of a tile, where no product runs beside the softmax, so they are kept short: the
copying warp works out which tile is next and hands it over with its queries, and results leave by the copy engine.
The structure is FlashAttention-3's (Shah et al. 2024).
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

from lowerings.cuda.attention_kernels import DONE, HURT, LEFT

_LN2 = gl.constexpr(0.6931471805599453)
_NOWHERE = gl.constexpr(1 << 30)
#: its name before triton 3.7 is the second
_barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier


@gluon.constexpr_function
def _accumulator(columns):
    return gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, columns, 16]
    )


@gluon.jit
def _place(turn, tiles, pairs, section, IS_CAUSAL: gl.constexpr):
    """Tile and (sample, kv head) of this program's turn; tile -1 behind the last one.

    Long rows come first, and every other round runs backwards, so that the programs end together. ``section``: pairs
    whose keys and values fit in the L2 cache.
    """
    programs = gl.num_programs(0)
    mine = gl.program_id(0)
    at = turn * programs + gl.where(turn % 2 == 0, mine, programs - 1 - mine)
    base = at // (tiles * section) * section
    wide = gl.minimum(section, pairs - base)
    inside = at - tiles * base
    tile = inside // gl.maximum(wide, 1)
    pair = base + inside % gl.maximum(wide, 1)
    if IS_CAUSAL:
        tile = tiles - 1 - tile
    return gl.where(at < tiles * pairs, tile, -1), gl.where(at < tiles * pairs, pair, 0)


@gluon.jit
def _rows(row, kv, queries, GROUP: gl.constexpr, SLOTS: gl.constexpr):
    """Query and head of each row, and whether there is one."""
    query = row // SLOTS
    slot = row % SLOTS
    return query, (kv * GROUP + slot).to(gl.int64), (query < queries) & (slot < GROUP)


@gluon.jit
def _extent(
    tile, b, kv, start_ptr, end_ptr, solid_ptr, queries, keys, start_b, start_h, start_q,
    GROUP: gl.constexpr, SLOTS: gl.constexpr, IS_CAUSAL: gl.constexpr, MASK: gl.constexpr,
    BM: gl.constexpr, KEYS: gl.constexpr,
):  # fmt: skip
    """First key, blocks that no row hides a key of, all blocks: 0 if some row keeps no plain range from there."""
    first = 0
    lowest = keys
    last = keys
    left = tile < 0
    begin = tile * (BM // SLOTS)
    if IS_CAUSAL:
        lowest = gl.minimum(lowest, begin + 1)
        last = gl.minimum(last, gl.minimum(begin + BM // SLOTS, queries))
    if MASK:
        row = tile * BM + gl.arange(0, BM, gl.BlockedLayout([1], [32], [gl.num_warps()], [0]))
        query, head, ok = _rows(row, kv, queries, GROUP, SLOTS)
        ok = ok & (tile >= 0)
        where = b.to(gl.int64) * start_b + head * start_h + query.to(gl.int64) * start_q
        start = gl.load(start_ptr + where, mask=ok, other=_NOWHERE)
        end = gl.load(end_ptr + where, mask=ok, other=0)
        solid = gl.load(solid_ptr + where, mask=ok, other=0)
        keeps = end > 0
        first = gl.min(gl.where(keeps, start, _NOWHERE), axis=0)
        unlike = keeps & ((start != first) | (solid != end))
        left = left | (gl.max(unlike.to(gl.int32), axis=0) > 0)
        last = gl.minimum(last, gl.max(end, axis=0))
        lowest = gl.minimum(lowest, gl.min(gl.where(ok, end, _NOWHERE), axis=0))
    # one block at least, all hidden if no row keeps a key
    blocks = gl.maximum((last - first + KEYS - 1) // KEYS, 1)
    return first, gl.maximum(lowest - first, 0) // KEYS, gl.where(left, 0, blocks)


@gluon.jit
def _tell(work, at, number: gl.constexpr, value):
    alone: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    work.index(8 * at + number).store(gl.full((1,), 0, gl.int32, alone) + value)


@gluon.jit
def _told(work, at, number: gl.constexpr):
    alone: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    return gl.max(work.index(8 * at + number).load(alone), axis=0)


@gluon.jit
def _load(
    q_desc, k_desc, v_desc, work, q_smem, k_smem, v_smem, q_ready, k_ready, v_ready, q_free, k_free, v_free,
    start_ptr, end_ptr, solid_ptr, note_ptr,
    tiles, pairs, section, kv_heads, queries, keys, start_b, start_h, start_q,
    GROUP: gl.constexpr, SLOTS: gl.constexpr, IS_CAUSAL: gl.constexpr, MASK: gl.constexpr,
    BM: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The blocks of every tile of this program, one behind the other; ``work`` tells which tile it is."""
    n = 0
    for turn in range(gl.cdiv(tiles * pairs, gl.num_programs(0))):
        tile, pair = _place(turn, tiles, pairs, section, IS_CAUSAL)
        b = pair // kv_heads
        kv = pair % kv_heads
        first, full, blocks = _extent(
            tile, b, kv, start_ptr, end_ptr, solid_ptr, queries, keys, start_b, start_h, start_q,
            GROUP, SLOTS, IS_CAUSAL, MASK, BM, KEYS,
        )  # fmt: skip
        at = turn % 2
        mbarrier.wait(q_free.index(at), (turn // 2) & 1 ^ 1)
        _tell(work, at, 0, tile)
        _tell(work, at, 1, b)
        _tell(work, at, 2, kv)
        _tell(work, at, 3, first)
        _tell(work, at, 4, full)
        _tell(work, at, 5, blocks)
        _barrier()
        if tile >= 0:
            gl.store(note_ptr + pair * tiles + tile, gl.where(blocks == 0, LEFT, DONE))
        if blocks > 0:
            mbarrier.expect(q_ready.index(at), 2 * q_desc.block_type.nbytes)
            query = tile * (BM // SLOTS)
            for half in gl.static_range(2):
                tma.async_copy_global_to_shared(
                    q_desc,
                    [b, query + half * (BM // 2 // SLOTS), kv * GROUP, 0],
                    q_ready.index(at),
                    q_smem.index(2 * at + half),
                )
        else:
            mbarrier.arrive(q_ready.index(at), count=1)
        for i in range(blocks):
            slot = n % STAGES
            turned = (n // STAGES) & 1
            key = first + i * KEYS
            mbarrier.wait(k_free.index(slot), turned ^ 1)
            mbarrier.expect(k_ready.index(slot), k_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(
                k_desc, [b, kv, key, 0], k_ready.index(slot), k_smem.index(slot)
            )
            mbarrier.wait(v_free.index(slot), turned ^ 1)
            mbarrier.expect(v_ready.index(slot), v_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(
                v_desc, [b, kv, key, 0], v_ready.index(slot), v_smem.index(slot)
            )
            n += 1


@gluon.jit
def _scores(q_smem, k_smem, ROWS: gl.constexpr, KEYS: gl.constexpr, BD: gl.constexpr):
    s = gl.zeros((ROWS, KEYS), gl.float32, _accumulator(KEYS))
    return warpgroup_mma(
        q_smem,
        k_smem.reshape((KEYS, BD)).permute((1, 0)),
        s,
        use_acc=False,
        is_async=True,
    )


@gluon.jit
def _softmax(s, m, scale2, begin, limit, EDGE, KEYS: gl.constexpr):
    """One step of the running maximum: the new maximum, the weights and what the old sums are multiplied by."""
    layout: gl.constexpr = s.type.layout
    if EDGE:
        key = begin + gl.arange(0, KEYS, gl.SliceLayout(0, layout))
        s = gl.where(key[None, :] < limit[:, None], s, float("-inf"))
    m_new = gl.maximum(m, gl.max(s, axis=1) * scale2)
    base = gl.where(m_new == float("-inf"), 0.0, m_new)
    minus = gl.zeros_like(s) - base[:, None]
    p = gl.exp2(gl.fma(s, gl.full_like(s, 1.0) * scale2, minus))
    return m_new, p, gl.exp2(m - base)


@gluon.jit
def _weights(m, m_new):
    return gl.exp2(m - gl.where(m_new == float("-inf"), 0.0, m_new))


@gluon.jit
def _merge(m, l, acc, m_piece, l_piece, acc_piece):
    m_new = gl.maximum(m, m_piece)
    old = _weights(m, m_new)
    new = _weights(m_piece, m_new)
    l = gl.fma(l_piece, new, l * old)
    rows: gl.constexpr = gl.SliceLayout(1, acc.type.layout)
    wide_new = gl.zeros_like(acc) + gl.convert_layout(new, rows)[:, None]
    acc = gl.fma(acc_piece, wide_new, acc * gl.convert_layout(old, rows)[:, None])
    return m_new, l, acc


@gluon.jit
def _step(
    i, n, q_smem, k_smem, v_smem, ones, k_ready, v_ready, k_free, v_free, scale2, first, limit,
    m_all, l_all, acc_all, m, l, acc, p,
    EDGE: gl.constexpr, KEYS: gl.constexpr, SPLIT: gl.constexpr, STAGES: gl.constexpr,
    BD: gl.constexpr, BDV: gl.constexpr,
):  # fmt: skip
    """Scores of block i, the program's n-th, beside the weighted values of the block before.

    No branch stands between the products and their wait: with one, ptxas waits before the softmax.
    """
    slot = n % STAGES
    before = (n - 1) % STAGES
    mbarrier.wait(k_ready.index(slot), (n // STAGES) & 1)
    token = _scores(q_smem, k_smem.index(slot), m.shape[0], KEYS, BD)
    v = v_smem.index(before).reshape((KEYS, BDV))
    l_token = warpgroup_mma(p, ones, l, is_async=True)
    acc_token = warpgroup_mma(p, v, acc, is_async=True)
    s = warpgroup_mma_wait(2, deps=(token,))
    mbarrier.arrive(k_free.index(slot), count=1)
    begins = i % (SPLIT // KEYS) == 0
    m_new, p_new, old = _softmax(
        s, gl.where(begins, float("-inf"), m), scale2, first + i * KEYS, limit, EDGE, KEYS
    )
    p_new = gl.convert_layout(p_new.to(p.dtype), p.type.layout)
    # values of this block, for the next step. Here, because no compiler moves the softmax below a branch
    mbarrier.wait(v_ready.index(slot), (n // STAGES) & 1)
    l, acc, p, p_new = warpgroup_mma_wait(0, deps=(l_token, acc_token, p, p_new))
    mbarrier.arrive(v_free.index(before), count=1)
    if begins:
        m_all, l_all, acc_all = _merge(m_all, l_all, acc_all, m, _row_sum(l, m), acc)
        acc = gl.zeros_like(acc)
        l = gl.zeros_like(l)
    else:
        acc = acc * gl.convert_layout(old, gl.SliceLayout(1, acc.type.layout))[:, None]
        l = l * gl.convert_layout(old, gl.SliceLayout(1, l.type.layout))[:, None]
    return m_all, l_all, acc_all, m_new, l, acc, p_new


@gluon.jit
def _row_sum(l, m):
    # sixteen equal columns: their maximum is any of them
    return gl.convert_layout(gl.max(l, axis=1), m.type.layout)


@gluon.jit
def _consume(
    out_desc, lse_ptr, end_ptr, note_ptr, ones, work, q_smem, k_smem, v_smem,
    q_ready, k_ready, v_ready, q_free, k_free, v_free,
    tiles, pairs, heads, kv_heads, queries, keys, scale2, start_b, start_h, start_q,
    HALF: gl.constexpr, GROUP: gl.constexpr, SLOTS: gl.constexpr, IS_CAUSAL: gl.constexpr, MASK: gl.constexpr,
    BM: gl.constexpr, KEYS: gl.constexpr, SPLIT: gl.constexpr, STAGES: gl.constexpr,
    BD: gl.constexpr, BDV: gl.constexpr,
):  # fmt: skip
    """Rows [64 * HALF, 64 * HALF + 64) of every tile of this program.

    A result leaves from where its queries lay; they are free for the copying warp in the next turn, when it has left.
    """
    n = 0
    for turn in range(gl.cdiv(tiles * pairs, gl.num_programs(0))):
        at = turn % 2
        mbarrier.wait(q_ready.index(at), (turn // 2) & 1)
        tile = _told(work, at, 0)
        b = _told(work, at, 1)
        kv = _told(work, at, 2)
        first = _told(work, at, 3)
        full = _told(work, at, 4)
        blocks = _told(work, at, 5)
        if blocks > 0:
            _consume_tile(
                out_desc, lse_ptr, end_ptr, note_ptr + (b * kv_heads + kv) * tiles + tile,
                ones, q_smem.index(2 * at + HALF), k_smem, v_smem,
                k_ready, v_ready, q_free.index(1 - at), k_free, v_free,
                turn, n, b, kv, tile * BM + HALF * (BM // 2), first, full, blocks, heads, queries, keys, scale2,
                start_b, start_h, start_q,
                GROUP, SLOTS, IS_CAUSAL, MASK, BM // 2, KEYS, SPLIT, STAGES, BD, BDV,
            )  # fmt: skip
            n += blocks
        else:
            tma.store_wait(0)
            mbarrier.arrive(q_free.index(1 - at), count=1, pred=turn > 0)
    tma.store_wait(0)


@gluon.jit
def _consume_tile(
    out_desc, lse_ptr, end_ptr, note, ones, q_slot, k_smem, v_smem,
    k_ready, v_ready, before_free, k_free, v_free,
    turn, n, b, kv, begin, first, full, blocks, heads, queries, keys, scale2,
    start_b, start_h, start_q,
    GROUP: gl.constexpr, SLOTS: gl.constexpr, IS_CAUSAL: gl.constexpr, MASK: gl.constexpr,
    ROWS: gl.constexpr, KEYS: gl.constexpr, SPLIT: gl.constexpr, STAGES: gl.constexpr,
    BD: gl.constexpr, BDV: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = k_smem.dtype
    wide: gl.constexpr = _accumulator(BDV)
    sums: gl.constexpr = _accumulator(16)
    by_row: gl.constexpr = gl.SliceLayout(1, _accumulator(KEYS))
    operand: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=wide, k_width=2)
    row = begin + gl.arange(0, ROWS, by_row)
    query, head, ok = _rows(row, kv, queries, GROUP, SLOTS)
    limit = gl.where(ok, keys, 0)
    if IS_CAUSAL:
        limit = gl.minimum(limit, query + 1)
    if MASK:
        where = b.to(gl.int64) * start_b + head * start_h + query.to(gl.int64) * start_q
        limit = gl.minimum(limit, gl.load(end_ptr + where, mask=ok, other=0))
    q_smem = q_slot.reshape((ROWS, BD))

    m_all = gl.full((ROWS,), float("-inf"), gl.float32, by_row)
    l_all = gl.zeros((ROWS,), gl.float32, by_row)
    acc_all = gl.zeros((ROWS, BDV), gl.float32, wide)
    acc = acc_all
    l = gl.zeros((ROWS, 16), gl.float32, sums)

    slot = n % STAGES
    mbarrier.wait(k_ready.index(slot), (n // STAGES) & 1)
    token = _scores(q_smem, k_smem.index(slot), ROWS, KEYS, BD)
    tma.store_wait(0)
    mbarrier.arrive(before_free, count=1, pred=turn > 0)
    s = warpgroup_mma_wait(0, deps=(token,))
    mbarrier.arrive(k_free.index(slot), count=1)
    if full > 0:
        m, p, _old = _softmax(s, m_all, scale2, first, limit, False, KEYS)
    else:
        m, p, _old = _softmax(s, m_all, scale2, first, limit, True, KEYS)
    p = gl.convert_layout(p.to(dtype), operand)
    mbarrier.wait(v_ready.index(slot), (n // STAGES) & 1)
    steady = gl.minimum(gl.maximum(full, 1), blocks)
    for i in range(1, steady):
        m_all, l_all, acc_all, m, l, acc, p = _step(
            i, n + i, q_smem, k_smem, v_smem, ones, k_ready, v_ready, k_free, v_free, scale2, first, limit,
            m_all, l_all, acc_all, m, l, acc, p, False, KEYS, SPLIT, STAGES, BD, BDV,
        )  # fmt: skip
    for i in range(steady, blocks):
        m_all, l_all, acc_all, m, l, acc, p = _step(
            i, n + i, q_smem, k_smem, v_smem, ones, k_ready, v_ready, k_free, v_free, scale2, first, limit,
            m_all, l_all, acc_all, m, l, acc, p, True, KEYS, SPLIT, STAGES, BD, BDV,
        )  # fmt: skip
    slot = (n + blocks - 1) % STAGES
    v = v_smem.index(slot).reshape((KEYS, BDV))
    l_token = warpgroup_mma(p, ones, l, is_async=True)
    acc_token = warpgroup_mma(p, v, acc, is_async=True)
    l, acc, p = warpgroup_mma_wait(0, deps=(l_token, acc_token, p))
    mbarrier.arrive(v_free.index(slot), count=1)
    m, l_row, acc = _merge(m_all, l_all, acc_all, m, _row_sum(l, m), acc)

    across: gl.constexpr = gl.SliceLayout(1, wide)
    empty = l_row == 0.0
    safe = gl.where(empty, 1.0, l_row)
    lse_at = lse_ptr + (b.to(gl.int64) * heads + head) * queries + query
    gl.store(lse_at, gl.where(empty, 0.0, (m + gl.log2(safe)) * _LN2), mask=ok)
    # of an empty row every sum is zero, or a NaN that is looked at again
    share = gl.where(empty, 0.0, gl.div_rn(gl.full_like(safe, 1.0), safe))
    out = acc * gl.convert_layout(share, across)[:, None]
    spoilt = gl.max((out != out).to(gl.int32), axis=1)
    gl.store(note + gl.zeros_like(spoilt), HURT, mask=(spoilt > 0) & gl.convert_layout(ok, across))
    q_smem.store(out.to(dtype))
    fence_async_shared()
    leaving = q_slot.reshape((1, ROWS // SLOTS, 1, SLOTS, BDV))
    tma.async_copy_shared_to_global(out_desc, [b, begin // SLOTS, kv, 0, 0], leaving)


@gluon.jit
def attend_hopper(
    q_desc, k_desc, v_desc, out_desc, start_ptr, end_ptr, solid_ptr, lse_ptr, note_ptr,
    tiles, pairs, section, heads, kv_heads, queries, keys, scale2, start_b, start_h, start_q,
    GROUP: gl.constexpr, SLOTS: gl.constexpr, IS_CAUSAL: gl.constexpr, MASK: gl.constexpr,
    BM: gl.constexpr, KEYS: gl.constexpr, SPLIT: gl.constexpr, STAGES: gl.constexpr,
    BD: gl.constexpr, BDV: gl.constexpr,
) -> None:  # fmt: skip
    """BM rows (query, head of the group) of one kv head are a tile; a program takes many, so that loads run ahead.

    A query has SLOTS rows, the power of two from GROUP on, which makes a tile of queries one box of [B, L, H, D], and its
    results one of [B, L, Hk, GROUP, D].
    """
    dtype: gl.constexpr = q_desc.dtype
    q_smem = gl.allocate_shared_memory(dtype, [4, 1, BM // 2 // SLOTS, SLOTS, BD], q_desc.layout)
    k_smem = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, KEYS, BD], k_desc.layout)
    v_smem = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, KEYS, BDV], v_desc.layout)
    columns: gl.constexpr = gl.NVMMASharedLayout.get_default_for([KEYS, 16], dtype)
    threads: gl.constexpr = gl.BlockedLayout([1, 4], [8, 4], [4, 1], [1, 0])
    one = gl.full((KEYS, 16), 1.0, dtype, threads)
    ones = gl.allocate_shared_memory(dtype, [KEYS, 16], columns, one)
    # of each turn: tile, sample, kv head, first key, blocks that no row hides a key of, blocks
    work = gl.allocate_shared_memory(gl.int32, [16, 1], gl.SwizzledSharedLayout(1, 1, 1, order=[0]))
    q_ready = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    q_free = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2):
        mbarrier.init(q_ready.index(i), count=1)
        mbarrier.init(q_free.index(i), count=2)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(i), count=1)
        mbarrier.init(v_ready.index(i), count=1)
        mbarrier.init(k_free.index(i), count=2)
        mbarrier.init(v_free.index(i), count=2)
    fence_async_shared()

    gl.warp_specialize(
        [
            (_consume, (
                out_desc, lse_ptr, end_ptr, note_ptr, ones, work, q_smem, k_smem, v_smem,
                q_ready, k_ready, v_ready, q_free, k_free, v_free,
                tiles, pairs, heads, kv_heads, queries, keys, scale2, start_b, start_h, start_q,
                0, GROUP, SLOTS, IS_CAUSAL, MASK, BM, KEYS, SPLIT, STAGES, BD, BDV,
            )),
            (_consume, (
                out_desc, lse_ptr, end_ptr, note_ptr, ones, work, q_smem, k_smem, v_smem,
                q_ready, k_ready, v_ready, q_free, k_free, v_free,
                tiles, pairs, heads, kv_heads, queries, keys, scale2, start_b, start_h, start_q,
                1, GROUP, SLOTS, IS_CAUSAL, MASK, BM, KEYS, SPLIT, STAGES, BD, BDV,
            )),
            (_load, (
                q_desc, k_desc, v_desc, work, q_smem, k_smem, v_smem, q_ready, k_ready, v_ready, q_free, k_free, v_free,
                start_ptr, end_ptr, solid_ptr, note_ptr,
                tiles, pairs, section, kv_heads, queries, keys, start_b, start_h, start_q,
                GROUP, SLOTS, IS_CAUSAL, MASK, BM, KEYS, STAGES,
            )),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip
