"""Apple GPUs: plans in ``plans.py``, Metal text in ``kernels``, launchers in the other files."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch


def implementations() -> dict[str, Callable[..., Any]]:
    """Name in ``torch.ops.bi_inductor`` -> launcher; an op that is not here is not available on mps."""
    from lowerings.mps import (
        attention,
        convolution,
        matmul,
        norm,
        order,
        reduction,
        scan,
        scatter,
        softmax,
    )

    return {
        "mm": matmul.mm,
        "bmm": matmul.bmm,
        "convolution": convolution.convolution,
        "attention": attention.attention,
        "reduction": reduction.reduction,
        "var_mean": reduction.var_mean,
        "softmax": softmax.softmax,
        "layer_norm": norm.layer_norm,
        "rms_norm": norm.rms_norm,
        "scan": scan.scan,
        "grouped_mm": order.grouped_mm,
        "avg_pool": order.avg_pool,
        "topk": order.topk,
        "scatter_add": scatter.scatter_add,
        "index_add": scatter.index_add,
        "index_put_add": scatter.index_put_add,
        "embedding_bag": scatter.embedding_bag,
    }


@lru_cache(maxsize=1)
def load() -> torch.library.Library:
    """Register the launchers for mps tensors, once a process; needs no Mac, only running them does."""
    import bi_inductor.fakes  # noqa: F401
    from lowerings.mps.fallback import routed

    library = torch.library.Library("bi_inductor", "IMPL", "MPS")  # type: ignore[no-untyped-call]
    for name, launcher in implementations().items():
        library.impl(name, routed(name, launcher))  # type: ignore[no-untyped-call]
    return library
