"""``options={"mps_fallback": "cpu_float64"}``: the CPU's kernels in float64, then back to the GPU.

This is how the Apple Silicon edition of the batch-invariant ops computes. Its sums are stock torch's, whose order
follows the batch below the bits that the rounding to float32 leaves; ours have the CPU's plan.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from lowerings.cpu import plans as cpu
from lowerings.mps import plans

#: plan numbers that belong to the CPU
_NUMBERS = {
    name: {getattr(row, name) for row in cpu.PLANS if getattr(row, name) is not None}
    for name in ("split_size", "lanes")
}
_OWN = {plans.MATMUL_SPLIT, plans.SIMDGROUP_SPLIT, plans.ATTENTION_SPLIT, plans.ROW_LANES}
assert not _OWN & (_NUMBERS["split_size"] | _NUMBERS["lanes"])


def routed(name: str, launcher: Callable[..., Any]) -> Callable[..., Any]:
    """``launcher``, or the CPU's kernel of ``name`` where the plan number of a call is the CPU's."""

    @functools.wraps(launcher)
    def run(*args: Any, **kwargs: Any) -> Any:
        chosen = any(kwargs.get(key) in numbers for key, numbers in _NUMBERS.items())
        return on_the_cpu(name, args, kwargs) if chosen else launcher(*args, **kwargs)

    return run


def on_the_cpu(name: str, args: Any, kwargs: Any) -> Any:
    """Run an op of ``torch.ops.bi_inductor`` in float64 on the CPU; results have the dtypes of its fake kernel."""
    from lowerings.table import load

    load("cpu")
    op = getattr(torch.ops.bi_inductor, name).default
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    device = tensors[0].device
    wanted = op(*_as(args, lambda x: x.to("meta")), **_as(kwargs, lambda x: x.to("meta")))
    if getattr(kwargs.get("dtype"), "is_floating_point", False):
        kwargs = {**kwargs, "dtype": torch.float64}
    made = op(*_as(args, _wide), **_as(kwargs, _wide))
    return pytree.tree_map(lambda x, like: x.to(device, like.dtype), made, wanted)


def _as(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return pytree.tree_map_only(torch.Tensor, change, tree)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to("cpu", torch.float64 if x.is_floating_point() else x.dtype)
