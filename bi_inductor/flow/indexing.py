"""How gathers and scatters move the batch, and the proof of routing (mixture of experts).

A routing sorts one key per row: positions then depend on all samples, each row still on its own sample only.
Rows in that order have the role ROWS; every gather by it, and the way back (the inverse permutation, or an
ordered scatter-add to the row's own place), is proved through the fact ``OwnRow`` of the index tensor.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

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
    dim_key,
    is_same,
    join_dims,
    one_batch,
    quotient,
    same,
    significant,
    total,
    vary,
)
from bi_inductor.flow.engine import Call, Result, is_exact
from bi_inductor.flow.facts import Counting, OwnRow, Routing, Selection, SortedKeys
from bi_inductor.flow.views import join, origin_of, pointwise

_INDEX_REMEDY = "index the batch with torch.arange(batch) beside the other indices, or gather along another dimension"


def embedding(call: Call) -> Result:
    """Rows of a table, one per index."""
    return gather_rows([call.value("weight")], [call.value("indices")], call)


def index(call: Call) -> Result:
    """``x[i, :, j]`` with tensors as indices; absent ones are full slices."""
    value = call.flow.value(call.node.args[0])  # type: ignore[arg-type]
    given = list(call["indices"])
    if any(i is not None and i.meta["val"].dtype in (torch.bool, torch.uint8) for i in given):
        return _masked(call, value)
    indices = [None if i is None else call.flow.value(i) for i in given]
    return Value(one_batch(indexed_dims(value, indices)[0]))


def gather_rows(tables: Sequence[Value], indices: Sequence[Value], call: Call) -> Value:
    """``table[index]`` along dim 0."""
    return Value(one_batch(indexed_dims(tables[0], list(indices))[0]))


def indexed_dims(value: Value, indices: Sequence[Value | None]) -> tuple[Dims, Dims, int]:
    """Return the dims of ``x[indices]``, the dims that the indices span, and where these begin.

    Raises:
        Coupled: a dim with the batch is read at a place that may belong to another sample.
    """
    places = [d for d, i in enumerate(indices) if i is not None]
    present = [
        _labelled(index, value.dims[d]) for d, index in enumerate(indices) if index is not None
    ]
    rank = max((len(i.dims) for i in present), default=0)
    span = join([i.without_fact() for i in present], _broadcast(present, rank)).dims
    adjacent = places == list(range(places[0], places[-1] + 1))
    begin = places[0] if adjacent else 0
    kept = [dim for d, dim in enumerate(value.dims) if d not in places]
    return (*kept[:begin], *span, *kept[begin:]), span, begin


def _labelled(index: Value, dim: Dim) -> Value:
    """The index with its batch labelled; along a dim where nothing changes any index reads the same."""
    if carries(dim):
        return own_rows(index, dim)
    if dim and is_same(dim):
        return Value(tuple(same(total(own)) for own in index.dims))
    return index


def _broadcast(values: Sequence[Value], rank: int) -> list[Extent]:
    shape: list[Extent] = [1] * rank
    for value in values:
        for d, dim in enumerate(value.dims):
            at = rank - len(value.dims) + d
            shape[at] = total(dim) if shape[at] == 1 else shape[at]
    return shape


def own_rows(index: Value | None, base: Dim) -> Value:
    """Return the index with its batch labelled, if it is proved to stay inside each sample.

    Raises:
        Coupled: it is not.
    """
    assert index is not None
    fact = index.fact
    if isinstance(fact, OwnRow) and dim_key(fact.base) == dim_key(base):
        return index
    counted: tuple[Extent, Extent] | None = None
    if isinstance(fact, Counting):
        for d, dim in enumerate(index.dims):
            if any(a.tag is fact.tag for a in dim):
                if total(dim) == total(base):
                    return Value((*index.dims[:d], base, *index.dims[d + 1 :]))
                counted = total(dim), total(base)
    if total(base) == 1:
        return index if any(carries(d) for d in index.dims) else _label_one(index, base)
    if all(not carries(dim) for dim in index.dims):
        raise Coupled(
            "reads samples at fixed positions of the batch", _INDEX_REMEDY, unless_equal=counted
        )
    raise Coupled("may read other samples through a computed index", _INDEX_REMEDY)


def _label_one(index: Value, base: Dim) -> Value:
    """A batch of one: any index is the sample's own; the first dim of extent 1 is its place."""
    for d, dim in enumerate(index.dims):
        if total(dim) == 1:
            return Value((*index.dims[:d], base, *index.dims[d + 1 :]))
    if index.dims:
        return Value(((*base, *index.dims[0]), *index.dims[1:]))
    return index


