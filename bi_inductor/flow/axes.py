"""The domain: each dim of a tensor is a product of axes, and at most one axis of a tensor is the batch.

``[B, S, H]`` viewed as ``[B * S, H]`` has the axes ``(batch B, vary S)`` on dim 0: index ``b * S + s``.
A batch of one keeps its axis of extent 1, so that a graph made for one sample is judged like any other.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache, reduce
from typing import Any

import sympy
import torch

Extent = Any  # int | sympy.Expr: sympy has no types


class Role(Enum):
    """What a step along an axis does to the values."""

    BATCH = "batch"  # another sample
    ROWS = "rows"  # another row, in an order that a routing chose; each row belongs to one sample
    VARY = "vary"  # another value of the same sample (or of a tensor that all samples share)
    SAME = "same"  # the same value: a broadcast or a constant


@dataclass(frozen=True, slots=True)
class Axis:
    """One factor of a dim. ``tag``: of ROWS the routing, of VARY the ``arange`` that counts along it."""

    extent: Extent
    role: Role
    tag: object = None

    @property
    def carries(self) -> bool:
        """Whether steps along this axis move between samples."""
        return self.role in (Role.BATCH, Role.ROWS)


Dim = tuple[Axis, ...]
Dims = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """Abstract value of one tensor: its dims, and what is known of its numbers (see ``facts.py``)."""

    dims: Dims
    fact: object = None

    @property
    def batch_dim(self) -> int | None:
        """The dim that carries the batch, in order or permuted."""
        return next((d for d, dim in enumerate(self.dims) if carries(dim)), None)

    def without_fact(self) -> "Value":
        """Forget what was known of the numbers."""
        return self if self.fact is None else replace(self, fact=None)


class Coupled(Exception):
    """An op mixes samples. ``reason`` continues the sentence "<op> ..."; ``instead`` is what to go on with.

    ``unless_equal``: it does not if these two sizes are equal in every call.
    """

    def __init__(
        self,
        reason: str,
        remedy: str,
        *,
        blame: object = None,
        over_batch: bool = False,
        unless_equal: tuple[Extent, Extent] | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason, self.remedy, self.blame, self.over_batch = reason, remedy, blame, over_batch
        self.unless_equal = unless_equal


def extent_of(size: Any) -> Extent:
    """Return the int or the expanded sympy expression of a size, as ``total`` does: equal sizes compare equal."""
    if isinstance(size, torch.SymInt):
        return expanded(size.node.expr)
    return int(size)


def shape_of(fake: torch.Tensor) -> tuple[Extent, ...]:
    """Return the extents of a fake tensor."""
    return tuple(extent_of(size) for size in fake.shape)


@lru_cache(maxsize=4096)
def quotient(numerator: Extent, denominator: Extent) -> Extent | None:
    """Return ``numerator / denominator`` if it is whole for all values of the symbols, else None."""
    if numerator == denominator:
        return 1
    if isinstance(numerator, int) and isinstance(denominator, int):
        return numerator // denominator if denominator and numerator % denominator == 0 else None
    ratio = sympy.cancel(sympy.sympify(numerator) / denominator)
    if sympy.denom(ratio) != 1:
        return None
    return int(ratio) if ratio.is_Integer else ratio


def total(dim: Iterable[Axis]) -> Extent:
    """Return the product of the extents."""
    return product(axis.extent for axis in dim)


def product(extents: Iterable[Extent]) -> Extent:
    """Return the product of extents."""
    made = reduce(lambda a, b: a * b, extents, 1)
    return made if isinstance(made, int) else expanded(made)


@lru_cache(maxsize=4096)
def expanded(expr: sympy.Expr) -> Extent:
    """Return the int or the expanded expression: one spelling of each polynomial."""
    return int(expr) if expr.is_Integer else sympy.expand(expr)


def carries(dim: Dim) -> bool:
    """Whether a dim carries the batch."""
    return any(axis.carries for axis in dim)


def is_same(dim: Dim) -> bool:
    """Whether nothing changes along a dim."""
    return all(axis.role == Role.SAME for axis in dim)


def same(extent: Extent) -> Dim:
    """Return a dim along which nothing changes."""
    return (Axis(extent, Role.SAME),)


def vary(extent: Extent) -> Dim:
    """Return a dim of ordinary values."""
    return (Axis(extent, Role.VARY),)


def plain(shape: Sequence[Extent]) -> Value:
    """Return the value of a tensor that all samples share."""
    return Value(tuple(vary(extent) for extent in shape))


def dim_key(dim: Dim) -> tuple[object, ...]:
    """Return what two dims must share to index the same rows: roles, extents, and the routing."""
    return tuple(
        (a.role, a.extent, a.tag) if a.carries else ("other", a.extent) for a in significant(dim)
    )


def significant(dim: Iterable[Axis]) -> Dim:
    """Drop axes of extent 1 that are not the batch."""
    return tuple(axis for axis in dim if axis.carries or axis.extent != 1)


def coalesce(axes: Iterable[Axis]) -> list[Axis]:
    """Merge neighbours that are not the batch, so that a view may cut them elsewhere."""
    merged: list[Axis] = []
    for axis in axes:
        if merged and not axis.carries and not merged[-1].carries:
            last = merged.pop()
            role = Role.SAME if last.role == axis.role == Role.SAME else Role.VARY
            axis = Axis(total((last, axis)), role)
        merged.append(axis)
    return merged


def regroup(dims: Dims, shape: Sequence[Extent]) -> Dims | None:
    """Return the dims after a view to ``shape``, or None if the view cuts or interleaves the batch."""
    axes = [axis for dim in dims for axis in significant(dim)]
    if any(axis.extent == 0 for axis in axes):
        return _regroup_empty(axes, shape)
    return _fill(axes, shape) or _fill(coalesce(axes), shape)


def _fill(axes: Iterable[Axis], shape: Sequence[Extent]) -> Dims | None:
    queue: deque[Axis] = deque(axes)
    dims: list[Any] = []
    for position, size in enumerate(shape):
        if dims and any(map(carries, dims)) and not any(axis.carries for axis in queue):
            # behind the batch nothing has to be followed, and floor divisions of sizes could not be
            return (*dims, *_behind(queue, shape[position:]))
        if dims and size != 1 and queue and queue[0].carries and queue[0].extent == 1:
            # [L, 1, H] as [L, H] is [L * B, H] or [L, B * H] of a larger batch: no dim is known to be its place
            queue.popleft()
        dim = _take(queue, size)
        if dim is None:
            return None
        dims.append(dim)
    return None if any(axis.extent != 1 for axis in queue) else tuple(dims)


def _behind(axes: Iterable[Axis], shape: Sequence[Extent]) -> Dims:
    queue: deque[Axis] = deque(axes)
    dims: list[Any] = []
    for position, size in enumerate(shape):
        dim = _take(queue, size)
        if dim is None:
            return (*dims, *(vary(rest) for rest in shape[position:]))
        dims.append(dim)
    return tuple(dims)


def _take(queue: deque[Axis], size: Extent) -> Dim | None:
    """Take axes of the product ``size`` from the queue; a batch of one goes with the axes behind it.

    Behind the last axis it has no place of its own and is dropped: einsum moves dims of extent 1 there.
    """
    taken: list[Axis] = []
    need = size
    if size == 1 and queue and queue[0].extent == 1:
        taken.append(queue.popleft())
    while need != 1:
        if not queue:
            return None
        axis = queue.popleft()
        rest = quotient(need, axis.extent)
        if rest is not None:
            taken.append(axis)
            need = rest
            continue
        part = quotient(axis.extent, need)
        if part is None and carries(tuple(taken)) and not any(a.carries for a in (axis, *queue)):
            queue.clear()
            return (*taken, Axis(need, Role.VARY))
        if part is None or axis.carries:
            return None
        taken.append(Axis(need, axis.role))
        queue.appendleft(Axis(part, axis.role))
        need = 1
    return tuple(taken) or same(1)


def _regroup_empty(axes: Sequence[Axis], shape: Sequence[Extent]) -> Dims:
    """No element: any place is right for the batch; it goes to the first dim of extent 0."""
    batch = next((axis for axis in axes if axis.carries), None)
    dims: list[Dim] = [vary(size) for size in shape]
    if batch is not None:
        place = next((d for d, size in enumerate(shape) if size == batch.extent), 0)
        if dims:
            dims[place] = (replace(batch, extent=shape[place]),)
    return tuple(dims)


def join_dims(a: Dim, b: Dim) -> Dim:
    """Return the dim of an elementwise result of two dims of equal extent.

    Raises:
        Coupled: the batch of one meets other positions in the other.
    """
    if a == b:
        return a
    if not carries(a) and not carries(b):
        return _join_plain(a, b)
    pairs = _refine(significant(a), significant(b))
    if pairs is None:
        if is_same(b):
            return a
        if is_same(a):
            return b
        raise Coupled(
            "combines samples with values that are laid out differently along the batch",
            "keep the batch in one dimension of its own",
        )
    return tuple(_join_axes(x, y) for x, y in pairs) or same(1)


def _join_plain(a: Dim, b: Dim) -> Dim:
    if is_same(b):
        return a
    if is_same(a):
        return b
    pairs = _refine(significant(a), significant(b))
    if pairs is None:
        return vary(total(a))
    return tuple(_join_axes(x, y) for x, y in pairs) or same(1)


def _refine(a: Dim, b: Dim) -> list[tuple[Axis, Axis]] | None:
    left, right = deque(a), deque(b)
    nothing = Axis(1, Role.SAME)
    pairs: list[tuple[Axis, Axis]] = []
    while left or right:
        if left and left[0].extent == 1 and not (right and right[0].extent == 1):
            pairs.append((left.popleft(), nothing))  # a batch of one against nothing
            continue
        if right and right[0].extent == 1 and not (left and left[0].extent == 1):
            pairs.append((nothing, right.popleft()))
            continue
        if not left or not right:
            return None
        x, y = left.popleft(), right.popleft()
        if x.extent != y.extent:
            if (part := quotient(x.extent, y.extent)) is not None and not x.carries:
                left.appendleft(Axis(part, x.role))
                x = Axis(y.extent, x.role)
            elif (part := quotient(y.extent, x.extent)) is not None and not y.carries:
                right.appendleft(Axis(part, y.role))
                y = Axis(x.extent, y.role)
            else:
                return None
        pairs.append((x, y))
    return pairs


def _join_axes(x: Axis, y: Axis) -> Axis:
    if x == y or y.role == Role.SAME:
        return x
    if x.role == Role.SAME:
        return y
    if x.role == y.role == Role.VARY:
        return Axis(x.extent, Role.VARY)
    if x.extent == 1:
        return x if x.carries else y
    if x.role == Role.ROWS or y.role == Role.ROWS:
        raise Coupled(
            "combines rows that were permuted with rows that were not, or not by the same permutation",
            "put the rows back first (index with the inverse permutation, or index_add)",
        )
    raise Coupled(
        "adds to each sample something that depends on its position in the batch",
        "let the value come from an input, or be the same for all samples",
    )


def one_batch(dims: Dims) -> Dims:
    """Return ``dims``; at most one axis may be the batch.

    Raises:
        Coupled: two are.
    """
    if sum(axis.carries for dim in dims for axis in dim) > 1:
        raise Coupled(
            "pairs every sample with every other",
            "compare samples outside of the compiled model, or mark only one of the inputs as batch",
        )
    return dims
