"""Attention: prefill = chunk = decode, and every kernel of it against the Triton kernel."""

import torch
from torch import Tensor
from torch.nn import functional

from lowerings.cuda import attention, attention_decode, attention_hopper, schedules
from lowerings.cuda.plans import KEY_SPLIT
from tests.lowerings.cuda.on_device.check import FAILED, chosen, report


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, **kwargs: object) -> Tensor:
    return attention.attention(q, k, v, mask, split_size=KEY_SPLIT, **kwargs)[0]  # type: ignore[arg-type]


def attentions() -> None:
    for dtype, dims in (
        (torch.bfloat16, (64, 96, 128, 256)),
        (torch.float16, (128,)),
        (torch.float32, (64,)),
    ):
        for dim in dims:
            if chosen(f"{str(dtype)[6:]}-{dim}"):
                _attention_dim(dtype, dim)


def _attention_dim(dtype: torch.dtype, dim: int, length: int = 1100) -> None:
    q = torch.randn(2, 8, length, dim, device="cuda").to(dtype)
    k, v = (torch.randn(2, 2, length, dim, device="cuda").to(dtype) for _ in range(2))
    whole = attend(q, k, v, is_causal=True)
    name = f"attention {str(dtype)[6:]} d{dim}"
    stock = functional.scaled_dot_product_attention
    exact = stock(*(x.double() for x in (q, k, v)), is_causal=True, enable_gqa=True)
    errors = [
        (x.double() - exact).abs().mean().item()
        for x in (whole, stock(q, k, v, is_causal=True, enable_gqa=True))
    ]
    print(f"        {name} mean error ours {errors[0]:.3e} stock {errors[1]:.3e}", flush=True)
    tiles = [(16, 4), (32, 4), (64, 4), (64, 8)] + ([(128, 8)] if dim <= 128 else [])
    if dtype == torch.float32:
        tiles = [(16, 4), (32, 8)]
    choices = [
        schedules.Attention(m=m, warps=w, stages=2, parallel=p)
        for m, w in tiles
        for p in (False, True)
    ]
    report(
        f"{name} {len(choices)} schedules",
        [(attend(q, k, v, is_causal=True, schedule=s), whole) for s in choices],
    )
    places = (0, 1, 15, 63, 64, 127, 511, 512, 513, 700, 1023, 1024, 1099)
    decode = [
        (attend(q[:, :, p : p + 1], k[:, :, : p + 1], v[:, :, : p + 1]), whole[:, :, p : p + 1])
        for p in places
    ]
    report(f"{name} decode = prefill", decode)
    report(
        f"{name} batch",
        [
            (attend(q[i : i + 1], k[i : i + 1], v[i : i + 1], is_causal=True), whole[i : i + 1])
            for i in (0, 1)
        ],
    )
    spans = ((0, 300), (300, 520), (520, 1100), (1000, 1003))
    causal = torch.ones(length, length, dtype=torch.bool, device="cuda").tril()
    report(
        f"{name} chunk = prefill",
        [(attend(q[:, :, i:j], k, v, causal[i:j]), whole[:, :, i:j]) for i, j in spans],
    )
    wide = [functional.pad(x, (0, 0, 37, 200)) for x in (k, v)]
    kept = functional.pad(causal, (37, 200))
    report(
        f"{name} padded and cached",
        [(attend(q[:, :, i:j], *wide, kept[i:j]), whole[:, :, i:j]) for i, j in spans],
    )
    added = torch.zeros(kept.shape, dtype=dtype, device="cuda").masked_fill(
        ~kept, torch.finfo(dtype).min
    )
    for i, j in spans:
        for m, warps in ((16, 4), (32, 4), (64, 4), (64, 8)):
            for parallel in (False, True):
                choice = schedules.Attention(m=m, warps=warps, stages=2, parallel=parallel)
                masked = attend(q[:, :, i:j], k, v, causal[i:j], schedule=choice)
                at = (masked != whole[:, :, i:j]).nonzero().tolist()[:3]
                if at:
                    values = [
                        (masked[tuple(p)].item(), whole[:, :, i:j][tuple(p)].item()) for p in at
                    ]
                    print(f"        differs: span {i}:{j} {choice} at {at} {values}")
    window = causal & ~torch.ones_like(causal).tril(-100)
    slid = attend(q, k, v, window)
    report(
        f"{name} sliding window",
        [(attend(q[:, :, i:j], k, v, window[i:j]), slid[:, :, i:j]) for i, j in spans],
    )
    dirty = v.clone()
    dirty[:, :, 700:] = float("nan")
    report(
        f"{name} hidden NaN",
        [
            (attend(q, k, dirty, is_causal=True)[:, :, :700], whole[:, :, :700]),
            (attend(q, k, dirty, causal)[:, :, :700], whole[:, :, :700]),
        ],
    )
    report(
        f"{name} additive",
        [(attend(q[:, :, i:j], *wide, added[i:j]), whole[:, :, i:j]) for i, j in spans],
    )
    bias = torch.randn(1, 8, length, length, device="cuda").to(dtype)
    biased = attend(q, k, v, bias)
    padded = functional.pad(bias, (0, 36))[..., :length]
    strided = bias.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    report(
        f"{name} strides of a bias",
        [
            *((attend(q, k, v, x), biased) for x in (padded, strided, bias.expand(2, -1, -1, -1))),
            (attend(q[1:], k[1:], v[1:], strided), biased[1:]),
        ],
    )


