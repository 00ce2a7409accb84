"""CUDA lowerings: Triton kernels of one plan each, with schedules that follow the number of rows."""

from typing import Any

from torch import Tensor
from torch.fx import GraphModule


def load() -> None:
    """Register the kernels; Triton is imported here and nowhere earlier.

    Raises:
        UnsupportedDeviceError: the GPU is older than compute capability 8.0.
    """
    from lowerings.cuda import register

    register.load()


def fuse(gm: GraphModule) -> None:
    """Fuse ops of a rewritten graph, in place; no bit changes."""
    from lowerings.cuda import fusion, shared_fusion

    fusion.fuse(gm)
    shared_fusion.share(gm)


def packed_attention(*args: Any, **kwargs: Any) -> Tensor:
    """Attention over packed requests; as ``attention_packed.packed_attention``."""
    from lowerings.cuda import attention_packed

    return attention_packed.packed_attention(*args, **kwargs)
