"""Draws the tables of ``benchmarks/cuda_kernels.py``: speed against stock over the number of rows, one line a shape.

python benchmarks/cuda_kernels.py products products.json && python -m benchmarks.plots products.json benchmarks/results/cuda_gemm.svg
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

from matplotlib import pyplot

#: geometric mean and floor that the products are held to
MARKS = (1.0, 0.85)


def ratios(results: dict[str, dict]) -> dict[str, list[tuple[int, float]]]:
    """Shape ``NxK`` -> (rows, stock's time over ours), from the JSON of ``cuda_kernels.py products``."""
    lines = defaultdict(list)
    for cell, found in results.items():
        shape, rows = re.fullmatch(r"(\d+x\d+) m(\d+)", cell).groups()
        lines[shape].append((int(rows), found["stock"] / found["times"][found["chosen"]]))
    return {shape: sorted(points) for shape, points in lines.items()}


def draw(lines: dict[str, list[tuple[int, float]]], title: str, path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    for shape, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=shape)
    for mark in MARKS:
        axes.axhline(mark, color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel="rows M", ylabel="cuBLAS time / ours (above 1: ours is faster)", title=title)
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    axes.legend(title="N x K", ncols=2, fontsize="small")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="what cuda_kernels.py products wrote")
    parser.add_argument("output", type=Path, help=".svg or .png")
    parser.add_argument("--title", default="bfloat16 products against cuBLAS")
    args = parser.parse_args()
    draw(ratios(json.loads(args.json.read_text())), args.title, args.output)


if __name__ == "__main__":
    main()
