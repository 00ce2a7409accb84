"""Convolutions of ResNet, ConvNeXt, MobileNet and ViT against stock ATen: interleaved, medians, Markdown out.

    python -m benchmarks.convolution [--threads 1 2] [--dtypes float32 bfloat16]

No mark: it shows what an image model pays.
"""

import argparse
from dataclasses import dataclass

import torch

import bi_inductor.ops
from benchmarks.timing import clock_for, geometric_mean, interleaved, markdown

assert bi_inductor.ops.SCHEMAS


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    channels: tuple[int, int]
    size: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    batch: int = 1


CASES = (
    Case("stem 7 x 7, stride 2", (3, 64), 224, 7, 2, 3),
    Case("3 x 3", (64, 64), 56, 3, 1, 1),
    Case("3 x 3", (128, 128), 28, 3, 1, 1),
    Case("3 x 3", (256, 256), 14, 3, 1, 1),
    Case("3 x 3", (512, 512), 7, 3, 1, 1),
    Case("3 x 3, stride 2", (128, 128), 56, 3, 2, 1),
    Case("3 x 3, batch 8", (64, 64), 28, 3, 1, 1, batch=8),
    Case("1 x 1", (256, 64), 56, 1),
    Case("patches 16 x 16", (3, 768), 224, 16, 16),
    Case("depthwise 3 x 3", (144, 144), 56, 3, 1, 1, 144),
    Case("depthwise 3 x 3, stride 2", (144, 144), 56, 3, 2, 1, 144),
    Case("depthwise 7 x 7", (96, 96), 56, 7, 1, 3, 96),
    Case("depthwise 7 x 7", (768, 768), 7, 7, 1, 3, 768),
)


def measure(case: Case, dtype: torch.dtype, threads: int, seconds: float) -> tuple[float, float]:
    """Seconds of stock and of ours."""
    inputs, outputs = case.channels
    x = torch.randn(case.batch, inputs, case.size, case.size).to(dtype)
    w = torch.randn(outputs, inputs // case.groups, case.kernel, case.kernel).to(dtype)
    geometry = [case.stride] * 2, [case.padding] * 2, [1, 1], False, [0, 0], case.groups
    ours = torch.ops.bi_inductor.convolution
    t = interleaved(
        {
            "stock": lambda: torch.ops.aten.convolution(x, w, None, *geometry),
            "ours": lambda: ours(x, w, None, *geometry, split_size=1024),
        },
        rounds=200,
        seconds=seconds,
        clock=clock_for(threads),
    )
    return t["stock"], t["ours"]


def table(dtype: torch.dtype, threads: int, seconds: float) -> str:
    rows, ratios = [], []
    for case in CASES:
        stock, ours = measure(case, dtype, threads, seconds)
        ratios.append(stock / ours)
        what = f"{case.name}, {case.channels[0]} to {case.channels[1]} channels, {case.size}²"
        rows.append((what, f"{stock * 1e6:.0f}", f"{ours * 1e6:.0f}", f"{ratios[-1]:.2f}"))
    title = f"### {str(dtype).removeprefix('torch.')}, {threads} thread(s)\n\n"
    end = f"\n\nGeometric mean {geometric_mean(ratios):.2f}, lowest {min(ratios):.2f}.\n"
    return title + markdown(("shape", "stock us", "ours us", "speed / stock"), rows) + end


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--seconds", type=float, default=0.3, help="per row of the table")
    args = parser.parse_args()
    from lowerings.cpu.build import load

    load()
    torch.manual_seed(0)
    for threads in args.threads:
        torch.set_num_threads(threads)
        for dtype in args.dtypes:
            print(table(getattr(torch, dtype), threads, args.seconds), flush=True)


if __name__ == "__main__":
    main()
