"""softmax and log_softmax over any dim: the launcher."""

import torch
from torch import Tensor

from lowerings.cuda import schedules
from lowerings.cuda import softmax_kernels as kernels
from lowerings.cuda.launching import launch, overlap
from lowerings.cuda.plans import LANES
from lowerings.cuda.rows import Rows, check, constants, programs, rows_of
from lowerings.cuda.softmax_shared_kernels import softmax_shared

#: elements that one program writes
_BLOCK = 2048


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
        _long(x, out, view, log)
        return out
    tile = constants(view)
    kernel = kernels.softmax_held if view.extent <= int(tile["LANES"]) else kernels.softmax_rows
    numbers = (view.rows, *view.arguments())
    shared = {**tile, **overlap(out.get_device())}
    launch(kernel, programs(view, tile), (x, out), numbers, LOG_OUT=log, **shared)
    return out


def _long(x: Tensor, out: Tensor, view: Rows, log: bool) -> None:
    """Contiguous rows longer than LANES: in parts where rows are few, else one a program, in shared memory or not."""
    parts = schedules.softmax_parts(view.rows, view.extent)
    if parts > 1:
        _in_parts(x, out, view, log, parts)
        return
    kernel, count, settings = kernels.softmax_long, view.rows, {"UNROLL": 4}
    if held := _held(x, view):
        kernel, settings = softmax_shared, {"HELD": held, "WAITS": 3}
        count = min(view.rows, schedules.multiprocessors(x.device))
    launch(
        kernel,
        (count,),
        (x, out),
        (view.rows, view.extent),
        LOG_OUT=log,
        LANES=LANES,
        LOG=LANES.bit_length() - 1,
        **settings,
        num_warps=32,
        enable_fp_fusion=False,
        **overlap(out.get_device()),
    )


def _held(x: Tensor, view: Rows) -> int:
    """Steps of a row that wait in shared memory; none in Triton's interpreter, which knows no Gluon."""
    if not x.is_cuda or x.data_ptr() % 16:
        return 0
    return schedules.softmax_held(
        view.rows,
        view.extent,
        LANES,
        x.element_size(),
        sms=schedules.multiprocessors(x.device),
        shared=schedules.shared_memory(x.device),
    )


def _in_parts(x: Tensor, out: Tensor, view: Rows, log: bool, parts: int) -> None:
    """Lanes side by side: each program owns a subtree."""
    numbers = (view.rows, view.extent)
    shared = {"enable_fp_fusion": False, **overlap(out.get_device())}
    width = LANES // parts
    tops, sums = x.new_empty((2, view.rows, parts), dtype=torch.float32)
    wide = {"LANES": LANES, "PARTS": parts, "WIDTH": width, "UNROLL": 16, "num_warps": 1, **shared}
    grid = (view.rows, parts)
    launch(kernels.top_part, grid, (x, tops), numbers, **wide)
    launch(kernels.exp_part, grid, (x, tops, sums), numbers, LOG=width.bit_length() - 1, **wide)
    launch(
        kernels.softmax_write,
        (view.rows, -(-view.extent // _BLOCK)),
        (x, tops, sums, out),
        numbers,
        LOG_OUT=log,
        PARTS=parts,
        LOG=parts.bit_length() - 1,
        BLOCK=_BLOCK,
        num_warps=4,
        **shared,
    )
