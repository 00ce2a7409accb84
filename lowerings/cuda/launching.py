"""Launching a Triton kernel again without Triton's own look at every argument.

``kernel[grid](...)`` binds and specialises every argument anew: 43 us of host time for a product on an H100's host,
14 us for the launch of a kernel that is already compiled (``benchmarks/cuda_kernels.py host``).
"""

import functools
from collections.abc import Hashable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from triton.runtime import JITFunction, driver

T = TypeVar("T")


class Memory(Generic[T]):
    """What was made for a key; forgets everything when it is full."""

    def __init__(self, most: int = 1 << 14) -> None:
        self._made: dict[Hashable, T] = {}
        self._most = most
        self.get = self._made.get

    def __len__(self) -> int:
        return len(self._made)

    def keep(self, key: Hashable, made: T) -> None:
        """Remember ``made`` for ``key``."""
        if len(self._made) >= self._most:
            self._made.clear()
        self._made[key] = made


class Repeat:
    """A launch with its grid, numbers and constants; call it with other tensors of the same kinds."""

    __slots__ = ("_arguments", "_device", "_runner")

    def __init__(self, runner: Any, arguments: tuple[Any, ...], device: int) -> None:
        self._runner, self._arguments, self._device = runner, arguments, device

    def __call__(self, *tensors: Any) -> None:
        """Launch on the current stream of the device."""
        if driver.active.get_current_device() != self._device:
            with torch.cuda.device(self._device):
                self(*tensors)
            return
        stream = driver.active.get_current_stream(self._device)
        self._runner(*tensors, *self._arguments, stream=stream)


#: by all that a kernel is specialised on, and its numbers
_repeats: Memory[Repeat] = Memory()


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    tensors: Sequence[Any],
    numbers: tuple[float, ...],
    **constants: Any,
) -> Repeat | None:
    """Launch ``kernel`` over ``grid`` on the device of the last of ``tensors``; return what launches it again.

    Args:
        tensors: the first parameters of the kernel: tensors or tensor descriptors; the last one is a tensor.
        numbers: those that follow them.
        constants: every constexpr of the kernel, and the options of its compilation.

    Returns:
        None in Triton's interpreter, which compiles nothing.
    """
    if not isinstance(kernel, JITFunction):  # TRITON_INTERPRET=1
        kernel[grid](*tensors, *numbers, **constants)
        return None
    device = tensors[-1].get_device()
    # exact numbers, since which of them Triton tells apart is its own affair
    kinds = map(_kind, tensors)
    key = (id(kernel), device, grid, *kinds, numbers, *constants.values())
    repeat = _repeats.get(key)
    if repeat is not None:
        repeat(*tensors)
        return repeat
    if driver.active.get_current_device() != device:
        with torch.cuda.device(device):
            return launch(kernel, grid, tensors, numbers, **constants)
    compiled = kernel[grid](*tensors, *numbers, **constants)
    values = (constants[name] for name in kernel.arg_names if name in constants)
    repeat = Repeat(compiled[(*grid, 1, 1)[:3]], (*numbers, *values), device)
    _repeats.keep(key, repeat)
    return repeat


def overlap(index: int) -> dict[str, bool]:
    """Return constant and option of a kernel that begins with ``overlap_kernels.follow``, for device ``index``."""
    # the CPU of Triton's interpreter, which knows no such option, is -1
    return {"OVERLAP": True, "launch_pdl": True} if _overlaps(index) else {"OVERLAP": False}


@functools.cache
def _overlaps(index: int) -> bool:
    return index >= 0 and torch.cuda.get_device_capability(index) >= (9, 0)


def _kind(x: Any) -> Hashable:
    """What a pointer or a descriptor is specialised on, besides its place in the signature; None stays None."""
    if x is None:
        return None
    if isinstance(x, Tensor):
        return x.dtype, x.data_ptr() % 16
    layout = getattr(x, "layout", None)
    return x.base.dtype, tuple(x.block_shape), tuple(x.shape), tuple(x.strides), layout
