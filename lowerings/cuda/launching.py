"""Launching a Triton kernel again without Triton's own look at every argument.

``kernel[grid](...)`` binds and specialises every argument anew: 43 us of host time for a product on an H100's host,
14 us for the launch of a kernel that is already compiled (``benchmarks/cuda_kernels.py host``). A kernel that wants
pointers and numbers alone goes to the driver through torch's launcher, as Inductor's do.
"""

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from triton import knobs
from triton.runtime import JITFunction, driver

from lowerings import _driver

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
            self.clear()
        self._made[key] = made

    def clear(self) -> None:
        """Forget everything."""
        self._made.clear()


class Repeat:
    """A launch with its grid, numbers and constants; call it with other tensors of the same kinds."""

    __slots__ = ("_arguments", "_device", "_head", "_numbers", "_runner", "_start")

    def __init__(
        self,
        compiled: Any,
        grid: tuple[int, ...],
        arguments: Sequence[Any],
        tensors: int,
        device: int,
    ) -> None:
        """``arguments``: every parameter of the kernel behind its first ``tensors``."""
        whole = (*grid, 1, 1)[:3]
        self._runner, self._arguments, self._device = compiled[whole], tuple(arguments), device
        self._head, self._numbers = _direct(compiled, whole, arguments, tensors)
        self._start = _start_of(compiled, whole)

    def __call__(self, *tensors: Any) -> None:
        """Launch on the current stream of the device, over tensors or tensor descriptors."""
        if self._head is None:
            self.at(*tensors)
        else:
            self.at(*map(Tensor.data_ptr, tensors))

    def at(self, *pointers: Any) -> None:
        """Launch over what lies at these addresses; a kernel of descriptors wants what ``__call__`` wants."""
        if _current_device() != self._device:
            with torch.cuda.device(self._device):
                self.at(*pointers)
            return
        stream = _current_stream(self._device)
        if _hooked():
            self._runner(*pointers, *self._arguments, stream=stream)
        elif self._head is None:
            self._start(stream, *pointers, *self._arguments)
        else:
            _driver.launch_kernel(*self._head, (*pointers, *self._numbers), stream)  # type: ignore[misc]

    def empty(self, sizes: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a new tensor on the device of the launch; a ``torch.Size`` is refused."""
        if _driver.empty_strided is None or _current_device() != self._device:
            return torch.empty_strided(sizes, strides, dtype=dtype, device=f"cuda:{self._device}")
        made: Tensor = _driver.empty_strided(sizes, strides, dtype)
        return made


# Triton asks torch.cuda, which asks first whether CUDA is initialised
_current_device = _driver.current_device or (lambda: driver.active.get_current_device())
_current_stream = _driver.current_stream or (lambda index: driver.active.get_current_stream(index))


def _hooked() -> bool:
    """Whether a profiler wants to hear of launches: through a chain of hooks, or one function in an older Triton."""
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))


def _start_of(compiled: Any, grid: tuple[int, ...]) -> Callable[..., None]:
    """Triton's own launcher of ``compiled``, for launches that no profiler wants to hear of."""
    run, function, packed = compiled.run, compiled.function, compiled.packed_metadata

    def start(stream: Any, *arguments: Any) -> None:
        run(*grid, stream, function, packed, None, None, None, *arguments)

    return start


def _direct(
    compiled: Any, grid: tuple[int, ...], arguments: Sequence[Any], tensors: int
) -> tuple[tuple[Any, ...] | None, tuple[Any, ...]]:
    """What torch's launcher needs before and behind the addresses; None where only Triton's can launch.

    That is: tensor descriptors, scratch memory, clusters, launches that overlap, and grids beyond 32 bits.
    """
    metadata, kinds = compiled.metadata, list(compiled.src.signature.values())
    given = zip(kinds[tensors:], arguments, strict=True)
    numbers = [(kind, value) for kind, value in given if kind != "constexpr"]
    scratch = [getattr(metadata, name, None) for name in _SCRATCH]
    special = [getattr(metadata, name, False) for name in _SPECIAL]
    if (
        _driver.launch_kernel is None
        or metadata.num_ctas != 1
        or any(scratch)
        or any(special)
        or math.prod(grid) >= 1 << 31
        or not all(kind.startswith("*") for kind in kinds[:tensors])
        or not all(kind in _driver.LETTERS for kind, _ in numbers)
    ):
        return None, ()
    # a kernel that knows of scratch memory has a parameter for it
    unused = [None for size in scratch if size is not None]
    letters = ("O" * tensors, *(_driver.LETTERS[kind] for kind, _ in numbers), "O" * len(unused))
    head = (compiled.function, *grid, metadata.num_warps, metadata.shared, "".join(letters))
    return head, (*(value for _, value in numbers), *unused)


_SCRATCH = ("global_scratch_size", "profile_scratch_size")
_SPECIAL = ("launch_cooperative_grid", "launch_pdl")


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
    if _current_device() != device:
        with torch.cuda.device(device):
            return launch(kernel, grid, tensors, numbers, **constants)
    compiled = kernel[grid](*tensors, *numbers, **constants)
    values = [constants[name] for name in kernel.arg_names if name in constants]
    repeat = Repeat(compiled, grid, [*numbers, *values], len(tensors), device)
    _repeats.keep(key, repeat)
    return repeat


def matrix_strides(x: Tensor) -> tuple[int, ...]:
    """Strides of batch, row and column of ``x [M, N]`` or ``[B, M, N]``."""
    strides = x.stride()
    return strides if len(strides) == 3 else (0, *strides)


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


class Script:
    """The launches of one call, in order: inputs, results and scratch memory are addresses by then."""

    __slots__ = ("_bytes", "_offsets", "_results", "_steps")

    def __init__(
        self,
        steps: list[tuple[Repeat, list[int]]],
        results: list[tuple[tuple[int, ...], tuple[int, ...], torch.dtype]],
        offsets: list[int],
        size: int,
    ) -> None:
        """``steps``: launches with their places among inputs, results and ``offsets`` in ``size`` bytes of scratch."""
        self._steps, self._results, self._offsets, self._bytes = steps, results, offsets, size

    def __call__(self, inputs: list[int]) -> list[Tensor]:
        """Run the call on other inputs of the same kinds, given by their addresses."""
        first = self._steps[0][0]
        results = [first.empty(*kind) for kind in self._results]
        addresses = inputs + [x.data_ptr() for x in results]
        if self._bytes:
            base = first.empty((self._bytes,), (1,), torch.uint8).data_ptr()
            addresses += [base + offset for offset in self._offsets]
        for repeat, places in self._steps:
            repeat.at(*[addresses[place] for place in places])
        return results


class Recorder:
    """Allocates and launches for one call, and keeps what it takes to do the same again."""

    def __init__(self, *inputs: Tensor) -> None:
        self._inputs, self._made = inputs, list[Tensor]()
        self._steps: list[tuple[Repeat | None, list[int]]] = []

    def empty(self, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a new tensor on the device of the inputs."""
        made = self._inputs[0].new_empty(sizes, dtype=dtype)
        self._made.append(made)
        return made

    def launch(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        tensors: Sequence[Tensor],
        *rest: Any,
        **constants: Any,
    ) -> None:
        """As ``launch`` of this file."""
        repeat = launch(kernel, grid, tensors, *rest, **constants)
        self._steps.append((repeat, [x.data_ptr() for x in tensors]))

    def script(self, *results: Tensor) -> Script | None:
        """Return what repeats the launches and returns ``results``; None where something else happened in between."""
        inputs = [x.data_ptr() for x in self._inputs]
        steps = [(repeat, places) for repeat, places in self._steps if repeat is not None]
        if not steps or len(steps) != len(self._steps) or len({*inputs}) != len(inputs):
            return None
        known = [*inputs, *(x.data_ptr() for x in results)]
        offsets, size = list[int](), 0
        for scratch in self._made:
            if scratch.data_ptr() not in known:
                known.append(scratch.data_ptr())
                offsets.append(size)
                # as far apart as the allocator's own
                size += -(-scratch.numel() * scratch.element_size() // 512) * 512
        if not all(address in known for _, places in steps for address in places):
            return None
        return Script(
            [(repeat, [known.index(address) for address in places]) for repeat, places in steps],
            [(tuple(x.shape), x.stride(), x.dtype) for x in results],
            offsets,
            size,
        )
