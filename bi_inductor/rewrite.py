"""``rewrite``: replace planned nodes by ``torch.ops.bi_inductor.*`` with the plan's numbers. Decides nothing."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import GraphModule, Node

from bi_inductor import templates as t
from bi_inductor.flow.engine import bind
from bi_inductor.flow.movement import spells_view
from bi_inductor.plan import Planned, Step

_aten = torch.ops.aten
_ours = torch.ops.bi_inductor


def rewrite(gm: GraphModule, planned: Planned, *, uniform: bool = False) -> GraphModule:
    """Replace the planned nodes of ``gm`` in place and return it; ``meta`` goes to the new nodes.

    ``uniform``: products get one tile for every shape (``options={"tiling": "uniform"}``).
    """
    for step in planned.steps:
        if step.plan is not None:
            _replace(gm, step, uniform)
        elif step.node.target in (_aten.as_strided.default, _aten.as_strided_scatter.default):
            _replace_strides(gm, step.node)
    gm.graph.eliminate_dead_code()
    gm.recompile()
    return gm


def _replace(gm: GraphModule, step: Step, uniform: bool) -> None:
    node = step.node
    with gm.graph.inserting_before(node):
        made = _Builder(gm, step, uniform).build()
    if made is None:
        return
    if isinstance(made, tuple):
        _replace_tuple(gm, node, made)
    else:
        node.replace_all_uses_with(made)
    if not node.users:
        gm.graph.erase_node(node)


def _replace_strides(gm: GraphModule, node: Node) -> None:
    """Strides were read off the kernels that were replaced; a view does not name any."""
    args = bind(node)
    source = args.get("src") or args["self"]
    made = (source if "src" in args else node).meta["val"]
    if not spells_view(args["self"].meta["val"], made, args["storage_offset"]):
        return
    shape = args["size"] if source is args["self"] else list(node.meta["val"].shape)
    if source is not args["self"] and not all(isinstance(size, int) for size in shape):
        return  # a gradient of symbolic shape keeps its strides
    with gm.graph.inserting_before(node):
        view = gm.graph.call_function(_aten.reshape.default, (source, list(shape)))
    view.meta = dict(node.meta)
    node.replace_all_uses_with(view)
    gm.graph.erase_node(node)


def _replace_tuple(gm: GraphModule, node: Node, made: tuple[Node | None, ...]) -> None:
    """The users of a tuple are ``getitem`` nodes: each becomes its own part."""
    for user in list(node.users):
        part = made[user.args[1]] if len(user.args) > 1 else None  # type: ignore[index]
        if part is None:
            raise AssertionError(
                f"{node.target} has a user of an output that is not made: {user.format_node()}"
            )
        user.replace_all_uses_with(part)
        gm.graph.erase_node(user)


class _Builder:
    """Makes the nodes that stand for one step, one method per template."""

    def __init__(self, gm: GraphModule, step: Step, uniform: bool) -> None:
        assert step.plan is not None
        self.schedule = {"uniform": True} if uniform else {}
        self.gm, self.step, self.node, self.plan = gm, step, step.node, step.plan
        self.args = bind(step.node)
        self.fake: Any = step.node.meta["val"]

    def build(self) -> Node | tuple[Node | None, ...] | None:
        return _BUILDERS[type(self.step.template)](self)

    def call(self, target: Any, *args: Any, fake: Any = None, **kwargs: Any) -> Node:
        """Insert a call that has the place and source line of the planned node."""
        made = self.gm.graph.call_function(target, args, kwargs)
        made.meta = {k: v for k, v in self.node.meta.items() if k != "val"}
        made.meta["val"] = self._run_fake(target, args, kwargs) if fake is None else fake
        return made

    def _run_fake(self, target: Any, args: Any, kwargs: Any) -> Any:
        def fake_of(item: Any) -> Any:
            return item.meta["val"] if isinstance(item, Node) else item

        import torch.utils._pytree as pytree

        mode = _fake_mode(self.node)
        with mode:
            return target(*pytree.tree_map(fake_of, args), **pytree.tree_map(fake_of, kwargs))

    def item(self, node: Node, index: int) -> Node:
        import operator

        return self.call(operator.getitem, node, index, fake=node.meta["val"][index])

    def cast(self, node: Node, dtype: torch.dtype) -> Node:
        if node.meta["val"].dtype == dtype:
            return node
        return self.call(torch.ops.prims.convert_element_type.default, node, dtype)


def _fake_mode(node: Node) -> Any:
    for candidate in (node, *node.all_input_nodes):
        value = candidate.meta.get("val")
        parts = value if isinstance(value, (tuple, list)) else (value,)
        for part in parts:
            if isinstance(part, torch.Tensor) and hasattr(part, "fake_mode"):
                return part.fake_mode
    raise AssertionError(f"no fake tensor around {node.format_node()}")


def _matmul(b: _Builder) -> Node:
    a, numbers = b.args, {**b.plan.numbers(), **b.schedule}
    name = b.node.target._schema.name.split("::")[1]  # type: ignore[union-attr]
    for operand in ("self", "mat1", "mat2", "batch1", "batch2"):
        if isinstance(a.get(operand), Node) and "out_dtype" in a:
            a[operand] = b.cast(
                a[operand], b.fake.dtype
            )  # exact: the product is never rounded first
    if name in ("mm", "bmm"):
        return b.call(getattr(_ours, name).default, a["self"], a["mat2"], **numbers)
    if name in ("addmm", "baddbmm"):
        first, second = ("mat1", "mat2") if name == "addmm" else ("batch1", "batch2")
        bias, scale = _addend(a)
        target = _ours.mm.default if name == "addmm" else _ours.bmm.default
        return b.call(target, a[first], a[second], bias, **scale, **numbers)
    return _vector(b, name)


def _addend(a: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Bias and factors of a product. ``beta=0`` means that the bias is not read: a NaN in it stays there."""
    scale = {k: a[k] for k in ("alpha", "beta") if a.get(k, 1) != 1}
    if scale.get("beta") == 0:
        del scale["beta"]
        return None, scale
    return a["self"], scale


