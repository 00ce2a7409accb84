"""A reduction as rows: kept and reduced dims as (outer, inner, element) strides, with a copy where they need it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowerings.mps import schedules


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """``x`` read as ``rows`` x ``extent``; row i starts at ``(i // inner) * outer_step + (i % inner) * inner_step``."""

    x: Tensor
    kept: tuple[int, ...]
    rows: int
    extent: int
    inner: int
    steps: tuple[int, int, int]

    @property
    def width(self) -> int:
        """Threads of a row."""
        return schedules.row_width(self.extent)

    def groups(self, width: int) -> int:
        """Threadgroups of 256 threads."""
        return -(-self.rows // (256 // width))


def normal_dims(x: Tensor, dims: list[int]) -> tuple[int, ...]:
    """Return ``dims`` non-negative and ascending; all of them when the list is empty."""
    return tuple(sorted({d % x.dim() for d in dims})) if dims and x.dim() else tuple(range(x.dim()))


def rows_of(x: Tensor, dims: tuple[int, ...]) -> Rows:
    """Number the reduced elements in row-major order of ``dims``, whatever the strides (a copy changes no bit)."""
    kept = [d for d in range(x.dim()) if d not in dims]
    shape = tuple(x.shape[d] for d in kept)
    reduced = _collapse(x, list(dims))
    outer = _collapse(x, [d for d in kept if not dims or d < dims[0]])
    inner = _collapse(x, [d for d in kept if dims and d > dims[0]])
    if reduced is None or outer is None or inner is None:
        flat = x.permute(*kept, *dims).contiguous()
        extent = _product(x.shape[d] for d in dims)
        rows = _product(shape)
        return Rows(x=flat, kept=shape, rows=rows, extent=extent, inner=1, steps=(extent, 0, 1))
    return Rows(
        x=x,
        kept=shape,
        rows=outer[0] * inner[0],
        extent=reduced[0],
        inner=max(inner[0], 1),
        steps=(outer[1], inner[1], reduced[1]),
    )


def trailing(x: Tensor, count: int) -> Rows:
    """Rows over the last ``count`` dims, contiguous along each row."""
    rows = rows_of(x, tuple(range(x.dim() - count, x.dim())))
    if rows.steps[2] != 1 and rows.extent > 1:
        return rows_of(x.contiguous(), tuple(range(x.dim() - count, x.dim())))
    return rows


def along(x: Tensor, dim: int) -> Rows:
    """Rows along one dim whose numbering fits a contiguous result of the same shape."""
    rows = rows_of(x, (dim % x.dim(),))
    return rows if rows.x is x else rows_of(x.contiguous(), (dim % x.dim(),))


def _collapse(x: Tensor, dims: list[int]) -> tuple[int, int] | None:
    """Size and stride of ``dims`` seen as one dim, or None where the strides do not allow it."""
    size, step = 1, 0
    for d in reversed(dims):
        if x.shape[d] == 1:
            continue
        if size == 1:
            size, step = x.shape[d], x.stride(d)
        elif x.stride(d) == step * size:
            size *= x.shape[d]
        else:
            return None
    return size, step


def _product(numbers: object) -> int:
    return int(torch.Size(numbers).numel())  # type: ignore[arg-type]
