"""Row kernels against ATen: interleaved rounds, medians, Markdown out.

    python benchmarks/rows.py [--threads 1 2] [--quick] [--filter softmax]

Both sides are called through ``torch.ops``, allocation included. With one thread the figure is CPU
time of the thread, with more it is wall time. ``ratio`` is ours / ATen: below 1 we are faster.
Needs the kernels: ``tests/lowerings/rows_library.py`` builds them if nobody has registered any.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lowerings"))
from rows_library import load

OURS = torch.ops.bi_inductor
ATEN = torch.ops.aten
SHAPES = [(m, n) for m in (1, 4, 16, 64, 256) for n in (64, 256, 768, 2048)]
SHAPES += [(m, 50257) for m in (1, 4, 16)]
QUICK = [(1, 64), (1, 768), (16, 768), (256, 2048), (1, 50257)]
Call = Callable[[], object]


def row_ops(x: torch.Tensor) -> dict[str, tuple[Call, Call]]:
    """op -> (ours, ATen's) on ``x [M, N]``."""
    n = x.shape[-1]
    w, b = torch.randn(n).to(x.dtype), torch.randn(n).to(x.dtype)
    return {
        "softmax": (
            lambda: OURS.softmax.default(x, -1, False, lanes=64),
            lambda: ATEN._softmax.default(x, -1, False),
        ),
        "log_softmax": (
            lambda: OURS.softmax.default(x, -1, True, lanes=64),
            lambda: ATEN._log_softmax.default(x, -1, False),
        ),
        "layer_norm": (
            lambda: OURS.layer_norm.default(x, [n], w, b, 1e-5, lanes=64),
            lambda: ATEN.native_layer_norm.default(x, [n], w, b, 1e-5),
        ),
        "rms_norm": (
            lambda: OURS.rms_norm.default(x, [n], w, 1e-6, lanes=64),
            lambda: ATEN._fused_rms_norm.default(x, [n], w, 1e-6),
        ),
        "sum": (
            lambda: OURS.reduction.default(x, "sum", [-1], lanes=64),
            lambda: ATEN.sum.dim_IntList(x, [-1]),
        ),
        "mean": (
            lambda: OURS.reduction.default(x, "mean", [-1], lanes=64),
            lambda: ATEN.mean.dim(x, [-1]),
        ),
        "amax": (
            lambda: OURS.reduction.default(x, "amax", [-1], lanes=64),
            lambda: ATEN.amax.default(x, [-1]),
        ),
        "argmax": (
            lambda: OURS.reduction.default(x, "argmax", [-1], lanes=64),
            lambda: ATEN.argmax.default(x, -1),
        ),
        "var": (
            lambda: OURS.var_mean.default(x, [-1], 1.0, lanes=64),
            lambda: ATEN.var_mean.correction(x, [-1], correction=1),
        ),
        "topk 50": (
            lambda: OURS.topk.default(x, 50, -1, True, True),
            lambda: ATEN.topk.default(x, 50, -1, True, True),
        ),
        "cumsum": (
            lambda: OURS.scan.default(x, "cumsum", 1),
            lambda: ATEN.cumsum.default(x, 1),
        ),
        "mean over rows": (
            lambda: OURS.reduction.default(x, "mean", [0], lanes=64),
            lambda: ATEN.mean.dim(x, [0]),
        ),
        "softmax over rows": (
            lambda: OURS.softmax.default(x, 0, False, lanes=64),
            lambda: ATEN._softmax.default(x, 0, False),
        ),
    }


def once(call: Call, repeats: int, clock: Callable[[], int]) -> float:
    begin = clock()
    for _ in range(repeats):
        call()
    return (clock() - begin) / repeats / 1000


def compare(ours: Call, aten: Call, rounds: int, threads: int) -> tuple[float, float]:
    """Median microseconds of each, in alternating rounds of about a millisecond."""
    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    for call in (ours, aten):
        once(call, 3, clock)
    repeats = max(1, int(1000 / max(once(aten, 3, clock), 1)))
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        samples[0].append(once(ours, repeats, clock))
        samples[1].append(once(aten, repeats, clock))
    return statistics.median(samples[0]), statistics.median(samples[1])


def table(threads: int, rounds: int, shapes: list[tuple[int, int]], only: str) -> Iterator[str]:
    torch.set_num_threads(threads)
    yield f"\n### {threads} thread(s)\n"
    yield "| op | dtype | M x N | ours us | ATen us | ratio |"
    yield "|---|---|---|---|---|---|"
    for dtype in (torch.float32, torch.bfloat16):
        for m, n in shapes:
            x = torch.randn(m, n).to(dtype)
            for name, (ours, aten) in row_ops(x).items():
                if only and name not in only.split(","):
                    continue
                a, b = compare(ours, aten, rounds, threads)
                kind = str(dtype).removeprefix("torch.")
                yield f"| {name} | {kind} | {m} x {n} | {a:.2f} | {b:.2f} | {a / b:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--quick", action="store_true", help="five shapes")
    parser.add_argument("--filter", default="", help="op names, separated by commas")
    args = parser.parse_args()
    load()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    for threads in args.threads:
        shapes = QUICK if args.quick else SHAPES
        for line in table(threads, args.rounds, shapes, args.filter):
            print(line, flush=True)


if __name__ == "__main__":
    main()
