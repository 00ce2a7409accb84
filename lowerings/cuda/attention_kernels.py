"""Triton kernels of attention: one plan for prefill, chunk and decode.

Plan of a query row, keys counted from ``start``, the first key it keeps: blocks of KEYS keys share one step of the running
maximum; SPLIT keys make a piece; pieces (m, l, o) are merged in ascending order. l is a row of ones times the rounded
weights on the tensor core, since the tree of ``tl.sum`` follows the warps. A block without kept keys changes no bit, so
tiles may skip it or not. Compile with enable_fp_fusion=False: a contracted exp2(m - m') is not exactly 1.
"""

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)
_NOWHERE = tl.constexpr(1 << 30)
#: what the first launch notes of a tile: computed, computed with a NaN in it, left for another kernel
DONE = tl.constexpr(0)
HURT = tl.constexpr(1)
LEFT = tl.constexpr(2)


@triton.jit
def _kept(values, IS_BOOL: tl.constexpr, THRESHOLD: tl.constexpr):
    if IS_BOOL:
        return values != 0
    # models write finfo.min for -inf
    return ~(values.to(tl.float32) <= THRESHOLD)


@triton.jit
def kept_range(
    mask_ptr, copy_ptr, start_ptr, end_ptr, solid_ptr, keys, heads, queries,
    mask_b, mask_h, mask_q, mask_k, IS_BOOL: tl.constexpr, THRESHOLD: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """First kept key and one past the last, for row ``pid`` of [B, H, Lq]; start = NOWHERE for a row without keys.

    ``solid``: the end where every key between is kept as it is, else the start. A boolean mask is also copied to 16 bits.
    """
    pid = tl.program_id(0)
    q = pid % queries
    h = (pid // queries) % heads
    b = (pid // queries // heads).to(tl.int64)
    base = mask_ptr + b * mask_b + h.to(tl.int64) * mask_h + q.to(tl.int64) * mask_q
    first = tl.full((BLOCK,), _NOWHERE, tl.int32)
    last = tl.zeros((BLOCK,), tl.int32)
    plain = tl.zeros((BLOCK,), tl.int32)
    for k in range(0, keys, BLOCK):
        key = k + tl.arange(0, BLOCK)
        values = tl.load(base + key.to(tl.int64) * mask_k, mask=key < keys, other=0)
        kept = _kept(values, IS_BOOL, THRESHOLD) & (key < keys)
        if IS_BOOL:
            copy = copy_ptr + pid.to(tl.int64) * keys + key
            tl.store(copy, kept.to(tl.int16), mask=key < keys)
            plain += kept.to(tl.int32)
        else:
            plain += (kept & (values == 0)).to(tl.int32)
        first = tl.minimum(first, tl.where(kept, key, _NOWHERE))
        last = tl.maximum(last, tl.where(kept, key + 1, 0))
    start = tl.min(first, axis=0)
    end = tl.max(last, axis=0)
    tl.store(start_ptr + pid, start)
    tl.store(end_ptr + pid, end)
    tl.store(solid_ptr + pid, tl.where(tl.sum(plain, axis=0) == end - start, end, start))


@triton.jit
def _weights(m, m_new):
    # a row without keys so far has m = -inf: its old weight is 0, not exp2(nan)
    return tl.exp2(m - tl.where(m_new == float("-inf"), 0.0, m_new))


@triton.jit
def _merge(m, l, acc, m_piece, l_piece, acc_piece):
    """Pieces in ascending order: the same expression in the loop of a prefill and after a split decode."""
    m_new = tl.maximum(m, m_piece)
    old = _weights(m, m_new)
    new = _weights(m_piece, m_new)
    l = tl.fma(l_piece, new, l * old)
    acc = tl.fma(acc_piece, tl.broadcast_to(new[:, None], acc.shape), acc * old[:, None])
    return m_new, l, acc


@triton.jit
def _block(
    begin, q, k_ptr, v_ptr, mask_rows, keys, query, row_ok, scale2,
    k_row, k_col, v_row, v_col, mask_k, m, l, acc, bad,
    EDGE: tl.constexpr, REPAIR: tl.constexpr, IS_CAUSAL: tl.constexpr, MASK: tl.constexpr, THRESHOLD: tl.constexpr,
    BM: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """One step of the running maximum. EDGE: some key of the block may be hidden from some row of the tile."""
    key = begin + tl.arange(0, KEYS)
    key64 = key.to(tl.int64)
    d = tl.arange(0, BD)
    dv = tl.arange(0, BDV)
    inside = key < keys
    k_at = k_ptr + d[:, None] * k_col + key64[None, :] * k_row
    v_at = v_ptr + key64[:, None] * v_row + dv[None, :] * v_col
    if EDGE:
        k = tl.load(k_at, mask=inside[None, :] & (d < D)[:, None], other=0.0)
    elif D == BD:
        k = tl.load(k_at)
    else:
        k = tl.load(k_at, mask=(d < D)[:, None], other=0.0)
    if WIDEN:
        s = tl.dot(q.to(tl.float32), k.to(tl.float32), input_precision="ieee")
    else:
        s = tl.dot(q, k, input_precision="ieee")
    if EDGE:
        seen = inside[None, :] & row_ok[:, None]
        if IS_CAUSAL:
            seen = seen & (key[None, :] <= query[:, None])
        if MASK > 0:
            value = tl.load(mask_rows[:, None] + key64[None, :] * mask_k, mask=seen, other=0)
            seen = seen & _kept(value, MASK == 1, THRESHOLD)
            if MASK == 2:
                # in the units of s, so that a zero changes no bit
                unit = tl.full((BM, KEYS), _LOG2E, tl.float32) / scale2
                s = tl.fma(value.to(tl.float32), unit, s)
        s = tl.where(seen, s, float("-inf"))
    m_new = tl.maximum(m, tl.max(s, axis=1) * scale2)
    base = tl.where(m_new == float("-inf"), 0.0, m_new)
    minus = tl.broadcast_to(-base[:, None], (BM, KEYS))
    p = tl.exp2(tl.fma(s, tl.full((BM, KEYS), 1.0, tl.float32) * scale2, minus))
    old = tl.exp2(m - base)
    if EDGE:
        v = tl.load(v_at, mask=inside[:, None] & (dv < DV)[None, :], other=0.0)
    elif DV == BDV:
        v = tl.load(v_at)
    else:
        v = tl.load(v_at, mask=(dv < DV)[None, :], other=0.0)
    p = p.to(v.dtype)
    l = l * old[:, None]
    acc = acc * old[:, None]
    if REPAIR:
        # 0 * NaN: what a row does not see must not reach it
        wide = v.to(tl.float32)
        finite = tl.abs(wide) < float("inf")
        up = ((wide > 0) | (wide != wide)) & ~finite
        down = ((wide < 0) | (wide != wide)) & ~finite
        weight = seen.to(tl.float32) if EDGE else tl.full((BM, KEYS), 1.0, tl.float32)
        found = tl.dot(weight.to(tl.float16), up.to(tl.float16)) > 0.0
        bad = bad | found.to(tl.int32)
        found = tl.dot(weight.to(tl.float16), down.to(tl.float16)) > 0.0
        bad = bad | (found.to(tl.int32) * 2)
        v = tl.where(finite, v, 0.0).to(v.dtype)
    ones = tl.full((KEYS, 16), 1.0, v.dtype)
    if WIDEN:
        l = tl.dot(p.to(tl.float32), ones.to(tl.float32), l, input_precision="ieee")
        acc = tl.dot(p.to(tl.float32), v.to(tl.float32), acc, input_precision="ieee")
    else:
        l = tl.dot(p, ones, l, input_precision="ieee")
        acc = tl.dot(p, v, acc, input_precision="ieee")
    return m_new, l, acc, bad


@triton.jit
def _walk(
    q, k_ptr, v_ptr, mask_rows, keys, first, full, end, query, row_ok, scale2,
    k_row, k_col, v_row, v_col, mask_k,
    REPAIR: tl.constexpr, IS_CAUSAL: tl.constexpr, MASK: tl.constexpr, THRESHOLD: tl.constexpr,
    BM: tl.constexpr, KEYS: tl.constexpr, SPLIT: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """The pieces of [first, end); every row sees every key before ``full``. Returns m, l, acc, bad."""
    m_all = tl.full((BM,), float("-inf"), tl.float32)
    l_all = tl.zeros((BM,), tl.float32)
    acc_all = tl.zeros((BM, BDV), tl.float32)
    m = m_all
    l = tl.zeros((BM, 16), tl.float32)
    acc = acc_all
    # bit 0: a kept value is NaN or inf, bit 1: NaN or -inf
    bad = tl.zeros((BM, BDV), tl.int32) if REPAIR else tl.zeros((1, 1), tl.int32)
    for begin in range(first, full, KEYS):
        m, l, acc, bad = _block(
            begin, q, k_ptr, v_ptr, mask_rows, keys, query, row_ok, scale2,
            k_row, k_col, v_row, v_col, mask_k, m, l, acc, bad,
            False, REPAIR, IS_CAUSAL, MASK, THRESHOLD, BM, KEYS, D, DV, BD, BDV, WIDEN,
        )  # fmt: skip
        if (begin - first + KEYS) % SPLIT == 0:
            # sixteen equal columns: their maximum is any of them
            m_all, l_all, acc_all = _merge(m_all, l_all, acc_all, m, tl.max(l, axis=1), acc)
            m = tl.full((BM,), float("-inf"), tl.float32)
            l = tl.zeros((BM, 16), tl.float32)
            acc = tl.zeros((BM, BDV), tl.float32)
    for begin in range(full, end, KEYS):
        m, l, acc, bad = _block(
            begin, q, k_ptr, v_ptr, mask_rows, keys, query, row_ok, scale2,
            k_row, k_col, v_row, v_col, mask_k, m, l, acc, bad,
            True, REPAIR, IS_CAUSAL, MASK, THRESHOLD, BM, KEYS, D, DV, BD, BDV, WIDEN,
        )  # fmt: skip
        if (begin - first + KEYS) % SPLIT == 0:
            m_all, l_all, acc_all = _merge(m_all, l_all, acc_all, m, tl.max(l, axis=1), acc)
            m = tl.full((BM,), float("-inf"), tl.float32)
            l = tl.zeros((BM, 16), tl.float32)
            acc = tl.zeros((BM, BDV), tl.float32)
    m_all, l_all, acc_all = _merge(m_all, l_all, acc_all, m, tl.max(l, axis=1), acc)
    return m_all, l_all, acc_all, bad


@triton.jit
def _pieces(
    q, k_ptr, v_ptr, mask_rows, keys, first, solid, end, query, row_ok, scale2,
    k_row, k_col, v_row, v_col, mask_k,
    REPAIR: tl.constexpr, IS_CAUSAL: tl.constexpr, MASK: tl.constexpr, THRESHOLD: tl.constexpr,
    BM: tl.constexpr, KEYS: tl.constexpr, SPLIT: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    BD: tl.constexpr, BDV: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """All keys in [first, end) for the rows ``row_ok``; first is a piece's beginning. Returns m, l, acc, hurt.

    The mask keeps every key in [first, solid) for every one of these rows. ``hurt``: a NaN showed up, which a
    hidden value may have caused. REPAIR 0 lets it be, 1 walks again when it happens, 2 always walks so.
    """
    limit = min(min(keys, end), solid)
    if IS_CAUSAL:
        limit = min(limit, tl.min(query, axis=0) + 1)
    full = first + max(limit - first, 0) // KEYS * KEYS
    m, l, acc, bad = _walk(
        q, k_ptr, v_ptr, mask_rows, keys, first, full, end, query, row_ok, scale2,
        k_row, k_col, v_row, v_col, mask_k,
        REPAIR == 2, IS_CAUSAL, MASK, THRESHOLD, BM, KEYS, SPLIT, D, DV, BD, BDV, WIDEN,
    )  # fmt: skip
    hurt = 0
    if REPAIR == 2:
        acc = _repaired(acc, bad)
    elif IS_CAUSAL or MASK > 0:
        hurt = tl.max(tl.max((acc != acc).to(tl.int32), axis=1), axis=0)
        if REPAIR == 1:  # noqa: SIM102 (decided at compile time, what is in it at run time)
            if hurt > 0:
                _m_again, _l_again, again, spoilt = _walk(
                    q, k_ptr, v_ptr, mask_rows, keys, first, full, end, query, row_ok, scale2,
                    k_row, k_col, v_row, v_col, mask_k,
                    True, IS_CAUSAL, MASK, THRESHOLD, BM, KEYS, SPLIT, D, DV, BD, BDV, WIDEN,
                )  # fmt: skip
                acc = tl.where(acc != acc, _repaired(again, spoilt), acc)
    return m, l, acc, hurt


@triton.jit
def _repaired(again, bad):
    """``again`` leaves the infinite values out; ``bad`` says which of them the row does see."""
    again = tl.where(bad == 1, float("inf"), again)
    again = tl.where(bad == 2, float("-inf"), again)
    return tl.where(bad == 3, float("nan"), again)


@triton.jit
def _store(
    out_ptr, lse_ptr, out_offset, lse_offset, m, l, acc, ok, dv, DV: tl.constexpr, out_col, AGAIN: tl.constexpr,
) -> None:  # fmt: skip
    empty = l == 0.0
    safe = tl.where(empty, 1.0, l)
    # one division a row: a division of every element took 4 us of a tile's 10
    share = tl.div_rn(tl.full(safe.shape, 1.0, tl.float32), safe)
    out = tl.where(empty[:, None], 0.0, acc * share[:, None])
    lse = tl.where(empty, 0.0, (m + tl.log2(safe)) * _LN2)
    at = out_ptr + out_offset[:, None] + dv[None, :] * out_col
    mine = ok[:, None] & (dv < DV)[None, :]
    if AGAIN:
        # only what came out as NaN is written again
        before = tl.load(at, mask=mine, other=0.0)
        mine = mine & (before != before)
    else:
        tl.store(lse_ptr + lse_offset, lse, mask=ok)
    tl.store(at, out.to(out_ptr.dtype.element_ty), mask=mine)


@triton.jit
def _tile(
    tile, pair, piece, note,
    q_ptr, k_ptr, v_ptr, mask_ptr, start_ptr, end_ptr, solid_ptr, out_ptr, lse_ptr, part_ptr, stat_ptr,
    heads, kv_heads, queries, keys, pieces, scale2,
    q_b, q_h, q_row, q_col, k_b, k_h, k_row, k_col, v_b, v_h, v_row, v_col,
    out_b, out_h, out_row, out_col, mask_b, mask_h, mask_q, mask_k,
    start_b, start_h, start_q,
    GROUP: tl.constexpr, SLOTS: tl.constexpr, REPAIR: tl.constexpr, IS_CAUSAL: tl.constexpr, MASK: tl.constexpr,
    THRESHOLD: tl.constexpr, PARALLEL: tl.constexpr, BM: tl.constexpr, KEYS: tl.constexpr, SPLIT: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, WIDEN: tl.constexpr,
) -> None:  # fmt: skip
    """BM rows (query, head of the group) of one kv head of one sample; with PARALLEL one piece of their keys."""
    b = (pair // kv_heads).to(tl.int64)
    kv = pair % kv_heads
    row = tile * BM + tl.arange(0, BM)
    query = row // SLOTS
    head = kv * GROUP + row % SLOTS
    ok = query < queries
    if SLOTS != GROUP:
        ok = ok & (row % SLOTS < GROUP)
    q64 = tl.where(ok, query, 0).to(tl.int64)
    h64 = head.to(tl.int64)
    d = tl.arange(0, BD)
    dv = tl.arange(0, BDV)
    q = tl.load(
        q_ptr + b * q_b + (h64 * q_h + q64 * q_row)[:, None] + d[None, :] * q_col,
        mask=ok[:, None] & (d < D)[None, :],
        other=0.0,
    )
    k_base = k_ptr + b * k_b + kv.to(tl.int64) * k_h
    v_base = v_ptr + b * v_b + kv.to(tl.int64) * v_h
    mask_rows = mask_ptr + b * mask_b + h64 * mask_h + q64 * mask_q
    end = keys
    if IS_CAUSAL:
        end = min(end, tl.max(tl.where(ok, query, 0), axis=0) + 1)
    out_offset = b * out_b + h64 * out_h + q64 * out_row
    flat = (b * heads + h64) * queries + q64
    if MASK > 0:
        where = b * start_b + h64 * start_h + q64 * start_q
        start = tl.load(start_ptr + where, mask=ok, other=_NOWHERE)
        end = min(end, tl.max(tl.load(end_ptr + where, mask=ok, other=0), axis=0))
        solid = tl.load(solid_ptr + where, mask=ok, other=_NOWHERE)
        # left padding: one turn; a sliding window has a start of its own in every row
        turn = tl.min(start, axis=0)
        todo = ok
        more = 1
        met = 0
        while more > 0:
            mine = todo & (start == turn)
            first = turn + piece * SPLIT
            stop = end
            if PARALLEL:
                stop = min(end, first + SPLIT)
            m, l, acc, hurt = _pieces(
                q, k_base, v_base, mask_rows, keys, first, tl.min(tl.where(mine, solid, _NOWHERE), axis=0),
                stop, query, mine, scale2, k_row, k_col, v_row, v_col, mask_k, REPAIR, IS_CAUSAL, MASK,
                THRESHOLD, BM, KEYS, SPLIT, D, DV, BD, BDV, WIDEN,
            )  # fmt: skip
            if PARALLEL:
                slot = flat * pieces + piece
                tl.store(
                    part_ptr + slot[:, None] * DV + dv[None, :],
                    acc,
                    mask=mine[:, None] & (dv < DV)[None, :],
                )
                tl.store(stat_ptr + slot * 2, m, mask=mine)
                tl.store(stat_ptr + slot * 2 + 1, l, mask=mine)
            else:
                _store(
                    out_ptr, lse_ptr, out_offset, flat, m, l, acc, mine, dv, DV, out_col, REPAIR == 2,
                )  # fmt: skip
            met = met | hurt
            todo = todo & (start != turn)
            turn = tl.min(tl.where(todo, start, _NOWHERE + 1), axis=0)
            more = tl.max(todo.to(tl.int32), axis=0)
        if REPAIR == 0:
            tl.store(note, tl.where(met > 0, HURT, DONE))
    else:
        first = piece * SPLIT
        if PARALLEL:
            end = min(end, first + SPLIT)
        m, l, acc, hurt = _pieces(
            q, k_base, v_base, mask_rows, keys, first, end, end, query, ok, scale2, k_row, k_col, v_row, v_col,
            mask_k, REPAIR, IS_CAUSAL, MASK, THRESHOLD, BM, KEYS, SPLIT, D, DV, BD, BDV, WIDEN,
        )  # fmt: skip
        if PARALLEL:
            slot = flat * pieces + piece
            tl.store(
                part_ptr + slot[:, None] * DV + dv[None, :],
                acc,
                mask=ok[:, None] & (dv < DV)[None, :],
            )
            tl.store(stat_ptr + slot * 2, m, mask=ok)
            tl.store(stat_ptr + slot * 2 + 1, l, mask=ok)
        else:
            _store(out_ptr, lse_ptr, out_offset, flat, m, l, acc, ok, dv, DV, out_col, REPAIR == 2)
        if REPAIR == 0:
            tl.store(note, tl.where(hurt > 0, HURT, DONE))


@triton.jit
def attend(
    q_ptr, k_ptr, v_ptr, mask_ptr, start_ptr, end_ptr, solid_ptr, out_ptr, lse_ptr, part_ptr, stat_ptr, note_ptr,
    tiles, pairs, heads, kv_heads, queries, keys, pieces, scale2,
    q_b, q_h, q_row, q_col, k_b, k_h, k_row, k_col, v_b, v_h, v_row, v_col,
    out_b, out_h, out_row, out_col, mask_b, mask_h, mask_q, mask_k,
    start_b, start_h, start_q,
    GROUP: tl.constexpr, SLOTS: tl.constexpr, REPAIR: tl.constexpr, TAKES: tl.constexpr, IS_CAUSAL: tl.constexpr,
    MASK: tl.constexpr, THRESHOLD: tl.constexpr, PARALLEL: tl.constexpr, BM: tl.constexpr, KEYS: tl.constexpr,
    SPLIT: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, WIDEN: tl.constexpr,
) -> None:  # fmt: skip
    """Tiles of BM rows, a program each; with PARALLEL a program for each piece, stored for ``combine``.

    A second walk inside costs registers: it takes the tiles of a prefill out of the register file. So with REPAIR 0 a
    tile only notes that it met a NaN, and a launch with REPAIR 2 goes over the tiles that did. TAKES: only tiles with
    this note, of which every program looks for its share; DONE means all. A query has SLOTS rows, of which GROUP are
    heads.
    """
    if TAKES == DONE:
        # the longest rows of a causal call first
        tile = tiles - 1 - tl.program_id(0) if IS_CAUSAL else tl.program_id(0)
        _tile(
            tile, tl.program_id(1), tl.program_id(2), note_ptr + tl.program_id(1) * tiles + tile,
            q_ptr, k_ptr, v_ptr, mask_ptr, start_ptr, end_ptr, solid_ptr, out_ptr, lse_ptr, part_ptr, stat_ptr,
            heads, kv_heads, queries, keys, pieces, scale2,
            q_b, q_h, q_row, q_col, k_b, k_h, k_row, k_col, v_b, v_h, v_row, v_col,
            out_b, out_h, out_row, out_col, mask_b, mask_h, mask_q, mask_k, start_b, start_h, start_q,
            GROUP, SLOTS, REPAIR, IS_CAUSAL, MASK, THRESHOLD, PARALLEL, BM, KEYS, SPLIT, D, DV, BD, BDV, WIDEN,
        )  # fmt: skip
    else:
        programs = tl.num_programs(0)
        # one load tells most programs that they have nothing to do
        for begin in range(tl.program_id(0), tiles * pairs, 64 * programs):
            at = begin + tl.arange(0, 64) * programs
            noted = tl.load(note_ptr + at, mask=at < tiles * pairs, other=DONE) == TAKES
            if tl.max(noted.to(tl.int32), axis=0) > 0:
                for i in range(64):
                    place = begin + i * programs
                    if place < tiles * pairs:  # noqa: SIM102
                        if tl.load(note_ptr + place) == TAKES:
                            _tile(
                                place % tiles, place // tiles, 0, note_ptr + place,
                                q_ptr, k_ptr, v_ptr, mask_ptr, start_ptr, end_ptr, solid_ptr, out_ptr, lse_ptr,
                                part_ptr, stat_ptr, heads, kv_heads, queries, keys, pieces, scale2,
                                q_b, q_h, q_row, q_col, k_b, k_h, k_row, k_col, v_b, v_h, v_row, v_col,
                                out_b, out_h, out_row, out_col, mask_b, mask_h, mask_q, mask_k,
                                start_b, start_h, start_q, GROUP, SLOTS, REPAIR, IS_CAUSAL, MASK, THRESHOLD,
                                PARALLEL, BM, KEYS, SPLIT, D, DV, BD, BDV, WIDEN,
                            )  # fmt: skip


@triton.jit
def combine(
    part_ptr, stat_ptr, out_ptr, lse_ptr, heads, queries, pieces, out_b, out_h, out_row, out_col,
    DV: tl.constexpr, BDV: tl.constexpr,
) -> None:  # fmt: skip
    """Merge the stored pieces of row ``pid`` of [B, H, Lq] in ascending order."""
    pid = tl.program_id(0)
    q = (pid % queries).to(tl.int64)
    h = ((pid // queries) % heads).to(tl.int64)
    b = (pid // queries // heads).to(tl.int64)
    dv = tl.arange(0, BDV)
    m = tl.full((1,), float("-inf"), tl.float32)
    l = tl.zeros((1,), tl.float32)
    acc = tl.zeros((1, BDV), tl.float32)
    one = tl.arange(0, 1)
    for piece in range(pieces):
        slot = pid.to(tl.int64) * pieces + piece
        part = tl.load(
            part_ptr + slot * DV + dv[None, :] + one[:, None], mask=(dv < DV)[None, :], other=0.0
        )
        m_piece = tl.load(stat_ptr + slot * 2 + one)
        l_piece = tl.load(stat_ptr + slot * 2 + 1 + one)
        m, l, acc = _merge(m, l, acc, m_piece, l_piece, part)
    offset = b * out_b + h * out_h + q * out_row
    _store(
        out_ptr, lse_ptr, offset + one, pid.to(tl.int64) + one, m, l, acc, one == 0, dv, DV, out_col, False,
    )  # fmt: skip
