"""Launcher of products on a Hopper's specialised warps: schedules of the one chain over K."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from lowerings.cuda.launching import Repeat, launch
from lowerings.cuda.matmul_hopper_kernels import product_hopper
from lowerings.cuda.schedules_hopper import Hopper

#: tiles of rows that share their weights in the L2 cache
_GROUP = 8


@cache
def is_hopper(index: int) -> bool:
    """Return whether the device has a Hopper's tensor cores and copy engine."""
    return torch.cuda.get_device_capability(index) == (9, 0)


class Again:
    """A launch with its tile and numbers; call it with other tensors of the same shapes, strides and alignment."""

    __slots__ = ("_descriptors", "_repeat")

    def __init__(
        self, repeat: Repeat, descriptors: Sequence[tuple[int, TensorDescriptor] | None]
    ) -> None:
        self._repeat, self._descriptors = repeat, descriptors

    def __call__(self, *tensors: Tensor) -> None:
        """Launch with a, b, out and the bias, or out in its place."""
        self._repeat(
            *(None if x is None else _over(tensors[x[0]], x[1]) for x in self._descriptors),
            tensors[3],
        )


def _over(x: Tensor, like: TensorDescriptor) -> TensorDescriptor:
    """The descriptor of another tensor of one kind; checking it anew takes 14 us of an H200's host."""
    made = object.__new__(TensorDescriptor)
    made.__dict__.update(like.__dict__)
    made.base = x
    return made


def descriptor(x: Tensor, block: tuple[int, int]) -> TensorDescriptor:
    """Return how the copy engine reads or writes ``x [rows, columns]`` in blocks."""
    return TensorDescriptor(x, list(x.shape), list(x.stride()), list(block), layout(block, x.dtype))


def layout(block: tuple[int, int], dtype: torch.dtype) -> gl.NVMMASharedLayout:
    """Return how a block lies in shared memory."""
    element = gl.bfloat16 if dtype == torch.bfloat16 else gl.float16
    return gl.NVMMASharedLayout.get_default_for(list(block), element)


def run(
    a: Tensor,
    b: Tensor,
    out: Tensor,
    bias: Tensor | None,
    alpha: float,
    beta: float,
    tile: Hopper,
    sms: int,
) -> Again | None:
    """Fill ``out [M, N] = alpha * a [M, K] @ b [K, N] + beta * bias``, bias of out's shape; return what does it again.

    One stride of b is 1, a and out are by rows, and all begin at, and step by, multiples of 16 bytes.
    """
    (rows, columns), depth = out.shape, a.shape[1]
    by_k = b.stride(1) == 1
    weights = (1, b if by_k else b.t())
    tall, wide = (weights, (0, a)) if tile.swap else ((0, a), weights)
    side, first, second, stored, rest = tile.blocks(by_k)
    described = [(tall, side), (wide, first), (wide, second), ((2, out), stored), ((2, out), rest)]
    descriptors = [
        None if block is None else (which, descriptor(x, block)) for (which, x), block in described
    ]
    tiles = -(-rows // tile.m) * -(-columns // tile.n)
    repeat = launch(
        product_hopper,
        (min(tiles, sms),),
        (*(x and x[1] for x in descriptors), out if bias is None else bias),
        (
            *(rows, columns, depth, _GROUP, float(alpha), float(beta)),
            *((0, 0) if bias is None else bias.stride()),
        ),
        **constants(tile, by_k),
        HAS_BIAS=bias is not None,
        SCALED=alpha != 1 or (bias is not None and beta != 1),
        num_warps=4,
        launch_pdl=tile.early,
    )
    for kept in filter(None, descriptors):
        # no tensor stays alive for the next call
        kept[1].base = None
    return None if repeat is None else Again(repeat, descriptors)


def constants(tile: Hopper, by_k: bool) -> dict[str, Any]:
    """Return the constants of the kernel that follow from the tile."""
    return {
        "SWAP": tile.swap,
        "BY_K": by_k,
        "GROUPS": tile.groups,
        "ROWS": tile.rows,
        "FIRST": tile.first,
        "SECOND": tile.second,
        "BK": tile.k,
        "STAGES": tile.stages,
        "CHUNK": tile.chunk,
        "BUFFERS": tile.buffers,
        "OVERLAP": tile.early,
    }
