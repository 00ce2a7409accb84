"""How ops that add things up move the batch; each refuses to add over it."""

from collections.abc import Sequence

import torch
from torch.fx import Node

from bi_inductor.flow.axes import (
    Axis,
    Coupled,
    Dim,
    Role,
    Value,
    carries,
    join_dims,
    one_batch,
    plain,
    same,
    total,
    vary,
)
from bi_inductor.flow.engine import Call, Result, Transfer, is_exact, refuse_over_batch
from bi_inductor.flow.facts import Aggregate, Counts, Offsets, OneHot, SortedKeys
from bi_inductor.flow.views import join, origin_of

_REDUCE_REMEDY = "reduce over the other dimensions and keep the batch (dim=..., keepdim=True)"

#: for code that asks all samples at once which way to go, where each sample's result is its own all the same
OUTSIDE = (
    "or, if Python only chooses by it which code to run, keep the module that asks out of the graph "
    "(torch.compiler.disable) and run it inside batch_invariant_mode()"
)


def reduction(call: Call) -> Result:
    """A reduction over dims to one number each."""
    value = call.value("self")
    over = call.dims("dim")
    if isinstance(value.fact, OneHot) and len(value.dims) - 1 not in over:
        return Value((vary(call.shape[-1]),), Counts(value.fact.keys, call.node))
    if only_asserted(call.node):
        return call.pack([Value(plain(shape).dims, Aggregate(call.node)) for shape in call.shapes])
    counts = is_exact(call.fake("self").dtype)
    remedy = f"{_REDUCE_REMEDY}; {OUTSIDE}" if counts else _REDUCE_REMEDY
    refuse_over_batch([value.dims[d] for d in over], "reduces over", remedy)
    keep = bool(call.get("keepdim"))
    dims = tuple(
        same(1) if d in over else dim for d, dim in enumerate(value.dims) if keep or d not in over
    )
    return call.pack([Value(dims)] * len(call.shapes))


_ASSERTS = ("aten::_assert_async", "aten::_assert_scalar", "aten::_assert_tensor_metadata")
_TO_NUMBER = (
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::_to_copy",
    "prims::convert_element_type",
)


def only_asserted(node: Node) -> bool:
    """Whether a value only decides if the graph stops with an error: ``one_hot`` checks its input so."""
    if not node.users:
        return False
    for user in node.users:
        name = getattr(getattr(user.target, "_schema", None), "name", "")
        if name in _ASSERTS or (name in _TO_NUMBER and only_asserted(user)):
            continue
        if getattr(user.target, "__module__", "") == "_operator" and only_asserted(user):
            continue
        return False
    return True


def along(verb: str) -> Transfer:
    """Return the transfer of an op along one dim that keeps the shape: softmax, scans."""

    def transfer(call: Call) -> Result:
        value, at = call.value("self"), call.dim("dim")
        if not value.dims:
            return call.pack([value.without_fact()] * len(call.shapes))
        if isinstance(value.fact, Counts):
            return Value(value.dims, Offsets(value.fact.keys, value.fact.made_by))
        refuse_over_batch(
            [value.dims[at]], f"{verb} along", "choose a dimension that is not the batch"
        )
        dim = vary(total(value.dims[at]))
        made = Value((*value.dims[:at], dim, *value.dims[at + 1 :]))
        return call.pack([made] * len(call.shapes))

    return transfer


def topk(call: Call) -> Result:
    """The k best along one dim."""
    value, at = call.value("self"), call.dim("dim")
    refuse_over_batch(value.dims[at : at + 1], "compares samples along", "choose another dimension")
    made = (
        Value((*value.dims[:at], vary(call.shape[at]), *value.dims[at + 1 :]))
        if value.dims
        else value
    )
    return (made, made)