def _vector(b: _Builder, name: str) -> Node:
    """``mv`` and ``dot`` as a product with one column."""
    a, numbers = b.args, b.plan.numbers()
    if name in ("dot", "vdot"):
        row = b.call(_aten.unsqueeze.default, a["self"], 0)
        column = b.call(_aten.unsqueeze.default, a.get("tensor") or a["other"], 1)
        return b.call(_aten.view.default, b.call(_ours.mm.default, row, column, **numbers), [])
    matrix = a["self"] if name == "mv" else a["mat"]
    column = b.call(_aten.unsqueeze.default, a["vec"], 1)
    bias, scale = _addend(a) if name == "addmv" else (None, {})
    if bias is not None:
        bias = b.call(_aten.unsqueeze.default, bias, -1)
    product = b.call(_ours.mm.default, matrix, column, bias, **scale, **numbers)
    return b.call(_aten.squeeze.dim, product, 1)


def _grouped(b: _Builder) -> Node:
    rows, weights = b.node.args[0], b.node.args[1]
    offsets = b.args.get("offs") if "offs" in b.args else b.args.get("offsets")
    return b.call(
        _ours.grouped_mm.default, rows, weights, offsets, b.args.get("bias"), **b.plan.numbers()
    )


def _convolution(b: _Builder) -> Node:
    a = b.args
    names = (
        "input",
        "weight",
        "bias",
        "stride",
        "padding",
        "dilation",
        "transposed",
        "output_padding",
        "groups",
    )
    return b.call(_ours.convolution.default, *(a[n] for n in names), **b.plan.numbers())


def _attention(b: _Builder) -> tuple[Node | None, ...]:
    a = b.args
    q, k, v = (a[n] for n in (("q", "k", "v") if "q" in a else ("query", "key", "value")))
    mask = next((a[n] for n in ("mask", "attn_mask", "attn_bias") if a.get(n) is not None), None)
    made = b.call(
        _ours.attention.default, q, k, v, mask,
        is_causal=bool(a.get("is_causal")), scale=a.get("scale"), **b.plan.numbers(),
    )  # fmt: skip
    lse = b.item(made, 1)
    if b.fake[1].dim() > lse.meta["val"].dim():
        lse = b.call(_aten.unsqueeze.default, lse, -1)
    return (b.item(made, 0), lse, *(None for _ in b.fake[2:]))


def _dtype_of_sum(given: torch.dtype, wanted: torch.dtype) -> dict[str, Any]:
    """The argument ``dtype``, left out where it changes nothing: without it, integers are summed into int64."""
    floating = given.is_floating_point or given.is_complex
    kept = given == wanted and (floating or given == torch.int64)
    return {} if kept else {"dtype": wanted}


def _reduction(b: _Builder) -> Node | tuple[Node | None, ...]:
    template = b.step.template
    assert isinstance(template, t.Reduction)
    name = b.node.target._schema.name.split("::")[1]  # type: ignore[union-attr]
    wanted = b.fake[0] if isinstance(b.fake, (tuple, list)) else b.fake
    given = b.args["self"].meta["val"].dtype

    def reduced(kind: str, dtype: torch.dtype | None) -> Node:
        extra = {} if dtype is None else _dtype_of_sum(given, dtype)
        if kind == "norm":
            extra["param"] = float(b.args["ord"])
        return b.call(
            _ours.reduction.default, b.args["self"], kind, list(template.dims), template.keepdim,
            **extra, **b.plan.numbers(),
        )  # fmt: skip

    if name in ("max", "min") and isinstance(b.fake, (tuple, list)):
        return reduced(template.kind, None), reduced(template.kind.replace("am", "argm"), None)
    sums = template.kind in ("sum", "mean", "prod", "norm")
    return reduced(template.kind, wanted.dtype if sums else None)


