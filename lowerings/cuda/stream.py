"""Launchers of products of few rows: ``mm`` with such a schedule, and several products of one input in one launch."""

import os
from collections.abc import Sequence

from torch import Tensor

from bi_inductor.errors import LoweringError
from lowerings.cuda import stream_kernels as kernels
from lowerings.cuda.launching import Repeat, launch, overlap
from lowerings.cuda.schedules import Gemm

#: elements: what Triton looks at to load 16 bytes at a time
_STEP = 16
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def streams(depth: int, a_strides: Sequence[int], b_strides: Sequence[int], rows: int) -> bool:
    """Return whether the kernels take ``a [M, K] @ b [K, N]``: K side by side in both, in steps of 16 elements."""
    whole = depth % _STEP == 0 and b_strides[-1] % _STEP == 0 and b_strides[-1] > 0
    row = rows == 1 or (a_strides[-2] % _STEP == 0 and a_strides[-2] > 0)
    return whole and row and a_strides[-1] == 1 and b_strides[-2] == 1


def product(
    a: Tensor,
    b: Tensor,
    out: Tensor,
    bias: Tensor | None,
    alpha: float,
    beta: float,
    scaled: bool,
    tile: Gemm,
) -> Repeat | None:
    """Fill ``out [M, N] = alpha * a [M, K] @ b [K, N] + beta * bias [M, N]``; return what does it again.

    Raises:
        LoweringError: strides that ``streams`` turns down.
    """
    rows, columns = out.shape
    depth = a.shape[1]
    if not streams(depth, a.stride(), b.stride(), rows):
        raise LoweringError(
            f"schedule {tile.text()} reads both operands along K in steps of {_STEP} elements, got K = {depth} and "
            f"strides {a.stride()} and {b.stride()}; leave the schedule to schedules.gemm"
        )
    return launch(
        kernels.product_stream,
        (-(-columns // tile.n), -(-rows // tile.m)),
        (a, b, out, out if bias is None else bias),
        (
            *(rows, columns, depth, float(alpha), float(beta)),
            *(_row(a), b.stride(1), out.stride(0)),
            *((0, 0) if bias is None else bias.stride()),
        ),
        HAS_BIAS=bias is not None,
        SCALED=scaled,
        **_constants(tile, depth),
        **overlap(out.get_device()),
    )


def products(
    a: Tensor, weights: Sequence[Tensor], outs: Sequence[Tensor], tile: Gemm
) -> Repeat | None:
    """Fill ``outs[i] [M, N_i] = a [M, K] @ weights[i] [N_i, K].t()``, two or three contiguous ones.

    Return what does it again with ``operands``.
    """
    rows, depth = a.shape
    columns = [*(w.shape[0] for w in weights), 0][:3]
    pitches = [*(w.stride(0) for w in weights), depth][:3]
    return launch(
        kernels.products_stream,
        (sum(-(-n // tile.n) for n in columns), -(-rows // tile.m)),
        operands(a, weights, outs),
        (rows, *columns, depth, _row(a), *pitches),
        **_constants(tile, depth),
        **overlap(a.get_device()),
    )


def operands(a: Tensor, weights: Sequence[Tensor], outs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors of ``products``; a third weight that is not there has no columns, so any pointer does."""
    return a, *[*weights, a][:3], *[*outs, a][:3]


def _row(a: Tensor) -> int:
    # the stride of a single row is any number
    return a.stride(0) if a.shape[0] > 1 else a.shape[1]


def _constants(tile: Gemm, depth: int) -> dict[str, int | bool]:
    return {
        "BM": tile.m,
        "BN": tile.n,
        "BK": tile.k,
        "EVEN": depth % tile.k == 0,
        "WIDEN": _INTERPRETED,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
