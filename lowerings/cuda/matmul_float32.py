"""Launcher of float32 products: any strides, batches, any number of rows."""

from typing import Any

from torch import Tensor

from lowerings.cuda.launching import Repeat, launch, matrix_strides, overlap
from lowerings.cuda.matmul_float32_kernels import product_float32
from lowerings.cuda.plans import FLOAT32_CHAIN, FLOAT32_RUN
from lowerings.cuda.schedules import Float32

#: tiles of rows that share their weights in the L2 cache
_GROUP = 8
#: of a thread; left alone, ptxas keeps to 128 where that spills but little
REGISTERS = 255


def run(
    a: Tensor,
    b: Tensor,
    out: Tensor,
    bias: Tensor | None,
    alpha: float,
    beta: float,
    scaled: bool,
    tile: Float32,
    split_size: int,
) -> Repeat | None:
    """Fill ``out [.., M, N] = alpha * a [.., M, K] @ b [.., K, N] + beta * bias``, bias of out's shape.

    Return what does it again.
    """
    *batch, rows, columns = out.shape
    tiles = -(-rows // tile.m) * -(-columns // tile.n)
    return launch(
        product_float32,
        (tiles, *batch, 1)[:2],
        (a, b, out, out if bias is None else bias),
        (
            *(rows, columns, a.shape[-1], float(alpha), float(beta)),
            *(*matrix_strides(a), *matrix_strides(b), *matrix_strides(out)),
            *((0, 0, 0) if bias is None else matrix_strides(bias)),
        ),
        **constants(tile, split_size),
        A_BY_K=a.stride(-1) == 1 or a.stride(-2) != 1,
        B_BY_K=b.stride(-2) == 1 or b.stride(-1) != 1,
        HAS_BIAS=bias is not None,
        SCALED=scaled,
        num_warps=tile.warps,
        maxnreg=REGISTERS,
        **overlap(out.get_device()),
    )


def constants(tile: Float32, split_size: int) -> dict[str, Any]:
    """Return the constants of the kernel that follow from the tile and the plan."""
    return {
        "BM": tile.m,
        "BN": tile.n,
        "BK": tile.k,
        "PIECES": tile.pieces,
        "TALL": tile.tall,
        "WIDE": tile.wide,
        "GROUP": _GROUP,
        "CHAIN": FLOAT32_CHAIN,
        "SPLIT": split_size,
        "RUN": FLOAT32_RUN,
    }
