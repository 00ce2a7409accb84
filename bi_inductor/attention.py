"""``F.scaled_dot_product_attention`` as one op of ours, with its gradient. ``flex_attention`` has its own file.

It is replaced in the Dynamo graph: below AOTAutograd it has already become a library call of one device.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

import bi_inductor.fakes  # noqa: F401  (shapes are needed to trace the op)
from bi_inductor.ops import _LIB

_SDPA = torch.nn.functional.scaled_dot_product_attention
#: split_size of an attention that the planner has not seen yet
UNPLANNED = 0


def open_attention(gm: GraphModule) -> GraphModule:
    """Replace ``F.scaled_dot_product_attention`` without dropout and ``flex_attention``; changes ``gm`` in place."""
    from bi_inductor.flex_attention import open_flex_attention  # which calls ``attention`` below

    changed = open_flex_attention(gm)
    for node in gm.graph.find_nodes(op="call_function", target=_SDPA):
        dropout = node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)
        if isinstance(dropout, (int, float)) and dropout == 0:
            node.target, changed = attention, True
    if changed:
        gm.recompile()
    return gm


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The signature and semantics of ``F.scaled_dot_product_attention``, through our op.

    Args:
        query: ``[..., H, Lq, D]``; key ``[..., Hk, Lk, D]``, value ``[..., Hk, Lk, Dv]``.
        attn_mask: boolean (True takes part) or additive, broadcastable to ``[..., H, Lq, Lk]``.
        dropout_p: 0; a graph with dropout is not opened.
        is_causal: query i sees the keys up to i.
        scale: default ``1 / sqrt(D)``.
        enable_gqa: ``H`` may be a multiple of ``Hk``.
    """
    lead = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    q, k, v = (_four_dims(t, lead) for t in (query, key, value))
    mask = None if attn_mask is None else _mask_of(attn_mask, lead, query)
    if not enable_gqa and q.shape[1] != k.shape[1]:
        heads = max(q.shape[1], k.shape[1])
        q, k, v = (t.expand(-1, heads, -1, -1) for t in (q, k, v))
    out, _lse = torch.ops.bi_inductor.attention(
        q, k, v, mask, is_causal=is_causal, scale=scale, split_size=UNPLANNED
    )
    if query.dim() == 4:
        return out
    if query.dim() < 4:
        return out.reshape(*query.shape[:-1], value.shape[-1])
    return out.reshape(*lead, *out.shape[1:])


def _four_dims(x: Tensor, lead: torch.Size) -> Tensor:
    if x.dim() == 4:
        return x if x.shape[:1] == lead else x.expand(*lead, *x.shape[1:])
    if x.dim() < 4:
        # [B, L, D]: one head; [L, D]: one head of one sample
        return x.unsqueeze(-3) if x.dim() == 3 else x[None, None]
    return x.expand(*lead, *x.shape[-3:]).reshape(-1, *x.shape[-3:])


def _mask_of(mask: Tensor, lead: torch.Size, query: Tensor) -> Tensor:
    if query.dim() == 3 and mask.dim() == 3:
        return mask.unsqueeze(1)
    if query.dim() > 4 and mask.dim() > 3:
        return mask.expand(*lead, *mask.shape[-3:]).reshape(-1, *mask.shape[-3:])
    return mask


def _setup_context(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: Any, output: Any
) -> None:
    q, k, v, mask = inputs
    out, lse = output
    ctx.save_for_backward(q, k, v, mask, out, lse)
    ctx.is_causal, ctx.scale = keyword_only_inputs["is_causal"], keyword_only_inputs["scale"]
    ctx.mark_non_differentiable(lse)


def _backward(ctx: Any, grad_out: Tensor, _grad_lse: Tensor) -> tuple[Tensor | None, ...]:
    """Recompute the probabilities from ``lse``; sums and products go through the planner like any others."""
    q, k, v, mask, out, lse = ctx.saved_tensors
    scale = 1 / math.sqrt(q.shape[-1]) if ctx.scale is None else ctx.scale
    groups = q.shape[1] // k.shape[1]
    kk, vv = (t.repeat_interleave(groups, 1) if groups > 1 else t for t in (k, v))
    acc = lse.dtype
    q32, k32, v32, g32 = (t.to(acc) for t in (q, kk, vv, grad_out))
    scores = torch.matmul(q32, k32.transpose(-2, -1)) * scale
    keep = None
    if mask is not None:
        if mask.dtype == torch.bool:
            keep = mask
        else:
            scores = scores + mask.to(acc)
    if ctx.is_causal:
        rows = torch.arange(q.shape[-2], device=q.device)[:, None]
        causal = torch.arange(k.shape[-2], device=q.device)[None, :] <= rows
        keep = causal if keep is None else keep & causal
    p = torch.exp(scores - lse.unsqueeze(-1))
    p = torch.where(torch.isfinite(lse).unsqueeze(-1), p, 0.0)
    if keep is not None:
        p = torch.where(keep, p, 0.0)
    delta = (g32 * out.to(acc)).sum(-1, keepdim=True)
    d_scores = p * (torch.matmul(g32, v32.transpose(-2, -1)) - delta)
    d_q = torch.matmul(d_scores, k32) * scale
    d_k = _fold_heads(torch.matmul(d_scores.transpose(-2, -1), q32) * scale, groups)
    d_v = _fold_heads(torch.matmul(p.transpose(-2, -1), g32), groups)
    d_mask = None
    if mask is not None and ctx.needs_input_grad[3]:
        d_mask = d_scores.sum_to_size(mask.shape).to(mask.dtype)
    return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), d_mask


def _fold_heads(x: Tensor, groups: int) -> Tensor:
    return x.unflatten(1, (-1, groups)).sum(2) if groups > 1 else x


torch.library.register_autograd(
    "bi_inductor::attention", _backward, setup_context=_setup_context, lib=_LIB
)
