"""Ordered adds by index: scatter_add, index_add, index_put with accumulation, embedding_bag. No atomics.

Every source row is sorted (stably, so in its own order) by the destination it goes to; then each destination walks
its sources.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from bi_inductor.errors import LoweringError
from lowerings.cuda import order_kernels as kernels
from lowerings.cuda.launching import launch
from lowerings.cuda.rows import FLOATS


def scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """Return ``x`` with ``src[i]`` added at ``index[i]`` along ``dim``; index and src have x's rank."""
    if x.dim() == 0:
        return x + src
    src = src[tuple(slice(size) for size in index.shape)]
    # the flat destination of every element of the source
    where = index * _strides(x.shape)[dim]
    for d, stride in enumerate(_strides(x.shape)):
        if d != dim % x.dim():
            places = torch.arange(index.shape[d], device=x.device) * stride
            where = where + places.view([-1 if i == d else 1 for i in range(x.dim())])
    return _add(x.reshape(-1, 1), where.reshape(-1), src.reshape(-1, 1), 1).view(x.shape)


def index_add(x: Tensor, dim: int, index: Tensor, src: Tensor, *, alpha: float = 1) -> Tensor:
    """Return ``x`` with the slices of ``src`` along ``dim`` added at ``index`` [n], times ``alpha``."""
    if x.dim() == 0:
        return _add(x.view(1, 1), index.reshape(-1), src.reshape(-1, 1), alpha).view(())
    front, rest = x.movedim(dim, 0), src.movedim(dim, 0)
    out = _add(_rows(front), index.reshape(-1), _rows(rest), alpha)
    return out.view(front.shape).movedim(0, dim).contiguous()


def index_put_add(x: Tensor, indices: Sequence[Tensor | None], values: Tensor) -> Tensor:
    """Return ``x`` with ``values`` added at ``indices``: one tensor per leading dim, None takes all of a dim."""
    indices = _opened(indices)
    taken = [d for d, i in enumerate(indices) if i is not None]
    kept = [d for d in range(x.dim()) if d not in taken]
    places = torch.broadcast_tensors(*(indices[d] for d in taken))  # type: ignore[misc]
    shape = places[0].shape
    front = x.permute(*taken, *kept)
    where = torch.zeros(shape, dtype=torch.int64, device=x.device)
    for place, size in zip(places, front.shape, strict=False):
        where = where * size + torch.where(place < 0, place + size, place)
    rest = [x.shape[d] for d in kept]
    adjacent = taken == list(range(taken[0], taken[-1] + 1))
    lead = taken[0] if adjacent else 0
    values = values.expand(*rest[:lead], *shape, *rest[lead:])
    # the dims of the index come first, as they do in ``front``
    values = values.permute(
        *range(lead, lead + len(shape)),
        *range(lead),
        *range(lead + len(shape), values.dim()),
    )
    count = math.prod(front.shape[: len(taken)])
    out = _add(
        front.reshape(count, -1),
        where.reshape(-1),
        values.reshape(where.numel(), -1).to(x.dtype),
        1,
    )
    back = sorted(range(x.dim()), key=[*taken, *kept].__getitem__)
    return out.view(front.shape).permute(back).contiguous()


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    per_sample_weights: Tensor | None,
    mode: str,
    include_last_offset: bool,
    padding_idx: int,
) -> Tensor:
    """Return ``[bags, width]``: the sum, mean or max of the rows ``weight[indices]`` of each bag."""
    if weight.dtype not in FLOATS:
        raise LoweringError(
            f"embedding_bag of {weight.dtype} has no CUDA kernel; cast to one of {', '.join(map(str, FLOATS))}"
        )
    bags, width = offsets.shape[0] - int(include_last_offset), weight.shape[1]
    out = weight.new_empty((bags, width))
    if out.numel():
        columns = min(1024, triton.next_power_of_2(width))
        samples = weight if per_sample_weights is None else per_sample_weights.contiguous()
        launch(
            kernels.bag_rows,
            (bags, triton.cdiv(width, columns)),
            (weight.contiguous(), indices.contiguous(), offsets.contiguous(), samples, out),
            (bags, indices.numel(), width, padding_idx),
            MODE=mode,
            WEIGHTED=per_sample_weights is not None,
            LAST=include_last_offset,
            COLUMNS=columns,
            num_warps=4,
            enable_fp_fusion=False,
        )
    return out


def _add(x: Tensor, where: Tensor, src: Tensor, alpha: float) -> Tensor:
    """x [rows, width] plus the rows of src [n, width] at ``where`` [n]."""
    if x.dtype.is_floating_point and x.dtype not in FLOATS:
        raise LoweringError(
            f"adding {x.dtype} by index has no CUDA kernel; cast to one of {', '.join(map(str, FLOATS))}"
        )
    x, src = x.contiguous(), src.contiguous()
    out = torch.empty_like(x)
    count, width = x.shape
    if not out.numel():
        return out
    where = where.to(torch.int64)
    keys, order = torch.sort(torch.where(where < 0, where + count, where), stable=True)
    starts = torch.searchsorted(keys, torch.arange(count + 1, device=x.device))
    columns = min(256, triton.next_power_of_2(width))
    tile = 256 // columns
    launch(
        kernels.segment_add,
        (triton.cdiv(count, tile), triton.cdiv(width, columns)),
        (x, src, out, order, starts),
        (count, width, float(alpha) if out.dtype.is_floating_point else int(alpha)),
        SCALED=alpha != 1,
        ACC=tl.float32 if out.dtype.is_floating_point else tl.int64,
        ROWS=tile,
        COLUMNS=columns,
        num_warps=4,
        enable_fp_fusion=False,
    )
    return out


def _opened(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """A boolean index is the places where it holds, one tensor for each of its dims."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            found += index.nonzero().unbind(1)
        else:
            found.append(index)
    return found


def _rows(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1) if x.numel() else x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[d + 1 :]) for d in range(len(shape))]
