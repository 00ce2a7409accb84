"""torch's fused ``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer`` of inference, opened into ops with a template.

Both modules call one kernel of a device in eval mode without gradients, whose order of additions follows the batch.
"""

import torch
from torch import Tensor
from torch.nn import functional

from bi_inductor.attention import attention


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Tensor, Tensor]:
    """``aten._native_multi_head_attention``: the output ``[B, Lq, E]`` and, if wanted, the weights of the keys.

    Args:
        query: ``[B, Lq, E]``; key and value ``[B, Lk, E]``.
        qkv_weight: ``[3E, E]``; qkv_bias ``[3E]``; proj_weight ``[E, E]``; proj_bias ``[E]``.
        mask: True where a key is left out, or additive; ``[Lq, Lk]``, ``[B, Lk]`` or ``[B, H, Lq, Lk]``.
        mask_type: 0, 1 or 2, which of these shapes.
    """
    weights, biases = qkv_weight.chunk(3), qkv_bias.chunk(3)
    q, k, v = (
        functional.linear(x, w, b).unflatten(-1, (num_head, -1)).transpose(1, 2)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    added = _additive(mask, mask_type, q.dtype)
    if need_weights:
        scores = torch.matmul(q * (embed_dim // num_head) ** -0.5, k.transpose(-2, -1))
        shares = torch.softmax(scores if added is None else scores + added, -1)
        heads = torch.matmul(shares, v)
        shares = shares.mean(1) if average_attn_weights else shares
    else:
        heads, shares = attention(q, k, v, added), query.new_empty(0)
    return functional.linear(heads.transpose(1, 2).flatten(2), proj_weight, proj_bias), shares


def encoder_layer(
    src: Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Tensor,
    norm_bias_1: Tensor,
    norm_weight_2: Tensor,
    norm_bias_2: Tensor,
    ffn_weight_1: Tensor,
    ffn_bias_1: Tensor,
    ffn_weight_2: Tensor,
    ffn_bias_2: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:
    """``aten._transformer_encoder_layer_fwd``: attention and feed-forward of ``src [B, L, E]``, each with its norm.

    GELU is the module's own, by erf: torch's kernel on CUDA takes its tanh approximation instead.
    """

    def attended(x: Tensor) -> Tensor:
        out, _ = multi_head_attention(
            *(x, x, x, embed_dim, num_heads, qkv_weight, qkv_bias, proj_weight, proj_bias),
            mask=mask,
            need_weights=False,
            mask_type=mask_type,
        )
        return out

    def fed(x: Tensor) -> Tensor:
        inner = functional.linear(x, ffn_weight_1, ffn_bias_1)
        inner = functional.gelu(inner) if use_gelu else functional.relu(inner)
        return functional.linear(inner, ffn_weight_2, ffn_bias_2)

    def first(x: Tensor) -> Tensor:
        return functional.layer_norm(x, (embed_dim,), norm_weight_1, norm_bias_1, eps)

    def second(x: Tensor) -> Tensor:
        return functional.layer_norm(x, (embed_dim,), norm_weight_2, norm_bias_2, eps)

    if norm_first:
        x = src + attended(first(src))
        return x + fed(second(x))
    x = first(src + attended(src))
    return second(x + fed(x))


def _additive(mask: Tensor | None, mask_type: int | None, dtype: torch.dtype) -> Tensor | None:
    """The mask as numbers to add to scores ``[B, H, Lq, Lk]``."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
    return mask[:, None, None, :] if mask_type == 1 else mask
