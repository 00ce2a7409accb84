"""Fusions over the rewritten graph: fewer launches and less memory traffic, the same bits.

The norm that models spell out (residual add, float32 copy, mean of squares, reciprocal root, product, rounding, weight) is
three launches here where stock Inductor has one, since our sums are kernels of their own; ``add_rms_norm`` is one. Eager
code runs the parts, so every rounding of theirs stays.
"""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

_aten = torch.ops.aten
_ours = torch.ops.bi_inductor
_cast = torch.ops.prims.convert_element_type.default


@dataclass(frozen=True, slots=True, kw_only=True)
class _Norm:
    """``last`` = weight * rounded(x / rms(x)); x is ``left + right`` if ``right`` is given."""

    x: Node
    weight: Node | None
    eps: float
    lanes: int
    last: Node
    left: Node
    right: Node | None


def fuse(gm: GraphModule) -> None:
    """Put ``add_rms_norm`` where its parts stand, in place; values that somebody else reads stay as they are."""
    found = False
    for node in gm.graph.find_nodes(op="call_function", target=_ours.reduction.default):
        norm = _match(node)
        if norm is not None:
            _replace(gm, node, norm)
            found = True
    if found:
        gm.graph.eliminate_dead_code()
        gm.recompile()


def _match(mean: Node) -> _Norm | None:
    """The norm whose mean of squares is ``mean``, read upwards to its input and downwards to its result."""
    squares, kind, dims, keepdim = (*_args(mean), False)[:4]
    if kind != "mean" or not keepdim or not _is(squares, _aten.pow.Tensor_Scalar):
        return None
    wide, exponent = _args(squares)
    value = _value(wide)
    if exponent != 2 or value.dtype != torch.float32 or set(mean.kwargs) != {"lanes"}:
        return None
    if value.device.type != "cuda" or list(dims) not in ([-1], [value.dim() - 1]):
        return None
    added = _only_user(mean, _aten.add.Tensor)
    root = _only_user(added, _aten.rsqrt.default)
    scaled = _only_user(root, _aten.mul.Tensor)
    if len(squares.users) > 1 or added is None or scaled is None or added.kwargs:
        return None
    eps = _args(added)[1]
    if not isinstance(eps, float) or set(_args(scaled)) != {wide, root}:
        return None
    x, last = _narrow(wide, squares, scaled)
    if not _value(x).is_contiguous():
        return None
    weight, last = _weighted(x, last)
    left, right = _summands(x)
    lanes: Any = mean.kwargs["lanes"]
    return _Norm(x=x, weight=weight, eps=eps, lanes=lanes, last=last, left=left, right=right)


def _narrow(wide: Node, squares: Node, scaled: Node) -> tuple[Node, Node]:
    """The norm's own input and result: before the cast to float32 and after the cast back."""
    back = _only_user(scaled, _cast)
    if back is not None and _is(wide, _cast) and set(wide.users) == {squares, scaled}:
        x: Node = _args(wide)[0]
        if _value(x).dtype == _value(back).dtype:
            return x, back
    return wide, scaled


def _weighted(x: Node, last: Node) -> tuple[Node | None, Node]:
    """The weight that the result is multiplied by, if that is all that happens to it."""
    product = _only_user(last, _aten.mul.Tensor)
    for weight in _args(product) if product is not None else ():
        if product is None or weight is last or not _is_input(weight):
            continue
        value = _value(weight)
        if value.dtype == _value(x).dtype and tuple(value.shape) == (_value(x).shape[-1],):
            return weight, product
    return None, last


def _summands(x: Node) -> tuple[Node, Node | None]:
    """Both sides of a residual add of equal shapes, or x itself."""
    if _is(x, _aten.add.Tensor) and not x.kwargs:
        left, right = _args(x)
        if all(_like(side, _value(x)) for side in (left, right)):
            return left, right
    return x, None


def _replace(gm: GraphModule, mean: Node, norm: _Norm) -> None:
    x = _value(norm.x)
    values = x.new_empty(x.shape), x.new_empty((0,) if norm.right is None else x.shape)
    # the sum has users before the norm; placeholders stay in front
    with gm.graph.inserting_before(mean if norm.right is None else norm.x.next):
        made = gm.graph.call_function(
            _ours.add_rms_norm.default,
            (norm.left, norm.right, norm.weight, norm.eps),
            {"lanes": norm.lanes},
        )
        out, total = (gm.graph.call_function(operator.getitem, (made, i)) for i in range(2))
    made.meta = {**mean.meta, "val": values}
    for node, value in zip((out, total), values, strict=True):
        node.meta = {**mean.meta, "val": value}
    norm.last.replace_all_uses_with(out)
    if norm.right is not None:
        norm.x.replace_all_uses_with(total)


def _args(node: Node) -> tuple[Any, ...]:
    return tuple(node.args)


def _is(node: object, target: object) -> bool:
    return isinstance(node, Node) and node.target is target


def _is_input(node: object) -> bool:
    return isinstance(node, Node) and node.op == "placeholder"


def _only_user(node: Node | None, target: object) -> Node | None:
    users = list(node.users) if node is not None else []
    return users[0] if len(users) == 1 and _is(users[0], target) else None


def _value(node: Node) -> Tensor:
    value: Tensor = node.meta["val"]
    return value


def _like(node: object, other: Tensor) -> bool:
    value = node.meta.get("val") if isinstance(node, Node) else None
    if not isinstance(value, Tensor):
        return False
    same = value.dtype == other.dtype and value.device == other.device
    return same and value.shape == other.shape
