"""CUDA lowerings: Triton kernels of one plan each, with schedules that follow the number of rows."""

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