def norm_last(argument: str) -> Transfer:
    """Return the transfer of layer norm and RMS norm: over the last ``len(argument)`` dims."""

    def transfer(call: Call) -> Result:
        value = call.value("input")
        count = len(call[argument])
        refuse_over_batch(
            value.dims[len(value.dims) - count :],
            "normalises over",
            "normalise over the feature dimensions only",
        )
        weights = [w for w in (call.maybe("weight"), call.maybe("bias")) if w is not None]
        out = join([value, *weights], call.shapes[0])
        front = value.dims[: len(value.dims) - count]
        small = [Value((*front, *(same(1) for _ in range(count)))) for _ in call.shapes[1:]]
        return call.pack([out, *small])

    return transfer


def mm(call: Call) -> Result:
    """``[M, K] @ [K, N]``, with or without a first argument that is added."""
    a, b = (call.value(name) for name in _factors(call))
    bias = call.maybe("self") if "mat1" in call.args or "batch1" in call.args else None
    return product(call, a, b, bias)


def _factors(call: Call) -> Sequence[str]:
    for names in (
        ("mat1", "mat2"),
        ("batch1", "batch2"),
        ("self", "mat2"),
        ("self", "vec"),
        ("mat", "vec"),
    ):
        if all(name in call.args for name in names):
            return names
    return ("self", "tensor" if "tensor" in call.args else "other")


def product(call: Call, a: Value, b: Value, bias: Value | None) -> Value:
    """Contract the last dim of ``a`` with the last but one of ``b`` (its only one, if a vector)."""
    inner = [a.dims[-1], b.dims[-2] if len(b.dims) > 1 else b.dims[0]]
    refuse_over_batch(
        inner,
        "adds up products over",
        "multiply by a tensor without batch, or batch the product (bmm)",
    )
    lead = [join_dims(x, y) for x, y in zip(a.dims[:-2], b.dims[:-2], strict=False)]
    rows = list(a.dims[-2:-1])
    columns = list(b.dims[-1:]) if len(b.dims) > 1 else []
    made = Value(one_batch((*lead, *rows, *columns)))
    return join([made, bias], call.shape) if bias is not None else made


def grouped_mm(call: Call) -> Result:
    """Groups of rows, each with a matrix of its own; the groups may come from a routing."""
    a = call.flow.value(call.node.args[0])  # type: ignore[arg-type]
    b = call.flow.value(call.node.args[1])  # type: ignore[arg-type]
    offsets = call.maybe("offs") or call.maybe("offsets")
    refuse_over_batch([a.dims[-1], b.dims[-2]], "adds up products over", "batch the product (bmm)")
    if offsets is None:
        return product(call, a, b, None)
    rows = a.dims[0]
    if any(carries(dim) for dim in b.dims):
        raise Coupled("multiplies by matrices that follow the batch", "use weights without batch")
    if carries(rows):
        _check_groups(rows, offsets)
    return Value((rows, vary(call.shape[-1])))


def _check_groups(rows: Dim, offsets: Value) -> None:
    routing = rows[0].tag if len(rows) == 1 and rows[0].role == Role.ROWS else None
    keys = getattr(offsets.fact, "keys", None)
    if (
        routing is None
        or not isinstance(offsets.fact, Offsets)
        or keys is not getattr(routing, "keys", 0)
    ):
        raise Coupled(
            "groups rows by offsets that are not proved to be the counts of their own keys",
            "sort the rows by key, and make the offsets with histc, bincount or one_hot of the same key",
        )


def counts(call: Call) -> Result:
    """``histc`` and ``bincount`` of one key per row: how many rows each expert gets."""
    value, weights = call.value("self"), call.maybe("weights")
    if weights is not None and any(carries(dim) for dim in (*value.dims, *weights.dims)):
        raise Coupled(
            "adds up weights over the batch in its bins",
            "use scatter_add into bins of their own for each sample",
            over_batch=True,
        )
    if not any(carries(dim) for dim in value.dims):
        return plain(call.shape)
    keys = (
        value.fact.routing.keys if isinstance(value.fact, SortedKeys) else origin_of(call["self"])
    )
    return Value(tuple(vary(size) for size in call.shape), Counts(keys, call.node))


