"""layer_norm, rms_norm and the fused add_rms_norm: the launchers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lowerings.cuda import norm_kernels as kernels
from lowerings.cuda.launching import launch, overlap
from lowerings.cuda.rows import check, tile_of


def layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    lanes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the norm over the last dims ``shape``, its mean and its reciprocal deviation.

    The statistics have x's dtype, or float32 when the weights are wider than x, as the op's fake kernel says.
    """
    mixed = weight is not None and weight.dtype != x.dtype
    return _norm(
        x, shape, weight, bias, eps, lanes, torch.float32 if mixed else x.dtype, centred=True
    )


def rms_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, eps: float, *, lanes: int
) -> tuple[Tensor, Tensor]:
    """Return the norm over the last dims ``shape`` and its reciprocal root mean square in float32."""
    out, _, rstd = _norm(x, shape, weight, None, eps, lanes, torch.float32, centred=False)
    return out, rstd


def _norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    lanes: int,
    statistics: torch.dtype,
    *,
    centred: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    check(x, lanes, "layer_norm" if centred else "rms_norm")
    extent = math.prod(shape)
    kept = x.shape[: x.dim() - len(shape)]
    out = x.new_empty(x.shape)
    rstd = x.new_empty((*kept, *(1 for _ in shape)), dtype=statistics)
    mean = torch.empty_like(rstd) if centred else rstd
    if not out.numel():
        return out, mean, rstd
    flat = _flat(x if len(shape) == 1 else x.flatten(len(kept)), extent)
    rows = flat.shape[0]
    tile = tile_of(rows, extent, True)
    weights = (flat if w is None else w.contiguous() for w in (weight, bias))
    launch(
        kernels.norm_held if extent <= int(tile["LANES"]) else kernels.norm_rows,
        (-(-rows // int(tile["ROWS"])),),
        (flat, *weights, out, mean, rstd),
        (rows, extent, flat.stride(0), float(eps)),
        CENTRED=centred,
        HAS_WEIGHT=weight is not None,
        HAS_BIAS=bias is not None,
        **tile,
        **overlap(out.get_device()),
    )
    return out, mean, rstd


def add_rms_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    eps: float,
    *,
    fma: bool,
    rounded: bool,
    lanes: int,
) -> tuple[Tensor, Tensor]:
    """Return the rms norm over the last dim of ``x + residual`` times ``weight``, and that sum.

    ``rounded``: to x's dtype before the product with the weight as well; ``fma``: squares are added unrounded. residual has x's shape, weight its last dim.
    Without a residual the sum is empty.
    """
    check(x, lanes, "add_rms_norm")
    extent = x.shape[-1]
    out = x.new_empty(x.shape)
    total = x.new_empty((0,) if residual is None else x.shape)
    if not out.numel():
        return out, total
    rows = x.numel() // extent
    tile = tile_of(rows, extent, True)
    flat, other = (_flat(t, extent) for t in (x, x if residual is None else residual))
    launch(
        kernels.add_rms_held if extent <= int(tile["LANES"]) else kernels.add_rms_rows,
        (-(-rows // int(tile["ROWS"])),),
        (flat, other, flat if weight is None else weight.contiguous(), out, total),
        (rows, extent, flat.stride(0), other.stride(0), float(eps)),
        HAS_RESIDUAL=residual is not None,
        HAS_WEIGHT=weight is not None,
        FMA=fma,
        ROUNDED=rounded,
        **tile,
        **overlap(out.get_device()),
    )
    return out, total


def _flat(x: Tensor, extent: int) -> Tensor:
    """``[rows, extent]`` with neighbouring elements side by side."""
    flat = x if x.dim() == 2 else x.reshape(-1, extent)
    return flat if flat.stride(1) == 1 else flat.contiguous()
