"""cumsum, cumprod and logcumsumexp: the launcher."""

import torch
import triton.language as tl
from torch import Tensor

from bi_inductor.errors import LoweringError
from lowerings.cuda import order_kernels as kernels
from lowerings.cuda.launching import launch
from lowerings.cuda.plans import SCAN_BLOCK
from lowerings.cuda.rows import FLOATS

_FIRST = {"cumsum": 0.0, "cumprod": 1.0, "logcumsumexp": float("-inf")}


def scan(x: Tensor, kind: str, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return the running sum, product or log-sum-exp of ``x`` along ``dim``, in ``dtype`` or x's own.

    Integers are exact and ATen's own. Sums and products of floats run in float64 and are rounded once an element.

    Raises:
        LoweringError: a kind or dtype without a kernel.
    """
    exact = not x.dtype.is_floating_point
    wanted = dtype or (torch.int64 if exact else x.dtype)
    if exact and not wanted.is_floating_point:
        return getattr(torch, kind)(x, dim, dtype=wanted).contiguous()
    if kind not in _FIRST or wanted not in FLOATS:
        raise LoweringError(
            f"{kind} of {x.dtype} to {wanted} has no CUDA kernel; cast to one of {', '.join(map(str, FLOATS))}"
        )
    if x.dim() == 0:
        return x.to(wanted).clone()
    rows = x.to(wanted).movedim(dim, -1).contiguous()
    out = torch.empty_like(rows)
    if out.numel():
        launch(
            kernels.scan_rows,
            (rows.numel() // rows.shape[-1],),
            (rows, out),
            (rows.shape[-1],),
            KIND=kind,
            ACC=tl.float32 if kind == "logcumsumexp" else tl.float64,
            FIRST=_FIRST[kind],
            BLOCK=SCAN_BLOCK,
            num_warps=4,
            enable_fp_fusion=False,
        )
    return out.movedim(-1, dim).contiguous()
