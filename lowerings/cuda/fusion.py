"""Fusions over the rewritten graph: fewer launches and less memory traffic, the same bits.

An RMS norm behind a residual add is two launches here, and three where a model spells the norm out (float32 copy, mean of
squares, reciprocal root, product, rounding, weight); stock Inductor has one, and so has ``add_rms_norm``. Eager code
runs the parts, so every rounding of theirs stays.
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
    """``last`` = weight * x / rms(x), found at ``place``; x is ``left + right`` if ``right`` is given.

    ``rounded``: before the product with the weight as well; ``fma``: squares are added unrounded.
    """

    x: Node
    left: Node
    right: Node | None
    weight: Node | None
    eps: float
    fma: bool
    rounded: bool
    lanes: Any
    place: Node
    last: Node


def fuse(gm: GraphModule) -> None:
    """Put ``add_rms_norm`` where its parts stand, in place; values that somebody else reads stay as they are."""
    matchers = {_ours.reduction.default: _spelled_out, _ours.rms_norm.default: _whole}
    found = False
    for node in list(gm.graph.nodes):
        match = matchers.get(node.target)
        # one by one: the sum of one norm is a summand of the next
        norm = match(node) if match is not None else None
        if norm is not None:
            _replace(gm, norm)
            found = True
    if found:
        gm.graph.eliminate_dead_code()
        gm.recompile()


def _whole(norm: Node) -> _Norm | None:
    """``rms_norm`` behind a residual add; alone it is one launch already."""
    x, shape, weight, eps = _args(norm)
    left, right = _summands(x)
    value = value_of(x)
    if right is None or len(shape) != 1 or value.device.type != "cuda" or not value.is_contiguous():
        return None
    if weight is not None and not (_is_input(weight) and value_of(weight).dtype == value.dtype):
        return None
    parts = list(norm.users)
    if len(parts) != 1 or not _is(parts[0], operator.getitem) or _args(parts[0])[1] != 0:
        return None
    return _Norm(
        x=x,
        left=left,
        right=right,
        weight=weight,
        eps=eps,
        fma=True,
        rounded=False,
        lanes=norm.kwargs["lanes"],
        place=norm,
        last=parts[0],
    )


def _spelled_out(mean: Node) -> _Norm | None:
    """The norm whose mean of squares is ``mean``, read upwards to its input and downwards to its result."""
    squares, kind, dims, keepdim = (*_args(mean), False)[:4]
    if kind != "mean" or not keepdim or not _is(squares, _aten.pow.Tensor_Scalar):
        return None
    wide, exponent = _args(squares)
    value = value_of(wide)
    if exponent != 2 or value.dtype != torch.float32 or set(mean.kwargs) != {"lanes"}:
        return None
    if value.device.type != "cuda" or list(dims) not in ([-1], [value.dim() - 1]):
        return None
    added = _only_user(mean, _aten.add.Tensor) or _only_user(mean, _aten.add.Scalar)
    root = _only_user(added, _aten.rsqrt.default)
    scaled = _only_user(root, _aten.mul.Tensor)
    if len(squares.users) > 1 or added is None or scaled is None or added.kwargs:
        return None
    eps = _args(added)[1]
    if not isinstance(eps, float) or set(_args(scaled)) != {wide, root}:
        return None
    x, weight, last, rounded = _ends(wide, squares, scaled)
    if not value_of(x).is_contiguous():
        return None
    left, right = _summands(x)
    return _Norm(
        x=x,
        left=left,
        right=right,
        weight=weight,
        eps=eps,
        fma=False,
        rounded=rounded,
        lanes=mean.kwargs["lanes"],
        place=mean,
        last=last,
    )


def _ends(wide: Node, squares: Node, scaled: Node) -> tuple[Node, Node | None, Node, bool]:
    """The norm's input before the cast to float32, weight, result, and whether a cast stands before the weight."""
    if not _is(wide, _cast) or set(wide.users) != {squares, scaled}:
        return wide, *_weighted(scaled, torch.float32), False
    x: Node = _args(wide)[0]
    dtype = value_of(x).dtype
    back = _only_user(scaled, _cast)
    if back is not None and value_of(back).dtype == dtype:
        return x, *_weighted(back, dtype), True
    weight, product = _weighted(scaled, torch.float32)
    back = _only_user(product, _cast)
    if weight is not None and back is not None and value_of(back).dtype == dtype:
        return x, weight, back, False
    return wide, *_weighted(scaled, torch.float32), False


def _weighted(norm: Node, dtype: torch.dtype) -> tuple[Node | None, Node]:
    """The weight, and its product with ``norm`` in ``dtype``, if that is all that happens to the norm."""
    product = _only_user(norm, _aten.mul.Tensor)
    for weight in _args(product) if product is not None else ():
        if product is None or weight is norm or not _is_input(weight):
            continue
        if value_of(product).dtype == dtype and tuple(value_of(weight).shape) == (
            value_of(norm).shape[-1],
        ):
            return weight, product
    return None, norm


def _summands(x: Node) -> tuple[Node, Node | None]:
    """Both sides of a residual add of equal shapes, or x itself."""
    if _is(x, _aten.add.Tensor) and not x.kwargs:
        left, right = _args(x)
        if all(_like(side, value_of(x)) for side in (left, right)):
            return left, right
    return x, None


def _replace(gm: GraphModule, norm: _Norm) -> None:
    x = value_of(norm.x)
    values = x.new_empty(x.shape), x.new_empty((0,) if norm.right is None else x.shape)
    # the sum has users before the norm; placeholders stay in front
    with gm.graph.inserting_before(norm.place if norm.right is None else norm.x.next):
        made = gm.graph.call_function(
            _ours.add_rms_norm.default,
            (norm.left, norm.right, norm.weight, norm.eps),
            {"fma": norm.fma, "rounded": norm.rounded, "lanes": norm.lanes},
        )
        out, total = (gm.graph.call_function(operator.getitem, (made, i)) for i in range(2))
    made.meta = {**norm.place.meta, "val": values}
    for node, value in zip((out, total), values, strict=True):
        node.meta = {**norm.place.meta, "val": value}
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


def value_of(node: Node) -> Tensor:
    """Return the fake tensor of a node."""
    value: Tensor = node.meta["val"]
    return value


def _like(node: object, other: Tensor) -> bool:
    value = node.meta.get("val") if isinstance(node, Node) else None
    if not isinstance(value, Tensor):
        return False
    same = value.dtype == other.dtype and value.device == other.device
    return same and value.shape == other.shape
