"""Convolutions of ResNet, ConvNeXt, MobileNet and ViT against stock ATen: interleaved, medians, Markdown out.

    python -m benchmarks.convolution [--threads 1 2] [--dtypes float32 bfloat16]

No mark: it shows what an image model pays.
"""

from dataclasses import dataclass

import torch

import bi_inductor.ops
from benchmarks.cases import run
from benchmarks.gemm import split_of
from benchmarks.timing import clock_for, interleaved

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

    def __str__(self) -> str:
        return f"{self.name}, {self.channels[0]} to {self.channels[1]} channels, {self.size}²"


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
    ours, split = torch.ops.bi_inductor.convolution, split_of(dtype)
    t = interleaved(
        {
            "stock": lambda: torch.ops.aten.convolution(x, w, None, *geometry),
            "ours": lambda: ours(x, w, None, *geometry, split_size=split),
        },
        rounds=200,
        seconds=seconds,
        clock=clock_for(threads),
    )
    return t["stock"], t["ours"]


if __name__ == "__main__":
    run(__doc__, CASES, measure, seconds=0.3)
