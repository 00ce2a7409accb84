"""Our CUDA kernels beside cuBLAS, SDPA and stock Inductor, in CUDA graphs over buffers larger than the L2 cache.

    python benchmarks/cuda_kernels.py products|attention|rows|host [OUT.json]  the tables, as Markdown
    python benchmarks/cuda_kernels.py float32 [OUT.json]                       the same for float32, with errors
    python benchmarks/cuda_kernels.py gemm [OUT.json]                          every tile that fits, to fit the choice to
    python benchmarks/cuda_kernels.py float32_tiles [NxK:M ..]                 the same for float32
    python benchmarks/cuda_kernels.py warm INDEX COUNT                         only compile a share of the schedules

Times are medians over graph replays, in microseconds; the ratio is stock's time over ours, above 1 we are faster.
"""

import functools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from lowerings.cuda import (
    attention,
    matmul,
    matmul_hopper,
    norm,
    schedules,
    schedules_hopper,
    softmax,
)
from lowerings.cuda.plans import CHAIN, FLOAT32_SPLIT, KEY_SPLIT, LANES
from lowerings.cuda.schedules import Gemm
from lowerings.cuda.schedules_hopper import Hopper

SHAPES = (
    (6144, 4096),
    (4096, 4096),
    (24576, 4096),
    (4096, 12288),
    (3072, 2048),
    (2048, 2048),
    (16384, 2048),
    (2048, 8192),
)
SIZES = (1, 3, 16, 32, 64, 77, 96, 128, 192, 256, 384, 512, 1024, 1500, 2048, 4096, 8192)
#: schedules that were tried beside the table's
TRIED = (
    Gemm(m=8, n=32, k=512, warps=2, stages=4, stream=True),
    Gemm(m=8, n=16, k=256, warps=1, stages=6, stream=True),
    Gemm(m=16, n=64, k=256, warps=4, stages=4, stream=True),
    Gemm(m=32, n=64, k=256, warps=4, stages=3, stream=True),
    Gemm(m=16, n=64, k=256, warps=4, stages=3, swap=True),
    Gemm(m=32, n=64, k=256, warps=4, stages=2, swap=True),
    Gemm(m=64, n=64, k=128, warps=4, stages=4, swap=True),
    Gemm(m=64, n=64, k=128, warps=4, stages=6, tma=True),
    Gemm(m=64, n=128, k=64, warps=4, stages=6, tma=True),
    Gemm(m=64, n=128, k=128, warps=4, stages=4, tma=True),
    Gemm(m=64, n=256, k=64, warps=4, stages=4, tma=True),
    Gemm(m=128, n=64, k=64, warps=4, stages=6, tma=True),
    Gemm(m=128, n=128, k=64, warps=4, stages=4, tma=True),
    Gemm(m=128, n=128, k=128, warps=8, stages=3, tma=True),
    Gemm(m=256, n=128, k=64, warps=8, stages=3, tma=True),
    Gemm(m=128, n=32, k=128, warps=4, stages=4, tma=True),
    Gemm(m=64, n=32, k=128, warps=4, stages=6, tma=True),
)
TILES = (*schedules.ALL_HALVES, *TRIED, *(tile for tile, _ in schedules_hopper.TILES))