def _var_mean(b: _Builder) -> Node | tuple[Node | None, ...]:
    template = b.step.template
    assert isinstance(template, t.VarMean)
    correction = b.args.get("correction")
    made = b.call(
        _ours.var_mean.default, b.args["self"], list(template.dims),
        1.0 if correction is None else float(correction), template.keepdim, **b.plan.numbers(),
    )  # fmt: skip
    both = (b.item(made, 0), b.item(made, 1))
    return both if isinstance(b.fake, (tuple, list)) else both[0]


def _softmax(b: _Builder) -> Node:
    template = b.step.template
    assert isinstance(template, t.Softmax)
    given = b.args["self"].meta["val"].dtype
    extra = {} if b.fake.dtype == given else {"dtype": b.fake.dtype}
    return b.call(
        _ours.softmax.default,
        b.args["self"],
        template.dim,
        template.log,
        **extra,
        **b.plan.numbers(),
    )


def _layer_norm(b: _Builder) -> tuple[Node | None, ...]:
    a = b.args
    made = b.call(
        _ours.layer_norm.default, a["input"], list(a["normalized_shape"]), a["weight"], a["bias"], a["eps"],
        **b.plan.numbers(),
    )  # fmt: skip
    return tuple(b.item(made, i) for i in range(3))


def _rms_norm(b: _Builder) -> tuple[Node | None, ...]:
    a = b.args
    eps = a["eps"]
    if eps is None:
        eps = torch.finfo(a["input"].meta["val"].dtype).eps
    made = b.call(
        _ours.rms_norm.default,
        a["input"],
        list(a["normalized_shape"]),
        a["weight"],
        eps,
        **b.plan.numbers(),
    )
    return tuple(b.item(made, i) for i in range(2))


def _scan(b: _Builder) -> Node:
    template = b.step.template
    assert isinstance(template, t.Scan)
    given = b.args["self"].meta["val"].dtype
    extra = _dtype_of_sum(given, b.fake.dtype)
    return b.call(_ours.scan.default, b.args["self"], template.kind, template.dim, **extra)


def _scatter(b: _Builder) -> Node | None:
    template, a = b.step.template, b.args
    assert isinstance(template, t.Scatter)
    if template.kind == "index_add":
        extra = {} if a.get("alpha", 1) == 1 else {"alpha": a["alpha"]}
        return b.call(
            _ours.index_add.default, a["self"], a["dim"], a["index"], a["source"], **extra
        )
    if template.kind == "index_put_add":
        return b.call(_ours.index_put_add.default, a["self"], list(a["indices"]), a["values"])
    return b.call(_ours.scatter_add.default, a["self"], a["dim"], a["index"], a["src"])


def _embedding_bag(b: _Builder) -> tuple[Node | None, ...]:
    template, a = b.step.template, b.args
    assert isinstance(template, t.EmbeddingBag)
    made = b.call(
        _ours.embedding_bag.default, a["weight"], a["indices"], a["offsets"], a["per_sample_weights"],
        template.mode, bool(a["include_last_offset"]), int(a["padding_idx"]),
    )  # fmt: skip
    return (made, *(None for _ in b.fake[1:]))


def _avg_pool(b: _Builder) -> Node:
    a = b.args
    names = (
        "self",
        "kernel_size",
        "stride",
        "padding",
        "ceil_mode",
        "count_include_pad",
        "divisor_override",
    )
    values = {name: a[name] for name in names}
    values["stride"] = values["stride"] or values["kernel_size"]
    return b.call(_ours.avg_pool.default, *values.values())


def _topk(b: _Builder) -> tuple[Node | None, ...]:
    a = b.args
    made = b.call(
        _ours.topk.default, a["self"], a["k"], a["dim"], bool(a["largest"]), bool(a["sorted"])
    )
    return b.item(made, 0), b.item(made, 1)


def _sort(b: _Builder) -> tuple[Node | None, ...]:
    a = b.args
    if (
        b.plan.order == "exact-ranks"
    ):  # a stable sort is the top n; this device's own sort is not stable
        count = b.fake[0].shape[a["dim"]] if b.fake[0].dim() else 1
        if isinstance(count, torch.SymInt):
            count = b.call(_aten.sym_size.int, a["self"], a["dim"], fake=count)
        made = b.call(_ours.topk.default, a["self"], count, a["dim"], bool(a["descending"]), True)
        return b.item(made, 0), b.item(made, 1)
    made = b.call(
        _aten.sort.stable, a["self"], stable=True, dim=a["dim"], descending=bool(a["descending"])
    )
    return b.item(made, 0), b.item(made, 1)


_BUILDERS: dict[Any, Callable[[_Builder], Node | tuple[Node | None, ...] | None]] = {
    t.Matmul: _matmul,
    t.GroupedMatmul: _grouped,
    t.Convolution: _convolution,
    t.Attention: _attention,
    t.Reduction: _reduction,
    t.VarMean: _var_mean,
    t.Softmax: _softmax,
    t.LayerNorm: _layer_norm,
    t.RmsNorm: _rms_norm,
    t.Scan: _scan,
    t.Scatter: _scatter,
    t.EmbeddingBag: _embedding_bag,
    t.AvgPool: _avg_pool,
    t.TopK: _topk,
    t.Sort: _sort,
}
