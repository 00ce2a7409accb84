"""The names of other batch-invariance libraries, so that switching is one import line.

``thinking_machines.py`` has those of batch_invariant_ops, ``deterministic_llm.py`` those of deterministic-llm, and
``attention.py`` those of its attention experiment. They run our templates; switches act on the calling thread.
"""

from bi_inductor.compat.attention import (
    batch_invariant_scaled_dot_product_attention,
    register_batch_invariant_attention,
    unregister_batch_invariant_attention,
)
from bi_inductor.compat.deterministic_llm import (
    batch_invariant_gelu,
    batch_invariant_layernorm,
    batch_invariant_matmul,
    batch_invariant_rmsnorm,
    deterministic_inference_mode,
    get_batch_invariant_mode,
    register_batch_invariant_ops,
)
from bi_inductor.compat.thinking_machines import (
    AttentionBlockSize,
    disable_batch_invariant_mode,
    enable_batch_invariant_mode,
    get_batch_invariant_attention_block_size,
    log_softmax,
    matmul_persistent,
    mean_dim,
)
from bi_inductor.eager import is_batch_invariant_mode_enabled, set_batch_invariant_mode
from bi_inductor.engine import DeterministicInferenceEngine

__all__ = [
    "AttentionBlockSize",
    "DeterministicInferenceEngine",
    "batch_invariant_gelu",
    "batch_invariant_layernorm",
    "batch_invariant_matmul",
    "batch_invariant_rmsnorm",
    "batch_invariant_scaled_dot_product_attention",
    "deterministic_inference_mode",
    "disable_batch_invariant_mode",
    "enable_batch_invariant_mode",
    "get_batch_invariant_attention_block_size",
    "get_batch_invariant_mode",
    "is_batch_invariant_mode_enabled",
    "log_softmax",
    "matmul_persistent",
    "mean_dim",
    "register_batch_invariant_attention",
    "register_batch_invariant_ops",
    "set_batch_invariant_mode",
    "unregister_batch_invariant_attention",
]
