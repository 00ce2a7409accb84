"""Launching a Triton kernel again without Triton's own look at every argument.

``kernel[grid](...)`` binds and specialises every argument anew: 43 us of host time for a product on an H100's host,
14 us for the launch of a kernel that is already compiled (``benchmarks/cuda_kernels.py host``).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from triton.runtime import JITFunction, driver

#: all that a kernel is specialised on -> the compiled kernel and its constants, in the order of its signature
_compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}
_MOST = 1 << 14


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    tensors: Sequence[Any],
    numbers: tuple[float, ...],
    **constants: Any,
) -> None:
    """Launch ``kernel`` over ``grid`` on the device of the last of ``tensors``.

    Args:
        tensors: the first parameters of the kernel: tensors or tensor descriptors; the last one is a tensor.
        numbers: those that follow them.
        constants: every constexpr of the kernel, and the options of its compilation.
    """
    if not isinstance(kernel, JITFunction):  # TRITON_INTERPRET=1
        kernel[grid](*tensors, *numbers, **constants)
        return
    device = driver.active.get_current_device()
    if tensors[-1].get_device() != device:
        with torch.cuda.device(tensors[-1].get_device()):
            launch(kernel, grid, tensors, numbers, **constants)
        return
    # exact numbers, since which of them Triton tells apart is its own affair
    key = (id(kernel), device, *map(_kind, tensors), numbers, *constants.values())
    found = _compiled.get(key)
    if found is None:
        _remember(key, kernel, kernel[grid](*tensors, *numbers, **constants), constants)
        return
    compiled, values = found
    stream = driver.active.get_current_stream(device)
    compiled[(*grid, 1, 1)[:3]](*tensors, *numbers, *values, stream=stream)


def _kind(x: Any) -> Any:
    """What a pointer or a descriptor is specialised on, besides its place in the signature."""
    if isinstance(x, Tensor):
        return x.dtype, x.data_ptr() % 16
    layout = getattr(x, "layout", None)
    return x.base.dtype, tuple(x.block_shape), tuple(x.shape), tuple(x.strides), layout


def _remember(key: tuple[Any, ...], kernel: Any, compiled: Any, constants: dict[str, Any]) -> None:
    if len(_compiled) >= _MOST:
        _compiled.clear()
    values = tuple(constants[name] for name in kernel.arg_names if name in constants)
    _compiled[key] = compiled, values
