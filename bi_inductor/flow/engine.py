"""Values of all nodes, and what a transfer function may ask about a node."""

from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch
from torch._ops import OpOverload
from torch.fx import Node

from bi_inductor.flow.axes import (
    Axis,
    Coupled,
    Dims,
    Extent,
    Role,
    Value,
    plain,
)
from bi_inductor.flow.sizes import Sizes

Result = Value | tuple[Value, ...] | None
Transfer = Callable[["Call"], Result]


class Flow:
    """Abstract values of a graph's nodes, filled in topological order by ``plan.py``."""

    def __init__(self, batch_symbols: frozenset[sympy.Symbol] = frozenset()) -> None:
        self.values: dict[Node, Result] = {}
        self.batch_symbols = batch_symbols
        self.sizes = Sizes()

    def value(self, node: Node) -> Value:
        """Return the value of a tensor node; a tensor that was never seen is shared by all samples."""
        found = self.values.get(node)
        if isinstance(found, Value):
            return found
        fake = node.meta.get("val")
        return plain(self.sizes.shape(fake)) if isinstance(fake, torch.Tensor) else Value(())

    def is_batch_size(self, number: object) -> bool:
        """Whether a number (a node or a literal) follows the size of the batch."""
        fake = number.meta.get("val") if isinstance(number, Node) else number
        if not isinstance(fake, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return False
        spelled = self.sizes.of(fake) if isinstance(fake, torch.SymInt) else fake.node.expr
        return bool(getattr(spelled, "free_symbols", frozenset()) & self.batch_symbols)


class Call:
    """One node with its arguments bound to the schema of its op."""

    def __init__(self, node: Node, flow: Flow) -> None:
        self.node, self.flow = node, flow
        self.args = bind(node)

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument that not every overload has."""
        return self.args.get(name, default)

    def value(self, name: str) -> Value:
        """Return the abstract value of a tensor argument."""
        return self.flow.value(self.args[name])

    def maybe(self, name: str) -> Value | None:
        """Return the abstract value of an optional tensor argument."""
        given = self.args.get(name)
        return self.flow.value(given) if isinstance(given, Node) else None

    def tensors(self) -> list[Value]:
        """Return the values of all tensor arguments, lists included."""
        return [self.flow.value(n) for n in self.node.all_input_nodes if is_tensor(n)]

    @property
    def outputs(self) -> list[torch.Tensor | None]:
        """The fake outputs."""
        fake = self.node.meta.get("val")
        return list(fake) if isinstance(fake, (tuple, list)) else [fake]

    @property
    def shape(self) -> tuple[Extent, ...]:
        """The extents of the first output."""
        fake = self.outputs[0]
        return self.extents(fake) if isinstance(fake, torch.Tensor) else ()

    @property
    def shapes(self) -> list[tuple[Extent, ...]]:
        """The extents of all tensor outputs."""
        return [self.extents(fake) for fake in self.outputs if isinstance(fake, torch.Tensor)]

    def extents(self, fake: torch.Tensor) -> tuple[Extent, ...]:
        """Return the extents of a fake tensor, as short as the graph's views allow."""
        return self.flow.sizes.shape(fake)

    def extent(self, number: object) -> Extent | None:
        """Return the extent that a size argument (literal, SymInt or node) stands for."""
        fake = number.meta.get("val") if isinstance(number, Node) else number
        return self.flow.sizes.of(fake) if isinstance(fake, (int, torch.SymInt)) else None

    def pack(self, values: Sequence[Value]) -> Result:
        """Return the values as the node returns them: one tensor, or a tuple."""
        return tuple(values) if isinstance(self.node.meta["val"], (tuple, list)) else values[0]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first output."""
        fake = self.outputs[0]
        assert isinstance(fake, torch.Tensor)
        return fake.dtype

    def fake(self, name: str) -> torch.Tensor:
        """Return the fake tensor of an argument."""
        fake: torch.Tensor = self.args[name].meta["val"]
        return fake

    def dim(self, name: str, of: str = "self") -> int:
        """Return a dim argument, not negative."""
        rank = max(len(self.value(of).dims), 1)
        return int(self.args[name]) % rank

    def dims(self, name: str, of: str = "self") -> tuple[int, ...]:
        """Return a dim-list argument, ascending; None and () mean all dims."""
        rank = len(self.value(of).dims)
        given = self.args.get(name)
        if given is None or (isinstance(given, (list, tuple)) and not given):
            return tuple(range(rank))
        listed = given if isinstance(given, (list, tuple)) else (given,)
        return tuple(sorted(int(d) % max(rank, 1) for d in listed)) if rank else ()


def bind(node: Node) -> dict[str, Any]:
    """Return the arguments of a node by the names of its op's schema, defaults filled in."""
    if not isinstance(node.target, OpOverload):
        return dict(enumerate(node.args)) | dict(node.kwargs)  # type: ignore[arg-type, return-value]
    bound: dict[str, Any] = {}
    for i, argument in enumerate(node.target._schema.arguments):
        if i < len(node.args) and not argument.kwarg_only:
            bound[argument.name] = node.args[i]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value if argument.has_default_value() else None
    return bound


def is_exact(dtype: torch.dtype) -> bool:
    """Whether sums of this type are exact in any order: integers and bools; complex numbers are two floats."""
    return not (dtype.is_floating_point or dtype.is_complex)


def is_tensor(node: object) -> bool:
    """Whether a node stands for one tensor."""
    return isinstance(node, Node) and isinstance(node.meta.get("val"), torch.Tensor)


def batch_axis(dims: Dims) -> Axis | None:
    """Return the axis that carries the batch, if there is one."""
    return next((axis for dim in dims for axis in dim if axis.carries), None)


def refuse_over_batch(dims: Sequence[tuple[Axis, ...]], what: str, remedy: str) -> None:
    """Raise Coupled if one of the dims that an op ``what`` (e.g. "reduces") over carries the batch."""
    axis = batch_axis(tuple(dims))
    if axis is None:
        return
    rows = " (its rows are permuted by a routing)" if axis.role == Role.ROWS else ""
    raise Coupled(
        f"{what} the batch{rows}, so every sample follows its neighbours", remedy, over_batch=True
    )
