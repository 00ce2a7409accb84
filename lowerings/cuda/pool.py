"""Average pooling: the launcher."""

import math
from collections.abc import Sequence

from torch import Tensor

from bi_inductor.errors import LoweringError
from lowerings.cuda import order_kernels as kernels
from lowerings.cuda.launching import launch
from lowerings.cuda.rows import FLOATS

_BLOCK = 256


def avg_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Return the mean over windows of the last ``len(kernel_size)`` dims of ``x`` (up to 3)."""
    if x.dtype not in FLOATS:
        raise LoweringError(
            f"avg_pool of {x.dtype} has no CUDA kernel; cast to one of {', '.join(map(str, FLOATS))}"
        )
    dims = len(kernel_size)
    extents = x.shape[x.dim() - dims :]
    steps = list(stride) or list(kernel_size)
    sizes = [
        _pooled(extents[i], kernel_size[i], steps[i], padding[i], ceil_mode) for i in range(dims)
    ]
    out = x.new_empty((*x.shape[: x.dim() - dims], *sizes))
    if out.numel():
        ones, zeros = [1] * (3 - dims), [0] * (3 - dims)
        launch(
            kernels.average_windows,
            (-(-out.numel() // _BLOCK),),
            (x.contiguous(), out),
            (
                out.numel(),
                *ones,
                *extents,
                *ones,
                *sizes,
                *ones,
                *kernel_size,
                *(*ones, *steps, *zeros, *padding, divisor_override or 0),
            ),
            COUNT_PADDING=count_include_pad,
            BLOCK=_BLOCK,
            num_warps=4,
            enable_fp_fusion=False,
        )
    return out


def _pooled(extent: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    size = (
        math.floor((extent + 2 * padding - kernel + (stride - 1 if ceil_mode else 0)) / stride) + 1
    )
    # a window must begin inside the input or its left padding
    if ceil_mode and (size - 1) * stride >= extent + padding:
        size -= 1
    return size
