"""How pointwise ops, views and data movement move the batch."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.fx import Node

from bi_inductor.flow.axes import (
    Axis,
    Coupled,
    Dim,
    Dims,
    Extent,
    Role,
    Value,
    carries,
    join_dims,
    one_batch,
    plain,
    quotient,
    regroup,
    same,
    shape_of,
    significant,
    total,
    vary,
)
from bi_inductor.flow.engine import Call, Result, Transfer, extent_arg
from bi_inductor.flow.facts import WHOLE_BATCH, Aggregate, Counting, OneHot, OwnRow, Picked

_VIEW_REMEDY = "keep the batch in one dimension, or merge it with neighbours only"


_PICK_REMEDY = "index a dimension that is not the batch"


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
                dim = join_dims(dim, tuple(a for a in given if a.carries))
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
            f"{_PICK_REMEDY}, or use a value that all samples share",
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
    return value if len(value.dims) == len(call.shape) else plain(call.shape)


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
    shape = call.shape
    if tuple(total(dim) for dim in value.dims) == shape:
        return value
    dims = regroup(value.dims, shape)
    if dims is None:
        raise Coupled(
            "cuts the batch into groups or interleaves it with another dimension", _VIEW_REMEDY
        )
    return Value(dims, value.fact)


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
            raise Coupled("repeats the batch a number of times that is unknown", _VIEW_REMEDY)
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


def select(call: Call) -> Result:
    """One index of a dim; of the batch: the data of one sample."""
    value, at = call.value("self"), call.dim("dim")
    rest = (*value.dims[:at], *value.dims[at + 1 :])
    if not carries(value.dims[at]):
        fact = value.fact if isinstance(value.fact, OwnRow) else None
        return Value(rest, fact)
    return _pick(call, rest, f"the sample at position {call['index']} of the batch")


def _pick(call: Call, dims: Dims, position: str) -> Value:
    cleared = tuple(
        tuple(Axis(a.extent, Role.VARY) if a.carries else a for a in dim) for dim in dims
    )
    return Value(cleared, Picked(position, call.node))


def slice_(call: Call) -> Result:
    """A range of a dim; whole groups of batches may be cut off, single samples may not."""
    value, at = call.value("self"), call.dim("dim")
    dim, size = value.dims[at], call.shape[at]
    if size == total(dim):
        return value
    if not carries(dim):
        return Value((*value.dims[:at], _cut(dim, size), *value.dims[at + 1 :]))
    inner = _batches_inside(dim, size)
    if inner is not None and _starts_on(call, dim, inner):
        return Value((*value.dims[:at], inner, *value.dims[at + 1 :]))
    if size == 1:
        dims = (*value.dims[:at], vary(size), *value.dims[at + 1 :])
        return _pick(call, dims, f"the sample at position {call.get('start') or 0} of the batch")
    raise Coupled("reads some samples by their position in the batch", _PICK_REMEDY)


def _cut(dim: Dim, size: Extent) -> Dim:
    return same(size) if all(a.role == Role.SAME for a in dim) else vary(size)


def _batches_inside(dim: Dim, size: Extent) -> Dim | None:
    """Cut the outer axis: ``(2, batch B)`` to ``(batch B)`` when ``size`` is a multiple of the inside."""
    axes = significant(dim)
    if len(axes) < 2 or axes[0].carries:
        return None
    count = quotient(size, total(axes[1:]))
    if count is None:
        return None
    return axes[1:] if count == 1 else (replace(axes[0], extent=count, tag=None), *axes[1:])


def _starts_on(call: Call, dim: Dim, inner: Dim) -> bool:
    start = extent_arg(call.get("start") or 0)
    unit = total(a for a in significant(dim)[1:])
    return (
        start is not None and quotient(start, unit) is not None and call.get("step", 1) in (1, None)
    )


def split(call: Call) -> Result:
    """Parts of a dim, one value each."""
    value, at = call.value("self"), call.dim("dim")
    parts = []
    for shape in call.shapes:
        size = shape[at]
        dim = value.dims[at]
        if not carries(dim) or size == total(dim):
            cut = dim if size == total(dim) else _cut(dim, size)
            parts.append(Value((*value.dims[:at], cut, *value.dims[at + 1 :])))
            continue
        inner = _batches_inside(dim, size)
        if inner is None:
            raise Coupled("reads some samples by their position in the batch", _PICK_REMEDY)
        parts.append(Value((*value.dims[:at], inner, *value.dims[at + 1 :])))
    return tuple(parts)


def unbind(call: Call) -> Result:
    """One value per index of a dim."""
    value, at = call.value("self"), call.dim("dim")
    rest = (*value.dims[:at], *value.dims[at + 1 :])
    if carries(value.dims[at]):
        return tuple(
            _pick(call, rest, f"the sample at position {i}") for i in range(len(call.outputs))
        )
    return tuple(Value(rest) for _ in call.outputs)


def cat(call: Call) -> Result:
    """Parts along a dim; equal parts that carry the batch become groups of batches."""
    values = [v for v in call.tensors() if v.dims and not _is_legacy_empty(v, call)]
    at = int(call["dim"] or 0) % len(call.shape)
    shape = call.shape
    sides = [Value((*v.dims[:at], same(1), *v.dims[at + 1 :])) for v in values]
    around = join(sides, (*shape[:at], 1, *shape[at + 1 :]))
    dims = [v.dims[at] for v in values]
    if not any(carries(dim) for dim in dims):
        return Value((*around.dims[:at], vary(shape[at]), *around.dims[at + 1 :]))
    filled = [dim for dim in dims if total(dim) != 0]
    if any(significant(dim) != significant(filled[0]) for dim in filled):
        raise Coupled(
            "puts samples in one dimension with values that are not samples, or not as many",
            "concatenate along a dimension that is not the batch",
        )
    groups = (Axis(len(filled), Role.VARY),) if len(filled) > 1 else ()
    return Value((*around.dims[:at], (*groups, *filled[0]), *around.dims[at + 1 :]))


def _is_legacy_empty(value: Value, call: Call) -> bool:
    return len(value.dims) == 1 != len(call.shape) and total(value.dims[0]) == 0


def keep_batch(call: Call) -> Result:
    """Pad, roll, flip, unfold and the like: free along dims without batch, fixed along the batch.

    The result's dims keep the batch where the extent did not change.

    Raises:
        Coupled: the op moves or pads samples along the batch.
    """
    value = call.flow.value(call.node.all_input_nodes[0])
    moved = _moved_dims(call, value)
    if any(carries(value.dims[d]) for d in moved):
        raise Coupled(
            "moves samples along the batch, so each meets another's position",
            "apply it to a dimension that is not the batch",
        )
    dims = tuple(
        dim if d not in moved else vary(size)
        for d, (dim, size) in enumerate(zip(value.dims, call.shape, strict=True))
    )
    return Value(dims)


def _moved_dims(call: Call, value: Value) -> set[int]:
    rank = len(value.dims)
    name = call.node.target._schema.name.split("::")[1]  # type: ignore[union-attr]
    if name == "constant_pad_nd":
        pads = call["pad"]
        return {
            rank - 1 - i for i in range(len(pads) // 2) if pads[2 * i] != 0 or pads[2 * i + 1] != 0
        }
    if name in ("flip", "roll"):
        return set(call.dims("dims"))
    return {int(call["dim"]) % rank}


def windows(spatial: int) -> Transfer:
    """Return the transfer of an op that mixes only the last ``spatial`` dims (resampling, padding)."""

    def transfer(call: Call) -> Result:
        value = call.flow.value(call.node.all_input_nodes[0])
        refuse_windows(value, spatial)
        return call.pack([fronted(value, shape, spatial) for shape in call.shapes])

    return transfer


def diagonal(call: Call) -> Result:
    """The diagonal of two dims without batch, as a new last dim."""
    value = call.value("self")
    a, b = call.dim("dim1"), call.dim("dim2")
    if carries(value.dims[a]) or carries(value.dims[b]):
        raise Coupled("reads the diagonal of the batch", "index a dimension that is not the batch")
    rest = tuple(dim for d, dim in enumerate(value.dims) if d not in (a, b))
    return Value((*rest, vary(call.shape[-1])))


def unfold(call: Call) -> Result:
    """Windows along one dim, as a new last dim."""
    value, at = call.value("self"), call.dim("dimension")
    if carries(value.dims[at]):
        raise Coupled("slides a window over the batch", "unfold a dimension that is not the batch")
    shape = call.shape
    return Value((*value.dims[:at], vary(shape[at]), *value.dims[at + 1 :], vary(shape[-1])))


def as_strided(call: Call) -> Result:
    """Strides that spell a view of the same elements; ``rewrite`` makes it one, whatever the layout below."""
    value, given, made = call.value("self"), call.fake("self"), call.outputs[0]
    assert isinstance(made, torch.Tensor)
    if spells_view(given, made, call.get("storage_offset")):
        return view(call)
    if any(carries(dim) for dim in value.dims):
        raise Coupled(
            "reads the batch through strides that cannot be followed", "use views instead"
        )
    return plain(call.shape)


def spells_view(given: torch.Tensor, made: torch.Tensor, offset: object) -> bool:
    """Whether an ``as_strided`` keeps all elements of ``given`` in their row-major order."""
    if offset not in (None, 0) or given.numel() != made.numel():
        return False
    if shape_of(given) == shape_of(made) and _steps(given) == _steps(made):
        return True
    return given.is_contiguous() and made.is_contiguous()


def _steps(x: torch.Tensor) -> list[object]:
    return [stride for size, stride in zip(x.shape, x.stride(), strict=True) if size != 1]


def triangle(call: Call) -> Result:
    """``tril`` and ``triu``: a constant mask over the last two dims."""
    value = call.value("self")
    if any(carries(dim) for dim in value.dims[-2:]):
        raise Coupled(
            "masks samples by their position in the batch",
            "apply it to dimensions that are not the batch",
        )
    return Value((*value.dims[:-2], *(vary(size) for size in call.shape[-2:])))


def write_part(call: Call) -> Result:
    """``slice_scatter`` and ``select_scatter``: write ``src`` over a part of one dim."""
    value, src, at = call.value("self"), call.value("src"), call.dim("dim")
    if len(src.dims) < len(value.dims):
        src = Value((*src.dims[:at], same(1), *src.dims[at:]), src.fact)
    if total(src.dims[at]) == total(value.dims[at]) and call.get("step", 1) in (1, None):
        return join([value, src], call.shape)
    if carries(value.dims[at]) or carries(src.dims[at]):
        raise Coupled("writes some samples by their position in the batch", _VIEW_REMEDY)
    sides = [Value((*v.dims[:at], same(1), *v.dims[at + 1 :])) for v in (value, src)]
    dims = join(sides, [1 if d == at else size for d, size in enumerate(call.shape)]).dims
    return Value((*dims[:at], vary(call.shape[at]), *dims[at + 1 :]))


def copied(call: Call) -> Result:
    """``copy_`` into an input: the value of the source."""
    return join([call.value("src")], call.shape)


def to_number(call: Call) -> Result:
    """``.item()``: a Python number for all samples, so it must not come from one."""
    value = call.value("self")
    if isinstance(value.fact, Aggregate) and value.fact.made_by in call.node.all_input_nodes:
        return None  # for an assertion only
    if any(carries(dim) for dim in value.dims) or isinstance(value.fact, WHOLE_BATCH):
        raise Coupled(
            "makes one Python number of a tensor that follows the batch",
            "keep it a tensor, or compute it outside of the compiled model",
        )
    return None


def refuse_windows(value: Value, spatial: int) -> None:
    """Raise Coupled if one of the last ``spatial`` dims carries the batch."""
    if any(carries(dim) for dim in value.dims[-spatial:]):
        raise Coupled(
            "slides a window over the batch",
            "give the input a batch dimension in front of the channels",
            over_batch=True,
        )


def fronted(value: Value, shape: Sequence[Extent], spatial: int) -> Value:
    """Return a value with new last dims."""
    return Value((*value.dims[: len(value.dims) - spatial], *map(vary, shape[-spatial:])))