def _masked(call: Call, value: Value) -> Result:
    """``x[mask]``: rows of many samples in one dim, in the order of the mask; only the same mask puts them back."""
    given = list(call["indices"])
    if len(given) != 1:
        raise Coupled(
            "selects elements by a mask beside other indices",
            "use torch.where or masked_fill, which keep each element in its place",
        )
    mask = call.flow.value(given[0])
    base = join([Value(value.dims[: len(mask.dims)]), mask.without_fact()], _shape_of(mask)).dims
    rest = value.dims[len(mask.dims) :]
    if not any(map(carries, base)):
        return Value((vary(call.shape[0]), *rest))
    # how many rows there are follows all samples: a size of the batch, like any other
    call.flow.batch_symbols |= getattr(call.shape[0], "free_symbols", frozenset())
    tag = Selection(given[0], base)
    return Value(one_batch(((Axis(call.shape[0], Role.ROWS, tag),), *rest)))


def _shape_of(value: Value) -> list[Extent]:
    return [total(dim) for dim in value.dims]


def gather(call: Call) -> Result:
    """``out[i][j] = x[index[i][j]][j]``: rows of the other dims stay in their place."""
    value, ind = call.value("self"), call.value("index")
    at = call.dim("dim")
    if not value.dims:
        return ind.without_fact()
    if carries(value.dims[at]):
        ind = own_rows(ind, value.dims[at])
        sides = Value((*value.dims[:at], same(1), *value.dims[at + 1 :]))
        return join([ind.without_fact(), sides], call.shape)
    sides = _shrunk(value, ind, at)
    return join([ind.without_fact(), sides], call.shape)


def _shrunk(value: Value, ind: Value, at: int) -> Value:
    """The gathered tensor as an operand: its dims cut to the index's where these are shorter."""
    dims = []
    for d, (dim, other) in enumerate(zip(value.dims, ind.dims, strict=True)):
        if d == at:
            dims.append(same(1))
        elif total(dim) == total(other):
            dims.append(dim)
        elif carries(dim):
            raise Coupled("reads some samples by their position in the batch", _INDEX_REMEDY)
        else:
            dims.append(vary(total(other)))
    return Value(tuple(dims))


def scatter(call: Call) -> Result:
    """Write or add ``src`` at ``index`` along one dim."""
    kind, exact = call.get("reduce"), is_exact(call.dtype)
    if not exact and (
        kind in ("mean", "prod") or (kind == "sum" and not call.get("include_self", True))
    ):
        raise Coupled(
            f"adds up with reduce={kind!r} in an order that nothing fixes",
            "use scatter_add, and divide by the counts for a mean",
        )
    value, ind, at = call.value("self"), call.value("index"), call.dim("dim")
    src = call.maybe("src")
    if not value.dims:
        return value.without_fact()
    operands = [ind.without_fact(), *([src.without_fact()] if src else [])]
    if carries(value.dims[at]) or any(carries(dims.dims[at]) for dims in operands):
        return _scatter_home(call, value, ind, operands, at)
    spread = [_shrunk_to(o, value, at) for o in operands]
    joined = join([Value(_without(value, at)), *spread], _shape_without(call.shape, at))
    return Value((*joined.dims[:at], vary(call.shape[at]), *joined.dims[at + 1 :]))


def _without(value: Value, at: int) -> Dims:
    return (*value.dims[:at], same(1), *value.dims[at + 1 :])


