"""softmax and log_softmax in three passes over HBM, so that a vocabulary need not fit SBUF."""

from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl

from lowerings.neuron.kernels.tiles import (
    VECTOR,
    load_rows,
    row_max,
    row_sum,
    sbuf,
    scaled,
    store_rows,
)
from lowerings.neuron.plans import ROW_TILE, V_TILE
from lowerings.neuron.schedules import PANEL


@nki.jit
def softmax(x: Any, log: bool) -> Any:
    """Return the (log-)softmax of the rows of ``x [M, V]``."""
    rows, width = x.shape
    out = nl.ndarray((rows, width), dtype=x.dtype, buffer=nl.shared_hbm)
    for m0 in range(0, rows, ROW_TILE):
        m1 = min(rows, m0 + ROW_TILE)
        neg_max = scaled(row_max(x, m0, m1), -1.0, nl.float32)
        total = row_sum(x, m0, m1, V_TILE, nl.exp, neg_max)
        last = sbuf((ROW_TILE, 1), nl.float32)
        if log:
            nisa.activation(dst=last, op=nl.log, data=total)
        else:
            nisa.reciprocal(dst=last, data=total)
        for p0 in range(0, width, PANEL):
            p1 = min(width, p0 + PANEL)
            panel = load_rows(x, m0, m1, p0, p1)
            store_rows(out, _values(panel, neg_max, last, log), m0, m1, p0, p1)
    return out


def _values(panel: Any, neg_max: Any, last: Any, log: bool) -> Any:
    if not log:
        e = sbuf(panel.shape, nl.float32)
        nisa.activation(dst=e, op=nl.exp, data=panel, bias=neg_max)
        return scaled(e, last, panel.dtype)
    res = sbuf(panel.shape, panel.dtype)
    nisa.tensor_scalar(
        dst=res,
        data=panel,
        op0=nl.add,
        operand0=neg_max,
        op1=nl.subtract,
        operand1=last,
        engine=VECTOR,
    )
    return res
