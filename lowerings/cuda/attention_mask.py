"""A mask as attention's kernels take it: its kind, and the range of keys that each row keeps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowerings.cuda import attention_kernels as kernels
from lowerings.cuda.launching import launch

#: an additive value at or below it masks the key: the most negative bfloat16 and float16
_MASKED = {torch.float16: -65504.0}
_MASKED_ELSE = -3.3895313892515355e38


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """``kind`` 0 none, 1 boolean, 2 additive; ``start`` and ``end`` bound the kept keys of a row.

    ``solid`` is the end of a row that keeps every key between them, else its start. Strides are those of
    ``[B, H, Lq, Lk]`` and ``[B, H, Lq]``.
    """

    kind: int
    values: Tensor
    strides: tuple[int, ...]
    threshold: float
    start: Tensor
    end: Tensor
    solid: Tensor
    start_strides: tuple[int, ...]


def whole(mask: Tensor | None, q: Tensor, keys: int) -> Mask:
    """The mask without the range of any row, for a kernel that finds it; q stands for what is not there."""
    kind = 0 if mask is None else 1 if mask.dtype == torch.bool else 2
    return Mask(
        kind=kind,
        values=q if mask is None else mask,
        strides=(0,) * 4 if mask is None else mask.expand(*q.shape[:3], keys).stride(),
        threshold=0.0 if mask is None else _MASKED.get(mask.dtype, _MASKED_ELSE),
        start=q,
        end=q,
        solid=q,
        start_strides=(0,) * 3,
    )


def bounded(mask: Tensor | None, q: Tensor, keys: int) -> Mask:
    """The mask with the range of every row, a launch; a boolean one comes as a copy of 16 bits a key."""
    if mask is None:
        return whole(mask, q, keys)
    is_bool = mask.dtype == torch.bool
    while mask.dim() < 4:
        mask = mask[None]
    threshold = _MASKED.get(mask.dtype, _MASKED_ELSE)
    batch, heads, queries, _ = mask.shape
    given = values = mask.expand(batch, heads, queries, keys)
    if is_bool:
        # an 8-bit load upstream of a dot makes Triton permute K inside the mma.sync operands: other bits
        values = torch.empty(given.shape, dtype=torch.int16, device=mask.device)
    start = torch.empty((batch, heads, queries), dtype=torch.int32, device=mask.device)
    end, solid = torch.empty_like(start), torch.empty_like(start)
    launch(
        kernels.kept_range,
        (start.numel(),),
        (given, values, start, end, solid),
        (keys, heads, queries, *given.stride()),
        IS_BOOL=is_bool,
        THRESHOLD=threshold,
        BLOCK=1024,
    )
    wide = (q.shape[0], q.shape[1], q.shape[2])
    return Mask(
        kind=1 if is_bool else 2,
        values=values,
        strides=values.expand(*wide, keys).stride(),
        threshold=threshold,
        start=start,
        end=end,
        solid=solid,
        start_strides=start.expand(wide).stride(),
    )
