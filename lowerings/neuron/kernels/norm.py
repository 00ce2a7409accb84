"""RMS norm and layer norm; the sums come from the chunks of ``tiles.row_sum``."""

from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl

from lowerings.neuron.kernels.reduction import centred_squares, rstd_of
from lowerings.neuron.kernels.tiles import (
    VECTOR,
    column,
    load_for_all_rows,
    load_rows,
    row_sum,
    sbuf,
    scaled,
    store_rows,
)
from lowerings.neuron.plans import H_TILE, ROW_TILE
from lowerings.neuron.schedules import PANEL


@nki.jit
def rms_norm(x: Any, weight: Any, eps: float) -> Any:
    """Return ``(x * rstd * weight, rstd)``: ``[M, H]`` and float32 ``[M, 1]``; weight is None or ``[1, H]``."""
    rows, width = x.shape
    out = nl.ndarray((rows, width), dtype=x.dtype, buffer=nl.shared_hbm)
    rstds = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.shared_hbm)
    zero, eps_column = column(0.0), column(eps)
    for m0 in range(0, rows, ROW_TILE):
        m1 = min(rows, m0 + ROW_TILE)
        squares = row_sum(x, m0, m1, H_TILE, nl.square, zero)
        rstd = rstd_of(squares, width, eps_column)
        _write(out, x, m0, m1, zero, rstd, weight, None)
        store_rows(rstds, rstd, m0, m1, 0, 1)
    return out, rstds


@nki.jit
def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    """Return ``((x - mean) * rstd * weight + bias, mean, rstd)``; the statistics are float32 ``[M, 1]``."""
    rows, width = x.shape
    out = nl.ndarray((rows, width), dtype=x.dtype, buffer=nl.shared_hbm)
    means = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.shared_hbm)
    rstds = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.shared_hbm)
    eps_column = column(eps)
    for m0 in range(0, rows, ROW_TILE):
        m1 = min(rows, m0 + ROW_TILE)
        neg_mean, squares = centred_squares(x, m0, m1)
        rstd = rstd_of(squares, width, eps_column)
        _write(out, x, m0, m1, neg_mean, rstd, weight, bias)
        store_rows(means, scaled(neg_mean, -1.0, nl.float32), m0, m1, 0, 1)
        store_rows(rstds, rstd, m0, m1, 0, 1)
    return out, means, rstds


def _write(
    out: Any, x: Any, m0: int, m1: int, shift: Any, factor: Any, weight: Any, bias: Any
) -> None:
    """Write ``(x + shift) * factor * weight + bias``: float32 throughout, one rounding at the end."""
    width = x.shape[1]
    for p0 in range(0, width, PANEL):
        p1 = min(width, p0 + PANEL)
        panel = load_rows(x, m0, m1, p0, p1)
        y = sbuf(panel.shape, nl.float32)
        nisa.tensor_scalar(
            dst=y,
            data=panel,
            op0=nl.add,
            operand0=shift,
            op1=nl.multiply,
            operand1=factor,
            engine=VECTOR,
        )
        _combine(y, weight, nl.multiply, p0, p1)
        _combine(y, bias, nl.add, p0, p1)
        res = sbuf(panel.shape, x.dtype)
        nisa.tensor_copy(dst=res, src=y, engine=VECTOR)
        store_rows(out, res, m0, m1, p0, p1)


def _combine(y: Any, row: Any, op: Any, p0: int, p1: int) -> None:
    if row is not None:
        other = load_for_all_rows(row, p0, p1)
        nisa.tensor_tensor(dst=y, data1=y, data2=other, op=op, engine=VECTOR)