def _shape_without(shape: Sequence[Extent], at: int) -> list[Extent]:
    return [1 if d == at else size for d, size in enumerate(shape)]


def _shrunk_to(operand: Value, value: Value, at: int) -> Value:
    dims = []
    for d, (dim, target) in enumerate(zip(operand.dims, value.dims, strict=True)):
        if d == at or total(dim) != total(target):
            if carries(dim) or (d != at and carries(target)):
                raise Coupled("writes some samples over others", _INDEX_REMEDY)
            dims.append(same(1))
        else:
            dims.append(dim)
    return Value(tuple(dims))


def _scatter_home(call: Call, value: Value, ind: Value, operands: list[Value], at: int) -> Value:
    """Rows written or added along the batch: each must go to a place of its own sample."""
    base = home_of(ind, value.dims[at])
    dims = list(value.dims)
    dims[at] = base
    for operand in operands:
        sides = Value((*operand.dims[:at], same(1), *operand.dims[at + 1 :]))
        own = own_dim(ind, at)
        if dim_key(operand.dims[at]) != dim_key(own):
            raise Coupled("writes rows to places of other samples", _INDEX_REMEDY)
        dims = list(join([Value(tuple(dims)), sides], call.shape).dims)
    return Value(one_batch(tuple(dims)))


def own_dim(ind: Value, at: int) -> Dim:
    """Return the dim along which the index runs."""
    return ind.dims[at]


def home_of(ind: Value, target: Dim) -> Dim:
    """Return the axes of the dim that an index of own rows writes to; ``target`` may be all equal so far.

    Raises:
        Coupled: the index is not proved to stay inside each sample, or the target is of other rows.
    """
    if carries(target):
        own_rows(ind, target)
        return target
    fact = ind.fact
    if isinstance(fact, OwnRow) and total(fact.base) == total(target) and is_same(target):
        return fact.base
    raise Coupled(
        "collects rows of several samples in one place",
        "scatter along a dimension that is not the batch",
        over_batch=True,
    )


def index_put(call: Call) -> Result:
    """``x[indices] = values``, or ``+=``."""
    value = call.flow.value(call.node.args[0])  # type: ignore[arg-type]
    written = call.value("values")
    given = list(call["indices"])
    if any(i is not None and i.meta["val"].dtype in (torch.bool, torch.uint8) for i in given):
        return _masked_put(call, value, [i for i in given if i is not None], written)
    indices = [None if i is None else call.flow.value(i) for i in given]
    if len(indices) == 1 and indices[0] is not None and isinstance(indices[0].fact, OwnRow):
        return _put_home(value, indices[0], written)
    return _put(value, indices, written)


def _put(value: Value, indices: Sequence[Value | None], written: Value) -> Value:
    """Each written element goes to a place of its own sample: in a kept dim, or in an indexed one."""
    places, span, begin = indexed_dims(value, indices)
    wide = join([written.without_fact()], [total(dim) for dim in places]).dims
    end = begin + len(span)
    along = [join_dims(a, b) for a, b in zip(span, wide[begin:end], strict=True)]
    dims = list(value.dims)
    kept = [d for d in range(len(dims)) if d >= len(indices) or indices[d] is None]
    for d, dim in zip(kept, (*wide[:begin], *wide[end:]), strict=True):
        dims[d] = join_dims(dims[d], dim)
    indexed = [d for d in range(len(dims)) if d not in kept]
    at_home = any(carries(value.dims[d]) for d in indexed)
    for d in indexed:
        dims[d] = value.dims[d] if carries(value.dims[d]) else vary(total(value.dims[d]))
    carried = next((at for at, dim in enumerate(along) if carries(dim)), None)
    if carried is not None and not at_home:
        home = _home_by_position(value, indices, along, carried)
        dims[home] = join_dims(value.dims[home], along[carried])
    return Value(one_batch(tuple(dims)))


