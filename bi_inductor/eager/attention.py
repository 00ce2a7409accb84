"""``F.scaled_dot_product_attention`` in eager mode: taken whole, as the compiler takes it.

By the time the mode meets an op, torch has chosen one of its kernels by device, dtype and mask, or the formula of
products and a softmax (float32 with ``enable_gqa`` on CUDA), whose bits are those of no attention kernel.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from bi_inductor import _torch
from bi_inductor.attention import attention

SDPA = torch.ops.aten.scaled_dot_product_attention.default
#: above autograd: our op brings its own gradient
_KEYS = ("AutogradCPU", "AutogradCUDA", "AutogradMPS")


@functools.lru_cache(maxsize=1)
def watch(is_on: Callable[[], bool]) -> torch.library.Library:
    """Have every call of the function ask first, for good; ``is_on`` tells whether this thread is in the mode."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if is_on() and takes(*args, **kwargs) and not _torch.has_fake(args, kwargs):
            return attention(*args, **kwargs)
        return SDPA.decompose(*args, **kwargs)

    library = torch.library.Library("aten", "IMPL")
    for key in _KEYS:
        library.impl("scaled_dot_product_attention", run, key)
    return library


def takes(*args: Any, dropout_p: float = 0.0, **_: Any) -> bool:
    """Whether a call is one for the template: dropout is not, its numbers follow the place in the batch."""
    return (args[4] if len(args) > 4 else dropout_p) == 0
