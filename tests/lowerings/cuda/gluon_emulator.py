"""Runs a Gluon kernel's own Python in NumPy: indices, masks and the order of additions, without layouts or threads."""

import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from triton.runtime import JITFunction


class Array(np.ndarray):
    """A tensor of the kernel, or a number that it counts with."""

    def to(self, dtype: type) -> "Array":
        return self.astype(dtype).view(Array)


class Pointer:
    """Places in a flat buffer."""

    def __init__(self, buffer: np.ndarray, offsets: Any = 0) -> None:
        self.buffer, self.offsets = buffer, np.asarray(offsets)

    def __add__(self, steps: Any) -> "Pointer":
        return Pointer(self.buffer, self.offsets + np.asarray(steps))


class Shared:
    """A view of shared memory."""

    def __init__(self, view: np.ndarray) -> None:
        self.view = view

    def permute(self, order: Sequence[int]) -> "Shared":
        return Shared(self.view.transpose(order))

    def slice(self, start: int, length: int, dim: int = 0) -> "Shared":
        return Shared(self.view[(slice(None),) * dim + (slice(start, start + length),)])

    def store(self, x: Array) -> None:
        assert x.shape == self.view.shape
        self.view[...] = x

    def load(self, _layout: object) -> Array:
        return self.view.copy().view(Array)


def number(x: Any, dtype: type = np.int32) -> Array:
    return np.array(x, dtype).view(Array)


def _load(at: Pointer, mask: Any, other: float) -> Array:
    shape = np.broadcast_shapes(at.offsets.shape, mask.shape)
    offsets, real = np.broadcast_to(at.offsets, shape), np.broadcast_to(mask, shape)
    out = np.full(shape, other, np.float32)
    assert (offsets[real] >= 0).all()
    out[real] = at.buffer[offsets[real]]
    return out.view(Array)


def _store(at: Pointer, x: Array, mask: Any) -> None:
    offsets, real = (np.broadcast_to(y, x.shape) for y in (at.offsets, mask))
    assert len(np.unique(offsets[real])) == real.sum()
    at.buffer[offsets[real]] = x[real]


def fma(a: Any, b: Any, c: Any) -> Array:
    """A product of float32 is exact in float64; that the sum is rounded twice changes both sides alike."""
    exact = np.asarray(a, np.float64) * np.asarray(b, np.float64) + np.asarray(c, np.float64)
    return exact.astype(np.float32).view(Array)


def _range(*bounds: Any) -> Iterator[Array]:
    return map(number, range(*(int(x) for x in bounds)))


def _language(program: tuple[int, ...], warps: int) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        float32=np.float32,
        int64=np.int64,
        num_warps=lambda: warps,
        program_id=lambda axis: number(program[axis]),
        arange=lambda first, last, _layout: np.arange(first, last, dtype=np.int32).view(Array),
        zeros=lambda shape, dtype, _layout: np.zeros(shape, dtype).view(Array),
        zeros_like=lambda x: np.zeros_like(x),
        broadcast=lambda a, b: tuple(x.view(Array) for x in np.broadcast_arrays(a, b)),
        allocate_shared_memory=lambda dtype, shape, _layout: Shared(np.full(shape, np.nan, dtype)),
        SliceLayout=lambda _dim, parent: parent,
        SwizzledSharedLayout=lambda *_, **__: None,
        static_range=range,
        cdiv=lambda a, b: -(-a // b),
        minimum=np.minimum,
        where=lambda *x: np.where(*x).view(Array),
        load=_load,
        store=_store,
        fma=fma,
    )


def run(
    kernel: JITFunction,
    grid: tuple[int, int],
    tensors: Sequence[np.ndarray],
    numbers: Sequence[float],
    warps: int,
    **constants: Any,
) -> None:
    """Run every program over flat ``tensors``, one after another."""
    for program in np.ndindex(*grid):
        given = dict(vars(__import__(kernel.fn.__module__, fromlist=["_"])))
        given |= {"gl": _language(program, warps), "range": _range}
        for name, value in list(given.items()):
            if isinstance(value, JITFunction):
                given[name] = types.FunctionType(value.fn.__code__, given, name)
        given["follow"] = lambda _: None
        counted = [number(x) if isinstance(x, int) else np.float32(x) for x in numbers]
        with np.errstate(over="ignore"):
            given[kernel.fn.__name__](*map(Pointer, tensors), *counted, **constants)
