"""Products of one input with two or three weights: one launch where rows are few, one each where they are many.

A launch costs 2 to 3 us besides the weights it reads: four layers of Qwen3-8B's products and norms at batch 1 take 475 us
with a launch each and 419 us with q, k, v and gate, up together (H200, CUDA graph; stock 525).
"""

from collections.abc import Sequence

from torch import Tensor

from lowerings.cuda import matmul, stream
from lowerings.cuda.launching import Memory, Repeat
from lowerings.cuda.schedules import Gemm

_Sizes = tuple[tuple[int, ...], tuple[int, ...]]
#: (launch, sizes and strides of the three results), by operands
_repeats: Memory[tuple[Repeat, list[_Sizes]]] = Memory()


def shared_mm(
    a: Tensor, first: Tensor, second: Tensor, third: Tensor | None = None, *, split_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``a [M, K] @ w.t()`` for each weight ``w [N, K]``, with the bits of ``mm``; without a third it is empty."""
    weights = (first, second) if third is None else (first, second, third)
    at, *weights_at = [x.data_ptr() for x in (a, *weights)]
    kinds = [
        (w.dtype, w.shape, w.stride(), place & 15)
        for w, place in zip(weights, weights_at, strict=True)
    ]
    key = (a.dtype, a.shape, a.stride(), at & 15, a.get_device(), split_size, *kinds)
    made = _repeats.get(key)
    if made is not None:
        repeat, sizes = made
        one, two, three = [repeat.empty(*size, a.dtype) for size in sizes]
        places = one.data_ptr(), two.data_ptr(), at if third is None else three.data_ptr()
        repeat.at(at, *[*weights_at, at][:3], *places)
        return one, two, three
    outs, again = _products(a, weights, split_size)
    last = a.new_empty((0,)) if third is None else outs[2]
    if again is not None:
        shapes = [(tuple(x.shape), x.stride()) for x in (outs[0], outs[1], last)]
        _repeats.keep(key, (again, shapes))
    return outs[0], outs[1], last


def _products(
    a: Tensor, weights: Sequence[Tensor], split_size: int
) -> tuple[list[Tensor], Repeat | None]:
    """The products, and their launch if one does them all."""
    tile = _together(a, weights, split_size)
    if tile is None:
        return [matmul.mm(a, w.t(), split_size=split_size) for w in weights], None
    outs = [a.new_empty((a.shape[0], w.shape[0])) for w in weights]
    return outs, stream.products(a, weights, outs, tile)


def _together(a: Tensor, weights: Sequence[Tensor], split_size: int) -> Gemm | None:
    """The schedule of one launch for all, if each of them would have such a schedule."""
    tiles = [matmul.choose(a, w.t(), split_size) for w in weights]
    if not a.shape[0] or not all(isinstance(tile, Gemm) and tile.stream for tile in tiles):
        return None
    columns = sum(w.shape[0] for w in weights)
    tile = matmul.choose(a, weights[0].t(), split_size, columns=columns)
    return tile if isinstance(tile, Gemm) else None
