"""``out[b] = alpha * (a[b] @ b[b]) + beta * bias``: one program per element of the batch dim."""

from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl

from lowerings.neuron.kernels.tiles import VECTOR, load, load_for_all_rows, psum, sbuf, scaled
from lowerings.neuron.plans import K_TILE, N_TILE, ROW_TILE


@nki.jit
def matmul(
    lhs_bkm: Any, rhs_bkn: Any, bias_gmn: Any, alpha: float, beta: float, hold_panel: bool
) -> Any:
    """Return ``[B, M, N]`` in the dtype of ``lhs_bkm``; ``bias_gmn`` is None or ``[1 or B, 1 or M, N]``."""
    batch, depth, rows = lhs_bkm.shape
    columns = rhs_bkn.shape[2]
    out = nl.ndarray((batch, rows, columns), dtype=lhs_bkm.dtype, buffer=nl.shared_hbm)
    for i in range(batch):
        for n0 in range(0, columns, N_TILE):
            n1 = min(columns, n0 + N_TILE)
            panel = _panel(rhs_bkn, i, n0, n1) if hold_panel else []
            for m0 in range(0, rows, ROW_TILE):
                m1 = min(rows, m0 + ROW_TILE)
                acc = psum((ROW_TILE, N_TILE), nl.float32)
                for k0 in range(0, depth, K_TILE):
                    k1 = min(depth, k0 + K_TILE)
                    a = load((k1 - k0, ROW_TILE), lhs_bkm[i, k0:k1, m0:m1], 0, 0)
                    b = panel[k0 // K_TILE] if hold_panel else _weights(rhs_bkn, i, k0, n0, n1)
                    nisa.nc_matmul(dst=acc, stationary=a, moving=b, accumulate=(k0 > 0))
                bias = None if bias_gmn is None else _bias(bias_gmn, i, m0, m1, n0, n1)
                res = _finish(acc, bias, alpha, beta, lhs_bkm.dtype)
                nisa.dma_copy(dst=out[i, m0:m1, n0:n1], src=res[0 : m1 - m0, 0 : n1 - n0])
    return out


def _panel(rhs_bkn: Any, i: int, n0: int, n1: int) -> list[Any]:
    return [_weights(rhs_bkn, i, k0, n0, n1) for k0 in range(0, rhs_bkn.shape[1], K_TILE)]


def _weights(rhs_bkn: Any, i: int, k0: int, n0: int, n1: int) -> Any:
    k1 = min(rhs_bkn.shape[1], k0 + K_TILE)
    return load((k1 - k0, N_TILE), rhs_bkn[i, k0:k1, n0:n1], 0, 0)


def _bias(bias_gmn: Any, i: int, m0: int, m1: int, n0: int, n1: int) -> Any:
    which = i if bias_gmn.shape[0] > 1 else 0
    if bias_gmn.shape[1] > 1:
        return load((ROW_TILE, N_TILE), bias_gmn[which, m0:m1, n0:n1], 0, 0)
    row = load_for_all_rows(bias_gmn[which, 0:1, 0 : bias_gmn.shape[2]], n0, n1)
    tile = sbuf((ROW_TILE, N_TILE), row.dtype)
    if n1 - n0 < N_TILE:
        nisa.memset(dst=tile, value=0.0)
    nisa.tensor_copy(dst=tile[:, 0 : n1 - n0], src=row, engine=VECTOR)
    return tile


def _finish(acc: Any, bias: Any, alpha: float, beta: float, dtype: Any) -> Any:
    if bias is None:
        return scaled(acc, alpha, dtype)
    res = sbuf((ROW_TILE, N_TILE), dtype)
    product, addend = scaled(acc, alpha, nl.float32), scaled(bias, beta, nl.float32)
    nisa.tensor_tensor(dst=res, data1=product, data2=addend, op=nl.add, engine=VECTOR)
    return res
