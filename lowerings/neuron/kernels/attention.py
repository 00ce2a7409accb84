"""Attention by blocks of ``KV_TILE`` keys counted from absolute position 0, always issued full.

Query tiles start at absolute multiples of ``ROW_TILE``, not at the start of the chunk: a row then meets the
same blocks, in the same partition, in prefill and in chunks. A block that a tile cannot see is skipped.
"""

from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl

from lowerings.neuron.kernels.tiles import TENSOR, VECTOR, column, load, psum, sbuf, scaled
from lowerings.neuron.plans import KV_TILE, NEG, ROW_TILE


@nki.jit
def attention(
    q_bdt: Any, k_bds: Any, v_bsd: Any, mask_gts: Any, scale: float, causal: bool, q_pos0: int
) -> Any:
    """Return ``out [B, T, Dv]`` in the dtype of q and float32 ``lse [B, T, 1]``; B counts batch x heads.

    ``k_bds``/``v_bsd`` have ``B / group`` heads. ``mask_gts`` is None or additive float32 ``[G, T, S]`` with G
    dividing B, its values not below NEG. With ``causal`` the query at ``q_pos0 + t`` sees keys up to itself.
    """
    heads, _, tokens = q_bdt.shape
    value_dim = v_bsd.shape[2]
    out = nl.ndarray((heads, tokens, value_dim), dtype=q_bdt.dtype, buffer=nl.shared_hbm)
    lse = nl.ndarray((heads, tokens, 1), dtype=nl.float32, buffer=nl.shared_hbm)
    end = q_pos0 + tokens
    for h in range(heads):
        kv = h * k_bds.shape[0] // heads
        mask = None if mask_gts is None else mask_gts[h * mask_gts.shape[0] // heads, :, :]
        for t0 in range(q_pos0 - q_pos0 % ROW_TILE, end, ROW_TILE):
            a, b = max(t0, q_pos0), min(t0 + ROW_TILE, end)
            q = load((q_bdt.shape[1], ROW_TILE), q_bdt[h, :, a - q_pos0 : b - q_pos0], 0, a - t0)
            rows = None if mask is None else mask[a - q_pos0 : b - q_pos0, :]
            m, total, o = _tile(
                q, k_bds[kv, :, :], v_bsd[kv, :, :], rows, scale, causal, t0, a - t0
            )
            res, row_lse = _finish(m, total, o, q_bdt.dtype)
            span = (a - t0, b - t0)
            nisa.dma_copy(dst=out[h, a - q_pos0 : b - q_pos0, :], src=res[span[0] : span[1], :])
            nisa.dma_copy(dst=lse[h, a - q_pos0 : b - q_pos0, :], src=row_lse[span[0] : span[1], :])
    return out, lse


def _tile(
    q: Any, k_ds: Any, v_sd: Any, mask_ts: Any, scale: float, causal: bool, t0: int, p0: int
) -> Any:
    """Return the running maximum, sum and weighted values of one query tile."""
    keys, value_dim = v_sd.shape
    m, total, o = column(NEG), column(0.0), sbuf((ROW_TILE, value_dim), nl.float32)
    nisa.memset(dst=o, value=0.0)
    for c0 in range(0, min(keys, t0 + ROW_TILE) if causal else keys, KV_TILE):
        s = _scores(q, k_ds, mask_ts, scale, c0, p0)
        _see_only(s, 0, keys - c0, nl.greater)
        if causal:
            _see_only(s, 1, t0 - c0, nl.greater_equal)
        neg_m, alpha = _raise_maximum(m, s)
        p, part = sbuf((ROW_TILE, KV_TILE), v_sd.dtype), sbuf((ROW_TILE, 1), nl.float32)
        nisa.activation(
            dst=p,
            op=nl.exp,
            data=s,
            bias=neg_m,
            reduce_op=nl.add,
            reduce_res=part,
            reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )
        nisa.tensor_scalar(
            dst=total,
            data=total,
            op0=nl.multiply,
            operand0=alpha,
            op1=nl.add,
            operand1=part,
            engine=VECTOR,
        )
        values = _weighted_values(p, v_sd, c0)
        nisa.tensor_scalar(dst=o, data=o, op0=nl.multiply, operand0=alpha, engine=VECTOR)
        nisa.tensor_tensor(dst=o, data1=o, data2=values, op=nl.add, engine=VECTOR)
    return m, total, o


def _scores(q: Any, k_ds: Any, mask_ts: Any, scale: float, c0: int, p0: int) -> Any:
    """Return ``q @ k * scale + mask`` for one block; the pass over the head dim is one instruction."""
    c1 = min(k_ds.shape[1], c0 + KV_TILE)
    k = load((k_ds.shape[0], KV_TILE), k_ds[:, c0:c1], 0, 0)
    products = psum((ROW_TILE, KV_TILE), nl.float32)
    nisa.nc_matmul(dst=products, stationary=q, moving=k, accumulate=False)
    s = scaled(products, scale, nl.float32)
    if mask_ts is not None:
        mask = load((ROW_TILE, KV_TILE), mask_ts[:, c0:c1], p0, 0)
        nisa.tensor_tensor(dst=s, data1=s, data2=mask, op=nl.add, engine=VECTOR)
    return s


def _see_only(s: Any, per_row: int, offset: int, cmp_op: Any) -> None:
    """Keep score ``j`` of row ``p`` where ``offset + per_row * p - j`` compares true to 0, else NEG."""
    nisa.affine_select(
        dst=s,
        pattern=[[-1, KV_TILE]],
        channel_multiplier=per_row,
        on_true_tile=s,
        on_false_value=NEG,
        cmp_op=cmp_op,
        offset=offset,
    )


def _raise_maximum(m: Any, s: Any) -> Any:
    """Set ``m = max(m, max s)``; return ``-m`` and the factor ``exp(old m - m)``."""
    block, neg_m = sbuf((ROW_TILE, 1), nl.float32), sbuf((ROW_TILE, 1), nl.float32)
    alpha, highest = sbuf((ROW_TILE, 1), nl.float32), sbuf((ROW_TILE, 1), nl.float32)
    nisa.tensor_reduce(dst=block, op=nl.maximum, data=s, axis=1, keepdims=True)
    nisa.tensor_tensor(dst=highest, data1=m, data2=block, op=nl.maximum, engine=VECTOR)
    nisa.tensor_scalar(dst=neg_m, data=highest, op0=nl.multiply, operand0=-1.0, engine=VECTOR)
    nisa.activation(dst=alpha, op=nl.exp, data=m, bias=neg_m)
    nisa.tensor_copy(dst=m, src=highest, engine=VECTOR)
    return neg_m, alpha


def _weighted_values(p: Any, v_sd: Any, c0: int) -> Any:
    """Return ``p @ v`` in PSUM, 128 keys a pass, ascending; keys past the end are zeros."""
    keys, value_dim = v_sd.shape
    values = psum((ROW_TILE, value_dim), nl.float32)
    for j in range(0, KV_TILE, ROW_TILE):
        v = sbuf((ROW_TILE, value_dim), v_sd.dtype)
        first, last = c0 + j, min(keys, c0 + j + ROW_TILE)
        if last - first < ROW_TILE:
            nisa.memset(dst=v, value=0.0)
        if last > first:
            nisa.dma_copy(dst=v[0 : last - first, :], src=v_sd[first:last, :])
        turned = psum((ROW_TILE, ROW_TILE), p.dtype)
        nisa.nc_transpose(dst=turned, data=p[:, j : j + ROW_TILE], engine=TENSOR)
        p_t = sbuf((ROW_TILE, ROW_TILE), p.dtype)
        nisa.tensor_copy(dst=p_t, src=turned, engine=VECTOR)
        nisa.nc_matmul(dst=values, stationary=p_t, moving=v, accumulate=(j > 0))
    return values


def _finish(m: Any, total: Any, o: Any, dtype: Any) -> Any:
    """Return the output and lse of a tile; a row that saw no key becomes 0, as in torch."""
    inverse, seen = sbuf((ROW_TILE, 1), nl.float32), sbuf((ROW_TILE, 1), nl.float32)
    nisa.reciprocal(dst=inverse, data=total)
    nisa.tensor_scalar(dst=seen, data=m, op0=nl.greater, operand0=NEG / 2, engine=VECTOR)
    nisa.tensor_tensor(dst=inverse, data1=inverse, data2=seen, op=nl.multiply, engine=VECTOR)
    row_lse = sbuf((ROW_TILE, 1), nl.float32)
    nisa.activation(dst=row_lse, op=nl.log, data=total)
    nisa.tensor_tensor(dst=row_lse, data1=row_lse, data2=m, op=nl.add, engine=VECTOR)
    return scaled(o, inverse, dtype), row_lse
