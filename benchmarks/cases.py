"""The table and the command line of a benchmark that compares one op with stock, case by case."""

import argparse
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from benchmarks.timing import geometric_mean, markdown

Case = TypeVar("Case")
#: case, dtype, threads, seconds to spend -> seconds of stock and of ours
Measure = Callable[[Case, torch.dtype, int, float], tuple[float, float]]


def table(
    cases: Sequence[Case], measure: Measure[Case], dtype: torch.dtype, threads: int, seconds: float
) -> str:
    """Markdown, a row for each case, named by its ``str``."""
    rows, ratios = [], []
    for case in cases:
        stock, ours = measure(case, dtype, threads, seconds)
        ratios.append(stock / ours)
        rows.append((case, f"{stock * 1e6:.0f}", f"{ours * 1e6:.0f}", f"{ratios[-1]:.2f}"))
    title = f"### {str(dtype).removeprefix('torch.')}, {threads} thread(s)\n\n"
    end = f"\n\nGeometric mean {geometric_mean(ratios):.2f}, lowest {min(ratios):.2f}.\n"
    return title + markdown(("shape", "stock us", "ours us", "speed / stock"), rows) + end


def run(description: str, cases: Sequence[Case], measure: Measure[Case], *, seconds: float) -> None:
    """Read the command line and print a table for each number of threads and dtype."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--seconds", type=float, default=seconds, help="per row of the table")
    args = parser.parse_args()
    from lowerings.cpu.build import load

    load()
    torch.manual_seed(0)
    for threads in args.threads:
        torch.set_num_threads(threads)
        for dtype in args.dtypes:
            print(table(cases, measure, getattr(torch, dtype), threads, args.seconds), flush=True)
