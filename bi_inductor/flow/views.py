"""How pointwise ops, views and data movement move the batch."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.fx import Node

from bi_inductor.flow.axes import (
    Axis,
    Coupled,
    Dim,
    Extent,
    Role,
    Value,
    carries,
    is_same,
    join_dims,
    one_batch,
    plain,
    product,
    quotient,
    regroup,
    same,
    total,
    vary,
)
from bi_inductor.flow.engine import Call, Result
from bi_inductor.flow.facts import WHOLE_BATCH, Aggregate, Counting, OneHot, Picked

VIEW_REMEDY = "keep the batch in one dimension, or merge it with neighbours only"


PICK_REMEDY = (
    "index a dimension that is not the batch; an input that holds no samples is named in "
    "options={'batch_dims': {name: None}}"
)


def join(values: Sequence[Value], shape: Sequence[Extent]) -> Value:
    """Return the value of a broadcasting elementwise op.

    Raises:
        Coupled: the batch of one operand meets other positions of another.
    """
    dims: list[Dim] = []
    for position, size in enumerate(shape):
        dim: Dim = same(size)
        for value in values:
            own = position - len(shape) + len(value.dims)
            if own < 0:
                continue
            given = value.dims[own]
            if total(given) == size:
                dim = join_dims(dim, given)
            elif carries(given):
                if total(given) != 1:
                    raise Coupled("reads the whole batch for each of its results", PICK_REMEDY)
                dim = join_dims(dim, tuple(a for a in given if a.carries))
            elif total(given) != 1 and not is_same(given):
                # not a broadcast, so the same size in another spelling
                dim = join_dims(dim, vary(size))
        dims.append(dim)
    return Value(one_batch(tuple(dims)))


def tainted(result: Result, inputs: Sequence[Value]) -> Result:
    """Hand on what depends on the whole batch, or on one sample of it, to the result of any op.

    Raises:
        Coupled: the result belongs to single samples, or mixes two such values.
    """
    facts = {v.fact for v in inputs if isinstance(v.fact, WHOLE_BATCH)}
    if not facts or result is None:
        return result
    if isinstance(result, tuple):
        return tuple(part for r in result if isinstance(part := tainted(r, inputs), Value))
    if isinstance(result.fact, WHOLE_BATCH) and len(facts) == 1:
        return result
    if len(facts) > 1 or any(carries(dim) for dim in result.dims):
        _refuse_whole_batch(next(iter(facts)))
    (fact,) = facts
    return replace(result, fact=fact if isinstance(fact, Picked) else Aggregate(fact.made_by))


def _refuse_whole_batch(fact: object) -> None:
    if isinstance(fact, Picked):
        raise Coupled(
            f"reads {fact.position}, and the result meets other samples",
            f"{PICK_REMEDY}, or use a value that all samples share",
            blame=fact.made_by,
        )
    raise Coupled(
        "counts over the whole batch, and the result meets single samples",
        "use the counts only as the offsets of a grouped matmul",
        blame=getattr(fact, "made_by", None),
    )


def pointwise(call: Call) -> Result:
    """Elementwise with broadcasting; every number of the result comes from the numbers at its place."""
    for argument in call.args.values():
        if call.flow.is_batch_size(argument):
            raise Coupled(
                "computes with the size of the batch", "use a number that does not follow the batch"
            )
    values = call.tensors()
    if len(call.outputs) > 1:
        return call.pack([join(values, shape) for shape in call.shapes])
    if _adds_nothing(call) and len(values) == 1:
        return values[0]
    joined = join(values, call.shape)
    fact = _one_hot(values, call)
    return joined if fact is None else replace(joined, fact=fact)


def _one_hot(values: Sequence[Value], call: Call) -> object:
    """``ids[..., None] == arange(E)`` and casts of it."""
    if call.node.target != torch.ops.aten.eq.Tensor or len(values) != 2:
        return None
    ids = call.node.args[0] if isinstance(values[1].fact, Counting) else call.node.args[1]
    counting = any(isinstance(v.fact, Counting) for v in values)
    return OneHot(origin_of(ids)) if counting and isinstance(ids, Node) else None


def _adds_nothing(call: Call) -> bool:
    """``positions + 0``, as models with an empty cache compute them."""
    name = getattr(call.node.target, "_schema", None)
    return name is not None and name.name in ("aten::add", "aten::sub") and call.get("other") == 0


def unary(call: Call) -> Result:
    """Casts and copies: same place, same number."""
    value = call.flow.value(call.node.all_input_nodes[0])
    assert len(value.dims) == len(call.shape), call.node.format_node()
    return value


def pairs(call: Call) -> Result:
    """``view_as_real`` adds a last dim of two numbers, ``view_as_complex`` takes it away."""
    value = call.value("self")
    if len(call.shape) > len(value.dims):
        return Value((*value.dims, vary(2)))
    if carries(value.dims[-1]):
        raise Coupled("makes complex numbers of pairs of samples", VIEW_REMEDY)
    return Value(value.dims[:-1])


def halves(call: Call) -> Result:
    """``glu``: one half of a dim gates the other."""
    value, at = call.value("self"), call.dim("dim")
    if carries(value.dims[at]):
        raise Coupled("gates one half of the batch by the other", "choose another dimension")
    return Value((*value.dims[:at], vary(call.shape[at]), *value.dims[at + 1 :]))


_SAME_NUMBERS = (
    "convert_element_type", "_to_copy", "clone", "alias", "detach", "view", "_unsafe_view", "reshape",
    "unsqueeze", "squeeze", "lift_fresh_copy", "expand",
)  # fmt: skip


def origin_of(node: Node) -> Node:
    """Return the node that made the numbers, past casts and views."""
    while getattr(node.target, "_opname", "") in _SAME_NUMBERS or _is_view_name(node):
        node = node.all_input_nodes[0]
    return node


def _is_view_name(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema and schema.name.split("::")[-1] in _SAME_NUMBERS and node.all_input_nodes)


def view(call: Call) -> Result:
    """Any op that keeps the row-major order of the elements."""
    value = call.flow.value(call.node.all_input_nodes[0])
    shape = _viewed_shape(call, value)
    if tuple(total(dim) for dim in value.dims) == shape:
        return value
    dims = regroup(value.dims, shape)
    if dims is None and not any(map(carries, value.dims)):
        return plain(shape)  # wherever the elements go, all samples share them
    if dims is None:
        raise Coupled(
            "cuts the batch into groups or interleaves it with another dimension", VIEW_REMEDY
        )
    return Value(dims, value.fact)


def _viewed_shape(call: Call, value: Value) -> tuple[Extent, ...]:
    """The extents of a view, by its own arguments: what is asked for is what is made, of the same elements."""
    sizes, made = call.flow.sizes, call.shape
    asked = call.get("size", call.get("shape"))
    if not isinstance(asked, (list, tuple)) or len(asked) != len(made):
        return made
    given = [call.extent(size) for size in asked]
    shape = [
        extent if size in (None, -1) else sizes.learn(size, extent)
        for size, extent in zip(given, made, strict=True)
    ]
    elements = product(map(total, value.dims))
    if -1 in given:
        at = given.index(-1)
        # torch refuses a -1 beside a zero
        inferred = sizes.divided(elements, product([*shape[:at], *shape[at + 1 :]]))
        if inferred is not None:
            shape[at] = sizes.learn(inferred, shape[at])
    sizes.learn_product(elements, product(shape))
    return tuple(shape)


def unsqueeze(call: Call) -> Result:
    """Insert a dim of extent 1."""
    value = call.value("self")
    at = int(call["dim"]) % (len(value.dims) + 1)
    return Value((*value.dims[:at], same(1), *value.dims[at:]), value.fact)


def squeeze(call: Call) -> Result:
    """Drop dims of extent 1; a batch of one moves into its neighbour."""
    value = call.value("self")
    names = [call.get("dim")] if not isinstance(call.get("dim"), (list, tuple)) else call["dim"]
    rank = len(value.dims)
    chosen = range(rank) if names == [None] else [int(d) % rank for d in names if rank]
    gone = {d for d in chosen if total(value.dims[d]) == 1}
    dims = [dim for d, dim in enumerate(value.dims) if d not in gone]
    batch = tuple(a for d in sorted(gone) for a in value.dims[d] if a.carries)
    if batch and dims:
        at = min(min(gone), len(dims) - 1)
        dims[at] = (*batch, *dims[at]) if at == min(gone) else (*dims[at], *batch)
    return Value(tuple(dims), value.fact)


def permute(call: Call) -> Result:
    """Reorder the dims."""
    value = call.value("self")
    return Value(tuple(value.dims[int(d) % len(value.dims)] for d in call["dims"]), value.fact)


def transpose(call: Call) -> Result:
    """Swap two dims."""
    value = call.value("self")
    dims = list(value.dims)
    a, b = call.dim("dim0"), call.dim("dim1")
    dims[a], dims[b] = dims[b], dims[a]
    return Value(tuple(dims), value.fact)


def t(call: Call) -> Result:
    """Transpose of at most two dims."""
    value = call.value("self")
    return Value(value.dims[::-1], value.fact)


def expand(call: Call) -> Result:
    """Repeat dims of extent 1 without copying."""
    value, shape = call.flow.value(call.node.all_input_nodes[0]), call.shape
    return Value(join([value], shape).dims, value.fact)


def repeat(call: Call) -> Result:
    """Tile: each dim gets an outer axis along which nothing changes."""
    value, shape = call.value("self"), call.shape
    padded = (*(same(1) for _ in range(len(shape) - len(value.dims))), *value.dims)
    dims = []
    for dim, size in zip(padded, shape, strict=True):
        times = quotient(size, total(dim))
        if times is None:
            raise Coupled("repeats the batch a number of times that is unknown", VIEW_REMEDY)
        dims.append(dim if times == 1 else (Axis(times, Role.SAME), *dim))
    return Value(tuple(dims))


def constant(call: Call) -> Result:
    """A tensor of one number: the same along every dim."""
    if call.flow.is_batch_size(call.get("fill_value")) or call.flow.is_batch_size(
        call.get("value")
    ):
        raise Coupled(
            "computes with the size of the batch", "use a number that does not follow the batch"
        )
    return Value(tuple(same(size) for size in call.shape))


def filled_like(call: Call) -> Result:
    """``fill`` and ``copy``: the numbers of the last tensor argument in the shape of the first."""
    values = call.tensors()
    return join(values[1:], call.shape) if len(values) > 1 else constant(call)


def arange(call: Call) -> Result:
    """``0, 1, 2, ...``: may index the batch; any other start or step is an ordinary constant."""
    start, step = call.get("start", 0), call.get("step", 1)
    fact = Counting(call.node) if start in (0, None) and step in (1, None) else None
    return Value(((Axis(call.shape[0], Role.VARY, call.node),),), fact)


def made_of_shape(call: Call) -> Result:
    """Constants that differ by position: eye, tril_indices, linspace."""
    return plain(call.shape)