def hopper() -> None:
    """The kernel of specialised warps against the Triton kernel: layouts, groups, masks, hidden values."""
    for dtype, dim in (
        (torch.bfloat16, 128),
        (torch.bfloat16, 64),
        (torch.bfloat16, 96),
        (torch.float16, 128),
    ):
        name = f"{str(dtype)[6:]}-{dim}"
        if chosen(name):
            _hopper_shapes(dtype, dim, name)
            if dim == 128:
                _hopper_masks(dtype, dim, name)


def _both(
    name: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, **options: bool
) -> None:
    """One call on both kernels; fails if the specialised one did not run where it should."""
    ran = []
    real = attention_hopper.launch
    attention_hopper.launch = lambda *args, **settings: (ran.append(1), real(*args, **settings))
    try:
        apart = schedules.Attention(m=64, warps=4, stages=2)
        plain = attention.attention(q, k, v, mask, split_size=KEY_SPLIT, schedule=apart, **options)
        on_triton = len(ran)
        tile = schedules.Attention(m=128, warps=8, stages=3)
        ours = attention.attention(q, k, v, mask, split_size=KEY_SPLIT, schedule=tile, **options)
    finally:
        attention_hopper.launch = real
    if (on_triton, len(ran)) != (0, 1):
        FAILED.append(name)
        print(f"FAILED {name}: the specialised kernel ran {on_triton} and {len(ran)} times")
    report(f"hopper {name}", list(zip(ours, plain, strict=True)))


