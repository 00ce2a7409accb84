"""softmax and log_softmax over any dim: the launcher."""

import torch
from torch import Tensor

from lowerings.cuda import row_kernels as kernels
from lowerings.cuda.rows import check, constants, programs, rows_of


def softmax(x: Tensor, dim: int, log: bool, *, dtype: torch.dtype | None = None, lanes: int) -> Tensor:
    """Return the softmax (its logarithm with ``log``) of ``x`` over ``dim``, in ``dtype`` or x's own."""
    check(x, lanes, "softmax")
    x = x.contiguous()
    out = x.new_empty(x.shape, dtype=dtype or x.dtype)
    if not out.numel():
        return out
    view = rows_of(x, [dim])
    tile = constants(view)
    kernels.softmax_rows[programs(view, tile)](
        *(x, out, view.rows, *view.arguments()), LOG_OUT=log, **tile
    )
    return out
