"""Attention under the names of batch_invariant_ops' attention experiment."""

import threading
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from bi_inductor.attention import attention
from bi_inductor.eager import batch_invariant_mode

_STOCK = F.scaled_dot_product_attention
_LOCK = threading.Lock()


def batch_invariant_scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> Tensor:
    """``F.scaled_dot_product_attention`` through the attention template; the signature and shapes are torch's.

    Raises:
        ValueError: ``dropout_p`` is not 0.
    """
    if dropout_p:
        raise ValueError(
            f"dropout_p={dropout_p} draws random numbers by position in the batch; pass 0.0, as model.eval() does"
        )
    with batch_invariant_mode():
        return attention(query, key, value, attn_mask, 0.0, is_causal, **kwargs)


def register_batch_invariant_attention() -> None:
    """Let ``F.scaled_dot_product_attention`` be ours, in the whole process."""
    with _LOCK:
        F.scaled_dot_product_attention = batch_invariant_scaled_dot_product_attention  # type: ignore[assignment]


def unregister_batch_invariant_attention() -> None:
    """Undo ``register_batch_invariant_attention``."""
    with _LOCK:
        F.scaled_dot_product_attention = _STOCK
