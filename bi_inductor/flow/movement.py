"""How selecting, slicing, joining and sliding over dims moves the batch."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from bi_inductor.flow.axes import (
    Axis,
    Coupled,
    Dim,
    Dims,
    Extent,
    Role,
    Value,
    carries,
    plain,
    quotient,
    regroup,
    same,
    shape_of,
    significant,
    total,
    vary,
)
from bi_inductor.flow.engine import Call, Result, Transfer
from bi_inductor.flow.facts import WHOLE_BATCH, Aggregate, OwnRow, Picked
from bi_inductor.flow.views import PICK_REMEDY, VIEW_REMEDY, join, view


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
    raise Coupled("reads some samples by their position in the batch", PICK_REMEDY)


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
    start = call.extent(call.get("start") or 0)
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
            raise Coupled("reads some samples by their position in the batch", PICK_REMEDY)
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
    if name in ("flip", "roll", "rev"):
        return {int(d) % rank for d in call["dims"]} or set(range(rank))
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


def as_strided_scatter(call: Call) -> Result:
    """The gradient of a view that was spelled by strides: all elements come from ``src``."""
    if spells_view(call.fake("self"), call.fake("src"), call.get("storage_offset")):
        dims = regroup(call.value("src").dims, call.shape)
        if dims is not None:
            return Value(dims)
    if any(carries(dim) for value in call.tensors() for dim in value.dims):
        raise Coupled(
            "writes the batch through strides that cannot be followed", "use views instead"
        )
    return plain(call.shape)


def spells_view(given: torch.Tensor, made: torch.Tensor, offset: object) -> bool:
    """Whether an ``as_strided`` keeps all elements of ``given`` in their row-major order."""
    # an offset counts from the start of the storage, not of a view into it
    if offset not in (None, given.storage_offset()) or given.numel() != made.numel():
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
        raise Coupled("writes some samples by their position in the batch", VIEW_REMEDY)
    sides = [Value((*v.dims[:at], same(1), *v.dims[at + 1 :])) for v in (value, src)]
    dims = join(sides, [1 if d == at else size for d, size in enumerate(call.shape)]).dims
    return Value((*dims[:at], vary(call.shape[at]), *dims[at + 1 :]))


def copied(call: Call) -> Result:
    """``copy_``, or ``copy`` before its input is written: the value of the source.

    State that all samples share may not keep what one of them, or their number, made: the next call would read it.
    """
    src, kept = call.value("src"), call.value("self")
    into_input = call["self"].op == "placeholder"
    if into_input and isinstance(src.fact, WHOLE_BATCH) and not any(map(carries, kept.dims)):
        raise Coupled(
            "keeps data of this batch in state that the samples of the next call share",
            "return it instead, or keep it outside of the compiled model",
        )
    return join([src], call.shape)


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
