"""Attention on the CPU against F.scaled_dot_product_attention: Markdown, variants interleaved, medians.

    python -m benchmarks.attention --threads 1 --dtypes float32 bfloat16

With one thread the clock is the thread's CPU time, so that other load on the host moves little.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    batch: int = 1
    heads: int = 12
    kv_heads: int = 12
    queries: int
    keys: int
    dim: int = 64
    is_causal: bool = False

    def __str__(self) -> str:
        heads = f"{self.heads}/{self.kv_heads}" if self.kv_heads != self.heads else f"{self.heads}"
        kind = "causal" if self.is_causal else "full"
        return f"B{self.batch} H{heads} D{self.dim} {self.queries}x{self.keys} {kind}"


def cases() -> list[Case]:
    square = [(1, 128), (1, 512), (1, 1024), (1, 2048), (4, 128), (4, 512)]
    prefill = [
        Case(batch=b, queries=n, keys=n, is_causal=causal)
        for b, n in square
        for causal in (True, False)
    ]
    small, large = {"heads": 9, "kv_heads": 3}, {"heads": 32, "kv_heads": 8, "dim": 128}
    grouped = [Case(**h, queries=512, keys=512, is_causal=True) for h in (small, large)]
    lengths = [(1, 128), (1, 1024), (1, 4096), (8, 1024), (32, 512)]
    decode = [Case(batch=b, queries=1, keys=n) for b, n in lengths]
    decode += [Case(**small, queries=1, keys=1024), Case(**large, queries=1, keys=128)]
    decode += [Case(**large, queries=1, keys=2048), Case(batch=8, **large, queries=1, keys=512)]
    few = [Case(**h, queries=8, keys=1024) for h in ({}, small, large)]
    return prefill + grouped + decode + few


def medians(
    variants: list[Callable[[], object]], clock: Callable[[], float], seconds: float
) -> list[float]:
    times: list[list[float]] = [[] for _ in variants]
    for run in variants:
        run()
    end = time.perf_counter() + seconds
    while len(times[0]) < 5 or (time.perf_counter() < end and len(times[0]) < 200):
        for run, seen in zip(variants, times, strict=True):
            start = clock()
            run()
            seen.append(clock() - start)
    return [statistics.median(seen) * 1e6 for seen in times]


def measure(case: Case, dtype: torch.dtype, threads: int, seconds: float) -> str:
    q_shape = (case.batch, case.queries, case.heads, case.dim)
    kv_shape = (case.batch, case.keys, case.kv_heads, case.dim)
    q, k, v = (torch.randn(s).to(dtype).transpose(1, 2) for s in (q_shape, kv_shape, kv_shape))
    ours, stock = medians(
        [
            lambda: torch.ops.bi_inductor.attention(
                q, k, v, None, is_causal=case.is_causal, split_size=512
            ),
            lambda: F.scaled_dot_product_attention(
                q, k, v, is_causal=case.is_causal, enable_gqa=case.heads != case.kv_heads
            ),
        ],
        time.thread_time if threads == 1 else time.perf_counter,
        seconds,
    )
    name = str(dtype).removeprefix("torch.")
    return f"| {name} | {case} | {ours:.0f} | {stock:.0f} | {ours / stock:.2f} |"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--seconds", type=float, default=0.5, help="per row of the table")
    args = parser.parse_args()
    if not torch._C._dispatch_has_kernel_for_dispatch_key("bi_inductor::attention", "CPU"):
        from lowerings.cpu.build import load

        load()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    print(f"{processor()}, {args.threads} thread(s), torch {torch.__version__}\n")
    print("| dtype | shape | ours, us | stock, us | ours / stock |")
    print("|---|---|---|---|---|")
    for dtype in args.dtypes:
        for case in cases():
            print(measure(case, getattr(torch, dtype), args.threads, args.seconds), flush=True)


if __name__ == "__main__":
    main()
