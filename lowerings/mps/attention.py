"""Softmax attention on Metal: every schedule gives the bits of the plan of one query."""

import torch
from torch import Tensor

from bi_inductor.errors import LoweringError
from lowerings.mps import library, plans, schedules
from lowerings.mps.schedules import AttentionSchedule

#: 8 queries of this many float32 fill half of the threadgroup memory.
MAX_HEAD_DIM = 512


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    split_size: int,
) -> tuple[Tensor, Tensor]:
    """``q [B, H, Lq, D]``, ``k [B, Hk, Lk, D]``, ``v [B, Hk, Lk, Dv]``: out ``[B, H, Lq, Dv]``, lse float32.

    ``is_causal`` is torch's: query i sees keys 0..i. A bool mask keeps where it is True; an additive one
    masks at -inf, and at its lowest finite value in rows that have a higher one. A query that sees
    nothing gives 0.
    """
    pieces = -(-k.shape[2] // plans.ATTENTION_SPLIT)
    chosen = schedules.attention_schedule(q.shape[2], pieces, v.shape[3])
    return attention_with(
        chosen, q, k, v, mask, is_causal=is_causal, scale=scale, split_size=split_size
    )


def attention_with(
    schedule: AttentionSchedule,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    split_size: int,
) -> tuple[Tensor, Tensor]:
    """``attention`` under a given schedule: the same bits under every one of them."""
    dtype = _check(q, k, v, split_size)
    batch, heads, queries, dim = q.shape
    keys, value_dim = v.shape[2:]
    # heads inside, as models want it back and the fake kernel promises
    out = q.new_empty(batch, queries, heads, value_dim).transpose(1, 2)
    lse = q.new_full((batch, heads, queries), -torch.inf, dtype=torch.float32)
    library.check_size("attention", q, k, v, out)
    if not out.numel() or not keys:
        return out.zero_(), lse
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    defines: dict[str, object] = {"T": dtype, "D": dim, "DV": value_dim, "SPLIT": split_size}
    defines |= {"Q": schedule.queries, "THREADS": schedule.threads}
    defines |= {"PIECES": int(schedule.by_piece), "MASK": 0, "M": "uchar"}
    f = [float(dim**-0.5 if scale is None else scale), 0.0]
    mask_arg = q.new_zeros(1, dtype=torch.uint8)
    span, mask_steps = q.new_zeros(1, dtype=torch.int32), [0] * 7
    if mask is not None:
        additive = mask.dtype != torch.bool
        mask_arg = mask if additive else mask.view(torch.uint8)
        defines["MASK"] = 2 if additive else 1
        defines["M"] = library.metal_type(mask_arg.dtype, "attention mask")
        f[1] = torch.finfo(mask.dtype).min if additive else 0.0
        span_lib = library.load("attention_span", MASK=defines["MASK"], M=defines["M"])
        mask_arg, span, mask_steps = _span(span_lib, mask_arg, f[1], q, keys)
    lib = library.load("attention", **defines)
    pieces = -(-keys // split_size) if schedule.by_piece else 1
    p = [batch, heads, heads // k.shape[1], queries, keys, int(is_causal), pieces]
    p += [*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *mask_steps]
    groups = [-(-queries // schedule.queries), heads, batch * pieces]
    partial = lse
    if schedule.by_piece:
        partial = lse.new_empty(batch * heads * queries * pieces * (value_dim + 2))
    args = (q, k, v, mask_arg, span, out, lse, partial, p, f)
    library.launch(lib.bi_attention, *args, groups=groups, size=schedule.threads)
    if schedule.by_piece:
        rows = [batch * heads * queries]
        merged = (partial, out, lse, [pieces, heads, queries])
        library.launch(lib.bi_attention_merge, *merged, groups=rows, size=schedule.threads)
    return out, lse


def _span(
    lib: object, mask: Tensor, lowest: float, q: Tensor, keys: int
) -> tuple[Tensor, Tensor, list[int]]:
    """First and last visible key of each row of the mask; the strides of mask (z h q k) and span (z h q)."""
    mask = mask.expand(*[1] * (4 - mask.dim()), *mask.shape) if mask.dim() < 4 else mask
    rows = mask.shape[:3]
    span = torch.empty((*rows, 3), dtype=torch.int32, device=q.device)
    wide = mask.expand(*rows, keys)
    p = [rows.numel(), keys, rows[2], rows[1], *wide.stride()]
    groups = [-(-rows.numel() // 8)]
    library.launch(lib.bi_attention_span, wide, span, p, [lowest, 0.0], groups=groups, size=256)  # type: ignore[attr-defined]
    shape = q.shape[:3]
    steps = mask.expand(*shape, keys).stride()
    span_steps = span.expand(*shape, 3).stride()[:3]
    return wide, span, [*steps, *span_steps]


def _check(q: Tensor, k: Tensor, v: Tensor, split_size: int) -> str:
    library.check_number("attention", "split_size", split_size, plans.ATTENTION_SPLIT)
    if {k.dtype, v.dtype} != {q.dtype}:
        raise LoweringError(
            f"attention: q, k, v are {q.dtype}, {k.dtype}, {v.dtype}; use one dtype"
        )
    if q.shape[1] % k.shape[1] or k.shape[1] != v.shape[1]:
        raise LoweringError(
            f"attention: {q.shape[1]} query heads over {k.shape[1]} key and {v.shape[1]} value heads"
        )
    if max(q.shape[3], v.shape[3]) > MAX_HEAD_DIM:
        raise LoweringError(f"attention: head dims up to {MAX_HEAD_DIM}, got {tuple(q.shape)}")
    return library.metal_type(q.dtype, "attention")
