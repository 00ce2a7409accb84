"""Matrix products: ours against stock torch, side by side, as Markdown.

    python -m benchmarks.gemm --threads 1 2 --dtype float32 bfloat16

The figure is stock time / our time: above 1.00 we are faster. For M <= 16 the weights rotate over more than 120 MB, as they do in decoding.
"""

import argparse
import importlib
import itertools
import sys
from collections.abc import Callable

import torch

import bi_inductor.ops
from benchmarks.timing import clock_for, geometric_mean, interleaved, repeats_for
from bi_inductor.templates import Matmul, PlanKey
from lowerings.cpu.plans import plan_for

assert bi_inductor.ops.SCHEMAS

MODELS = {
    "GPT-2": ((768, 768), (768, 3072), (3072, 768), (768, 50257)),
    "SmolLM2": ((576, 576), (576, 192), (576, 1536), (1536, 576), (576, 49152)),
    "Llama-3.2-1B": ((2048, 2048), (2048, 512), (2048, 8192), (8192, 2048)),
}
ROWS = (1, 4, 16, 64, 256, 1024)
COLD_ROWS = 16
COLD_BYTES = 120 << 20


def split_of(dtype: torch.dtype) -> int:
    """The plan's ``split_size``."""
    key = PlanKey(template=Matmul, reduced=(), dtype=dtype, device="cpu")
    split = plan_for(key).split_size
    assert split is not None
    return split


def weights_of(k: int, n: int, layout: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Weights of more than COLD_BYTES together: [k, n] for mm, [n, k] for linear."""
    shape = (k, n) if layout == "mm" else (n, k)
    first = torch.randn(shape).to(dtype)
    return [first, *(first.clone() for _ in range(COLD_BYTES // (k * n * dtype.itemsize)))]


def calls(layout: str, split: int) -> tuple[Callable, Callable]:
    ours = torch.ops.bi_inductor.mm
    if layout == "mm":
        return torch.mm, lambda a, w: ours(a, w, split_size=split)
    return torch.nn.functional.linear, lambda a, w: ours(a, w.t(), split_size=split)


def compare(
    m: int, weights: list[torch.Tensor], layout: str, threads: int, budget: float, split: int
) -> tuple[float, float]:
    """Median seconds of stock and of ours for m rows."""
    dtype = weights[0].dtype
    a = torch.randn(m, weights[0].shape[0 if layout == "mm" else 1]).to(dtype)
    rotation = itertools.cycle(weights if m <= COLD_ROWS else weights[:1])
    stock, ours = calls(layout, split)
    t = interleaved(
        {"stock": lambda: stock(a, next(rotation)), "ours": lambda: ours(a, next(rotation))},
        rounds=10**6,
        seconds=budget,
        repeat=min(20, repeats_for(lambda: stock(a, next(rotation)), 2e-4)),
        clock=clock_for(threads),
    )
    return t["stock"], t["ours"]


def table(
    dtype: torch.dtype, threads: int, layout: str, args: argparse.Namespace
) -> tuple[list[str], list[float]]:
    name = "torch.mm, b [K, N]" if layout == "mm" else "F.linear, weight [N, K]"
    lines = [f"### {str(dtype).removeprefix('torch.')}, {threads} thread(s), against {name}", ""]
    lines += [
        "| K x N | " + " | ".join(f"M={m}" for m in args.rows) + " |",
        "|---" * (1 + len(args.rows)) + "|",
    ]
    ratios = []
    for model in args.models:
        for k, n in MODELS[model]:
            row = []
            weights = weights_of(k, n, layout, dtype)
            for m in args.rows:
                if m * k * n > args.largest * 1e9:
                    row.append("-")
                    continue
                stock, ours = compare(
                    m, weights, layout, threads, args.seconds, args.split or split_of(dtype)
                )
                ratios.append(stock / ours)
                row.append(f"{stock / ours:.2f}")
            lines.append(f"| {k}x{n} | " + " | ".join(row) + " |")
            print(lines[-1], file=sys.stderr, flush=True)
    lines += ["", f"Geometric mean {geometric_mean(ratios):.2f}, lowest {min(ratios):.2f}.", ""]
    print(lines[-2], file=sys.stderr, flush=True)
    return lines, ratios


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--layout", nargs="+", default=["mm", "linear"], choices=["mm", "linear"])
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seconds", type=float, default=0.15, help="time per shape")
    parser.add_argument(
        "--largest", type=float, default=20.0, help="skip shapes above this many G multiply-adds"
    )
    parser.add_argument("--split", type=int, help="another split_size than the plan's")
    parser.add_argument(
        "--library", help="load this kernel library instead of building the package's own"
    )
    args = parser.parse_args()
    if args.library:
        torch.ops.load_library(args.library)
    else:
        importlib.import_module("lowerings.cpu.build").load()
    lines = []
    for name, threads, layout in itertools.product(args.dtype, args.threads, args.layout):
        torch.set_num_threads(threads)
        lines += table(getattr(torch, name), threads, layout, args)[0]
    text = "\n".join(lines)
    print(text)


if __name__ == "__main__":
    main()
