"""Functions that eager mode takes whole, as the compiler does, where torch would choose what they are made of.

By the time the mode meets an op, torch has chosen an attention kernel by device, dtype and mask, or its formula
(float32 with ``enable_gqa`` on CUDA), has added the bias of ``linear`` inside or behind its product, and has given an
LSTM to a library.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

from bi_inductor import _torch
from bi_inductor.attention import attention
from bi_inductor.composites import COMPOSITES

_aten = torch.ops.aten
SDPA = _aten.scaled_dot_product_attention.default
#: above autograd: their parts bring their own gradients
_KEYS = ("AutogradCPU", "AutogradCUDA", "AutogradMPS")
#: opened by torch itself, in Python, into products and pointwise ops
_RECURRENT = tuple(
    overload
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
    for overload in (getattr(_aten, name).input, getattr(_aten, name).data)
)


def sdpa(*args: Any, **kwargs: Any) -> Any:
    """Attention through its template; dropout is left to torch, its numbers follow the place in the batch."""
    dropout = args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)
    return attention(*args, **kwargs) if dropout == 0 else SDPA.decompose(*args, **kwargs)


#: op -> what runs instead
TAKEN: dict[OpOverload, Callable[..., Any]] = {
    SDPA: sdpa,
    **{op: op.decompose for op in _RECURRENT},
    **COMPOSITES,
}


@functools.lru_cache(maxsize=1)
def watch(is_on: Callable[[], bool]) -> torch.library.Library:
    """Have every call of these functions ask first, for good; ``is_on`` tells whether this thread is in the mode.

    From then on a call outside of the mode takes a way through Python to what torch does.
    """

    def asking(op: OpOverload, ours: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(x, _torch.TRACED) for x in tree_leaves((args, kwargs))):
                return op.decompose(*args, **kwargs)  # a compilation, which has its own say
            if is_on():
                return ours(*args, **kwargs)
            return _torch.open_composite(op, *args, **kwargs)

        return run

    library = torch.library.Library("aten", "IMPL")
    for op, ours in TAKEN.items():
        for key in _KEYS:
            library.impl(op, asking(op, ours), key)
    return library
