"""scatter_add, index_add, index_put with accumulation, embedding bags: adds in ascending order of the source."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bi_inductor.errors import LoweringError
from lowerings.mps import library

_MODES = ("sum", "mean", "max")


def scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """``x`` with ``src`` added at ``index`` along ``dim``; ``index`` is no larger than ``src`` in any dim."""
    if not x.dim():
        return scatter_add(x[None], 0, index.reshape(-1), src.reshape(-1))[0]
    dim %= x.dim()
    out = _wide(x).clone(memory_format=torch.contiguous_format)
    if not index.numel():
        return out.to(x.dtype)
    lines = tuple(slice(n) if d != dim else slice(None) for d, n in enumerate(index.shape))
    part = out[lines].contiguous()
    added = _wide(src[tuple(map(slice, index.shape))]).contiguous()
    inner, count = index.shape[dim + 1 :].numel(), index.shape[dim]
    steps = (count * inner, inner, 1)
    _add(part, index.contiguous(), added, index.shape[:dim].numel(), inner, part.shape[dim], steps)
    if part.data_ptr() != out.data_ptr():
        out[lines] = part
    return out.to(x.dtype)


def index_add(x: Tensor, dim: int, index: Tensor, src: Tensor, *, alpha: float = 1) -> Tensor:
    """``x`` with slice i of ``alpha * src`` added to slice ``index[i]`` of ``dim``; ``index`` is 1-d."""
    if not x.dim():
        return index_add(x[None], 0, index.reshape(-1), src.reshape(-1), alpha=alpha)[0]
    dim %= x.dim()
    out = _wide(x).clone(memory_format=torch.contiguous_format)
    added = _wide(src).contiguous()
    added = added if alpha == 1 else added * alpha
    if added.numel():
        inner = x.shape[dim + 1 :].numel()
        rows = x.shape[:dim].numel()
        _add(out, index.reshape(-1), added, rows, inner, x.shape[dim], (0, 1, 0))
    return out.to(x.dtype)


def index_put_add(x: Tensor, indices: Sequence[Tensor | None], values: Tensor) -> Tensor:
    """``x[indices] += values`` where equal places add up; a bool index stands for its true places."""
    given = [part for i in indices for part in _places(i)]
    given += [None] * (x.dim() - len(given))
    dims = [d for d, i in enumerate(given) if i is not None]
    rest = [d for d, i in enumerate(given) if i is None]
    where = torch.broadcast_tensors(*(i for i in given if i is not None))
    row = torch.zeros_like(where[0])
    for d, i in zip(dims, where, strict=True):
        row = row * x.shape[d] + torch.where(i < 0, i + x.shape[d], i)
    together = dims == list(range(dims[0], dims[-1] + 1))
    before = dims[0] if together else 0
    kept = [x.shape[d] for d in rest]
    values = values.expand(*kept[:before], *row.shape, *kept[before:])
    order = [*range(before, before + row.dim()), *range(before)]
    values = values.permute(*order, *range(before + row.dim(), values.dim()))
    moved = x.permute(*dims, *rest)
    flat = moved.reshape(-1, torch.Size(kept).numel())
    out = index_add(flat, 0, row.reshape(-1), values.reshape(-1, flat.shape[1]))
    back = sorted(range(x.dim()), key=[*dims, *rest].__getitem__)
    return out.view(moved.shape).permute(back).contiguous()


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    per_sample_weights: Tensor | None,
    mode: str,
    include_last_offset: bool,
    padding_idx: int,
) -> Tensor:
    """Sum, mean or max of the rows ``indices[offsets[b]:offsets[b + 1]]`` of ``weight [V, D]``: ``[bags, D]``."""
    if mode not in _MODES:
        raise LoweringError(f"embedding_bag: mode {mode!r} is not one of {', '.join(_MODES)}")
    columns = weight.shape[1]
    bags = offsets.shape[0] - int(include_last_offset)
    out = weight.new_empty(bags, columns)
    library.check_size("embedding_bag", weight, out)
    if not out.numel():
        return out
    if not indices.numel():
        return out.zero_()
    scale = weight if per_sample_weights is None else per_sample_weights.contiguous()
    p = [bags, columns, indices.numel(), *weight.stride(), weight.shape[0], padding_idx]
    p += [_MODES.index(mode), int(per_sample_weights is not None), offsets.shape[0]]
    lib = library.load("scatter", T=library.metal_type(weight.dtype, "embedding_bag"), A="float")
    args = (weight, indices.long().contiguous(), offsets.long().contiguous(), scale, out, p)
    library.launch(lib.bi_embedding_bag, *args, groups=[-(-out.numel() // 64)], size=64)
    return out


def _add(
    out: Tensor,
    index: Tensor,
    added: Tensor,
    rows: int,
    inner: int,
    extent: int,
    steps: tuple[int, int, int],
) -> None:
    """Add ``added [rows, n, inner]`` to ``out [rows, extent, inner]``, both contiguous, in place."""
    library.check_size("scatter_add", out, added)
    count = added.numel() // (rows * inner)
    kind = "float" if out.dtype == torch.float32 else "long"
    lib = library.load("scatter", T=kind, A=kind)
    p = [rows, inner, count, extent, extent * inner, inner, 1, *steps, count * inner, inner, 1]
    args = (out, index.long().contiguous(), added, p)
    library.launch(lib.bi_scatter_add, *args, groups=[-(-rows * inner // 64)], size=64)


def _wide(x: Tensor) -> Tensor:
    """The accumulator of a dtype: exact, rounded once at the end."""
    library.metal_type(x.dtype, "scatter_add")
    return x.to(torch.float32 if x.dtype.is_floating_point else torch.int64)


def _places(index: Tensor | None) -> list[Tensor | None]:
    if index is None or index.dtype not in (torch.bool, torch.uint8):
        return [index]
    return list(index.nonzero().unbind(1))
