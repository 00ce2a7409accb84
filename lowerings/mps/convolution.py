"""Convolution as data movement and one bmm: K runs over (channel, window) in row-major order."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bi_inductor.errors import LoweringError
from lowerings.mps.matmul import bmm


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    *,
    split_size: int,
) -> Tensor:
    """``x [N, C, *spatial]``, ``weight [O, C / groups, *window]`` (``[C, O / groups, ...]`` if transposed)."""
    if transposed:
        x, weight, padding = _transposed(
            x, weight, stride, padding, dilation, output_padding, groups
        )
        stride = [1] * len(stride)
        margins = padding
    else:
        margins = [m for n in reversed(padding) for m in (n, n)]
    x = F.pad(x, list(margins))
    windows = _windows(x, weight.shape[2:], stride, dilation)
    batch, channels = x.shape[:2]
    spatial = windows.shape[2 : 2 + len(stride)]
    places, outputs = spatial.numel(), weight.shape[0] // groups
    order = [0, 1, *range(2 + len(stride), windows.dim()), *range(2, 2 + len(stride))]
    depth = channels // groups * weight.shape[2:].numel()
    columns = windows.permute(order).reshape(batch * groups, depth, places)
    rows = weight.reshape(groups, outputs, depth)
    rows = rows.expand(batch, groups, outputs, depth).reshape(batch * groups, outputs, depth)
    if bias is not None:
        bias = bias.reshape(groups, outputs, 1).expand(batch, groups, outputs, 1)
        bias = bias.reshape(batch * groups, outputs, 1)
    out = bmm(rows, columns, bias, split_size=split_size)
    return out.view(batch, groups * outputs, *spatial)


def _windows(
    x: Tensor, window: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """A view ``[N, C, *places, *window]``."""
    size, step = list(x.shape[:2]), list(x.stride()[:2])
    for d, (w, s, g) in enumerate(zip(window, stride, dilation, strict=True), start=2):
        places = (x.shape[d] - g * (w - 1) - 1) // s + 1
        if places <= 0:
            raise LoweringError(f"convolution: a window of {w} does not fit {x.shape[d]} elements")
        size.append(places)
        step.append(x.stride(d) * s)
    for d, (w, g) in enumerate(zip(window, dilation, strict=True), start=2):
        size.append(w)
        step.append(x.stride(d) * g)
    return torch.as_strided(x, size, step)


def _transposed(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor, list[int]]:
    """The plain convolution with the same result: zeros between the elements, the window flipped."""
    spatial = range(2, x.dim())
    size = [(x.shape[d] - 1) * stride[d - 2] + 1 for d in spatial]
    spread = x.new_zeros(*x.shape[:2], *size)
    steps: list[slice] = [slice(None, None, stride[d - 2]) for d in spatial]
    spread[(slice(None), slice(None), *steps)] = x
    per_group, outputs = weight.shape[0] // groups, weight.shape[1]
    flipped = weight.reshape(groups, per_group, outputs, *weight.shape[2:]).transpose(1, 2)
    flipped = flipped.reshape(groups * outputs, per_group, *weight.shape[2:]).flip(list(spatial))
    margins: list[int] = []
    for d in reversed(spatial):
        reach = dilation[d - 2] * (weight.shape[d] - 1) - padding[d - 2]
        margins += [reach, reach + output_padding[d - 2]]
    return spread, flipped, margins
