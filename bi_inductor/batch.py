"""Which dims of a graph's inputs are the batch: marks, options, or the default of dimension 0."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sympy
import torch
from torch.fx import Graph, Node

from bi_inductor.errors import OptionError
from bi_inductor.flow.axes import Axis, Extent, Role, Value, extent_of, shape_of, vary


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """``dims[i]``: the batch dim of placeholder ``i``, or None where all samples share the input.

    Placeholders are counted without the tangents of a joint graph, which follow the outputs they belong to.
    """

    dims: tuple[int | None, ...]

    def value(self, index: int, fake: torch.Tensor) -> Value:
        """Return the abstract value of placeholder ``index``."""
        shape = shape_of(fake)
        at = self.dims[index] if index < len(self.dims) else None
        dims = [vary(size) for size in shape]
        if at is not None and at < len(dims):
            dims[at] = (Axis(shape[at], Role.BATCH),)
        return Value(tuple(dims))

    def symbols(self, graph: Graph) -> frozenset[sympy.Symbol]:
        """Return the symbols of the batch sizes in ``graph``."""
        found: set[sympy.Symbol] = set()
        nodes = [n for n in graph.find_nodes(op="placeholder") if not is_tangent(n)]
        for node, at in zip(nodes, self.dims, strict=False):
            fake = node.meta.get("val")
            if at is not None and isinstance(fake, torch.Tensor) and at < fake.dim():
                found |= getattr(extent_of(fake.shape[at]), "free_symbols", set())
        return frozenset(found)


def is_tangent(node: Node) -> bool:
    """Whether a placeholder of a joint graph is the gradient of an output."""
    return str(node.target).startswith("tangents")


def infer_batch_spec(
    inputs: Sequence[object],
    *,
    is_param: Sequence[bool],
    marked: Mapping[int, Sequence[int]] | None = None,
    named: Sequence[str] | None = None,
    option: Mapping[str, int | None] | None = None,
) -> BatchSpec:
    """Say where the batch is in each input of a graph.

    Args:
        inputs: fake tensors, or anything else for inputs that are not tensors.
        is_param: whether an input is a parameter, buffer or other state that all samples share.
        marked: input index -> its batch dim, as given by ``bi_inductor.mark_batch``; wins over everything.
        named: names of the inputs, as the user's code spells them.
        option: ``options={"batch_dims": ...}``: input name -> dim, or None for a shared input.

    The default is dim 0 of each input of two dims or more whose extent is the batch's, and of vectors of
    that length. An input with extent 1 there is shared when others are longer (``position_ids [1, S]``).

    Raises:
        OptionError: a dim that the input does not have, or two batch dims of one input.
    """
    given = _explicit(inputs, marked or {}, named or [""] * len(inputs), option or {})
    _unify(inputs, is_param)
    tensors = {
        i: shape_of(x)
        for i, x in enumerate(inputs)
        if isinstance(x, torch.Tensor) and not is_param[i]
    }
    sizes = [tensors[i][at] for i, at in given.items() if at is not None and i in tensors]
    size = (
        sizes[0]
        if sizes
        else _batch_size({i: s for i, s in tensors.items() if i not in given}, inputs)
    )
    known = {*sizes, size}
    dims = []
    for i in range(len(inputs)):
        if i in given:
            dims.append(given[i])
        else:
            shape = tensors.get(i, ())
            dims.append(0 if _has_batch(shape, known, alone=len(tensors) == 1) else None)
    return BatchSpec(tuple(dims))


def _unify(inputs: Sequence[object], is_param: Sequence[bool]) -> None:
    """Make one symbol of the first sizes that agree; the comparison becomes a guard of the graph.

    Ids and their mask arrive as ``[s0, S]`` and ``[s1, S]``, and nothing in a model need compare the two.
    """
    seen: list[torch.SymInt] = []
    for x, param in zip(inputs, is_param, strict=True):
        size = x.shape[0] if isinstance(x, torch.Tensor) and x.dim() and not param else None
        if not isinstance(size, torch.SymInt) or not size.node.has_hint():
            continue
        if not any(size.node.hint == other.node.hint and bool(size == other) for other in seen):
            seen.append(size)


def hold_equal(graph: Graph, a: Extent, b: Extent) -> bool:
    """Guard that two sizes of a graph's inputs are equal; False if they are not in this call.

    Behind a graph break the batch size comes back as a number of Python's, with a symbol of its own. A call in which
    the two differ does not pass the guard, is compiled anew, and judged without it.
    """
    sizes = {extent_of(size): size for size in _sizes_of_inputs(graph) if size.node.has_hint()}
    one, other = sizes.get(a), sizes.get(b)
    if one is None or other is None or one.node.hint != other.node.hint:
        return False
    return bool(one == other)


def _sizes_of_inputs(graph: Graph) -> Iterator[torch.SymInt]:
    for node in graph.find_nodes(op="placeholder"):
        fake = node.meta.get("val")
        found = fake.shape if isinstance(fake, torch.Tensor) else [fake]
        yield from (size for size in found if isinstance(size, torch.SymInt))


def _explicit(
    inputs: Sequence[object],
    marked: Mapping[int, Sequence[int]],
    named: Sequence[str],
    option: Mapping[str, int | None],
) -> dict[int, int | None]:
    given: dict[int, int | None] = {}
    for i, name in enumerate(named):
        key = next((key for key in option if names_input(key, name)), None)
        if key is not None:
            given[i] = _checked(inputs[i], option[key], key)
    for i, dims in marked.items():
        if len(dims) > 1:
            raise OptionError(f"input {named[i] or i} has two batch dims, {tuple(dims)}; mark one")
        if dims:
            given[i] = _checked(inputs[i], int(dims[0]), named[i] or str(i))
    return given


def names_input(key: str, source: str) -> bool:
    """Whether ``key`` of ``batch_dims`` names the input that Dynamo calls ``source``."""
    return source in (key, f"L['{key}']", f'L["{key}"]')


def _checked(value: object, dim: int | None, name: str) -> int | None:
    if dim is None or not isinstance(value, torch.Tensor):
        return None
    if not -value.dim() <= dim < value.dim():
        raise OptionError(
            f"batch dim {dim} of {name} is not a dim of its shape {tuple(value.shape)}"
        )
    return dim % value.dim()


def _batch_size(shapes: Mapping[int, tuple[Extent, ...]], inputs: Sequence[object]) -> Extent:
    """Return the likeliest batch size: what most inputs of the highest useful rank share.

    Ids ``[B, S]`` beside a shared mask ``[1, 1, S, S]`` have the batch; tables ``[S, D]`` beside hidden
    states ``[1, S, H]`` have not, so floats of two dims count only when nothing of three dims is there.
    """
    by_rank = {i: s for i, s in shapes.items() if len(s) >= 3}
    ids = {
        i: s
        for i, s in shapes.items()
        if len(s) == 2 and not getattr(inputs[i], "dtype", torch.float32).is_floating_point
    }
    for group in (by_rank, ids):
        longer = [s[0] for s in group.values() if s[0] != 1]
        if longer:
            return Counter(longer).most_common(1)[0][0]
    if by_rank or ids:
        return 1
    firsts = [s[0] for s in shapes.values() if len(s) == 2] or [s[0] for s in shapes.values() if s]
    longer = [size for size in firsts if size != 1]
    return Counter(longer or firsts or [1]).most_common(1)[0][0]


def _has_batch(shape: Sequence[Extent], sizes: set[Extent], *, alone: bool) -> bool:
    if not shape or shape[0] not in sizes:
        return False
    return len(shape) >= 2 or shape[0] != 1 or alone