def _home_by_position(
    value: Value, indices: Sequence[Value | None], along: Sequence[Dim], carried: int
) -> int:
    """Return the dim that ``arange(batch)`` indexes, of a tensor that had no batch so far (``zeros``)."""
    size = total(along[carried])
    for d, ind in enumerate(indices):
        if ind is None or total(value.dims[d]) != size:
            continue
        own = carried - len(along) + len(ind.dims)
        counts = isinstance(ind.fact, Counting) and own >= 0
        if size == 1 or (counts and any(a.tag is ind.fact.tag for a in ind.dims[own])):  # type: ignore[attr-defined]
            return d
    raise Coupled(
        "collects rows of several samples in one place",
        "scatter along a dimension that is not the batch",
        over_batch=True,
    )


def _put_home(value: Value, ind: Value, written: Value) -> Value:
    """Rows in one order written to their own places in another: the way into and out of a routing."""
    base = home_of(ind, value.dims[0])
    rest = Value((*ind.dims, *value.dims[1:]))
    fact: object = None
    if isinstance(written.fact, Counting) and len(ind.dims) == 1 and _is_bijective(ind):
        fact = OwnRow(ind.dims[0], bijective=True)
        return Value((base,), fact)
    joined = join([rest, written.without_fact()], [total(dim) for dim in rest.dims])
    return Value(one_batch((base, *joined.dims[len(ind.dims) :])))


def _is_bijective(ind: Value) -> bool:
    return isinstance(ind.fact, OwnRow) and ind.fact.bijective


def _masked_put(call: Call, value: Value, masks: list[Node], written: Value) -> Result:
    """``x[mask] = number`` is elementwise, and so are values that the same mask selected."""
    count = len(call["indices"])
    mask = call.flow.value(masks[0])
    padded = Value((*mask.dims, *(same(1) for _ in range(len(value.dims) - len(mask.dims)))))
    if count == 1 and all(total(dim) == 1 for dim in written.dims) and not written.fact:
        return join([value, padded, Value(written.dims[-1:])], call.shape)
    if call.get("accumulate"):
        raise Coupled("adds values at the places of a mask", "use torch.where, and add the result")
    if not any(carries(dim) for v in (value, mask, written) for dim in v.dims):
        return Value(tuple(vary(size) for size in call.shape))
    front, rank = len(mask.dims), 1 + len(value.dims) - len(mask.dims)
    indexed = (*mask.dims, *value.dims[:front], *written.dims[:1])
    if count == 1 and len(written.dims) == rank and not any(map(carries, indexed)):
        # one mask for all samples
        rest = join([Value(value.dims[front:]), Value(written.dims[1:])], call.shape[front:])
        return Value((*map(vary, call.shape[:front]), *rest.dims))
    axis = written.dims[0][0] if written.dims and len(written.dims[0]) == 1 else None
    tag = axis.tag if axis is not None else None
    own = (
        isinstance(tag, Selection) and _same_mask(tag.mask, masks[0]) and len(written.dims) == rank
    )
    if not own or count != 1:
        raise Coupled(
            "writes values at the places of a mask, and nothing in this graph says of which sample each value is",
            "use torch.where; or select the values by the same mask in the same graph "
            "(torch._dynamo.config.capture_dynamic_output_shape_ops = True)",
        )
    assert isinstance(tag, Selection)
    home = Value((*tag.base, *written.dims[1:]))
    return Value(one_batch(join([value, padded, home], call.shape).dims))


def masked_scatter(call: Call) -> Result:
    """The values of ``source``, one after another, at the places of a mask."""
    if any(carries(dim) for value in call.tensors() for dim in value.dims):
        raise Coupled(
            "fills the places of a mask one after another, so what a sample gets follows the masks of those before it",
            "use torch.where with a value for every place",
        )
    return Value(tuple(vary(size) for size in call.shape))


def _same_mask(a: object, b: object) -> bool:
    """One mask, or the same comparison of the same tensors written twice."""
    if not isinstance(a, Node) or not isinstance(b, Node) or a is b:
        return a is b or (not isinstance(a, Node) and type(a) is type(b) and a == b)
    target: Any = a.target
    if a.op != "call_function" or target != b.target or a.kwargs or b.kwargs:
        return False
    if torch.Tag.pointwise not in getattr(target, "tags", ()) or len(a.args) != len(b.args):
        return False
    return all(map(_same_mask, a.args, b.args))


