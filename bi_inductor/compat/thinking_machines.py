"""Switches and ops under the names of thinking-machines' batch_invariant_ops."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bi_inductor.eager import batch_invariant_mode, set_batch_invariant_mode


class AttentionBlockSize(NamedTuple):
    """Tile of an attention kernel along queries and keys."""

    block_m: int
    block_n: int


def enable_batch_invariant_mode() -> None:
    """Switch the mode of this thread on."""
    set_batch_invariant_mode(True)


def disable_batch_invariant_mode() -> None:
    """Switch the mode of this thread off."""
    set_batch_invariant_mode(False)


def get_batch_invariant_attention_block_size() -> AttentionBlockSize:
    """Return the tile that callers pass to kernels of their own; ours needs none."""
    return AttentionBlockSize(block_m=16, block_n=16)


@batch_invariant_mode()
def matmul_persistent(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a [M, K] @ b [K, N]``, plus ``bias [N]``."""
    return a @ b if bias is None else torch.addmm(bias, a, b)


@batch_invariant_mode()
def log_softmax(input: Tensor, dim: int = -1) -> Tensor:
    """Log-softmax along any dim."""
    return input.log_softmax(dim)


@batch_invariant_mode()
def mean_dim(
    input: Tensor, dim: int | Sequence[int], keepdim: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """Mean over one dim or several, rounded once to ``dtype``."""
    dims = [dim] if isinstance(dim, int) else list(dim)
    return input.mean(dims, keepdim=keepdim, dtype=dtype)
