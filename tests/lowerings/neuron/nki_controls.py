"""Kernels that look batch-invariant and are not: every sweep must be able to catch them."""

import nki
import nki.isa as nisa
import nki.language as nl

TILE, COLUMNS = 128, 512


def _load(src, k0, k1, f0, f1, width):
    tile = nl.ndarray((k1 - k0, width), dtype=src.dtype, buffer=nl.sbuf)
    if f1 - f0 < width:
        nisa.memset(dst=tile, value=0.0)
    nisa.dma_copy(dst=tile[:, 0 : f1 - f0], src=src[k0:k1, f0:f1])
    return tile


def _matmul(lhs_km, rhs_kn, k_tile, pad_rows, pad_columns):
    depth, rows = lhs_km.shape
    columns = rhs_kn.shape[1]
    out = nl.ndarray((rows, columns), dtype=lhs_km.dtype, buffer=nl.shared_hbm)
    for m0 in range(0, rows, TILE):
        m1 = min(rows, m0 + TILE)
        height = TILE if pad_rows else m1 - m0
        for n0 in range(0, columns, COLUMNS):
            n1 = min(columns, n0 + COLUMNS)
            width = COLUMNS if pad_columns else n1 - n0
            acc = nl.ndarray((height, width), dtype=nl.float32, buffer=nl.psum)
            for k0 in range(0, depth, k_tile):
                k1 = min(depth, k0 + k_tile)
                a = _load(lhs_km, k0, k1, m0, m1, height)
                b = _load(rhs_kn, k0, k1, n0, n1, width)
                nisa.nc_matmul(dst=acc, stationary=a, moving=b, accumulate=(k0 > 0))
            res = nl.ndarray((height, width), dtype=lhs_km.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=res, src=acc, engine=nisa.engine.vector)
            nisa.dma_copy(dst=out[m0:m1, n0:n1], src=res[0 : m1 - m0, 0 : n1 - n0])
    return out


@nki.jit
def short_last_row_tile(lhs_km, rhs_kn):
    """A fixed K tile is not enough: the last tile is issued with as many rows as are left."""
    return _matmul(lhs_km, rhs_kn, TILE, False, True)


@nki.jit
def short_last_column_tile(lhs_km, rhs_kn):
    return _matmul(lhs_km, rhs_kn, TILE, True, False)


@nki.jit
def tile_by_batch(lhs_km, rhs_kn):
    """What a tuned library does: a smaller reduction tile for small batches."""
    return _matmul(lhs_km, rhs_kn, 64 if lhs_km.shape[1] <= 64 else TILE, True, True)
