"""softmax and log_softmax over any dim: the launcher."""

import torch
from torch import Tensor

from lowerings.cuda import row_kernels as kernels
from lowerings.cuda import schedules
from lowerings.cuda.launching import launch
from lowerings.cuda.plans import LANES
from lowerings.cuda.rows import Rows, check, constants, programs, rows_of


def softmax(
    x: Tensor, dim: int, log: bool, *, dtype: torch.dtype | None = None, lanes: int
) -> Tensor:
    """Return the softmax (its logarithm with ``log``) of ``x`` over ``dim``, in ``dtype`` or x's own."""
    check(x, lanes, "softmax")
    x = x.contiguous()
    out = x.new_empty(x.shape, dtype=dtype or x.dtype)
    if not out.numel():
        return out
    view = rows_of(x, [dim])
    if view.stride == 1 and view.extent > LANES:
        _wide(x, out, view, log)
        return out
    tile = constants(view)
    kernel = kernels.softmax_held if view.extent <= int(tile["LANES"]) else kernels.softmax_rows
    numbers = (view.rows, *view.arguments())
    launch(kernel, programs(view, tile), (x, out), numbers, LOG_OUT=log, **tile)
    return out


def _wide(x: Tensor, out: Tensor, view: Rows, log: bool) -> None:
    """Lanes of a long row side by side: each program owns a subtree."""
    parts = schedules.softmax_parts(view.rows)
    width = LANES // parts
    tops, sums = x.new_empty((2, view.rows, parts), dtype=torch.float32)
    shared = {
        "PARTS": parts,
        "WIDTH": width,
        "LANES": LANES,
        "UNROLL": 4,
        "num_warps": max(1, width // 256),
    }
    numbers = (view.rows, view.extent)
    launch(kernels.top_part, (view.rows, parts), (x, tops), numbers, **shared)
    launch(
        kernels.exp_part,
        (view.rows, parts),
        (x, tops, sums),
        numbers,
        LOG=width.bit_length() - 1,
        enable_fp_fusion=False,
        **shared,
    )
    launch(
        kernels.softmax_write,
        (view.rows, -(-view.extent // 4096)),
        (x, tops, sums, out),
        numbers,
        LOG_OUT=log,
        PARTS=parts,
        LOG=parts.bit_length() - 1,
        BLOCK=4096,
        num_warps=8,
        enable_fp_fusion=False,
    )
