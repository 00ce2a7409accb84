"""Sums, means, maxima and variances of rows, streamed: a row may be longer than SBUF."""

from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl

from lowerings.neuron.kernels.tiles import column, row_max, row_sum, scaled, store_rows
from lowerings.neuron.plans import H_TILE, ROW_TILE


@nki.jit
def row_reduce(x: Any, kind: str, factor: float) -> Any:
    """Return ``factor * kind(x)`` as ``[M, 1]``; kind is "sum", "sum_squares" or "amax"."""
    rows = x.shape[0]
    out = nl.ndarray((rows, 1), dtype=x.dtype, buffer=nl.shared_hbm)
    zero = column(0.0)
    for m0 in range(0, rows, ROW_TILE):
        m1 = min(rows, m0 + ROW_TILE)
        if kind == "amax":
            value = row_max(x, m0, m1)
        else:
            value = row_sum(x, m0, m1, H_TILE, nl.square if kind == "sum_squares" else None, zero)
        store_rows(out, scaled(value, factor, x.dtype), m0, m1, 0, 1)
    return out


@nki.jit
def var_mean(x: Any, divisor: float) -> Any:
    """Return ``(sum of (x - mean)**2 / divisor, mean)``, each ``[M, 1]``, in two passes."""
    rows = x.shape[0]
    var = nl.ndarray((rows, 1), dtype=x.dtype, buffer=nl.shared_hbm)
    mean = nl.ndarray((rows, 1), dtype=x.dtype, buffer=nl.shared_hbm)
    for m0 in range(0, rows, ROW_TILE):
        m1 = min(rows, m0 + ROW_TILE)
        neg_mean, squares = centred_squares(x, m0, m1)
        store_rows(mean, scaled(neg_mean, -1.0, x.dtype), m0, m1, 0, 1)
        store_rows(var, scaled(squares, 1.0 / divisor, x.dtype), m0, m1, 0, 1)
    return var, mean


def centred_squares(x: Any, m0: int, m1: int) -> Any:
    """Return ``(-mean, sum of (x - mean)**2)`` of rows ``m0:m1``, float32 ``[ROW_TILE, 1]`` each."""
    total = row_sum(x, m0, m1, H_TILE, None, None)
    neg_mean = scaled(total, -1.0 / x.shape[1], nl.float32)
    return neg_mean, row_sum(x, m0, m1, H_TILE, nl.square, neg_mean)


def rstd_of(squares: Any, width: int, eps_column: Any) -> Any:
    """Return ``rsqrt(squares / width + eps)`` in one instruction."""
    rstd = scaled(squares, 1.0, nl.float32)
    nisa.activation(dst=rstd, op=nl.rsqrt, data=squares, scale=1.0 / width, bias=eps_column)
    return rstd