def sort(call: Call) -> Result:
    """A stable sort. Of one key per row over the whole batch: a routing."""
    value, at = call.value("self"), call.dim("dim")
    if not value.dims or not carries(value.dims[at]):
        return (value.without_fact(), value.without_fact())
    if len(value.dims) != 1:
        raise Coupled(
            "sorts samples by their values", "sort along a dimension that is not the batch"
        )
    base = value.dims[0]
    if _is_bijective(value):
        assert isinstance(value.fact, OwnRow)
        # the sorted numbers are 0, 1, 2, ...; the order that sorts a permutation is its inverse
        target = value.fact.base
        return (Value((target,)), Value((target,), OwnRow(base, bijective=True)))
    keys = call["self"]
    routing = Routing(origin_of(keys), base, bool(call.get("descending")))
    rows: Dim = (Axis(total(base), Role.ROWS, routing),)
    return (Value((rows,), SortedKeys(routing)), Value((rows,), OwnRow(base, bijective=True)))


def divide(call: Call) -> Result:
    """Elementwise; ``permutation // k`` drops the inner axes of the rows that it points to."""
    fact = _operand_fact(call)
    divisor = call.extent(call.get("other"))
    floor = call.get("rounding_mode", "floor") == "floor"
    if isinstance(fact, OwnRow) and divisor is not None and floor:
        axes, inner = list(significant(fact.base)), divisor
        while axes and inner != 1 and not axes[-1].carries:
            rest = quotient(inner, axes[-1].extent)
            if rest is None:
                break
            axes.pop()
            inner = rest
        if inner == 1:
            value = call.flow.value(call.node.args[0])  # type: ignore[arg-type]
            return replace(value, fact=OwnRow(tuple(axes)))
    return pointwise(call)


def remainder(call: Call) -> Result:
    """Elementwise; ``permutation % tokens`` drops the outer axes of the rows that it points to."""
    fact = _operand_fact(call)
    modulus = call.extent(call.get("other"))
    if isinstance(fact, OwnRow) and modulus is not None:
        axes = list(significant(fact.base))
        while axes and total(axes) != modulus and not axes[0].carries:
            axes.pop(0)
        if axes and total(axes) == modulus:
            value = call.flow.value(call.node.args[0])  # type: ignore[arg-type]
            return replace(value, fact=OwnRow(tuple(axes)))
    return pointwise(call)


def _operand_fact(call: Call) -> Any:
    first = call.node.args[0]
    return call.flow.value(first).fact if isinstance(first, Node) else None


def take_rows(call: Call) -> Result:
    """``index_select`` along one dim."""
    value, at = call.value("self"), call.dim("dim")
    indices: list[Value | None] = [None] * at + [call.value("index")]
    return Value(one_batch(indexed_dims(value, indices)[0]))


def index_add(call: Call) -> Result:
    """Add rows of ``source`` along one dim, in their order."""
    value, ind, at = call.value("self"), call.value("index"), call.dim("dim")
    source = call.value("source")
    if (
        not carries(value.dims[at])
        and not carries(source.dims[at])
        and not any(map(carries, ind.dims))
    ):
        sides = [Value(_without(value, at)), Value(_without(source, at))]
        joined = join(sides, _shape_without(call.shape, at))
        return Value((*joined.dims[:at], vary(call.shape[at]), *joined.dims[at + 1 :]))
    base = home_of(ind, value.dims[at])
    labelled = own_rows(ind, base)
    if dim_key(labelled.dims[0]) != dim_key(source.dims[at]):
        raise Coupled("adds rows to places of other samples", _INDEX_REMEDY)
    sides = [Value(_without(value, at)), Value(_without(source, at))]
    joined = join(sides, _shape_without(call.shape, at))
    return Value(one_batch((*joined.dims[:at], base, *joined.dims[at + 1 :])))
