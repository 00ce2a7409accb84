"""Launcher of attention for one query on a Hopper: a schedule of the plan that scores several blocks of keys at once."""

import torch
import triton
from torch import Tensor

from lowerings.cuda import attention_decode_kernels as kernels
from lowerings.cuda import attention_hopper, schedules
from lowerings.cuda.attention_mask import bounded, whole
from lowerings.cuda.launching import launch as launch_kernel
from lowerings.cuda.launching import overlap
from lowerings.cuda.plans import KEY_BLOCK, KEY_SPLIT

#: heads of one kv head: the rows of the tensor core
_ROWS = 16
#: keys up to which every program looks at the whole mask itself
_FOLDED = 8192
#: stored pieces of a row that are loaded together
_MANY = 16


def takes(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, out: Tensor) -> bool:
    """Return whether this kernel computes the call: on a Hopper, what ``fits``."""
    return q.is_cuda and attention_hopper.is_hopper(q.device) and fits(q, k, v, mask, out)


def fits(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, out: Tensor) -> bool:
    """Return whether the kernel was built for the dtype, dims and layout: one query, a mask that its heads share."""
    if q.dtype not in (torch.bfloat16, torch.float16) or q.shape[2] != 1:
        return False
    if q.shape[1] > _ROWS * k.shape[1] or not all(32 < x.shape[-1] <= 256 for x in (q, v)):
        return False
    if out.stride(-1) != 1 or not all(attention_hopper.copied(x) for x in (q, k, v)):
        return False
    return mask is None or shared(mask)


def shared(mask: Tensor) -> bool:
    """Return whether all heads keep the same keys."""
    return mask.dim() < 3 or mask.shape[-3] == 1 or mask.stride(-3) == 0


def launch(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, out: Tensor, lse: Tensor, scale2: float,
    schedule: schedules.Decode,
) -> None:  # fmt: skip
    """Fill ``out [B, H, 1, Dv]`` and ``lse [B, H, 1]`` of a call that ``fits``."""
    batch, heads, _, dim = q.shape
    kv_heads, keys, value_dim = k.shape[1], k.shape[2], v.shape[3]
    folded = keys <= _FOLDED
    if mask is not None and mask.dim() > 2:
        mask = mask[..., :1, :, :]
    kept = whole(mask, q, keys) if folded else bounded(mask, q, keys)
    group, pairs, pieces = heads // kv_heads, batch * kv_heads, -(-keys // KEY_SPLIT)
    parallel = schedule.parallel and pieces > 1
    parts = stats = lse
    counts = q
    if parallel:
        parts, stats = (
            q.new_empty((batch * heads * pieces, n), dtype=torch.float32) for n in (value_dim, 2)
        )
        counts = q.new_empty((pairs,), dtype=torch.int32)
    options = {"maxnreg": schedule.registers} if schedule.registers else {}
    launch_kernel(
        kernels.decode,
        (pairs, pieces if parallel else 1),
        (
            *(q, k, v, kept.values, kept.start, kept.end, kept.solid),
            *(counts, parts, stats, lse, out),
        ),
        (
            *(heads, kv_heads, keys, pieces, scale2),
            *(*q.stride()[:2], *k.stride()[:3], *v.stride()[:3], *out.stride()[:2]),
            *(kept.strides[0], kept.strides[3], kept.start_strides[0]),
        ),
        GROUP=group,
        MASK=kept.kind,
        THRESHOLD=kept.threshold,
        FOLDED=folded,
        PARALLEL=parallel,
        KEYS=KEY_BLOCK,
        SPLIT=KEY_SPLIT,
        BLOCKS=schedule.blocks,
        D=dim,
        DV=value_dim,
        BD=triton.next_power_of_2(dim),
        BDV=triton.next_power_of_2(value_dim),
        num_warps=schedule.warps,
        enable_fp_fusion=False,
        **options,
        **overlap(out.get_device()),
    )
    if parallel:
        launch_kernel(
            kernels.merge,
            (batch * heads,),
            (parts, stats, counts, lse, out),
            (heads, pieces, *out.stride()[:2]),
            GROUP=group,
            COUNTED=kept.kind > 0,
            MANY=min(_MANY, triton.next_power_of_2(pieces)),
            DV=value_dim,
            BDV=triton.next_power_of_2(value_dim),
            num_warps=4,
            enable_fp_fusion=False,
            **overlap(out.get_device()),
        )
