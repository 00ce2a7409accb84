"""Launcher of attention: one plan for prefill, chunk and decode; splits side by side when rows are few."""

import dataclasses
import math
import os

import torch
import triton
from torch import Tensor

from bi_inductor.errors import LoweringError
from lowerings.cuda import attention_decode, attention_hopper, schedules
from lowerings.cuda import attention_kernels as kernels
from lowerings.cuda.attention_mask import bounded
from lowerings.cuda.launching import Memory, Recorder, Script
from lowerings.cuda.plans import KEY_BLOCK, KEY_SPLIT

DONE, HURT, LEFT = kernels.DONE.value, kernels.HURT.value, kernels.LEFT.value
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
#: the launches of a call without specialised warps, by its operands
_scripts: Memory[Script] = Memory()


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    split_size: int,
    schedule: schedules.Attention | schedules.Decode | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``out [B, H, Lq, Dv]`` in q's dtype and ``lse [B, H, Lq]`` in float32.

    Args:
        q: ``[B, H, Lq, D]``; k ``[B, Hk, Lk, D]``, v ``[B, Hk, Lk, Dv]``, ``H % Hk == 0``, any strides.
        mask: boolean (True keeps) or additive, broadcastable to ``[B, H, Lq, Lk]``.

    Raises:
        LoweringError: a dtype, head dim or split that no kernel was built for.
    """
    if q.dim() == 3:
        # [H, L, D]: one sample
        out, lse = attention(
            q[None],
            k[None],
            v[None],
            None if mask is None else mask[None] if mask.dim() == 3 else mask,
            is_causal=is_causal,
            scale=scale,
            split_size=split_size,
            schedule=schedule,
        )
        return out[0], lse[0]
    if mask is not None:
        mask = side_by_side(mask, k.shape[-2])
    key = None
    inputs = (q, k, v) if mask is None else (q, k, v, mask)
    if schedule is None:
        addresses = [x.data_ptr() for x in inputs]
        key = (
            *(
                q.dtype,
                k.dtype,
                v.dtype,
                q.shape,
                q.stride(),
                k.shape,
                k.stride(),
                v.shape,
                v.stride(),
            ),
            *(None if mask is None else (mask.dtype, mask.shape, mask.stride()), q.get_device()),
            *(is_causal, scale, split_size, *[address & 15 for address in addresses]),
        )
        script = _scripts.get(key)
        if script is not None:
            out, lse = script(addresses)
            return out, lse
    out, lse, script = _attention(
        *(q, k, v, mask), is_causal=is_causal, scale=scale, split_size=split_size, schedule=schedule
    )
    if key is not None and script is not None:
        _scripts.keep(key, script)
    return out, lse


def side_by_side(mask: Tensor, keys: int) -> Tensor:
    """The mask with the keys of a row side by side: Triton lays a load out by its strides, and here all have one layout."""
    if mask.shape[-1] == keys and (keys == 1 or mask.stride(-1) == 1):
        return mask
    return mask.expand(*mask.shape[:-1], keys).contiguous()


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    is_causal: bool,
    scale: float | None,
    split_size: int,
    schedule: schedules.Attention | schedules.Decode | None,
) -> tuple[Tensor, Tensor, Script | None]:
    """``out``, ``lse``, and what does the same for other operands of these shapes and strides."""
    check(q, k, v, split_size)
    run = Recorder(*(x for x in (q, k, v, mask) if x is not None))
    batch, heads, queries, dim = q.shape
    kv_heads, keys, value_dim = k.shape[1], k.shape[2], v.shape[3]
    out = run.empty((batch, queries, heads, value_dim), q.dtype).transpose(1, 2)
    lse = run.empty((batch, heads, queries), torch.float32)
    if not out.numel() or not keys:
        return out.zero_(), lse.zero_(), None
    group = heads // kv_heads
    pieces = -(-keys // split_size)
    sms = 132 if _INTERPRETED else schedules.multiprocessors(q.device)
    if scale is None:
        scale = 1 / math.sqrt(dim)
    if scale <= 0:
        # the kernels take the maximum before they scale
        q, scale = (-q, -scale) if scale else (torch.zeros_like(q), 1.0)
    if schedule is None and not is_causal and attention_decode.takes(q, k, v, mask, out):
        schedule = schedules.decode(batch * kv_heads, pieces, max(dim, value_dim), sms=sms)
    if isinstance(schedule, schedules.Decode):
        attention_decode.launch(q, k, v, mask, out, lse, scale * math.log2(math.e), schedule, run)
        return out, lse, run.script(out, lse)
    if schedule is None:
        schedule = schedules.attention(
            queries * group, batch * kv_heads, pieces, q.dtype, max(dim, value_dim), sms=sms
        )
    if pieces == 1 and schedule.parallel:
        schedule = dataclasses.replace(schedule, parallel=False)
    bounds = bounded(mask, q, keys, run)
    rows = batch * heads * queries
    parts = stats = lse  # written only by splits side by side
    if schedule.parallel:
        parts, stats = (run.empty((rows * pieces, n), torch.float32) for n in (value_dim, 2))
    wide, value_wide = (max(16, triton.next_power_of_2(n)) for n in (dim, value_dim))
    specialised = schedule.m == 128 and attention_hopper.takes(q, k, v, out)
    slots = attention_hopper.slots(q, k) if specialised else group
    grid = (-(-queries * slots // schedule.m), batch * kv_heads, pieces if schedule.parallel else 1)
    note = run.empty((grid[0] * grid[1],), torch.int32) if schedule.m >= 64 else lse
    if specialised:
        attention_hopper.launch(
            *(q, k, v, bounds.start, bounds.end, bounds.solid, out, lse, note),
            *(grid[0], scale * math.log2(math.e), bounds.start_strides),
            is_causal=is_causal,
            masked=bounds.kind > 0,
        )
    for repair, takes in _launches(schedule, specialised, is_causal, bounds.kind > 0):
        run.launch(
            kernels.attend,
            grid if takes == DONE else (min(grid[0] * grid[1], sms),),
            (
                *(q, k, v, bounds.values, bounds.start, bounds.end, bounds.solid),
                *(out, lse, parts, stats, note),
            ),
            (
                *(
                    grid[0],
                    grid[1],
                    heads,
                    kv_heads,
                    queries,
                    keys,
                    pieces,
                    scale * math.log2(math.e),
                ),
                *(*q.stride(), *k.stride(), *v.stride(), *out.stride()),
                *(*bounds.strides, *bounds.start_strides),
            ),
            GROUP=group,
            SLOTS=slots,
            REPAIR=repair,
            TAKES=takes,
            IS_CAUSAL=is_causal,
            MASK=bounds.kind,
            THRESHOLD=bounds.threshold,
            PARALLEL=schedule.parallel,
            BM=schedule.m,
            KEYS=KEY_BLOCK,
            SPLIT=split_size,
            D=dim,
            DV=value_dim,
            BD=wide,
            BDV=value_wide,
            WIDEN=_INTERPRETED,
            num_warps=schedule.warps,
            num_stages=schedule.stages,
            enable_fp_fusion=False,
        )
    if schedule.parallel:
        run.launch(
            kernels.combine,
            (rows,),
            (parts, stats, out, lse),
            (heads, queries, pieces, *out.stride()),
            DV=value_dim,
            BDV=value_wide,
            num_warps=1,
            enable_fp_fusion=False,
        )
    return out, lse, None if specialised else run.script(out, lse)


def _launches(
    schedule: schedules.Attention, specialised: bool, is_causal: bool, masked: bool
) -> list[tuple[int, int]]:
    """REPAIR and TAKES of each launch: the tiles that the specialised kernel left, then those that met a NaN."""
    if schedule.m < 64 or schedule.parallel:
        return [(1, DONE)]
    # every key is kept for every row: a NaN is then the sum's own
    again = [(2, HURT)] if is_causal or masked else []
    if not specialised:
        return [(0, DONE), *again]
    return [(0, LEFT), *again] if masked else again


def check(q: Tensor, k: Tensor, v: Tensor, split_size: int) -> None:
    """Refuse what no kernel was built for.

    Raises:
        LoweringError: names the dtype, head dim or split.
    """
    if q.dtype not in _DTYPES or q.dtype != k.dtype or q.dtype != v.dtype:
        raise LoweringError(
            f"attention of {q.dtype}, {k.dtype} and {v.dtype} has no CUDA kernel; cast all to one of "
            + ", ".join(map(str, _DTYPES))
        )
    if max(q.shape[-1], v.shape[-1]) > 256:
        raise LoweringError(
            f"head dims {q.shape[-1]} and {v.shape[-1]}: the CUDA kernel goes up to 256; split the heads"
        )
    if split_size != KEY_SPLIT:
        raise LoweringError(
            f"attention was built for split_size={KEY_SPLIT}, got {split_size}; "
            "lowerings/cuda/plans.py names the number"
        )
