"""Convolution as windows times weights: the windows are copied out, then one product per group."""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from lowerings.cuda.matmul import bmm

#: elements of windows that may exist at one time
_WINDOWS = 1 << 28


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
    """Return the convolution of ``x [N, C, *spatial]`` (or ``[C, *spatial]``) with ``weight [O, C / groups, *window]``.

    Transposed: ``weight [C, O / groups, *window]``; x is spread by the stride and the weights are turned round.
    The reduced extent is channels times window, window last.
    """
    dims = weight.dim() - 2
    if x.dim() == dims + 1:
        return convolution(
            *(x[None], weight, bias, stride, padding, dilation, transposed, output_padding, groups),
            split_size=split_size,
        )[0]
    stride, padding, dilation, extra = (
        list(v) * (dims // len(v)) for v in (stride, padding, dilation, output_padding)
    )
    window = weight.shape[2:]
    if transposed:
        x = _spread(x, stride)
        edge = [dilation[i] * (window[i] - 1) - padding[i] for i in range(dims)]
        pads = [(edge[i], edge[i] + extra[i]) for i in range(dims)]
        weight = weight.flip(list(range(2, weight.dim()))).unflatten(0, (groups, -1))
        weight = weight.transpose(1, 2).flatten(0, 1)
        stride = [1] * dims
    else:
        pads = [(p, p) for p in padding]
    x = functional.pad(x, [p for pair in reversed(pads) for p in pair]).contiguous()
    sizes = [
        (x.shape[2 + i] - dilation[i] * (window[i] - 1) - 1) // stride[i] + 1 for i in range(dims)
    ]
    channels = weight.shape[0]
    out = x.new_empty((x.shape[0], channels, *sizes))
    if not out.numel():
        return out
    rights = weight.reshape(groups, channels // groups, -1).transpose(1, 2)
    added = None if bias is None else bias.view(groups, 1, -1).to(x.dtype)
    samples = max(1, _WINDOWS // max(1, math.prod(sizes) * x.shape[1] * math.prod(window)))
    for first in range(0, x.shape[0], samples):
        part = x[first : first + samples]
        lefts = _windows(part, window, sizes, stride, dilation, groups)
        made = bmm(lefts, rights, added, split_size=split_size)
        made = made.view(groups, part.shape[0], -1, channels // groups).permute(1, 0, 3, 2)
        out[first : first + samples] = made.reshape(part.shape[0], channels, *sizes)
    return out


def _windows(
    x: Tensor,
    window: Sequence[int],
    sizes: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Windows of a contiguous x as ``[groups, N * positions, channels * window]``."""
    n, channels = x.shape[:2]
    each = channels // groups
    spatial = x.stride()[2:]
    view = x.as_strided(
        (groups, n, *sizes, each, *window),
        (
            each * x.stride(1),
            x.stride(0),
            *(s * t for s, t in zip(spatial, stride, strict=True)),
            x.stride(1),
            *(s * t for s, t in zip(spatial, dilation, strict=True)),
        ),
        x.storage_offset(),
    )
    return view.reshape(groups, n * math.prod(sizes), each * math.prod(window))


def _spread(x: Tensor, stride: Sequence[int]) -> Tensor:
    """``stride - 1`` zeros between neighbours along every spatial dim."""
    if all(s == 1 for s in stride):
        return x
    sizes = [(size - 1) * s + 1 if size else 0 for size, s in zip(x.shape[2:], stride, strict=True)]
    out = x.new_zeros((*x.shape[:2], *sizes))
    view = out
    for d, s in enumerate(stride):
        view = view[(slice(None),) * (2 + d) + (slice(None, None, s),)]
    view.copy_(x)
    return out
