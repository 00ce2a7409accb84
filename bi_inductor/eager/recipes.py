"""A planned eager op as a one-op graph: planned and rewritten by the compiler's own passes, then run as it is."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node

import bi_inductor.fakes  # noqa: F401  (shapes are needed to rewrite a call)
from bi_inductor import _torch
from bi_inductor.batch import BatchSpec
from bi_inductor.plan import make_plan
from bi_inductor.rewrite import rewrite
from bi_inductor.templates import Attention, EmbeddingBag, Template

#: Called with the arguments of the op; None where torch's own kernel is exact in any order.
Recipe = Callable[[tuple[Any, ...], Mapping[str, Any]], Any]

_LIMIT = 4096
_RECIPES: dict[object, Recipe | None] = {}
_UNSEEN = object()


def recipe_of(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Recipe | None:
    """Return how to run a call like this one, from the cache or through the planner.

    Raises:
        VariantOpError: the op mixes samples by definition.
        UnsupportedDeviceError: the device has no lowerings.
    """
    key = (func, signature(args), signature(kwargs))
    recipe: Any = _RECIPES.get(key, _UNSEEN)
    if recipe is _UNSEEN:
        recipe = _make(func, args, kwargs)
        if len(_RECIPES) >= _LIMIT:
            _RECIPES.clear()  # shapes that grow with a context: the newest are the ones in use
        _RECIPES[key] = recipe
    return recipe


def signature(value: Any) -> object:
    """Return what a recipe may depend on: dtypes, shapes and device of tensors, and every other argument."""
    if isinstance(value, Tensor):
        return (value.dtype, value.shape, value.device.type)
    if isinstance(value, (tuple, list)):
        return tuple(map(signature, value))
    if isinstance(value, Mapping):
        return tuple((name, signature(item)) for name, item in value.items())
    # 1, 1.0 and True are equal keys, and so are the two zeros
    return (type(value), repr(value)) if isinstance(value, float) else (type(value), value)


#: Templates that do not make every output of their ops; the rest are exact (bag sizes) or unused (random states).
_MADE: dict[type[Template], int] = {EmbeddingBag: 1, Attention: 2}


def _make(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Recipe | None:
    from lowerings import table

    device = next(t.device.type for t in tensors_of((args, kwargs)))
    gm = _one_op_graph(func, args, kwargs)
    planned = make_plan(
        gm,
        device=device,
        batch=BatchSpec(()),
        backward=lambda _: False,
        on_variant="error",
        training=True,
    )
    step = next((s for s in planned.steps if s.plan is not None), None)
    if step is None or step.template is None:
        return None
    table.load(device)
    parts = len(func._schema.returns)
    made = min(_MADE.get(type(step.template), parts), parts)
    if made < parts:
        _keep_outputs(gm, made)
    run = rewrite(gm, planned).forward
    if made == parts:
        return lambda args, kwargs: run(*tensors_of((args, kwargs)))
    return lambda args, kwargs: (
        *run(*tensors_of((args, kwargs))),
        *func(*args, **kwargs)[made:],
    )


def _one_op_graph(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> GraphModule:
    """A graph of one call with fake values, tensors as its placeholders in the order of ``tensors_of``."""
    fake_mode = _torch.FakeTensorMode()
    graph = Graph()

    def placeholder(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        node = graph.placeholder(f"x{len(graph.nodes)}")
        node.meta["val"] = fake_mode.from_tensor(value.detach(), static_shapes=True)
        return node

    node_args = pytree.tree_map(placeholder, tuple(args))
    node_kwargs = pytree.tree_map(placeholder, dict(kwargs))
    call = graph.call_function(func, node_args, node_kwargs)
    with fake_mode:
        call.meta["val"] = _fake_result(func, node_args, node_kwargs)
    if isinstance(call.meta["val"], (tuple, list)):
        graph.output(tuple(_item(graph, call, i) for i in range(len(call.meta["val"]))))
    else:
        graph.output(call)
    return GraphModule(torch.nn.Module(), graph)


def _fake_result(func: OpOverload, node_args: Any, node_kwargs: Any) -> Any:
    args, kwargs = pytree.tree_map_only(Node, lambda n: n.meta["val"], (node_args, node_kwargs))
    dtype = args[0].dtype if func is torch.ops.aten._grouped_mm.default else None
    if dtype not in (torch.float32, torch.float16, torch.float64):
        return func(*args, **kwargs)
    # its meta kernel knows bfloat16 only, its CPU kernel every type
    args, kwargs = pytree.tree_map_only(
        Tensor, lambda x: x.bfloat16() if x.is_floating_point() else x, (args, kwargs)
    )
    return func(*args, **kwargs).to(dtype)


def _item(graph: Graph, call: Node, index: int) -> Node:
    item = graph.call_function(operator.getitem, (call, index))
    item.meta["val"] = call.meta["val"][index]
    return item


def _keep_outputs(gm: GraphModule, count: int) -> None:
    (output,) = gm.graph.find_nodes(op="output")
    output.args = (output.args[0][:count],)
    gm.graph.eliminate_dead_code()


def tensors_of(values: Any) -> list[Tensor]:
    """Return the tensors among arguments, lists included, in order."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        values = values.values()
    elif not isinstance(values, (tuple, list)):
        return []
    return [tensor for value in values for tensor in tensors_of(value)]
