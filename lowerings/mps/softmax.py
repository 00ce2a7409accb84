"""softmax and log_softmax over one dim."""

import torch
from torch import Tensor

from lowerings.mps import library, plans
from lowerings.mps.reduction import norm_library
from lowerings.mps.rows import along


def softmax(
    x: Tensor, dim: int, log: bool, *, dtype: torch.dtype | None = None, lanes: int
) -> Tensor:
    """Exact row maximum, sum of exponentials, then one division (or subtraction) and one rounding."""
    library.check_number("softmax", "lanes", lanes, plans.ROW_LANES)
    library.check_size("softmax", x)
    metal = library.metal_type(x.dtype, "softmax")
    out_dtype = library.metal_type(dtype or x.dtype, "softmax")
    if not x.dim():
        return softmax(x[None], 0, log, dtype=dtype, lanes=lanes)[0]
    rows = along(x, dim)
    out = torch.empty(x.shape, dtype=dtype or x.dtype, device=x.device)
    if out.numel():
        lib = norm_library(rows.width, T=metal, O=out_dtype)
        steps = [rows.inner * rows.extent, 1, int(log), rows.inner]
        p = [rows.rows, rows.extent, rows.inner, *rows.steps, *steps]
        library.launch(lib.bi_softmax, rows.x, out, p, groups=[rows.groups(rows.width)], size=256)
    return out
