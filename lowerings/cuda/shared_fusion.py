"""Products that follow one another with one input become ``shared_mm``: q, k and v, or gate and up. The bits of ``mm``."""

import operator
from collections.abc import Hashable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from lowerings.cuda.fusion import value_of
from lowerings.cuda.schedules import STREAMED

_aten = torch.ops.aten
_ours = torch.ops.bi_inductor
_HALVES = (torch.bfloat16, torch.float16)
#: products of one input with another of these between them stay apart: their results would live longer
_APART = (_ours.mm.default, _ours.bmm.default, _ours.grouped_mm.default, _ours.attention.default)
_MOST = 3


def share(gm: GraphModule) -> None:
    """Put ``shared_mm`` where its parts stand, in place."""
    groups: list[list[Node]] = []
    last: Hashable = None
    for node in gm.graph.nodes:
        if node.op != "call_function" or node.target not in _APART:
            continue
        key = _input_of(node)
        if key is not None and key == last and len(groups[-1]) < _MOST:
            groups[-1].append(node)
        else:
            groups.append([node])
        last = key
    shared = [group for group in groups if len(group) > 1]
    for group in shared:
        _replace(gm, group)
    if shared:
        gm.graph.eliminate_dead_code()
        gm.recompile()


def _input_of(product: Node) -> Hashable:
    """What a product that can be shared has in common with others: its input, and the plan."""
    if product.target is not _ours.mm.default or set(product.kwargs) != {"split_size"}:
        return None
    if len(product.args) != 2 or _weight(product) is None:
        return None
    a = _node(product.args[0])
    value = value_of(a)
    if value.device.type != "cuda" or value.dtype not in _HALVES or value.stride(1) != 1:
        return None
    rows = value.shape[0]
    if isinstance(rows, int) and rows > STREAMED[-1][0]:
        return None
    # each product has a view of its own
    while a.target is _aten.view.default:
        a = _node(a.args[0])
    return a, value.shape, value.stride(), product.kwargs["split_size"]


def _weight(product: Node) -> Node | None:
    """The input ``w [N, K]`` of the graph whose transpose is multiplied, K side by side."""
    transposed = _node(product.args[1])
    if transposed.target is not _aten.permute.default or list(transposed.args[1]) != [1, 0]:  # type: ignore[arg-type]
        return None
    weight = _node(transposed.args[0])
    return weight if weight.op == "placeholder" and value_of(weight).stride(1) == 1 else None


def _replace(gm: GraphModule, group: list[Node]) -> None:
    first = group[0]
    weights = [_weight(product) for product in group]
    values = [*(value_of(product) for product in group), value_of(first).new_empty((0,))][:_MOST]
    # inputs of the graph stand in front of everything
    with gm.graph.inserting_before(first):
        made = gm.graph.call_function(
            _ours.shared_mm.default,
            (first.args[0], *weights),
            {"split_size": first.kwargs["split_size"]},
        )
        parts = [gm.graph.call_function(operator.getitem, (made, i)) for i in range(_MOST)]
    made.meta = {**first.meta, "val": tuple(values)}
    for part, value in zip(parts, values, strict=True):
        part.meta = {**first.meta, "val": value}
    for product, part in zip(group, parts, strict=False):
        part.meta = {**product.meta}
        product.replace_all_uses_with(part)


def _node(x: Any) -> Node:
    assert isinstance(x, Node)
    return x
