"""Triton kernel of attention over packed requests: the plan of ``attention_kernels``, borders read from device memory.

A launch has as many programs as the tokens could need; each looks for its request, so one launch, or one CUDA graph,
serves every way of cutting the tokens into requests.
"""

import triton
import triton.language as tl

from lowerings.cuda.attention_kernels import _pieces, _store

_NOWHERE = tl.constexpr(1 << 30)


@triton.jit
def attend_packed(
    q_ptr, k_ptr, v_ptr, q_ends_ptr, k_ends_ptr, out_ptr, lse_ptr, part_ptr, stat_ptr,
    requests, tokens, pieces, window, scale2,
    q_h, q_row, q_col, k_h, k_row, k_col, v_h, v_row, v_col, out_h, out_row, out_col,
    GROUP: tl.constexpr, REQUESTS: tl.constexpr, WINDOWED: tl.constexpr, PARALLEL: tl.constexpr, BM: tl.constexpr,
    KEYS: tl.constexpr, SPLIT: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr,
    WIDEN: tl.constexpr,
) -> None:  # fmt: skip
    """Tile ``pid`` of BM rows (query, head of the group) of one kv head; with PARALLEL one piece of their keys."""
    pid = tl.program_id(0)
    request = tl.arange(0, REQUESTS)
    there = request < requests
    begins = tl.load(q_ends_ptr + request, mask=there, other=0)
    ends = tl.load(q_ends_ptr + request + 1, mask=there, other=0)
    tiles = ((ends - begins) * GROUP + BM - 1) // BM
    last_tiles = tl.cumsum(tiles, axis=0)
    # one request at most, so a sum picks its numbers
    chosen = (pid < last_tiles) & (pid >= last_tiles - tiles)
    if tl.max(chosen.to(tl.int32), axis=0) > 0:
        begin = tl.sum(tl.where(chosen, begins, 0), axis=0)
        queries = tl.sum(tl.where(chosen, ends - begins, 0), axis=0)
        tile = pid - tl.sum(tl.where(chosen, last_tiles - tiles, 0), axis=0)
        index = tl.sum(tl.where(chosen, request, 0), axis=0)
        k_begin = tl.load(k_ends_ptr + index)
        keys = tl.load(k_ends_ptr + index + 1) - k_begin
        _packed_tile(
            tile, begin, queries, k_begin, keys,
            q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, part_ptr, stat_ptr, tokens, pieces, window, scale2,
            q_h, q_row, q_col, k_h, k_row, k_col, v_h, v_row, v_col, out_h, out_row, out_col,
            GROUP, WINDOWED, PARALLEL, BM, KEYS, SPLIT, D, DV, BD, BDV, WIDEN,
        )  # fmt: skip


@triton.jit
def _packed_tile(
    tile, begin, queries, k_begin, keys,
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, part_ptr, stat_ptr, tokens, pieces, window, scale2,
    q_h, q_row, q_col, k_h, k_row, k_col, v_h, v_row, v_col, out_h, out_row, out_col,
    GROUP: tl.constexpr, WINDOWED: tl.constexpr, PARALLEL: tl.constexpr, BM: tl.constexpr, KEYS: tl.constexpr,
    SPLIT: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BD: tl.constexpr, BDV: tl.constexpr, WIDEN: tl.constexpr,
) -> None:  # fmt: skip
    """The rows of ``queries`` tokens from ``begin`` that lie in ``tile``, over ``keys`` keys from ``k_begin``."""
    kv = tl.program_id(1)
    piece = tl.program_id(2)
    row = tile * BM + tl.arange(0, BM)
    query = row // GROUP
    h64 = (kv * GROUP + row % GROUP).to(tl.int64)
    ok = query < queries
    token = (begin + tl.where(ok, query, 0)).to(tl.int64)
    # the last key that the row sees, counted from its request's first
    place = keys - queries + query
    d = tl.arange(0, BD)
    dv = tl.arange(0, BDV)
    q = tl.load(
        q_ptr + (h64 * q_h + token * q_row)[:, None] + d[None, :] * q_col,
        mask=ok[:, None] & (d < D)[None, :],
        other=0.0,
    )
    k_base = k_ptr + kv.to(tl.int64) * k_h + k_begin.to(tl.int64) * k_row
    v_base = v_ptr + kv.to(tl.int64) * v_h + k_begin.to(tl.int64) * v_row
    end = tl.max(tl.where(ok, place, -1), axis=0) + 1
    out_offset = h64 * out_h + token * out_row
    flat = h64 * tokens + token
    start = tl.maximum(place + 1 - window, 0) if WINDOWED else tl.zeros((BM,), tl.int32)
    start = tl.where(ok, start, _NOWHERE)
    # without a window one turn; with one a start for every query
    todo = ok
    turn = tl.min(start, axis=0)
    more = 1
    while more > 0:
        mine = todo & (start == turn)
        first = turn + piece * SPLIT
        stop = end
        if PARALLEL:
            stop = min(end, first + SPLIT)
        m, l, acc, _hurt = _pieces(
            q, k_base, v_base, q_ptr + token, keys, first, end, stop, place, mine, scale2,
            k_row, k_col, v_row, v_col, 0,
            1, True, 0, 0.0, BM, KEYS, SPLIT, D, DV, BD, BDV, WIDEN,
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
            _store(out_ptr, lse_ptr, out_offset, flat, m, l, acc, mine, dv, DV, out_col, False)
        todo = todo & (start != turn)
        turn = tl.min(tl.where(todo, start, _NOWHERE + 1), axis=0)
        more = tl.max(todo.to(tl.int32), axis=0)