def convolution(call: Call) -> Result:
    """``[N, C, *spatial]`` with weights that all samples share."""
    value, weight = call.value("input"), call.value("weight")
    if any(carries(dim) for dim in value.dims[1:]):
        raise Coupled(
            "adds up channels or windows over the batch",
            "give the input a batch dimension in front of the channels",
            over_batch=True,
        )
    if any(carries(dim) for dim in weight.dims):
        raise Coupled(
            "adds up products over the batch in its weight",
            "use weights without batch",
            over_batch=True,
        )
    return Value((value.dims[0], *(vary(size) for size in call.shape[1:])))


def attention(call: Call) -> Result:
    """Softmax attention: ``q [..., Lq, D]``, ``k [..., Lk, D]``, ``v [..., Lk, Dv]``, a mask."""
    if call.get("dropout_p"):
        raise Coupled(
            "drops probabilities by their position in the batch",
            "call model.eval(), or set dropout_p=0",
        )
    names = ("q", "k", "v") if "q" in call.args else ("query", "key", "value")
    q, k, v = (call.value(name) for name in names)
    mask = next(
        (m for m in map(call.maybe, ("mask", "attn_mask", "attn_bias")) if m is not None), None
    )
    refuse_over_batch(
        [q.dims[-1], *k.dims[-2:], *v.dims[-2:]],
        "attends over",
        "let each sample attend to its own keys",
    )
    lead = [_heads(a, b, c) for a, b, c in zip(q.dims[:-2], k.dims[:-2], v.dims[:-2], strict=True)]
    if mask is not None:
        shape = [*(total(d) for d in lead), total(q.dims[-2]), total(k.dims[-2])]
        joined = join([Value((*lead, q.dims[-2], same(shape[-1]))), mask], shape)
        refuse_over_batch([joined.dims[-1]], "attends over", "let each sample have its own mask")
        lead = list(joined.dims[:-2])
    dims = one_batch((*lead, q.dims[-2], v.dims[-1]))
    # cuDNN's op keeps a last dimension of 1
    kept = (same(1),) * (len(call.shapes[1]) - len(dims) + 1)
    made = [Value(tuple(dims)), Value((*dims[:-1], *kept))]
    return tuple(made[i] if i < 2 else plain(shape) for i, shape in enumerate(call.shapes))


def _heads(q: Dim, k: Dim, v: Dim) -> Dim:
    """Key heads may be fewer; the batch must lie in the same dim of all three."""
    if total(q) == total(k):
        return join_dims(join_dims(q, k), v)
    if any(map(carries, (k, v))) or (carries(q) and total(k) != 1):
        raise Coupled("attends to keys of another sample", "repeat the heads, not the batch")
    return q


def embedding_bag(call: Call) -> Result:
    """Bags of rows: the offsets cut a flat list of indices, which no sample owns by itself."""
    carried = [v for v in call.tensors() if any(carries(dim) for dim in v.dims)]
    if not carried:
        return call.pack([plain(shape) for shape in call.shapes])
    offsets = call.value("offsets")
    axis = next((a for dim in offsets.dims for a in dim if a.carries), None)
    axis = axis or Axis(call.shapes[0][0], Role.BATCH)
    return call.pack(
        [
            Value(((axis,), *(vary(s) for s in shape[1:])))
            if shape[:1] == call.shapes[0][:1]
            else plain(shape)
            for shape in call.shapes
        ]
    )


def random(call: Call) -> Result:
    """Random numbers: one draw for each position, so training may use them and inference may not."""
    return call.pack([Value(tuple(same(size) for size in shape)) for shape in call.shapes])


def unproved(call: Call) -> Result:
    """A stock backward kernel: its outputs keep the batch where the shapes do."""
    values = [v for v in call.tensors() if v.batch_dim is not None]
    made = []
    for shape in call.shapes:
        like = next((v for v in values if tuple(map(total, v.dims)) == shape), None)
        made.append(like.without_fact() if like else plain(shape))
    if isinstance(call.node.meta["val"], torch.Tensor):
        return made[0]
    shapes = iter(made)
    return tuple(next(shapes) if isinstance(o, torch.Tensor) else Value(()) for o in call.outputs)
