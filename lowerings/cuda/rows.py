"""What the launchers of row reductions share: the view of a tensor as rows, and the tile that fits them."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bi_inductor.errors import LoweringError
from lowerings.cuda import schedules
from lowerings.cuda.plans import LANES

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """``x`` as ``rows`` rows of ``extent``: row i begins at (i // inner) * outer_stride + (i % inner) * inner_stride."""

    x: Tensor
    rows: int
    inner: int
    extent: int
    outer_stride: int
    inner_stride: int
    stride: int

    def arguments(self) -> tuple[int, ...]:
        """Return inner, extent and strides in the kernels' order, without rows."""
        return (self.inner, self.extent, self.outer_stride, self.inner_stride, self.stride)


def rows_of(x: Tensor, dims: Sequence[int]) -> Rows:
    """View ``x`` as rows over ``dims`` without a copy where its strides allow it."""
    gone = sorted({d % max(x.dim(), 1) for d in dims} if dims else range(x.dim()))
    kept = [d for d in range(x.dim()) if d not in gone]
    reduced = _merged(x, gone)
    outer = _two_levels(x, kept)
    if reduced is None or outer is None:
        x = x.permute(*kept, *gone).contiguous()
        return rows_of(x, range(len(kept), x.dim()))
    inner, outer_stride, inner_stride = outer
    return Rows(
        x=x,
        rows=math.prod(x.shape[d] for d in kept),
        inner=inner,
        extent=math.prod(x.shape[d] for d in gone),
        outer_stride=outer_stride,
        inner_stride=inner_stride,
        stride=reduced,
    )


def _merged(x: Tensor, dims: Sequence[int], alone: int = 1) -> int | None:
    """The one stride of ``dims`` walked in order, ``alone`` if they hold one element, or None."""
    stride, expected = alone, None
    for d in reversed(dims):
        if x.shape[d] == 1:
            continue
        if expected is None:
            stride = x.stride(d)
        elif x.stride(d) != expected:
            return None
        expected = x.stride(d) * x.shape[d]
    return stride


def _two_levels(x: Tensor, dims: Sequence[int]) -> tuple[int, int, int] | None:
    """(inner extent, outer stride, inner stride) of ``dims`` walked in order, or None."""
    for cut in range(len(dims) + 1):
        # a stride of 0 leaves every row on a boundary of 16 bytes: wide loads
        outer, inner = _merged(x, dims[:cut], 0), _merged(x, dims[cut:], 0)
        if outer is not None and inner is not None:
            return max(1, math.prod(x.shape[d] for d in dims[cut:])), outer, inner
    return None


def constants(view: Rows) -> dict[str, int | bool]:
    """The tile of a launch: keyword arguments of the kernels."""
    return tile_of(view.rows, view.extent, view.stride == 1)


@functools.lru_cache(1 << 12)
def tile_of(rows: int, extent: int, unit_stride: bool) -> dict[str, int | bool]:
    """The same, for rows that need no view."""
    tile = schedules.rows(rows, extent, unit_stride=unit_stride)
    return {
        "ROWS": tile.rows,
        "LANES": tile.lanes,
        "LOG": tile.lanes.bit_length() - 1,
        "UNROLL": tile.unroll,
        "num_warps": tile.warps,
        "enable_fp_fusion": False,
    }


def programs(view: Rows, tile: dict[str, int | bool]) -> tuple[int]:
    """The grid of a launch."""
    return (-(-view.rows // int(tile["ROWS"])),)


def check(x: Tensor, lanes: int, op: str) -> None:
    """Refuse what no kernel was built for.

    Raises:
        LoweringError: names the number or dtype.
    """
    if lanes != LANES:
        raise LoweringError(
            f"{op} was built for lanes={LANES}, got {lanes}; lowerings/cuda/plans.py names the number"
        )
    if x.dtype not in FLOATS:
        raise LoweringError(
            f"{op} of {x.dtype} has no CUDA kernel; cast to one of {', '.join(map(str, FLOATS))}"
        )
