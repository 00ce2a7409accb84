"""Bits on a GPU: every schedule of a plan equal, every row alone and in a batch, decode = chunk = prefill.

    python tests/lowerings/cuda/device_bits.py gemm|attention|hopper|decode|rows|overlap|orders [DTYPE-HEADDIM ..]

Prints one line a check, ``ok`` or the number of differing elements; exits with 1 if any differs.
"""

import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lowerings.cuda import (
    attention,
    attention_decode,
    attention_hopper,
    convolution,
    matmul,
    matmul_hopper,
    norm,
    reduction,
    scan,
    scatter,
    schedules,
    schedules_hopper,
    shared,
    softmax,
    topk,
)
from lowerings.cuda.plans import CHAIN, FLOAT32_SPLIT, KEY_SPLIT, LANES

ROWS = (1, 2, 7, 16, 17, 33, 64, 65, 129, 1000)
FAILED: list[str] = []


def report(name: str, pairs: list[tuple[Tensor, Tensor]], *, wanted: bool = True) -> None:
    """Compare bit for bit; ``wanted=False`` marks a negative control, which must differ."""
    different = sum(int((a != b).logical_and(~(a.isnan() & b.isnan())).sum()) for a, b in pairs)
    total = sum(a.numel() for a, _ in pairs)
    good = (different == 0) == wanted
    if not good:
        FAILED.append(name)
    verdict = "ok" if good else "FAILED"
    print(f"{verdict:7}{name}: {different} of {total} differ", flush=True)


