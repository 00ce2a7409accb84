"""cumsum, cumprod and logcumsumexp: one chain a row."""

import torch
from torch import Tensor

from bi_inductor.errors import LoweringError
from lowerings.mps import library
from lowerings.mps.rows import along

KINDS = ("cumsum", "cumprod", "logcumsumexp")


def scan(x: Tensor, kind: str, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """One compensated chain along ``dim`` in float32 (int64 for integers), each element rounded once."""
    if kind not in KINDS:
        raise LoweringError(f"scan: unknown kind {kind!r}; known: {', '.join(KINDS)}")
    library.check_size("scan", x)
    metal = library.metal_type(x.dtype, "scan")
    if not x.dim():
        return scan(x[None], kind, 0, dtype=dtype)[0]
    if dtype is not None and dtype.is_floating_point and not x.dtype.is_floating_point:
        return scan(x.to(dtype), kind, dim)
    integers = not x.dtype.is_floating_point
    out_dtype = dtype or (torch.int64 if integers else x.dtype)
    if integers and kind == "logcumsumexp":
        raise LoweringError(f"scan: logcumsumexp needs a floating dtype, got {x.dtype}")
    out = torch.empty(x.shape, dtype=out_dtype, device=x.device)
    if not out.numel():
        return out
    rows = along(x, dim)
    lib = library.load(
        "scan",
        T=metal,
        A=library.TYPES[x.dtype][1],
        O=library.metal_type(out_dtype, "scan"),
        LOG=int(kind == "logcumsumexp"),
    )
    p = [rows.rows, rows.extent, rows.inner, *rows.steps]
    p += [rows.inner * rows.extent, 1, rows.inner, KINDS.index(kind)]
    library.launch(lib.bi_scan, rows.x, out, p, groups=[-(-rows.rows // 64)], size=64)
    return out
