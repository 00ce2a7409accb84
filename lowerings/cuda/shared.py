"""Products of one input with two or three weights: one launch where rows are few, one each where they are many.

A launch costs 2 to 3 us besides the weights it reads: four layers of Qwen3-8B's products and norms at batch 1 take 475 us
with a launch each and 419 us with q, k, v and gate, up together (H200, CUDA graph; stock 525).
"""

from collections.abc import Hashable, Sequence

from torch import Tensor

from lowerings.cuda import matmul, stream
from lowerings.cuda.launching import Memory, Repeat
from lowerings.cuda.schedules import Gemm

#: launches by operands
_repeats: Memory[Repeat] = Memory()


def shared_mm(
    a: Tensor, first: Tensor, second: Tensor, third: Tensor | None = None, *, split_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``a [M, K] @ w.t()`` for each weight ``w [N, K]``, with the bits of ``mm``; without a third it is empty."""
    weights = (first, second) if third is None else (first, second, third)
    outs = _in_one_launch(a, weights, split_size)
    if outs is None:
        outs = [matmul.mm(a, w.t(), split_size=split_size) for w in weights]
    return outs[0], outs[1], a.new_empty((0,)) if third is None else outs[2]


def _in_one_launch(a: Tensor, weights: Sequence[Tensor], split_size: int) -> list[Tensor] | None:
    key = _key(a, weights, split_size)
    repeat = _repeats.get(key)
    tile = _together(a, weights, split_size) if repeat is None else None
    if repeat is None and tile is None:
        return None
    outs = [a.new_empty((a.shape[0], w.shape[0])) for w in weights]
    if repeat is not None:
        repeat(*stream.operands(a, weights, outs))
    elif tile is not None:
        made = stream.products(a, weights, outs, tile)
        if made is not None:
            _repeats.keep(key, made)
    return outs


def _key(a: Tensor, weights: Sequence[Tensor], split_size: int) -> Hashable:
    kinds = ((w.dtype, w.shape, w.stride(), w.data_ptr() & 15) for w in weights)
    return a.dtype, a.shape, a.stride(), a.data_ptr() & 15, a.get_device(), split_size, *kinds


def _together(a: Tensor, weights: Sequence[Tensor], split_size: int) -> Gemm | None:
    """The schedule of one launch for all, if each of them would have such a schedule."""
    tiles = [matmul.choose(a, w.t(), split_size) for w in weights]
    if not a.shape[0] or not all(isinstance(tile, Gemm) and tile.stream for tile in tiles):
        return None
    columns = sum(w.shape[0] for w in weights)
    tile = matmul.choose(a, weights[0].t(), split_size, columns=columns)
    return tile if isinstance(tile, Gemm) else None
