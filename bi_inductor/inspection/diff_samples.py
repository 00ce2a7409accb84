"""The inputs of one call, cut into samples and put together again in batches of any size."""

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bi_inductor import _torch
from bi_inductor.batch import infer_batch_spec
from bi_inductor.errors import BatchInvariantError, InspectionError

Outputs = list[tuple[str, Tensor]]
Call = tuple[tuple[Any, ...], dict[str, Any]]
_PLAIN = (
    int,
    float,
    complex,
    bool,
    str,
    bytes,
    type(None),
    torch.dtype,
    torch.device,
    torch.layout,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Samples:
    """The leaves of ``(args, kwargs)``; ``dims[i]`` is the batch dim of leaf ``i``, None for shared ones.

    Raises:
        InspectionError: from ``of``: no input has a batch, or one cannot be cut into samples.
    """

    leaves: tuple[Any, ...]
    names: tuple[str, ...]
    dims: tuple[int | None, ...]
    size: int
    structure: Any

    @classmethod
    def of(
        cls,
        model: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        batch_dims: Mapping[str, int | None] | None = None,
    ) -> "Samples":
        """Find the batch of a call as the compiler does: marks, the option ``batch_dims``, or dim 0."""
        named = list(_named_leaves(model, args, kwargs))
        leaves, structure = pytree.tree_flatten((tuple(args), dict(kwargs)))
        names = tuple(name for name, _ in named)
        for name, leaf in named:
            _check(name, leaf)
        tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        spec = infer_batch_spec(
            [leaves[i] for i in tensors],
            is_param=[False] * len(tensors),
            marked={
                at: getattr(leaves[i], _torch.BATCH_MARK)
                for at, i in enumerate(tensors)
                if hasattr(leaves[i], _torch.BATCH_MARK)
            },
            named=[names[i] for i in tensors],
            option=batch_dims or {},
        )
        dims: list[int | None] = [None] * len(leaves)
        for i, dim in zip(tensors, spec.dims, strict=True):
            dims[i] = dim
        sizes = {
            name: leaf.shape[d]
            for (name, leaf), d in zip(named, dims, strict=True)
            if d is not None
        }
        if not sizes:
            raise InspectionError(
                "no input has a batch dimension; pass a tensor with samples along dimension 0, or name "
                "the dimension with bi_inductor.mark_batch(x, dim)"
            )
        if len(set(sizes.values())) > 1 or not min(sizes.values()):
            listed = ", ".join(f"{name} has {size}" for name, size in sizes.items())
            raise InspectionError(
                f"the inputs must hold one and the same number of samples, at least 1: {listed}; "
                "mark what is shared with batch_dims={name: None}"
            )
        return cls(tuple(leaves), names, tuple(dims), next(iter(sizes.values())), structure)

    def take(self, rows: Sequence[int]) -> Call:
        """Return the call whose batch is these samples; sample numbers wrap around."""
        return self.call(self.leaves_of(rows))

    def leaves_of(self, rows: Sequence[int]) -> list[Any]:
        """Return the leaves of that call, all of them copies: a model may write to its inputs."""
        index = [row % self.size for row in rows]
        return [
            self._cut(leaf, dim, index) for leaf, dim in zip(self.leaves, self.dims, strict=True)
        ]

    def call(self, leaves: Sequence[Any]) -> Call:
        """Return the call with these leaves."""
        args, kwargs = pytree.tree_unflatten(list(leaves), self.structure)
        return args, kwargs

    @staticmethod
    def _cut(leaf: Any, dim: int | None, index: list[int]) -> Any:
        if not isinstance(leaf, Tensor):
            return copy.copy(leaf)
        if dim is None:
            made = leaf.detach().clone()
        else:
            made = leaf.detach().index_select(dim, torch.tensor(index, device=leaf.device))
        if hasattr(leaf, _torch.BATCH_MARK):
            setattr(made, _torch.BATCH_MARK, getattr(leaf, _torch.BATCH_MARK))
        return made


def tensors_of(output: Any) -> list[tuple[str, Tensor]]:
    """Return every tensor of a model's output with its path: tensors, dicts, dataclasses, caches, lists."""
    return list(_walk(output, "", set()))


def outputs_of(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Outputs:
    """Call a model and return copies of the tensors of its output.

    Raises:
        BatchInvariantError: our backend's own error, out of Dynamo's wrapping.
        InspectionError: the model does not run.
    """
    try:
        with _torch.unwrapped():
            return [(name, x.detach().clone()) for name, x in tensors_of(fn(*args, **kwargs))]
    except BatchInvariantError:
        raise
    except Exception as error:
        cause = getattr(error, "inner_exception", None) or error
        said = _torch.first_sentence(cause)
        raise InspectionError(f"the model does not run on these inputs: {said}") from error


def rows_of(batch_size: int) -> tuple[int, ...]:
    """Return the places that are looked at: first, middle, last."""
    return tuple(sorted({0, batch_size // 2, batch_size - 1}))


def checked_sizes(batch_sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the batch sizes in ascending order.

    Raises:
        InspectionError: there are none above 1, or one is no positive integer.
    """
    sizes = tuple(batch_sizes) if isinstance(batch_sizes, (list, tuple, range, set)) else ()
    if any(type(n) is not int or n < 1 for n in sizes) or not any(n > 1 for n in sizes):
        raise InspectionError(
            f"batch_sizes must be positive integers, at least one of them above 1, got {batch_sizes!r}"
        )
    return tuple(sorted(set(sizes)))


def _named_leaves(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Yield leaves in the order of ``tree_flatten((args, kwargs))`` with the names of their parameters."""
    forward = model.forward if isinstance(model, torch.nn.Module) else model
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    for i, value in enumerate(args):
        positional = (
            i < len(parameters) and parameters[i].kind is not inspect.Parameter.VAR_POSITIONAL
        )
        name = parameters[i].name if positional else f"args[{i}]"
        for leaf in pytree.tree_leaves(value):
            yield name, leaf
    for name, value in dict(kwargs).items():
        for leaf in pytree.tree_leaves(value):
            yield name, leaf


def _check(name: str, leaf: Any) -> None:
    if isinstance(leaf, (Tensor, *_PLAIN)) or callable(leaf):
        return
    raise InspectionError(
        f"the input {name} is a {type(leaf).__name__}, which cannot be cut into samples; "
        "pass tensors, or wrap the model in a function that makes it"
    )


def _walk(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path or "output", value
        return
    if isinstance(value, (*_PLAIN, type, torch.nn.Module)) or id(value) in seen:
        return
    seen.add(id(value))
    for name, part in _parts(value):
        inside = f"{path}[{name}]" if isinstance(name, int) else f"{path}.{name}".lstrip(".")
        yield from _walk(part, inside, seen)


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (list, tuple, set)):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name)
    else:
        yield from getattr(value, "__dict__", {}).items()
