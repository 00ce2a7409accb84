"""``flex_attention`` through our own ops: a mask alone is an attention, a score function goes between two products.

Replaced in the Dynamo graph, like ``F.scaled_dot_product_attention``. The block lists of a ``BlockMask`` only say
which blocks to skip; its ``mask_mod`` decides, so the bits do not follow how a batch was cut into blocks.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from bi_inductor import _torch
from bi_inductor.attention import attention

Mod = Callable[..., Tensor]
#: tensors that a score or mask function captures
Buffers = tuple[Any, ...]


def open_flex_attention(gm: GraphModule) -> bool:
    """Replace every ``flex_attention`` node of a Dynamo graph in place; whether there was one."""
    nodes = gm.graph.find_nodes(op="call_function", target=_torch.flex_attention)
    for node in nodes:
        query, key, value, score_mod, block_mask, scale, _options, *buffers = node.args
        score_buffers, mask_buffers = (*buffers, (), ())[:2]
        mask = (block_mask[-1], mask_buffers)
        wanted = {u.args[1] for u in node.users if u.target is operator.getitem}
        # (out, lse, max_scores): an attention op makes the first only
        if wanted == {0} and len(node.users) == 1 and _is_identity(getattr(gm, score_mod.target)):
            node.target, node.args = _masked, (query, key, value, *mask, scale)
        else:
            node.target = _scored
            node.args = (query, key, value, score_mod, score_buffers, *mask, scale)
    return bool(nodes)


def _is_identity(mod: Any) -> bool:
    """Whether a score function hands its score on: ``flex_attention(q, k, v, block_mask=...)``."""
    if not isinstance(mod, GraphModule):
        return False
    nodes = list(mod.graph.nodes)
    return nodes[-1].args[0] is nodes[0]


def _masked(
    query: Tensor, key: Tensor, value: Tensor, mask_mod: Mod, mask_buffers: Buffers, scale: float
) -> tuple[Tensor]:
    """Masked attention: query ``[B, H, Lq, D]``, key ``[B, Hk, Lk, D]``, value ``[B, Hk, Lk, Dv]``."""
    mask = _mask(query, key, mask_mod, mask_buffers)
    key, value = (t.expand(query.shape[0], -1, -1, -1) for t in (key, value))
    return (attention(query, key, value, mask, scale=scale, enable_gqa=True),)


def _scored(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Mod,
    score_buffers: Buffers,
    mask_mod: Mod,
    mask_buffers: Buffers,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores as a tensor ``[B, H, Lq, Lk]`` in float32 (float64 for float64), log-sum-exp and maximum in base 2."""
    groups = query.shape[1] // key.shape[1]
    key, value = (
        t.expand(query.shape[0], -1, -1, -1).repeat_interleave(groups, 1) for t in (key, value)
    )
    working = torch.float64 if query.dtype == torch.float64 else torch.float32
    scores = torch.matmul(query.to(working), key.to(working).transpose(-2, -1)) * scale
    with _torch.TransformGetItemToIndex():
        mapped = _torch.vmap_for_bhqkv(score_mod, prefix=(0,), suffix=(None,) * len(score_buffers))
        scores = mapped(scores, *_indices(query, key), *score_buffers).to(working)
    mask = _mask(query, key, mask_mod, mask_buffers)
    scores = torch.where(mask, scores, -math.inf)
    top = scores.amax(-1)
    # a row without a key: zero, not NaN
    seen = top != -math.inf
    weights = torch.where(seen.unsqueeze(-1), torch.softmax(scores, -1), 0.0)
    lse = torch.where(seen, torch.logsumexp(scores, -1), -math.inf)
    out = torch.matmul(weights, value.to(working)).to(query.dtype)
    return out, lse / math.log(2), top / math.log(2)


def _mask(query: Tensor, key: Tensor, mask_mod: Mod, buffers: Buffers) -> Tensor:
    """True where a key takes part, ``[B, H, Lq, Lk]``."""
    with _torch.TransformGetItemToIndex():
        mapped = _torch.vmap_for_bhqkv(mask_mod, prefix=(), suffix=(None,) * len(buffers))
        return mapped(*_indices(query, key), *buffers)


def _indices(query: Tensor, key: Tensor) -> tuple[Tensor, ...]:
    extents = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    return tuple(torch.arange(size, device=query.device) for size in extents)