def micros(calls: list[Callable[[], object]], replays: int = 7) -> float:
    """Median time of one call, all of ``calls`` captured one after another in one graph."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times = []
    for _ in range(replays):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / len(calls))
    return statistics.median(times)


def copies(x: Tensor, least: int = 2, most: int = 40) -> list[Tensor]:
    """Copies of x that together do not fit the L2 cache."""
    count = min(most, max(least, math.ceil((160 << 20) / (x.numel() * x.element_size()))))
    return [x.clone() for _ in range(count)]


def products() -> dict[str, object]:
    """cuBLAS over what is chosen, the better of two turns each; ``benchmarks.plots`` draws it."""
    results: dict[str, object] = {}
    ratios: dict[int, list[float]] = {m: [] for m in SIZES}
    print("| N x K |", " | ".join(map(str, SIZES)), "|\n" + "|---" * (len(SIZES) + 1) + "|")
    for n, k in SHAPES:
        weights = copies(torch.randn(n, k, device="cuda").bfloat16() / 64)
        for m in SIZES:
            a = torch.randn(m, k, device="cuda").bfloat16()
            few = weights if m <= 512 else weights[:4]
            calls = (
                [lambda w=w: a @ w.t() for w in few],
                [lambda w=w: matmul.mm(a, w.t(), split_size=CHAIN) for w in few],
            )
            turns = [[micros(call, 5) for call in calls] for _ in range(2)]
            stock, ours = map(min, zip(*turns, strict=True))
            chosen = matmul.choose(a, few[0].t(), CHAIN).text()
            results[f"{n}x{k} m{m}"] = {"stock": stock, "chosen": chosen, "times": {chosen: ours}}
            ratios[m].append(stock / ours)
        print(f"| {n}x{k} |", " | ".join(f"{r[-1]:.2f}" for r in ratios.values()), "|", flush=True)
    means = [statistics.geometric_mean(r) for r in ratios.values()]
    print("| geometric mean |", " | ".join(f"{mean:.2f}" for mean in means), "|")
    every = [ratio for column in ratios.values() for ratio in column]
    print(f"\nAll: {statistics.geometric_mean(every):.3f}, least {min(every):.2f}.")
    return results


FLOAT32_SHAPES = ((4096, 4096), (768, 3072), (333, 777))
FLOAT32_ROWS = (1, 16, 64, 512, 4096)


def _float32_operands(n: int, k: int, m: int) -> tuple[Tensor, list[Tensor]]:
    weights = copies(torch.randn(n, k, device="cuda"))
    return torch.randn(m, k, device="cuda"), weights if m <= 64 else weights[:3]


def float32() -> dict[str, object]:
    """IEEE multiply-adds over cuBLAS's, the better of two turns each; errors against float64, largest and mean square."""
    torch.backends.cuda.matmul.allow_tf32 = False
    results: dict[str, object] = {}
    print("| N x K | M | cuBLAS us | ours us | ratio | cuBLAS max, rms error | ours | schedule |")
    print("|---|---|---|---|---|---|---|---|")
    for n, k in FLOAT32_SHAPES:
        for m in FLOAT32_ROWS:
            a, weights = _float32_operands(n, k, m)
            calls = (
                [lambda a=a, w=w: a @ w.t() for w in weights],
                [lambda a=a, w=w: matmul.mm(a, w.t(), split_size=FLOAT32_SPLIT) for w in weights],
            )
            turns = [[micros(call, 5) for call in calls] for _ in range(2)]
            stock, ours = map(min, zip(*turns, strict=True))
            exact = a.double() @ weights[0].double().t()
            errors = [(call[0]().double() - exact) for call in calls]
            texts = [f"{e.abs().max():.1e}, {e.square().mean().sqrt():.1e}" for e in errors]
            chosen = matmul.choose(a, weights[0].t(), FLOAT32_SPLIT).text()
            print(
                f"| {n}x{k} | {m} | {stock:.1f} | {ours:.1f} | {stock / ours:.2f} | {texts[0]} | {texts[1]} | {chosen} |",
                flush=True,
            )
            results[f"{n}x{k} m{m}"] = {"stock": stock, "ours": ours, "chosen": chosen}
    return results


def float32_tiles() -> dict[str, object]:
    """Every tile of float32 products of the shapes named on the command line, fastest first."""
    for named_shape in sys.argv[2:]:
        n, k, m = map(int, named_shape.replace(":", "x").split("x"))
        a, weights = _float32_operands(n, k, m)
        times = {"cuBLAS": micros([lambda w=w: a @ w.t() for w in weights], 5)}
        for tile in schedules.ALL_FLOAT32:
            if tile.m < 2 * m + 16 and m <= 64 * tile.m:
                call = functools.partial(matmul.mm, a, split_size=FLOAT32_SPLIT, schedule=tile)
                times[tile.text()] = micros([lambda w=w, c=call: c(w.t()) for w in weights], 5)
        chosen = matmul.choose(a, weights[0].t(), FLOAT32_SPLIT).text()
        order = sorted(times, key=times.__getitem__)
        print(
            f"{named_shape} ({chosen}):",
            "; ".join(f"{t} {times[t]:.1f}" for t in order),
            flush=True,
        )
    return {}


