"""Launcher of attention over packed requests: shapes decide the launch, the borders stay on the device."""

import math
import os

import torch
import triton
from torch import Tensor

from lowerings.cuda import attention_kernels, schedules
from lowerings.cuda import attention_packed_kernels as kernels
from lowerings.cuda.attention import check
from lowerings.cuda.launching import launch
from lowerings.cuda.plans import KEY_BLOCK

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_ends: Tensor,
    k_ends: Tensor,
    *,
    longest: int | None = None,
    window: int | None = None,
    scale: float | None = None,
    split_size: int,
    schedule: schedules.Attention | None = None,
) -> Tensor:
    """Return ``[1, tokens, H, Dv]``: each request's rows as causal attention gives them for that request alone.

    Nothing waits for the device, so a CUDA graph can hold it and be replayed with other borders.

    Args:
        q: ``[1, H, tokens, D]``; k ``[1, Hk, keys, D]``, v ``[1, Hk, keys, Dv]``, any strides.
        q_ends: int32 ``[requests + 1]``, where each request's tokens begin and the last one's end; k_ends for keys.
            A request's tokens are its last ones. Tokens behind the last request get 0.
        longest: keys of the longest request at most; ``keys`` when None.
        window: keys that a token sees, itself included; None for all.

    Raises:
        LoweringError: a dtype, head dim or split that no kernel was built for.
    """
    check(q, k, v, split_size)
    _, heads, tokens, dim = q.shape
    kv_heads, keys, value_dim = k.shape[1], k.shape[2], v.shape[3]
    requests = q_ends.shape[0] - 1
    out = q.new_zeros((1, tokens, heads, value_dim))
    if not out.numel() or not keys or not requests:
        return out
    group = heads // kv_heads
    pieces = -(-min(keys, longest or keys) // split_size)
    sms = 132 if _INTERPRETED else schedules.multiprocessors(q.device)
    if schedule is None:
        rows = max(1, tokens // requests) * group
        schedule = schedules.packed_attention(
            rows, requests * kv_heads, pieces, q.dtype, max(dim, value_dim), sms=sms
        )
    parallel = schedule.parallel and pieces > 1
    by_head = out.transpose(1, 2)
    lse = q.new_empty((heads, tokens), dtype=torch.float32)
    parts = stats = lse
    if parallel:
        parts = q.new_empty((heads * tokens * pieces, value_dim), dtype=torch.float32)
        # a token without a request has no weight
        stats = q.new_zeros((heads * tokens * pieces, 2), dtype=torch.float32)
    if scale is None:
        scale = 1 / math.sqrt(dim)
    if scale <= 0:
        # the kernel takes the maximum before it scales
        q, scale = (-q, -scale) if scale else (torch.zeros_like(q), 1.0)
    wide, value_wide = (max(16, triton.next_power_of_2(n)) for n in (dim, value_dim))
    tiles = tokens * group // schedule.m + min(requests, tokens)
    launch(
        kernels.attend_packed,
        (tiles, kv_heads, pieces if parallel else 1),
        (q, k, v, q_ends, k_ends, out, lse, parts, stats),
        (
            *(requests, tokens, pieces, window or 0),
            scale * math.log2(math.e),
            *(*q.stride()[1:], *k.stride()[1:], *v.stride()[1:], *by_head.stride()[1:]),
        ),
        GROUP=group,
        REQUESTS=triton.next_power_of_2(requests),
        WINDOWED=window is not None,
        PARALLEL=parallel,
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
    if parallel:
        launch(
            attention_kernels.combine,
            (heads * tokens,),
            (parts, stats, out, lse),
            (heads, tokens, pieces, *by_head.stride()),
            DV=value_dim,
            BDV=value_wide,
            num_warps=1,
            enable_fp_fusion=False,
        )
    return out
