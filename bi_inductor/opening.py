"""What is settled in a graph before it is planned: a norm's epsilon, and key heads that a model wrote out.

Neither changes a bit: the epsilon is guarded, and an attention of fewer key heads is the same sum.
"""

import operator
import sys
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from bi_inductor import _torch

_aten = torch.ops.aten
_ROOTS = (torch.rsqrt, "rsqrt", torch.sqrt, "sqrt")
_ADDS = (operator.add, operator.iadd, torch.add, "add")


def settle_epsilons(gm: GraphModule) -> None:
    """Let Dynamo trace again with every norm's epsilon as a constant, where ``dynamic=True`` made it an input.

    As an input it costs a tensor a call, and hides the norm from ``lowerings.cuda.fusion``.
    """
    _torch.trace_again_with_constants(
        node
        for node in gm.graph.find_nodes(op="call_method", target="item")
        if node.users and all(_ends_in_a_root(user) for user in node.users)
    )


def _ends_in_a_root(node: Node) -> bool:
    return node.target in _ADDS and bool(node.users) and all(u.target in _ROOTS for u in node.users)


def share_heads(graph: Graph) -> None:
    """Hand attention the keys and values that a model repeated for every query head of their group, in place."""
    changed = False
    for node in graph.find_nodes(
        op="call_function", target=torch.ops.bi_inductor.attention.default
    ):
        given = node.args[1:3]
        keys, values = map(_repeated, given)
        # both from as many heads; sizes may be symbols
        if keys is None or values is None or _heads(keys) != _heads(values):
            continue
        for wide, shared in zip(given, (keys, values), strict=True):
            node.replace_input_with(wide, shared)
        changed = True
    if changed:
        graph.eliminate_dead_code()


def _heads(x: Node) -> Any:
    return x.meta["val"].shape[1]


def _repeated(x: Any) -> Node | None:
    """``x [B, Hk, L, D]`` of what is ``x [B, Hk * n, L, D]`` with every head n times."""
    if x.op != "call_function" or x.target not in (_aten.view.default, _aten._unsafe_view.default):
        return None
    inner = x.args[0]
    if inner.target is _aten.clone.default:
        inner = inner.args[0]
    if inner.target is not _aten.expand.default:
        return None
    unsqueezed = _whole(inner.args[0])
    if unsqueezed.target is not _aten.unsqueeze.default:
        return None
    source, dim = _whole(unsqueezed.all_input_nodes[0]), unsqueezed.args[1]
    shape, wide = source.meta["val"].shape, x.meta["val"].shape
    if len(shape) != 4 or dim != 2 or (wide[0], *wide[2:]) != (shape[0], *shape[2:]):
        return None
    return source


def _whole(x: Node) -> Node:
    """``x`` before slices that keep all of it, as ``x[:, :, None, :, :]`` leaves four of."""
    while x.target is _aten.slice.Tensor and _keeps_all(*x.args[2:]):
        x = x.all_input_nodes[0]
    return x


def _keeps_all(start: Any = None, end: Any = None, step: Any = 1) -> bool:
    return start in (0, None) and end in (sys.maxsize, None) and step == 1
