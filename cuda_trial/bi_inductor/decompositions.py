"""Inductor's decompositions, less those that would open what a plan must see whole."""

from collections.abc import Callable
from typing import Any

import torch

from bi_inductor._torch import select_decomp_table

#: Kept whole, with the reason: matmuls decompose by M or N (to mul + sum); norms, softmax and reductions
#: open into parts whose rounding Inductor may fuse; ordered adds become atomics.
KEPT_WHOLE = (
    "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "vdot", "_grouped_mm", "_scaled_mm",
    "_softmax", "_log_softmax", "native_layer_norm", "_fused_rms_norm",
    "sum", "mean", "prod", "var", "var_mean", "amax", "amin", "any", "all", "argmax", "argmin",
    "linalg_vector_norm",
    "cumsum", "cumprod", "logcumsumexp", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "_embedding_bag", "_embedding_bag_forward_only", "topk", "sort", "index_add", "scatter_add", "scatter_reduce",
    "convolution",
)  # fmt: skip

#: These overloads only forward to the one that a rule names, so they stay opened.
_FORWARDING = ("var.default", "var.dim", "var_mean.default", "var_mean.dim")


class DecompositionTable(dict[Any, Callable[..., Any]]):
    """A table that pickles as a call of its factory: its content follows torch's and our version only.

    Inductor's cache key pickles the table, and gives up caching for a plain dict of functions.
    """

    def __reduce_ex__(self, protocol: object) -> tuple[Callable[[], "DecompositionTable"], tuple[()]]:
        return (decomposition_table, ())


def decomposition_table() -> DecompositionTable:
    """Return the table to hand to AOTAutograd."""
    table = DecompositionTable(select_decomp_table())
    for name in KEPT_WHOLE:
        packet = getattr(torch.ops.aten, name, None)
        if packet is None:
            continue
        for overload in packet.overloads():
            if f"{name}.{overload}" not in _FORWARDING and not overload.endswith("out"):
                table.pop(getattr(packet, overload), None)
    return table
