"""Binds the launchers to ``torch.ops.bi_inductor.*`` on CUDA."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

import bi_inductor.ops  # noqa: F401  (defines the schemas)
from bi_inductor.errors import UnsupportedDeviceError
from lowerings.cuda import (
    attention,
    convolution,
    matmul,
    norm,
    pool,
    reduction,
    scan,
    scatter,
    shared,
    softmax,
    topk,
)

#: op -> launcher with the op's own arguments
LAUNCHERS: dict[str, Callable[..., Any]] = {
    "mm": matmul.mm,
    "bmm": matmul.bmm,
    "grouped_mm": matmul.grouped_mm,
    "attention": attention.attention,
    "reduction": reduction.reduction,
    "var_mean": reduction.var_mean,
    "softmax": softmax.softmax,
    "layer_norm": norm.layer_norm,
    "rms_norm": norm.rms_norm,
    "add_rms_norm": norm.add_rms_norm,
    "shared_mm": shared.shared_mm,
    "convolution": convolution.convolution,
    "scan": scan.scan,
    "scatter_add": scatter.scatter_add,
    "index_add": scatter.index_add,
    "index_put_add": scatter.index_put_add,
    "embedding_bag": scatter.embedding_bag,
    "avg_pool": pool.avg_pool,
    "topk": topk.topk,
}


@functools.cache
def load() -> torch.library.Library:
    """Register every launcher once per process and return the library that keeps them alive.

    Raises:
        UnsupportedDeviceError: the GPU has no tensor core for bfloat16.
    """
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        raise UnsupportedDeviceError(
            f"{torch.cuda.get_device_name()} has compute capability below 8.0; use a newer GPU"
        )
    library = torch.library.Library("bi_inductor", "IMPL", "CUDA")
    for name, launcher in LAUNCHERS.items():
        library.impl(name, launcher)
    return library


@functools.cache
def python_calls() -> SimpleNamespace:
    """The launchers by the names of their ops, for generated code: no schema, boxes or dispatch, no autograd.

    Raises:
        UnsupportedDeviceError: as ``load``.
    """
    load()
    return SimpleNamespace(**LAUNCHERS)
