"""Row kernels against ATen: interleaved rounds, medians, Markdown out.

    python -m benchmarks.rows [--threads 1 2] [--quick] [--filter softmax] [--all]

Both sides are called as generated code calls them, allocation included: ours directly, ATen's through ``torch.ops``.
``speed / stock`` above 1: we are faster.
"""

import argparse
from collections.abc import Callable, Iterator

import torch

from benchmarks.timing import clock_for, geometric_mean, interleaved, markdown, repeats_for
from lowerings.cpu.build import python_calls

ATEN = torch.ops.aten
SHAPES = [(m, n) for m in (1, 4, 16, 64, 256) for n in (64, 256, 768, 2048)]
SHAPES += [(m, 50257) for m in (1, 4, 16)]
QUICK = [(1, 64), (1, 768), (16, 768), (256, 2048), (1, 50257)]
Call = Callable[[], object]


def row_ops(x: torch.Tensor) -> dict[str, tuple[Call, Call]]:
    """op -> (ours, ATen's) on ``x [M, N]``."""
    ours = python_calls()
    n = x.shape[-1]
    w, b = torch.randn(n).to(x.dtype), torch.randn(n).to(x.dtype)
    return {
        "softmax": (
            lambda: ours.softmax(x, -1, False, lanes=64),
            lambda: ATEN._softmax.default(x, -1, False),
        ),
        "log_softmax": (
            lambda: ours.softmax(x, -1, True, lanes=64),
            lambda: ATEN._log_softmax.default(x, -1, False),
        ),
        "layer_norm": (
            lambda: ours.layer_norm(x, [n], w, b, 1e-5, lanes=64),
            lambda: ATEN.native_layer_norm.default(x, [n], w, b, 1e-5),
        ),
        "rms_norm": (
            lambda: ours.rms_norm(x, [n], w, 1e-6, lanes=64),
            lambda: ATEN._fused_rms_norm.default(x, [n], w, 1e-6),
        ),
        "sum": (
            lambda: ours.reduction(x, "sum", [-1], lanes=64),
            lambda: ATEN.sum.dim_IntList(x, [-1]),
        ),
        "mean": (
            lambda: ours.reduction(x, "mean", [-1], lanes=64),
            lambda: ATEN.mean.dim(x, [-1]),
        ),
        "amax": (
            lambda: ours.reduction(x, "amax", [-1], lanes=64),
            lambda: ATEN.amax.default(x, [-1]),
        ),
        "argmax": (
            lambda: ours.reduction(x, "argmax", [-1], lanes=64),
            lambda: ATEN.argmax.default(x, -1),
        ),
        "var": (
            lambda: ours.var_mean(x, [-1], 1.0, lanes=64),
            lambda: ATEN.var_mean.correction(x, [-1], correction=1),
        ),
        "topk 50": (
            lambda: ours.topk(x, 50, -1, True, True),
            lambda: ATEN.topk.default(x, 50, -1, True, True),
        ),
        "cumsum": (
            lambda: ours.scan(x, "cumsum", 1),
            lambda: ATEN.cumsum.default(x, 1),
        ),
        "mean over rows": (
            lambda: ours.reduction(x, "mean", [0], lanes=64),
            lambda: ATEN.mean.dim(x, [0]),
        ),
        "softmax over rows": (
            lambda: ours.softmax(x, 0, False, lanes=64),
            lambda: ATEN._softmax.default(x, 0, False),
        ),
    }


def cells(
    threads: int, rounds: int, shapes: list[tuple[int, int]], only: str
) -> Iterator[tuple[str, str, str, float, float]]:
    """(op, dtype, shape, seconds of ATen, seconds of ours)."""
    torch.set_num_threads(threads)
    for dtype in (torch.float32, torch.bfloat16):
        for m, n in shapes:
            x = torch.randn(m, n).to(dtype)
            for name, (ours, aten) in row_ops(x).items():
                if only and name not in only.split(","):
                    continue
                t = interleaved(
                    {"ours": ours, "aten": aten},
                    rounds=rounds,
                    repeat=repeats_for(aten, 1e-3),
                    clock=clock_for(threads),
                )
                kind = str(dtype).removeprefix("torch.")
                yield name, kind, f"{m} x {n}", t["aten"], t["ours"]


def every_cell(found: list[tuple[str, str, str, float, float]]) -> str:
    rows = [
        (*what, f"{aten * 1e6:.2f}", f"{ours * 1e6:.2f}", f"{aten / ours:.2f}")
        for *what, aten, ours in found
    ]
    return markdown(("op", "dtype", "M x N", "ATen us", "ours us", "speed / stock"), rows)


def summary(found: list[tuple[str, str, str, float, float]]) -> str:
    """One row per op and dtype: geometric mean over the shapes, and the slowest shape."""
    rows = []
    for op, dtype in dict.fromkeys((op, dtype) for op, dtype, *_ in found):
        ratios = {s: aten / ours for o, d, s, aten, ours in found if (o, d) == (op, dtype)}
        shape = min(ratios, key=ratios.__getitem__)
        mean = geometric_mean(list(ratios.values()))
        rows.append((op, dtype, f"{mean:.2f}", f"{ratios[shape]:.2f}", shape))
    return markdown(("op", "dtype", "geometric mean", "lowest", "at M x N"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--quick", action="store_true", help="five shapes")
    parser.add_argument("--all", action="store_true", help="print every cell")
    parser.add_argument("--filter", default="", help="op names, separated by commas")
    args = parser.parse_args()
    torch.manual_seed(0)
    for threads in args.threads:
        shapes = QUICK if args.quick else SHAPES
        found = list(cells(threads, args.rounds, shapes, args.filter))
        show = every_cell if args.all else summary
        print(f"\n### {threads} thread(s)\n\n{show(found)}", flush=True)


if __name__ == "__main__":
    main()
