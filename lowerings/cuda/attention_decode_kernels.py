"""Gluon kernels of attention for one query: the plan of ``attention_kernels.py`` with the scores of blocks side by side.

The heads of one kv head are the 16 rows of the tensor core. BLOCKS blocks of keys are one step: their scores do not depend
on one another, so warps share them out, and only rescaling and adding up run block after block. Every sum and rescale is
that of the Triton kernel in the same order. All heads keep the same keys, so a hidden value can simply be read as zero.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from lowerings.cuda.overlap_kernels import follow

_LOG2E = gl.constexpr(1.4426950408889634)
_LN2 = gl.constexpr(0.6931471805599453)
_NOWHERE = gl.constexpr(1 << 30)
#: of the tensor core
_ROWS = gl.constexpr(16)


@gluon.jit
def _kept(values, MASK: gl.constexpr, THRESHOLD: gl.constexpr):
    if MASK == 1:
        return values != 0
    # models write finfo.min for -inf; a NaN is kept
    return (values.to(gl.float32) <= THRESHOLD) == False  # noqa: E712


@gluon.jit
def _narrowed(first, last, plain, other_first, other_last, other_plain):
    return gl.minimum(first, other_first), gl.maximum(last, other_last), plain + other_plain


@gluon.jit
def _kept_range(mask_row, keys, mask_k, MASK: gl.constexpr, THRESHOLD: gl.constexpr):
    """First kept key, one past the last, and the end if every key between is kept as it is, else the first."""
    layout: gl.constexpr = gl.BlockedLayout([4], [32], [gl.num_warps()], [0])
    WIDTH: gl.constexpr = 128 * gl.num_warps()
    first = gl.full((WIDTH,), _NOWHERE, gl.int32, layout)
    last = gl.zeros((WIDTH,), gl.int32, layout)
    plain = gl.zeros((WIDTH,), gl.int32, layout)
    for begin in range(0, keys, WIDTH):
        key = begin + gl.arange(0, WIDTH, layout)
        values = gl.load(mask_row + key * mask_k, mask=key < keys, other=0)
        kept = _kept(values, MASK, THRESHOLD) & (key < keys)
        if MASK == 1:
            plain += kept.to(gl.int32)
        else:
            plain += (kept & (values == 0)).to(gl.int32)
        first = gl.minimum(first, gl.where(kept, key, _NOWHERE))
        last = gl.maximum(last, gl.where(kept, key + 1, 0))
    start, end, count = gl.reduce((first, last, plain), 0, _narrowed)
    return start, end, gl.where(count == end - start, end, start)


@gluon.jit
def _copy(
    smem, ptr, row, begin, stop, solid, mask_row, mask_k,
    HIDE: gl.constexpr, MASK: gl.constexpr, THRESHOLD: gl.constexpr,
    BLOCKS: gl.constexpr, KEYS: gl.constexpr, D: gl.constexpr, BD: gl.constexpr,
) -> None:  # fmt: skip
    """Start the copy of the keys [begin, stop) of one step; zero is what lies behind, and with HIDE what is not kept."""
    ACROSS: gl.constexpr = min(BD // 8, 32)
    layout: gl.constexpr = gl.BlockedLayout(
        [1, 1, 8], [1, 32 // ACROSS, ACROSS], [1, gl.num_warps(), 1], [2, 1, 0]
    )
    block = gl.arange(0, BLOCKS, gl.SliceLayout(1, gl.SliceLayout(2, layout)))[:, None, None]
    inner = gl.arange(0, KEYS, gl.SliceLayout(0, gl.SliceLayout(2, layout)))[None, :, None]
    d = gl.arange(0, BD, gl.SliceLayout(0, gl.SliceLayout(1, layout)))[None, None, :]
    key = block * KEYS + inner
    ok = key < stop - begin
    if HIDE and MASK > 0:  # noqa: SIM102 (decided at compile time, what is in it at run time)
        if solid < stop:
            values = gl.load(mask_row + (begin + key) * mask_k, mask=ok, other=0)
            ok = ok & _kept(values, MASK, THRESHOLD)
    base = ptr + begin.to(gl.int64) * row
    async_copy.async_copy_global_to_shared(smem, base + (key * row + d), mask=ok & (d < D))


@gluon.jit
def _weight(m, m_new):
    return gl.exp2(m - gl.where(m_new == float("-inf"), 0.0, m_new))


@gluon.jit
def _merge(m, l, acc, m_piece, l_piece, acc_piece):
    m_new = gl.maximum(m, m_piece)
    old = _weight(m, m_new)
    new = _weight(m_piece, m_new)
    l = gl.fma(l_piece, new, l * old)
    acc = gl.fma(acc_piece, new[:, None].broadcast_to(acc.shape), acc * old[:, None])
    return m_new, l, acc


@gluon.jit
def _repaired(
    acc, v_base, v_row, first, stop, solid, mask_row, mask_k,
    MASK: gl.constexpr, THRESHOLD: gl.constexpr, DV: gl.constexpr, BDV: gl.constexpr,
):  # fmt: skip
    """A NaN in a column with a kept value that is not finite becomes what that value makes of it."""
    layout: gl.constexpr = gl.BlockedLayout([1, 1], [1, 32], [gl.num_warps(), 1], [1, 0])
    key = gl.arange(0, 16, gl.SliceLayout(1, layout))
    dv = gl.arange(0, BDV, gl.SliceLayout(0, layout))
    up = gl.zeros((16, BDV), gl.int32, layout)
    down = gl.zeros((16, BDV), gl.int32, layout)
    for begin in range(first, stop, 16):
        ok = begin + key < stop
        if solid < stop:
            values = gl.load(mask_row + (begin + key) * mask_k, mask=ok, other=0)
            ok = ok & _kept(values, MASK, THRESHOLD)
        at = (begin + key).to(gl.int64) * v_row
        inside = ok[:, None] & (dv < DV)[None, :]
        v = gl.load(v_base + at[:, None] + dv[None, :], mask=inside, other=0.0).to(gl.float32)
        up = up | ((v == float("inf")) | (v != v)).to(gl.int32)
        down = down | ((v == float("-inf")) | (v != v)).to(gl.int32)
    columns: gl.constexpr = gl.SliceLayout(0, acc.type.layout)
    up = gl.convert_layout(gl.max(up, axis=0), columns)[None, :]
    down = gl.convert_layout(gl.max(down, axis=0), columns)[None, :]
    made = gl.where(up > 0, float("inf"), gl.where(down > 0, float("-inf"), acc))
    made = gl.where((up > 0) & (down > 0), float("nan"), made)
    return gl.where(acc != acc, made, acc)


@gluon.jit(do_not_specialize=["heads", "kv_heads", "keys", "pieces", "start_b", "scale2"])
def decode(
    q_ptr, k_ptr, v_ptr, mask_ptr, start_ptr, end_ptr, solid_ptr, count_ptr, part_ptr, stat_ptr, lse_ptr, out_ptr,
    heads, kv_heads, keys, pieces, scale2,
    q_b, q_h, k_b, k_h, k_row, v_b, v_h, v_row, out_b, out_h, mask_b, mask_k, start_b,
    GROUP: gl.constexpr, MASK: gl.constexpr, THRESHOLD: gl.constexpr, FOLDED: gl.constexpr, PARALLEL: gl.constexpr,
    KEYS: gl.constexpr, SPLIT: gl.constexpr, BLOCKS: gl.constexpr,
    D: gl.constexpr, DV: gl.constexpr, BD: gl.constexpr, BDV: gl.constexpr, OVERLAP: gl.constexpr,
) -> None:  # fmt: skip
    """One kv head of one sample, all its keys; with PARALLEL one piece of them, stored for ``merge``.

    FOLDED: a program finds the kept range in the mask itself.
    """
    follow(OVERLAP)
    W: gl.constexpr = gl.num_warps()
    SHARED: gl.constexpr = min(BLOCKS, W)
    STEP: gl.constexpr = BLOCKS * KEYS
    CHUNK: gl.constexpr = min(BD, 64)
    dtype: gl.constexpr = k_ptr.dtype.element_ty
    scored: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [SHARED, 1, W // SHARED], [1, 16, 8])
    summed: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [1, W], [16, 8])
    q_layout: gl.constexpr = gl.SliceLayout(0, gl.DotOperandLayout(0, scored, 2))
    k_layout: gl.constexpr = gl.DotOperandLayout(1, scored, 2)
    p_layout: gl.constexpr = gl.DotOperandLayout(0, summed, 2)
    v_layout: gl.constexpr = gl.DotOperandLayout(1, summed, 2)
    tops: gl.constexpr = gl.SliceLayout(2, scored)
    top_rows: gl.constexpr = gl.SliceLayout(0, tops)
    rows: gl.constexpr = gl.SliceLayout(1, summed)
    stack: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [2, 1, 0])
    sheet: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 8, [1, 0])
    k_smem = gl.allocate_shared_memory(dtype, [BLOCKS, KEYS, BD], stack)
    v_smem = gl.allocate_shared_memory(dtype, [BLOCKS, KEYS, BDV], stack)
    p_smem = gl.allocate_shared_memory(dtype, [BLOCKS, _ROWS, KEYS], stack)
    top_smem = gl.allocate_shared_memory(
        gl.float32, [BLOCKS, _ROWS], gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    )
    # the same bytes, block by block
    v_blocks = v_smem._reinterpret(dtype, [BLOCKS, KEYS, BDV], sheet)
    p_blocks = p_smem._reinterpret(dtype, [BLOCKS, _ROWS, KEYS], sheet)
    top_blocks = top_smem._reinterpret(
        gl.float32, [BLOCKS, _ROWS], gl.SwizzledSharedLayout(1, 1, 1, [0])
    )

    pair = gl.program_id(0)
    piece = gl.program_id(1)
    b = (pair // kv_heads).to(gl.int64)
    kv = pair % kv_heads
    mask_row = mask_ptr + b * mask_b
    k_base = k_ptr + b * k_b + kv.to(gl.int64) * k_h
    v_base = v_ptr + b * v_b + kv.to(gl.int64) * v_h
    WIDE: gl.constexpr = min(BD // 8, 32)
    by_row: gl.constexpr = gl.BlockedLayout([1, 8], [32 // WIDE, WIDE], [W, 1], [1, 0])
    head = gl.arange(0, _ROWS, gl.SliceLayout(1, by_row))
    d = gl.arange(0, BD, gl.SliceLayout(0, by_row))
    q = gl.load(
        q_ptr + b * q_b + (kv * GROUP + head)[:, None] * q_h + d[None, :],
        mask=(head < GROUP)[:, None] & (d < D)[None, :],
        other=0.0,
    )
    start = 0 * pair
    end = keys
    solid = keys
    if MASK > 0:
        if FOLDED:
            start, end, solid = _kept_range(mask_row, keys, mask_k, MASK, THRESHOLD)
        else:
            start = gl.load(start_ptr + b * start_b)
            end = gl.load(end_ptr + b * start_b)
            solid = gl.load(solid_ptr + b * start_b)
        if PARALLEL:  # noqa: SIM102
            if piece == 0:
                gl.store(count_ptr + pair, gl.cdiv(gl.maximum(end - start, 0), SPLIT))
    first = start
    stop = end
    if PARALLEL:
        first = start + piece * SPLIT
        stop = gl.minimum(end, first + SPLIT)
    steps = gl.cdiv(gl.maximum(stop - first, 0), STEP)
    if steps > 0:
        _copy(k_smem, k_base, k_row, first, stop, solid, mask_row, mask_k,
              False, MASK, THRESHOLD, BLOCKS, KEYS, D, BD)  # fmt: skip
    async_copy.commit_group()
    if steps > 0:
        _copy(v_smem, v_base, v_row, first, stop, solid, mask_row, mask_k,
              True, MASK, THRESHOLD, BLOCKS, KEYS, DV, BDV)  # fmt: skip
    async_copy.commit_group()

    q_smem = gl.allocate_shared_memory(dtype, [_ROWS, BD], sheet, q)
    ones = gl.full((KEYS, 8 * W), 1.0, dtype, v_layout)
    block = gl.arange(0, BLOCKS, gl.SliceLayout(1, tops))
    m_top = gl.full((_ROWS,), float("-inf"), gl.float32, top_rows)
    m = gl.full((_ROWS,), float("-inf"), gl.float32, rows)
    l = gl.zeros((_ROWS, 8 * W), gl.float32, summed)
    acc = gl.zeros((_ROWS, BDV), gl.float32, summed)
    m_all = m
    l_all = gl.zeros((_ROWS,), gl.float32, rows)
    acc_all = acc
    for step in range(steps):
        begin = first + step * STEP
        # the keys are there, the values still under way
        async_copy.wait_group(1)
        s = gl.zeros((BLOCKS, _ROWS, KEYS), gl.float32, scored)
        for at in gl.static_range(0, BD, CHUNK):
            q_part = q_smem.slice(at, CHUNK, dim=1).load(q_layout)
            q_part = gl.expand_dims(q_part, 0).broadcast_to((BLOCKS, _ROWS, CHUNK))
            k_part = k_smem.slice(at, CHUNK, dim=2).permute((0, 2, 1)).load(k_layout)
            s = mma_v2(q_part, k_part, s)
        if step + 1 < steps:
            _copy(k_smem, k_base, k_row, begin + STEP, stop, solid, mask_row, mask_k,
                  False, MASK, THRESHOLD, BLOCKS, KEYS, D, BD)  # fmt: skip
        async_copy.commit_group()
        key = (
            begin
            + block[:, None].expand_dims(2) * KEYS
            + gl.arange(0, KEYS, gl.SliceLayout(0, gl.SliceLayout(1, scored)))[None, None, :]
        )
        seen = key < stop
        if MASK > 0:  # noqa: SIM102
            if solid < stop:
                value = gl.load(mask_row + key * mask_k, mask=seen, other=0)
                seen = seen & _kept(value, MASK, THRESHOLD)
                if MASK == 2:
                    # in the units of s, so that a zero changes no bit
                    unit = gl.full_like(s, _LOG2E) / scale2
                    s = gl.fma(value.to(gl.float32).broadcast_to(s.shape), unit, s)
        s = gl.where(seen, s, float("-inf"))
        top_smem.store(gl.max(s, axis=2))
        # the running maximum behind each block
        top = gl.full((BLOCKS, _ROWS), float("-inf"), gl.float32, tops)
        for i in gl.static_range(BLOCKS):
            m_top = gl.maximum(m_top, top_blocks.index(i).load(top_rows) * scale2)
            top = gl.where(block[:, None] == i, m_top[None, :], top)
        base = gl.where(top == float("-inf"), 0.0, top)
        minus = (-base)[:, :, None].broadcast_to(s.shape)
        p = gl.exp2(gl.fma(s, gl.full_like(s, 1.0) * scale2, minus))
        p_smem.store(p.to(dtype))
        async_copy.wait_group(1)
        for i in gl.static_range(BLOCKS):
            m_new = gl.maximum(m, top_blocks.index(i).load(rows) * scale2)
            old = _weight(m, m_new)
            m = m_new
            p_part = p_blocks.index(i).load(p_layout)
            l = mma_v2(p_part, ones, l * old[:, None])
            v_part = v_blocks.index(i).load(v_layout)
            acc = mma_v2(p_part, v_part, acc * old[:, None])
        if step + 1 < steps:
            _copy(v_smem, v_base, v_row, begin + STEP, stop, solid, mask_row, mask_k,
                  True, MASK, THRESHOLD, BLOCKS, KEYS, DV, BDV)  # fmt: skip
        async_copy.commit_group()
        if not PARALLEL:  # noqa: SIM102
            if (step + 1) % (SPLIT // STEP) == 0:
                # 8 * W equal columns: their maximum is any of them
                m_all, l_all, acc_all = _merge(m_all, l_all, acc_all, m, gl.max(l, axis=1), acc)
                m = gl.full((_ROWS,), float("-inf"), gl.float32, rows)
                m_top = gl.full((_ROWS,), float("-inf"), gl.float32, top_rows)
                l = gl.zeros((_ROWS, 8 * W), gl.float32, summed)
                acc = gl.zeros((_ROWS, BDV), gl.float32, summed)
    m, l_row, acc = _merge(m_all, l_all, acc_all, m, gl.max(l, axis=1), acc)
    if MASK > 0:  # noqa: SIM102
        if gl.max(gl.max((acc != acc).to(gl.int32), axis=1), axis=0) > 0:
            acc = _repaired(acc, v_base, v_row, first, stop, solid, mask_row, mask_k,
                            MASK, THRESHOLD, DV, BDV)  # fmt: skip
    head = gl.arange(0, _ROWS, rows)
    dv = gl.arange(0, BDV, gl.SliceLayout(0, summed))
    mine = (head < GROUP)[:, None] & (dv < DV)[None, :]
    flat = b * heads + kv * GROUP + head
    if PARALLEL:
        place = flat * pieces + piece
        gl.store(part_ptr + place[:, None] * DV + dv[None, :], acc, mask=mine)
        gl.store(stat_ptr + place * 2, m, mask=head < GROUP)
        gl.store(stat_ptr + place * 2 + 1, l_row, mask=head < GROUP)
    else:
        empty = l_row == 0.0
        safe = gl.where(empty, 1.0, l_row)
        share = gl.div_rn(gl.full_like(safe, 1.0), safe)
        out = gl.where(empty[:, None], 0.0, acc * share[:, None])
        lse = gl.where(empty, 0.0, (m + gl.log2(safe)) * _LN2)
        gl.store(lse_ptr + flat, lse, mask=head < GROUP)
        at = b * out_b + (kv * GROUP + head) * out_h
        gl.store(out_ptr + at[:, None] + dv[None, :], out.to(dtype), mask=mine)


@gluon.jit
def _picked(values, place, AT: gl.constexpr):
    """Row AT of [MANY, ..], which every thread holds: folds to a register. As bits, where adding zeros changes none."""
    bits = values.to(gl.int32, bitcast=True)
    return gl.sum(gl.where(place == AT, bits, 0), axis=0).to(gl.float32, bitcast=True)


@gluon.jit(do_not_specialize=["heads", "pieces"])
def merge(
    part_ptr, stat_ptr, count_ptr, lse_ptr, out_ptr, heads, pieces, out_b, out_h,
    GROUP: gl.constexpr, COUNTED: gl.constexpr, MANY: gl.constexpr, DV: gl.constexpr, BDV: gl.constexpr, OVERLAP: gl.constexpr,
) -> None:  # fmt: skip
    """Merge the stored pieces of row ``pid`` of [B, H] in ascending order, MANY loads of them in flight."""
    follow(OVERLAP)
    layout: gl.constexpr = gl.BlockedLayout([MANY, 1], [1, 32], [1, gl.num_warps()], [1, 0])
    row = gl.program_id(0)
    b = (row // heads).to(gl.int64)
    row64 = row.to(gl.int64)
    inner = gl.arange(0, MANY, gl.SliceLayout(1, layout))
    dv = gl.arange(0, BDV, gl.SliceLayout(0, layout))
    count = pieces
    if COUNTED:
        count = gl.load(count_ptr + row // GROUP)
    m = float("-inf")
    l = 0.0
    acc = gl.zeros((BDV,), gl.float32, gl.SliceLayout(0, layout))
    for begin in range(0, count, MANY):
        place = row64 * pieces + begin + inner
        ok = begin + inner < count
        inside = ok[:, None] & (dv < DV)[None, :]
        part = gl.load(part_ptr + place[:, None] * DV + dv[None, :], mask=inside, other=0.0)
        tops = gl.load(stat_ptr + place * 2, mask=ok, other=float("-inf"))
        sums = gl.load(stat_ptr + place * 2 + 1, mask=ok, other=0.0)
        for i in gl.static_range(MANY):
            m_piece = _picked(tops, inner, i)
            m_new = gl.maximum(m, m_piece)
            old = _weight(m, m_new)
            new = _weight(m_piece, m_new)
            l = gl.fma(_picked(sums, inner, i), new, l * old)
            acc = gl.fma(_picked(part, inner[:, None], i), gl.full_like(acc, 1.0) * new, acc * old)
            m = m_new
    empty = l == 0.0
    safe = gl.where(empty, 1.0, l)
    share = gl.div_rn(1.0, safe)
    out = gl.where(empty, 0.0, acc * share)
    gl.store(lse_ptr + row64, gl.where(empty, 0.0, (m + gl.log2(safe)) * _LN2))
    at = b * out_b + (row % heads) * out_h
    gl.store(out_ptr + at + dv, out.to(out_ptr.dtype.element_ty), mask=dv < DV)
