"""Where one sample lies in a tensor of a batch, and how to take it out.

The flow analysis of the compiler says it for most values. Where it does not, the shapes alone and batched leave
one or two places; equal bits then prove themselves, and a difference is blamed with the word "assumed".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bi_inductor.flow.axes import Role, Value, total
from bi_inductor.flow.facts import WHOLE_BATCH
from bi_inductor.inspection.bits import Difference, difference

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Dimension ``dim`` has the extents ``[outer, size, inner]``, the middle one counts samples."""

    dim: int
    outer: int
    size: int
    inner: int

    def take(self, x: Tensor, row: int) -> Tensor:
        """Return sample ``row`` of ``x``: the shape that it has alone."""
        cut = x.unflatten(self.dim, (self.outer, self.size, self.inner)).select(self.dim + 1, row)
        return cut.flatten(self.dim, self.dim + 1)

    def alone(self, shape: Sequence[int]) -> Shape:
        """Return the shape that ``take`` leaves of ``shape``."""
        return (*shape[: self.dim], self.outer * self.inner, *shape[self.dim + 1 :])


@dataclass(frozen=True, slots=True)
class Shared:
    """All samples share the tensor."""

    def take(self, x: Tensor, row: int) -> Tensor:
        """Return ``x``."""
        return x

    def alone(self, shape: Sequence[int]) -> Shape:
        """Return ``shape``."""
        return tuple(shape)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing says where a sample is; ``reason`` continues "not comparable: "."""

    reason: str
    by_design: bool = False


Place = Layout | Shared
Placement = Layout | Shared | Unknown


#: a placement for values that no analysis has seen
BY_SHAPE = Unknown("read off the shapes")


def layout_of(value: Value) -> Placement:
    """Return the layout that the flow analysis found."""
    if isinstance(value.fact, WHOLE_BATCH):
        return Unknown("it counts over the batch by design", by_design=True)
    for dim, axes in enumerate(value.dims):
        for at, axis in enumerate(axes):
            if axis.role is Role.ROWS:
                return Unknown("its rows are permuted by a routing", by_design=True)
            if axis.role is Role.BATCH:
                return Layout(
                    dim, int(total(axes[:at])), int(axis.extent), int(total(axes[at + 1 :]))
                )
    return Shared()


def candidates(alone: Sequence[int], batched: Sequence[int], size: int) -> list[Place]:
    """Return the layouts that two shapes admit: batch-major first, then batch-minor; none if they do not fit."""
    if len(alone) != len(batched):
        return []
    grown = [d for d in range(len(alone)) if alone[d] != batched[d]]
    if not grown:
        return [Shared()]
    (dim, *others) = grown
    if others or batched[dim] != alone[dim] * size:
        return []
    major, minor = Layout(dim, 1, size, alone[dim]), Layout(dim, alone[dim], size, 1)
    return [major] if alone[dim] == 1 else [major, minor]


@dataclass(frozen=True, slots=True)
class Match:
    """A comparison of one sample: its layout, the difference if any, and whether the layout was assumed."""

    place: Place
    found: Difference | None
    assumed: bool


def match(alone: Tensor, batched: Tensor, size: int, row: int, known: Placement) -> Match | Unknown:
    """Compare sample ``row`` of a batched tensor with the tensor that it gives alone."""
    if alone.dtype != batched.dtype:
        return Unknown(f"alone it is {alone.dtype}, in a batch {batched.dtype}")
    if isinstance(known, Unknown) and known.by_design:
        return known
    if not isinstance(known, Unknown) and known.alone(batched.shape) == tuple(alone.shape):
        return Match(known, difference(alone, known.take(batched, row)), assumed=False)
    if isinstance(known, Shared) and candidates(alone.shape, batched.shape, size):
        return Unknown("it numbers the samples and holds none of their data", by_design=True)
    places = candidates(alone.shape, batched.shape, size)
    if not places:
        return Unknown(
            f"shapes {list(alone.shape)} alone and {list(batched.shape)} in a batch of {size} do not "
            "say where a sample is"
        )
    return _likeliest(Match(p, difference(alone, p.take(batched, row)), True) for p in places)


def like(x: Tensor, model: Tensor) -> Tensor:
    """Return a copy of ``x`` with the strides of ``model``, if their shapes agree."""
    if x.shape != model.shape or 0 in model.stride():
        return x.clone(memory_format=torch.contiguous_format)
    made = torch.empty_strided(x.shape, model.stride(), dtype=x.dtype, device=x.device)
    return made.copy_(x)


def _likeliest(found: Iterable[Match]) -> Match:
    return min(found, key=lambda m: 0.0 if m.found is None else _far(m.found))


def _far(found: Difference) -> float:
    return float("inf") if found.max_abs != found.max_abs else max(found.max_abs, 5e-324)
