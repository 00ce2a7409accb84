"""Single ops and switches under the names of deterministic-llm."""

import contextlib
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from bi_inductor.eager import batch_invariant_mode, is_batch_invariant_mode_enabled

get_batch_invariant_mode = is_batch_invariant_mode_enabled


def deterministic_inference_mode() -> contextlib.AbstractContextManager[None]:
    """Return a context in which ops go through the templates."""
    return batch_invariant_mode()


def register_batch_invariant_ops() -> None:
    """Do nothing: ops are found by the mode when they are called."""


@batch_invariant_mode()
def batch_invariant_layernorm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Layer norm of ``x [..., *normalized_shape]``."""
    return F.layer_norm(x, list(normalized_shape), weight, bias, eps)


@batch_invariant_mode()
def batch_invariant_rmsnorm(
    x: Tensor,
    normalized_shape: Sequence[int] | None = None,
    weight: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """RMS norm of ``x [..., *normalized_shape]``; by default over the last dim."""
    return F.rms_norm(x, list(normalized_shape or x.shape[-1:]), weight, eps)


@batch_invariant_mode()
def batch_invariant_gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """GELU, element by element; ``approximate`` is "none" or "tanh"."""
    return F.gelu(x, approximate=approximate)


@batch_invariant_mode()
def batch_invariant_matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` with the broadcasting of ``torch.matmul``."""
    return a @ b