def gemm() -> dict[str, object]:
    results: dict[str, object] = {}
    ratios, best_ratios = [], []
    for n, k in SHAPES:
        weights = copies(torch.randn(n, k, device="cuda").bfloat16() / 64)
        line = [f"| {n}x{k} |"]
        for m in SIZES:
            a = torch.randn(m, k, device="cuda").bfloat16()
            few = weights if m <= 512 else weights[:4]
            stock = micros([lambda w=w: a @ w.t() for w in few])
            chosen = matmul.choose(a, few[0].t(), CHAIN)
            times = {}
            for tile in dict.fromkeys((chosen, *TILES)):
                if tile != chosen and not _sensible(tile, m):
                    continue
                try:
                    times[tile.text()] = micros(
                        [
                            lambda w=w, t=tile: matmul.mm(a, w.t(), split_size=CHAIN, schedule=t)
                            for w in few
                        ]
                    )
                except Exception as error:  # a tried tile may not fit the chip
                    times[tile.text()] = math.inf
                    print(tile.text(), str(error)[:100], file=sys.stderr)
            best = min(times, key=times.__getitem__)
            if chosen.text() not in times:
                continue
            ratios.append(stock / times[chosen.text()])
            best_ratios.append(stock / times[best])
            line.append(f" {ratios[-1]:.2f} ({best_ratios[-1]:.2f}) |")
            results[f"{n}x{k} m{m}"] = {
                "stock": stock,
                "chosen": chosen.text(),
                "best": best,
                "times": times,
            }
        print("".join(line), flush=True)
    print("\nbest tiles:")
    for n, k in SHAPES:
        print(f"{n}x{k}:", "; ".join(f"{m} {results[f'{n}x{k} m{m}']['best']}" for m in SIZES))  # type: ignore[index]
    print("columns m:", *SIZES)
    print(
        f"geomean chosen {statistics.geometric_mean(ratios):.3f} min {min(ratios):.2f}; best {statistics.geometric_mean(best_ratios):.3f} min {min(best_ratios):.2f}"
    )
    return results


