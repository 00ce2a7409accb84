"""Tiles in on-chip memory and the chunked sums over them."""

from typing import Any

import nki.isa as nisa
import nki.language as nl

from lowerings.neuron.plans import ROW_TILE
from lowerings.neuron.schedules import PANEL

VECTOR = nisa.engine.vector
TENSOR = nisa.engine.tensor


def sbuf(shape: Any, dtype: Any) -> Any:
    """Return an uninitialised SBUF tile."""
    return nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf)


def psum(shape: Any, dtype: Any) -> Any:
    """Return an uninitialised PSUM tile."""
    return nl.ndarray(shape, dtype=dtype, buffer=nl.psum)


def column(value: float) -> Any:
    """Return a float32 ``[ROW_TILE, 1]`` tile of one value."""
    tile = sbuf((ROW_TILE, 1), nl.float32)
    nisa.memset(dst=tile, value=value)
    return tile


def load(shape: Any, src: Any, p0: int, f0: int) -> Any:
    """Return a tile of ``shape`` that holds the 2-d view ``src`` at partition ``p0``, column ``f0``; zero around it."""
    tile = sbuf(shape, src.dtype)
    parts, columns = src.shape
    if parts < shape[0] or columns < shape[1]:
        nisa.memset(dst=tile, value=0.0)
    nisa.dma_copy(dst=tile[p0 : p0 + parts, f0 : f0 + columns], src=src)
    return tile


def load_rows(x: Any, m0: int, m1: int, f0: int, f1: int) -> Any:
    """Return ``x[m0:m1, f0:f1]`` as a tile of ``ROW_TILE`` rows."""
    return load((ROW_TILE, f1 - f0), x[m0:m1, f0:f1], 0, 0)


def load_for_all_rows(row: Any, f0: int, f1: int) -> Any:
    """Return columns ``f0:f1`` of ``row [1, H]``, repeated in every partition."""
    tile = sbuf((ROW_TILE, f1 - f0), row.dtype)
    nisa.dma_copy(dst=tile, src=row[0:1, f0:f1].broadcast(0, ROW_TILE))
    return tile


def store_rows(out: Any, tile: Any, m0: int, m1: int, f0: int, f1: int) -> None:
    """Write the first ``m1 - m0`` rows of a tile to ``out[m0:m1, f0:f1]``."""
    nisa.dma_copy(dst=out[m0:m1, f0:f1], src=tile[0 : m1 - m0, 0 : f1 - f0])


def scaled(src: Any, factor: Any, dtype: Any) -> Any:
    """Return ``src * factor`` (a number or a ``[P, 1]`` tile), computed in float32, as a tile of ``dtype``."""
    tile = sbuf(src.shape, dtype)
    nisa.tensor_scalar(dst=tile, data=src, op0=nl.multiply, operand0=factor, engine=VECTOR)
    return tile


def row_sum(x: Any, m0: int, m1: int, chunk: int, op: Any, bias: Any) -> Any:
    """Return ``sum over columns of op(x + bias)`` for rows ``m0:m1``, float32 ``[ROW_TILE, 1]``.

    Chunks start at column 0 and are added left to right; the first is copied, because 0 + -0 is not -0.
    ``op=None`` sums x itself.
    """
    width = x.shape[1]
    total = sbuf((ROW_TILE, 1), nl.float32)
    for p0 in range(0, width, PANEL):
        p1 = min(width, p0 + PANEL)
        panel = load_rows(x, m0, m1, p0, p1)
        for c0 in range(p0, p1, chunk):
            part = chunk_sum(panel[:, c0 - p0 : min(p1, c0 + chunk) - p0], op, bias)
            if c0 == 0:
                nisa.tensor_copy(dst=total, src=part, engine=VECTOR)
            else:
                nisa.tensor_tensor(dst=total, data1=total, data2=part, op=nl.add, engine=VECTOR)
    return total


def chunk_sum(data: Any, op: Any, bias: Any) -> Any:
    """Return the sum of one chunk, made by a single instruction."""
    part = sbuf((ROW_TILE, 1), nl.float32)
    if op is None:
        nisa.tensor_reduce(dst=part, op=nl.add, data=data, axis=1, keepdims=True)
    else:
        sink = sbuf(data.shape, nl.float32)
        nisa.activation(
            dst=sink,
            op=op,
            data=data,
            bias=bias,
            reduce_op=nl.add,
            reduce_res=part,
            reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )
    return part


def row_max(x: Any, m0: int, m1: int) -> Any:
    """Return the exact maximum of rows ``m0:m1``, float32 ``[ROW_TILE, 1]``."""
    width = x.shape[1]
    best = sbuf((ROW_TILE, 1), nl.float32)
    for p0 in range(0, width, PANEL):
        panel = load_rows(x, m0, m1, p0, min(width, p0 + PANEL))
        part = sbuf((ROW_TILE, 1), nl.float32)
        nisa.tensor_reduce(dst=part, op=nl.maximum, data=panel, axis=1, keepdims=True)
        if p0 == 0:
            nisa.tensor_copy(dst=best, src=part, engine=VECTOR)
        else:
            nisa.tensor_tensor(dst=best, data1=best, data2=part, op=nl.maximum, engine=VECTOR)
    return best