def _operands(
    batch: int, heads: int, kv_heads: int, queries: int, keys: int, dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v as views of [B, L, H, D], the layout of a projection."""
    q = torch.randn(batch, queries, heads, dim, device="cuda").to(dtype).transpose(1, 2)
    k, v = (
        torch.randn(batch, keys, kv_heads, dim, device="cuda").to(dtype).transpose(1, 2)
        for _ in range(2)
    )
    return q, k, v


def _hopper_shapes(dtype: torch.dtype, dim: int, name: str) -> None:
    for heads, kv_heads in ((8, 2), (2, 2), (9, 3)):
        args = _operands(2, heads, kv_heads, 1030, 1030, dim, dtype)
        _both(f"{name} causal {heads}/{kv_heads}", *args, is_causal=True)
    args = _operands(1, 4, 4, 129, 1100, dim, dtype)
    _both(f"{name} 129 x 1100", *(x.contiguous() for x in args))
    q, k, v = _operands(3, 8, 2, 256, 300, dim, dtype)
    caches = [x.new_full((3, 2, 2048, dim), float("nan")) for x in (k, v)]
    for cache, x in zip(caches, (k, v), strict=True):
        cache[:, :, :300] = x
    _both(f"{name} cache with NaN behind", q, *(cache[:, :, :300] for cache in caches))


def _hopper_masks(dtype: torch.dtype, dim: int, name: str) -> None:
    q, k, v = _operands(3, 8, 2, 200, 700, dim, dtype)
    key = torch.arange(700, device="cuda")
    last = torch.arange(500, 700, device="cuda")[:, None]
    padding = torch.tensor([0, 77, 513], device="cuda")[:, None, None, None]
    mask = (key <= last) & (key >= padding)
    _both(f"{name} chunk, padded on the left", q, k, v, mask)
    least = torch.zeros(mask.shape, device="cuda", dtype=dtype).masked_fill(
        ~mask, torch.finfo(dtype).min
    )
    _both(f"{name} additive", q, k, v, least)
    _both(f"{name} bias, left to Triton", q, k, v, torch.randn_like(least))
    _both(f"{name} window, left to Triton", q, k, v, mask & (key > last - 100))
    holes = mask.clone()
    holes[0] = False
    holes[1, :, 5] = False
    holes[2, :, :, 600] = False
    _both(f"{name} empty rows and a hole", q, k, v, holes)
    wild_k, wild_v = k.clone(), v.clone()
    wild_v[:, :, 600:] = float("nan")
    wild_k[:, :, 650:] = float("inf")
    _both(f"{name} hidden NaN and inf", q, wild_k, wild_v, mask)
    q, k, v = _operands(2, 8, 2, 900, 900, dim, dtype)
    v[:, :, 800:] = float("nan")
    v[:, :, 700, 3] = float("inf")
    _both(f"{name} NaN and inf, causal", q * 30, k, v, is_causal=True)


def prefill() -> None:
    """A masked prefill in a static cache, as a decoder calls it: of many samples and of one, in parts, in a longer cache.

    The number of tiles chooses the kernel, so a sample alone may run on another one than in its batch.
    """
    batch, total, capacity = 17, 300, 512
    for dtype, dim in ((torch.bfloat16, 128), (torch.float16, 64), (torch.float32, 128)):
        name = f"{str(dtype)[6:]}-{dim}"
        if not chosen(name):
            continue
        q = torch.randn(batch, 32, total, dim, device="cuda").to(dtype)
        k, v = (torch.randn(batch, 8, capacity, dim, device="cuda").to(dtype) for _ in range(2))
        mask = torch.arange(capacity, device="cuda") <= torch.arange(total, device="cuda")[:, None]
        whole = attend(q, k, v, mask[None, None])
        report(
            f"prefill {name} again", [(attend(q, k, v, mask[None, None]), whole) for _ in range(20)]
        )
        report(
            f"prefill {name} rows",
            [
                (attend(*(x[i : i + n] for x in (q, k, v)), mask[None, None]), whole[i : i + n])
                for i, n in ((0, 1), (16, 1), (3, 2), (5, 7))
            ],
        )
        report(
            f"prefill {name} in parts",
            [
                (attend(q[:, :, i:j], k, v, mask[None, None, i:j]), whole[:, :, i:j])
                for i, j in ((0, 120), (120, 299), (299, 300), (64, 65))
            ],
        )
        longer = [functional.pad(x, (0, 0, 0, 512)) for x in (k, v)]
        wide = functional.pad(mask, (0, 512))[None, None]
        report(
            f"prefill {name} longer cache",
            [(attend(q[:2], longer[0][:2], longer[1][:2], wide), whole[:2])],
        )
        causal = attend(q, k[:, :, :total], v[:, :, :total], is_causal=True)
        report(f"prefill {name} causal", [(causal, whole)])
        other = attend(q, k, v, mask[None, None].roll(1, -2))
        report(f"prefill {name} control", [(other, whole)], wanted=False)


def decode() -> None:
    """The kernel of one query against the Triton kernel and a prefill: piece borders, groups, masks, hidden values."""
    for dtype, dim, group in (
        *((torch.bfloat16, 128, group) for group in (1, 3, 4, 8)),
        *((torch.bfloat16, dim, 4) for dim in (64, 96, 256)),
        *((torch.float16, 128, 4), (torch.bfloat16, 64, 16)),
    ):
        name = f"{str(dtype)[6:]}-{dim}"
        if chosen(f"{name}-{group}"):
            _decode_lengths(dtype, dim, group, f"decode {name} x{group}")
            _decode_masks(dtype, dim, group, f"decode {name} x{group}")


def _one_query(
    name: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, wanted: bool = True
) -> None:
    """One call on every schedule of the kernel of one query, and on the Triton kernel with its pieces placed alike."""
    limit = 128 if q.shape[-1] <= 128 else 0
    pairs = []
    for parallel in (False, True):
        plain = schedules.Attention(m=16, warps=4, stages=2, parallel=parallel)
        other = q if wanted else q * 1.01
        expected = attention.attention(other, k, v, mask, split_size=KEY_SPLIT, schedule=plain)
        for blocks, registers in ((1, limit), (2, 0)):
            tile = schedules.Decode(blocks=blocks, registers=registers, parallel=parallel)
            found = attention.attention(q, k, v, mask, split_size=KEY_SPLIT, schedule=tile)
            pairs += list(zip(found, expected, strict=True))
    ran = []
    real = attention_decode.launch
    attention._scripts.clear()  # another call of these shapes would be repeated without asking the launcher
    attention_decode.launch = lambda *args: (ran.append(1), real(*args))
    try:
        found = attention.attention(q, k, v, mask, split_size=KEY_SPLIT)
    finally:
        attention_decode.launch = real
    again = attention.attention(q, k, v, mask, split_size=KEY_SPLIT)
    pairs += list(zip(again, found, strict=True))
    if len(ran) != 1:
        FAILED.append(name)
        print(f"FAILED {name}: the kernel of one query ran {len(ran)} times")
    if mask is None:
        pairs += list(zip(found, expected, strict=True))
    report(name, pairs, wanted=wanted)


def _decode_lengths(dtype: torch.dtype, dim: int, group: int, name: str) -> None:
    for keys in (1, 63, 64, 65, 257, 511, 512, 513, 1023, 1024, 1025, 2100):
        _one_query(f"{name} {keys}", *_operands(3, 2 * group, 2, 1, keys, dim, dtype))
    _one_query(f"{name} control", *_operands(3, 2 * group, 2, 1, 700, dim, dtype), wanted=False)
    q, k, v = _operands(2, 2 * group, 2, 1100, 1100, dim, dtype)
    whole = attend(q, k, v, is_causal=True)
    pairs = [
        (attend(q[:, :, p : p + 1], k[:, :, : p + 1], v[:, :, : p + 1]), whole[:, :, p : p + 1])
        for p in (0, 62, 63, 64, 511, 512, 700, 1023, 1024, 1099)
    ]
    report(f"{name} = prefill", pairs)


def _decode_masks(dtype: torch.dtype, dim: int, group: int, name: str) -> None:
    capacity = 1280
    q, k, v = (x.contiguous() for x in _operands(3, 2 * group, 2, 1, capacity, dim, dtype))
    k[:, :, 1200:] = float("nan")
    v[:, :, 1150:] = float("nan")
    key = torch.arange(capacity, device="cuda")
    for keys, left in ((1, 0), (257, 0), (513, 5), (700, 37), (1100, 600)):
        padding = torch.tensor([left, 0, min(3, keys - 1)], device="cuda")[:, None, None, None]
        keep = (key < keys) & (key >= padding)
        added = torch.zeros(keep.shape, device="cuda", dtype=dtype)
        added = added.masked_fill(~keep, torch.finfo(dtype).min)
        for mask in (keep, added, keep[1]):
            _one_query(f"{name} {left}:{keys} {str(mask.dtype)[6:]}", q, k, v, mask)
        alone = attend(q[:1], *(x[:1, :, left:keys] for x in (k, v)))
        report(f"{name} {left}:{keys} alone", [(attend(q, k, v, keep)[:1], alone)])
    holes = (key < 1100) & (torch.rand(3, 1, 1, capacity, device="cuda") > 0.3)
    holes[2] = False
    bias = torch.randn(3, 1, 1, capacity, device="cuda").to(dtype)
    wild = v.clone()
    wild[:, :, 50, 1], wild[:, :, 55, 2] = float("nan"), float("inf")
    wild[:, :, 57, 3], wild[:, :, 58:60, 4] = float("-inf"), float("inf")
    for mask in (holes, bias.masked_fill(~holes, float("-inf"))):
        _one_query(f"{name} holes {str(mask.dtype)[6:]}", q, k, v, mask)
        _one_query(f"{name} holes, NaN and inf {str(mask.dtype)[6:]}", q, k, wild, mask)
    q, k, v = _operands(2, 2 * group, 2, 1, 9000, dim, dtype)
    long = (torch.arange(9000, device="cuda") < 8800).repeat(2, 1, 1, 1)
    long[1, ..., :77] = False
    long[0, ..., 5000] = False
    _one_query(f"{name} long mask", q, k, v, long)