def _sensible(tile: Gemm | Hopper, rows: int) -> bool:
    hopper = matmul_hopper.is_hopper(0)
    if isinstance(tile, Hopper):
        return hopper and rows > 32 and tile.m < rows + 64
    if tile.stream:
        return rows <= tile.m and (rows > tile.m // 2 or tile.m == 8)
    if hopper and (tile.tma or rows > 32):
        return False
    if tile.swap:
        return (rows <= tile.m and (rows > tile.m // 4 or tile.m == 16)) or (
            tile.m == 64 and rows <= 128
        )
    if not tile.tma:
        return rows in (64, 256)
    return (
        rows > 32
        and (rows >= 512 or tile.m * tile.n < 32768)
        and (rows <= 1500 or tile.m * tile.n >= 8192)
    )


def attentions() -> dict[str, object]:
    """The better of flash and cuDNN over ours; a mark of decoding is against flash alone."""
    results: dict[str, object] = {}
    print("| attention | best stock us | ours us | ratio | of flash |\n|---|---|---|---|---|")
    cases = [("prefill", b, n, n) for b, n in ((1, 2048), (4, 2048), (1, 8192))]
    cases += [("decode", b, 1, n) for n in (1024, 2048, 8192, 65536) for b in (1, 16, 64)]
    for kind, b, queries, keys in cases:
        if b * keys > 16 * 65536:
            continue  # its keys and values in two copies do not fit an H100
        q = torch.randn(b, 32, queries, 128, device="cuda").bfloat16()
        pairs = [
            (x, x.flip(0).clone())
            for x in copies(torch.randn(b, 8, keys, 128, device="cuda").bfloat16(), most=12)
        ]
        causal = kind == "prefill"
        times = {}
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
            try:
                with sdpa_kernel(backend):
                    times[backend.name] = micros(
                        [
                            lambda k=k, v=v: functional.scaled_dot_product_attention(
                                q, k, v, is_causal=causal, enable_gqa=True
                            )
                            for k, v in pairs
                        ]
                    )
            except RuntimeError as error:
                print(backend.name, str(error)[:80], file=sys.stderr)
        ours = micros(
            [
                lambda k=k, v=v: attention.attention(
                    q, k, v, is_causal=causal, split_size=KEY_SPLIT
                )
                for k, v in pairs
            ]
        )
        least, flash = min(times.values()), times.get("FLASH_ATTENTION", math.nan)
        print(
            f"| {kind} {b}x{keys} | {least:.1f} | {ours:.1f} | {least / ours:.2f} | {flash / ours:.2f} |",
            flush=True,
        )
        results[f"{kind} {b}x{keys}"] = {"stock": times, "ours": ours}
        del pairs
        torch.cuda.empty_cache()
    return results


def rows() -> dict[str, object]:
    results: dict[str, object] = {}
    weight = torch.randn(4096, device="cuda").bfloat16()
    ours: dict[str, Callable[[Tensor], object]] = {
        "rms_norm 4096": lambda x: norm.rms_norm(x, [4096], weight, 1e-6, lanes=LANES),
        "layer_norm 4096": lambda x: norm.layer_norm(x, [4096], weight, weight, 1e-5, lanes=LANES),
        "softmax 4096": lambda x: softmax.softmax(x, -1, False, lanes=LANES),
        "log_softmax 128256": lambda x: softmax.softmax(x, -1, True, lanes=LANES),
    }
    theirs: dict[str, Callable[[Tensor], object]] = {
        "rms_norm 4096": lambda x: functional.rms_norm(x, [4096], weight, 1e-6),
        "layer_norm 4096": lambda x: functional.layer_norm(x, [4096], weight, weight, 1e-5),
        "softmax 4096": lambda x: torch.softmax(x, -1),
        "log_softmax 128256": lambda x: torch.log_softmax(x, -1),
    }
    print("| rows | M | Inductor us | ours us | ratio |\n|---|---|---|---|---|")
    for name, make in ours.items():
        for m in (1, 64, 4096) if "128256" not in name else (1, 64, 1024):
            xs = copies(torch.randn(m, int(name.split()[1]), device="cuda").bfloat16(), most=40)
            stock_fn = torch.compile(theirs[name], dynamic=False)
            stock = micros([lambda x=x: stock_fn(x) for x in xs])
            mine = micros([lambda x=x: make(x) for x in xs])
            print(f"| {name} | {m} | {stock:.1f} | {mine:.1f} | {stock / mine:.2f} |", flush=True)
            results[f"{name} m{m}"] = {"stock": stock, "ours": mine}
    return results


def host() -> dict[str, object]:
    a, w = (
        torch.randn(16, 4096, device="cuda").bfloat16(),
        torch.randn(4096, 4096, device="cuda").bfloat16(),
    )
    many = torch.randn(500, 4096, device="cuda").bfloat16()
    timed = {
        "choice": lambda: matmul.choose(a, w.t(), CHAIN),
        "table of few rows": lambda: schedules.gemm(16, 4096, a.dtype, sms=132, tma=True),
        "table of many": lambda: schedules_hopper.choose(500, 4096, 4096, sms=132),
        "whole mm": lambda: matmul.mm(a, w.t(), split_size=CHAIN),
        "whole mm of 500": lambda: matmul.mm(many, w.t(), split_size=CHAIN),
        "torch mm": lambda: a @ w.t(),
        "torch mm of 500": lambda: many @ w.t(),
    }
    results: dict[str, object] = {}
    for name, call in timed.items():
        call()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(300):
            call()
        results[name] = (time.perf_counter() - begin) / 300 * 1e6
        torch.cuda.synchronize()
    print("host us:", {name: round(float(us), 1) for name, us in results.items()})  # type: ignore[arg-type]
    return results


def warm(index: int, count: int) -> None:
    """Compile every ``count``-th tile of products, so that their tables and checks need not wait."""
    for n, k in ((512, 512), (333, 777)):
        x, w = torch.randn(512, k, device="cuda"), torch.randn(n, k, device="cuda")
        for tile in schedules.ALL_FLOAT32[index::count]:
            matmul.mm(x, w.t(), split_size=FLOAT32_SPLIT, schedule=tile)
    x, w = (torch.randn(512, 512, device="cuda").bfloat16() for _ in range(2))
    if matmul_hopper.is_hopper(0):
        for tile, _ in schedules_hopper.TILES[index::count]:
            for early in (False, True):
                schedule = replace(tile, early=early)
                matmul.mm(x, w.t(), split_size=CHAIN, schedule=schedule)
    torch.cuda.synchronize()


if __name__ == "__main__":
    if sys.argv[1] == "warm":
        warm(int(sys.argv[2]), int(sys.argv[3]))
    else:
        tables = (products, float32, float32_tiles, gemm, rows, host)
        named = {table.__name__: table for table in tables} | {"attention": attentions}
        found = named[sys.argv[1]]()
        if found and len(sys.argv) > 2:
            with open(sys.argv[2], "w") as file:
                json.dump(found, file)
