"""Attention on the CPU against F.scaled_dot_product_attention: Markdown, variants interleaved, medians.

python -m benchmarks.attention --threads 1 2 --dtypes float32 bfloat16
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

import bi_inductor.ops
from benchmarks.cases import run
from benchmarks.timing import clock_for, interleaved

assert bi_inductor.ops.SCHEMAS


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


def measure(case: Case, dtype: torch.dtype, threads: int, seconds: float) -> tuple[float, float]:
    """Seconds of stock and of ours."""
    q_shape = (case.batch, case.queries, case.heads, case.dim)
    kv_shape = (case.batch, case.keys, case.kv_heads, case.dim)
    q, k, v = (torch.randn(s).to(dtype).transpose(1, 2) for s in (q_shape, kv_shape, kv_shape))
    t = interleaved(
        {
            "stock": lambda: F.scaled_dot_product_attention(
                q, k, v, is_causal=case.is_causal, enable_gqa=case.heads != case.kv_heads
            ),
            "ours": lambda: torch.ops.bi_inductor.attention(
                q, k, v, None, is_causal=case.is_causal, split_size=512
            ),
        },
        rounds=200,
        seconds=seconds,
        clock=clock_for(threads),
    )
    return t["stock"], t["ours"]


if __name__ == "__main__":
    run(__doc__, cases(), measure, seconds=0.5)