def data(kind: str, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Random normals, wide exponents, or values that cancel."""
    x = torch.randn(rows, columns, device="cuda")
    if kind == "wide":
        x = x * torch.exp2(torch.randint(-12, 12, x.shape, device="cuda").float())
    if kind == "cancelling":
        x = torch.cat([x[:, : columns // 2], -x[:, : columns - columns // 2]], 1) + x * 1e-3
    return x.to(dtype)


def gemm() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        for n, k in ((6144, 4096), (768, 3072), (1000, 1072), (1000, 1000), (333, 777)):
            _gemm_shape(dtype, n, k)
        _shared(dtype)
        _overlapping(dtype)
    for n, k in ((768, 3072), (333, 777)):
        a, w = data("normal", 1000, k, torch.float32), data("normal", n, k, torch.float32)
        exact = a.double() @ w.double().t()
        outs = [
            matmul.mm(a, w.t(), split_size=FLOAT32_SPLIT, schedule=tile)
            for tile in schedules.FLOAT32
        ]
        report(f"float32 {n}x{k} all tiles", [(out, outs[0]) for out in outs])
        report(
            f"float32 {n}x{k} rows",
            [(matmul.mm(a[:m], w.t(), split_size=FLOAT32_SPLIT), outs[0][:m]) for m in ROWS],
        )
        ours, stock = ((x.double() - exact).abs().max().item() for x in (outs[0], a @ w.t()))
        print(f"        float32 {n}x{k} max error ours {ours:.2e} cuBLAS {stock:.2e}")
    a, w = data("normal", 1000, 4096, torch.bfloat16), data("normal", 4096, 4096, torch.bfloat16)
    report(
        "control: cuBLAS 4096x4096", [(a[:m] @ w.t(), (a @ w.t())[:m]) for m in ROWS], wanted=False
    )
    a, b = (
        data("normal", 600, 512, torch.bfloat16),
        torch.randn(8, 512, 256, device="cuda").bfloat16(),
    )
    offs = torch.tensor([0, 3, 100, 228, 300, 301, 480, 600], device="cuda", dtype=torch.int32)
    out = matmul.grouped_mm(a, b, offs, split_size=CHAIN)
    lefts = [0, *offs.tolist()[:-1]]
    pairs = [
        (out[i:j], matmul.mm(a[i:j], b[g], split_size=CHAIN))
        for g, (i, j) in enumerate(zip(lefts, offs.tolist(), strict=False))
    ]
    report("grouped = mm of each group", pairs)
    x = torch.randn(16, 5, 64, device="cuda").bfloat16()
    y = torch.randn(16, 64, 100, device="cuda").bfloat16()
    report(
        "bmm = mm",
        [
            (matmul.bmm(x, y, split_size=CHAIN)[i], matmul.mm(x[i], y[i], split_size=CHAIN))
            for i in range(16)
        ],
    )


def _gemm_shape(dtype: torch.dtype, n: int, k: int) -> None:
    aligned = n % 8 == 0 and k % 8 == 0
    tiles = [
        tile
        for tile in schedules.ALL_HALVES
        if (aligned or not tile.tma) and (k % 16 == 0 or not tile.stream)
    ]
    if aligned and matmul_hopper.is_hopper(0):
        tiles += [tile for tile, _ in schedules_hopper.TILES]
        tiles += [replace(tile, early=True) for tile in tiles[-3:]]
    for kind in ("normal", "wide", "cancelling"):
        a, w = data(kind, 1000, k, dtype), data(kind, n, k, dtype)
        bias = torch.randn(n, device="cuda").to(dtype)
        whole = matmul.mm(a, w.t(), bias, split_size=CHAIN, schedule=tiles[0])
        name = f"{str(dtype)[6:]} {n}x{k} {kind}"
        pairs = [
            (matmul.mm(a, w.t(), bias, split_size=CHAIN, schedule=tile), whole) for tile in tiles
        ]
        report(f"{name} {len(tiles)} tiles", pairs)
        report(
            f"{name} rows",
            [(matmul.mm(a[:m], w.t(), bias, split_size=CHAIN), whole[:m]) for m in ROWS],
        )
        if aligned and kind == "normal":
            _gemm_epilogues(name, a, w, bias, tiles)
        if kind == "normal":
            wt = w.t().contiguous()
            report(
                f"{name} [K, N]",
                [(matmul.mm(a[:m], wt, bias, split_size=CHAIN), whole[:m]) for m in ROWS],
            )
            shifted = torch.empty(a.numel() + 1, dtype=dtype, device="cuda")[1:].view_as(a).copy_(a)
            report(
                f"{name} misaligned",
                [(matmul.mm(shifted[:m], w.t(), bias, split_size=CHAIN), whole[:m]) for m in ROWS],
            )
            exact = torch.addmm(bias.double(), a.double(), w.double().t())
            errors = [
                (x.double() - exact).abs().mean().item()
                for x in (whole, torch.addmm(bias, a, w.t()))
            ]
            print(
                f"        {name} mean error ours {errors[0]:.3e} cuBLAS {errors[1]:.3e}", flush=True
            )


def _gemm_epilogues(name: str, a: Tensor, w: Tensor, bias: Tensor, tiles: list[object]) -> None:
    """A bias of its own for every row, factors, few rows, and weights by K, on every third tile."""
    full = torch.randn(len(a), len(w), device="cuda").to(a.dtype)
    wt = w.t().contiguous()
    for rows in (33, 77, 200):
        x, y = a[:rows], full[:rows]
        pairs = []
        for tile in tiles[::3]:
            for weights, added, factors in (
                (w.t(), y, {"alpha": 0.5, "beta": 2.0}),
                (w.t(), bias, {"beta": 0.25}),
                (wt, None, {}),
            ):
                if weights is wt and getattr(tile, "stream", False):
                    continue  # reads both operands along K
                made, plain = (
                    matmul.mm(x, weights, added, split_size=CHAIN, schedule=one, **factors)
                    for one in (tile, schedules.POINTERS[0])
                )
                pairs.append((made, plain))
        report(f"{name} epilogues of {rows} rows", pairs)


def _shared(dtype: torch.dtype) -> None:
    a = data("wide", 64, 1072, dtype)
    weights = [data("wide", n, 1072, dtype) for n in (1000, 72, 24)]
    pairs = []
    for m in (1, 2, 8, 9, 16, 17, 32, 33):
        for few in (weights[:2], weights):
            outs = shared.shared_mm(a[:m], *few, split_size=CHAIN)
            pairs += [
                (out, matmul.mm(a[:m], w.t(), split_size=CHAIN))
                for out, w in zip(outs, few, strict=False)
            ]
    report(f"{str(dtype)[6:]} products of one input = each alone", pairs)


def _overlapping(dtype: torch.dtype) -> None:
    """Launches that start before the one in front has ended, in a graph, against one at a time."""
    x = data("normal", 8, 4096, dtype)
    up, down = (data("normal", 4096, 4096, dtype) / 64 for _ in range(2))

    def chain(after: Callable[[], object]) -> Tensor:
        h = x
        for _ in range(20):
            normed, _ = norm.rms_norm(h, [4096], None, 1e-6, lanes=LANES)
            after()
            left, right, _ = shared.shared_mm(normed, up, down, split_size=CHAIN)
            after()
            h = matmul.mm(left + right, down.t(), split_size=CHAIN)
            after()
        return h

    wanted = chain(torch.cuda.synchronize)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = chain(lambda: None)
    outs = []
    for _ in range(100):
        graph.replay()
        outs.append(out.clone())
    report(f"{str(dtype)[6:]} overlapping launches in a graph", [(o, wanted) for o in outs])
    loose = [(chain(lambda: None), wanted) for _ in range(20)]
    report(f"{str(dtype)[6:]} overlapping launches", loose)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, **kwargs: object) -> Tensor:
    return attention.attention(q, k, v, mask, split_size=KEY_SPLIT, **kwargs)[0]  # type: ignore[arg-type]


def attentions() -> None:
    for dtype, dims in (
        (torch.bfloat16, (64, 96, 128, 256)),
        (torch.float16, (128,)),
        (torch.float32, (64,)),
    ):
        for dim in dims:
            if len(sys.argv) < 3 or f"{str(dtype)[6:]}-{dim}" in sys.argv[2:]:
                _attention_dim(dtype, dim)


def _attention_dim(dtype: torch.dtype, dim: int, length: int = 1100) -> None:
    q = torch.randn(2, 8, length, dim, device="cuda").to(dtype)
    k, v = (torch.randn(2, 2, length, dim, device="cuda").to(dtype) for _ in range(2))
    whole = attend(q, k, v, is_causal=True)
    name = f"attention {str(dtype)[6:]} d{dim}"
    stock = torch.nn.functional.scaled_dot_product_attention
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
    wide = [torch.nn.functional.pad(x, (0, 0, 37, 200)) for x in (k, v)]
    kept = torch.nn.functional.pad(causal, (37, 200))
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


def hopper() -> None:
    """The kernel of specialised warps against the Triton kernel: layouts, groups, masks, hidden values."""
    for dtype, dim in (
        (torch.bfloat16, 128),
        (torch.bfloat16, 64),
        (torch.bfloat16, 96),
        (torch.float16, 128),
    ):
        name = f"{str(dtype)[6:]}-{dim}"
        if len(sys.argv) < 3 or name in sys.argv[2:]:
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


def decode() -> None:
    """The kernel of one query against the Triton kernel and a prefill: piece borders, groups, masks, hidden values."""
    for dtype, dim, group in (
        *((torch.bfloat16, 128, group) for group in (1, 3, 4, 8)),
        *((torch.bfloat16, dim, 4) for dim in (64, 96, 256)),
        *((torch.float16, 128, 4), (torch.bfloat16, 64, 16)),
    ):
        name = f"{str(dtype)[6:]}-{dim}"
        if len(sys.argv) < 3 or f"{name}-{group}" in sys.argv[2:]:
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


def rows() -> None:
    makers: dict[str, Callable[[Tensor], Tensor]] = {
        "rms_norm": lambda x: norm.rms_norm(x, x.shape[-1:], None, 1e-6, lanes=LANES)[0],
        "layer_norm": lambda x: norm.layer_norm(x, x.shape[-1:], None, None, 1e-5, lanes=LANES)[0],
        "softmax": lambda x: softmax.softmax(x, -1, False, lanes=LANES),
        "log_softmax": lambda x: softmax.softmax(x, -1, True, lanes=LANES),
        "sum": lambda x: reduction.reduction(x, "sum", [-1], lanes=LANES),
        "mean_squares": lambda x: reduction.reduction(x, "mean_squares", [-1], lanes=LANES),
        "var": lambda x: reduction.var_mean(x, [-1], 1.0, lanes=LANES)[0],
    }
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        if len(sys.argv) > 2 and str(dtype)[6:] not in sys.argv[2:]:
            continue
        for extent in (64, 128, 1000, 1024, 4096, 5001, 32000, 128256):
            x = torch.randn(1027 if extent < 10000 else 300, extent, device="cuda").to(dtype)
            shifted = torch.empty(x.numel() + 1, dtype=dtype, device="cuda")[1:].view_as(x).copy_(x)
            for name, make in makers.items():
                whole = make(x)
                pairs = [(make(x[:m]), whole[:m]) for m in ROWS if m <= len(x)] + [
                    (make(x[5:6]), whole[5:6]),
                    (make(shifted), whole),
                ]
                if name in ("sum", "mean_squares", "var"):
                    pairs.append((make(x.t().contiguous().t()), whole))
                    pairs.append((make(x.t().contiguous().t()[:1]), whole[:1]))
                if name == "sum":
                    pairs.append((make(torch.nn.functional.pad(x, (0, 777))), whole))
                report(f"{name} {str(dtype)[6:]} {extent}", pairs)
            report(f"add_rms_norm {str(dtype)[6:]} {extent}", _fused_norm(x))


def overlap() -> None:
    """Kernels that start before their predecessor has ended read what it wrote, and write after it has read."""
    for rows in (1, 64, 3000):
        x, residual = (torch.randn(rows, 4096, device="cuda").bfloat16() for _ in range(2))
        long = torch.randn(rows, 50000, device="cuda").bfloat16()
        k, v = (torch.randn(min(rows, 64), 8, 1100, 128, device="cuda").bfloat16() for _ in "kv")
        kept = torch.arange(1100, device="cuda") < 1000

        def chain(
            wait: Callable[[], None], x: Tensor = x, residual: Tensor = residual, long: Tensor = long,
            k: Tensor = k, v: Tensor = v, kept: Tensor = kept,
        ) -> list[Tensor]:  # fmt: skip
            y, total = x, residual
            for _ in range(20):
                y, total = norm.add_rms_norm(
                    y, total, None, 1e-6, fma=True, rounded=False, lanes=LANES
                )
                wait()
                y = norm.layer_norm(y, [4096], x[0], x[0], 1e-5, lanes=LANES)[0]
                wait()
                y = softmax.softmax(y, -1, True, lanes=LANES)
                wait()
                q = y[: len(k)].view(len(k), 32, 1, 128)
                for mask in (None, kept):
                    q = attend(q, k, v, mask)
                    wait()
                y[: len(k)] = norm.rms_norm(q.reshape(-1, 4096), [4096], None, 1e-6, lanes=LANES)[0]
                wait()
                total, long[:, :4096] = y + total, y
                long = softmax.softmax(long, -1, True, lanes=LANES)
                wait()
            return [y, total, long]

        expected = chain(torch.cuda.synchronize, long=long.clone())
        graph, again = torch.cuda.CUDAGraph(), long.clone()
        with torch.cuda.graph(graph):
            captured = chain(lambda: None, long=again)
        for turn in range(3):
            again.copy_(long)
            graph.replay()
            report(f"overlap {rows} graph {turn}", list(zip(captured, expected, strict=True)))
        alone = chain(lambda: None, long=long.clone())
        report(f"overlap {rows} stream", list(zip(alone, expected, strict=True)))


def _fused_norm(x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The fused norm against its parts, run one by one, and rows of it alone."""
    residual, weight = torch.randn_like(x), torch.randn_like(x[0])
    out, total = norm.add_rms_norm(x, residual, weight, 1e-6, fma=False, rounded=True, lanes=LANES)
    wide = (x + residual).float()
    mean = reduction.reduction(wide.pow(2), "mean", [-1], True, lanes=LANES)
    parts = weight * (wide * torch.rsqrt(mean + 1e-6)).to(x.dtype)
    made = [(total, x + residual), (out, parts)]
    for rows in (slice(5, 6), slice(0, 17), slice(3, 100)):
        alone, _ = norm.add_rms_norm(
            total[rows], None, weight, 1e-6, fma=False, rounded=True, lanes=LANES
        )
        made.append((alone, out[rows]))
    once, _ = norm.add_rms_norm(x, residual, weight, 1e-6, fma=True, rounded=False, lanes=LANES)
    made.append((once, norm.rms_norm(total, x.shape[-1:], weight, 1e-6, lanes=LANES)[0]))
    return made


def orders() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype)[6:]
        for extent in (5, 1000, 1024, 4099, 50000):
            x = torch.randn(65, extent, device="cuda").to(dtype)
            for kind in ("cumsum", "cumprod", "logcumsumexp"):
                whole = scan.scan(x, kind, 1)
                pairs = [
                    (scan.scan(x[i : i + n], kind, 1), whole[i : i + n])
                    for i, n in ((0, 1), (5, 1), (7, 33), (64, 1))
                ]
                pairs.append(
                    (scan.scan(x[:, : extent // 2 + 1], kind, 1), whole[:, : extent // 2 + 1])
                )
                pairs.append((scan.scan(x.t().contiguous(), kind, 0).t(), whole))
                report(f"{kind} {name} {extent}", pairs)
        x, src = (
            torch.randn(50, 300, device="cuda").to(dtype),
            torch.randn(4000, 300, device="cuda").to(dtype),
        )
        index = torch.randint(0, 50, (4000,), device="cuda")
        whole = scatter.index_add(x, 0, index, src)
        exact = x.double().index_add(0, index, src.double())
        slow = x.cpu().float()
        for i, row in zip(index.tolist(), src.cpu().float(), strict=True):
            slow[i] += row
        report(
            f"index_add {name} twice and in order",
            [(scatter.index_add(x, 0, index, src), whole), (slow.to(dtype).cuda(), whole)],
        )
        print(f"        index_add {name} error {(whole.double() - exact).abs().max().item():.2e}")
        picked = index.view(-1, 1).expand(-1, 300)
        report(f"scatter_add {name} = index_add", [(scatter.scatter_add(x, 0, picked, src), whole)])
        report(f"index_put {name} = index_add", [(scatter.index_put_add(x, [index], src), whole)])
        images = torch.randn(33, 6, 20, 22, device="cuda").to(dtype)
        for groups in (1, 2, 6):
            weight, bias = (
                torch.randn(12, 6 // groups, 3, 3, device="cuda").to(dtype),
                torch.randn(12, device="cuda").to(dtype),
            )
            split = FLOAT32_SPLIT if dtype == torch.float32 else CHAIN

            def conv(
                y: Tensor, w: Tensor = weight, b: Tensor = bias, g: int = groups, split: int = split
            ) -> Tensor:
                return convolution.convolution(
                    y, w, b, [2], [1], [1], False, [0], g, split_size=split
                )

            whole = conv(images)
            exact = torch.nn.functional.conv2d(
                images.double(), weight.double(), bias.double(), 2, 1, 1, groups
            )
            report(
                f"convolution {name} groups {groups}",
                [
                    (conv(images[i : i + n]), whole[i : i + n])
                    for i, n in ((0, 1), (5, 1), (7, 17), (32, 1))
                ],
            )
            print(
                f"        convolution {name} error {(whole.double() - exact).abs().max().item():.2e}"
            )
        values, places = topk.topk(images.flatten(1), 5, 1, True, True)
        report(
            f"topk {name}", [(topk.topk(images[3:4].flatten(1), 5, 1, True, True)[1], places[3:4])]
        )
        bags = scatter.embedding_bag(
            src, index, torch.tensor([0, 10, 10, 3000], device="cuda"), None, "mean", False, -1
        )
        alone = scatter.embedding_bag(
            src, index[10:3000], torch.tensor([0], device="cuda"), None, "mean", False, -1
        )
        report(f"embedding_bag {name}", [(alone, bags[2:3])])


if __name__ == "__main__":
    torch.manual_seed(0)
    checks = (gemm, attentions, hopper, decode, rows, overlap, orders)
    names = {check.__name__: check for check in checks} | {"attention": attentions}
    names[sys.argv[1]]()
    print(f"{sys.argv[1]}: {len(FAILED)} failed", *FAILED, sep="\n  ")
    sys.exit(bool(FAILED))
