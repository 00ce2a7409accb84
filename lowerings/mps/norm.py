"""layer_norm and rms_norm over trailing dims."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bi_inductor.errors import LoweringError
from lowerings.mps import library, plans
from lowerings.mps.reduction import norm_library
from lowerings.mps.rows import Rows, trailing


def layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    lanes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """``((x - mean) * rstd) * weight + bias``, one rounding an operation.

    mean and rstd have the dtype of ``x``, and float32 where the weight has another one.
    """
    mixed = weight is not None and weight.dtype != x.dtype
    rows, out, (mean, rstd) = _prepare(x, shape, lanes, "layer_norm", 2)
    if out.numel():
        weight, bias, w_type = _affine(x, weight, bias)
        lib = norm_library(rows.width, T=library.TYPES[x.dtype][0], W=w_type)
        p = [*_numbers(rows), int(weight is not None), int(bias is not None)]
        unused = x if weight is None else weight
        weights = (unused, unused if bias is None else bias)
        args = (rows.x, out, mean, rstd, weights[0], weights[1], p, [float(eps)])
        library.launch(lib.bi_layer_norm, *args, groups=[rows.groups(rows.width)], size=256)
    statistics = torch.float32 if mixed else x.dtype
    return out, mean.to(statistics), rstd.to(statistics)


def rms_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, eps: float, *, lanes: int
) -> tuple[Tensor, Tensor]:
    """``(x * rstd) * weight`` with ``rstd = 1 / sqrt(mean(x^2) + eps)``; rstd is float32."""
    rows, out, (rstd,) = _prepare(x, shape, lanes, "rms_norm", 1)
    if out.numel():
        weight, _, w_type = _affine(x, weight, None)
        lib = norm_library(rows.width, T=library.TYPES[x.dtype][0], W=w_type)
        p = [*_numbers(rows), int(weight is not None)]
        args = (rows.x, out, rstd, x if weight is None else weight, p, [float(eps)])
        library.launch(lib.bi_rms_norm, *args, groups=[rows.groups(rows.width)], size=256)
    return out, rstd


def _prepare(
    x: Tensor, shape: Sequence[int], lanes: int, op: str, statistics: int
) -> tuple[Rows, Tensor, list[Tensor]]:
    library.check_number(op, "lanes", lanes, plans.ROW_LANES)
    library.check_size(op, x)
    library.metal_type(x.dtype, op)
    if tuple(x.shape[x.dim() - len(shape) :]) != tuple(shape):
        raise LoweringError(f"{op}: {tuple(shape)} is not the end of {tuple(x.shape)}")
    kept = [*x.shape[: x.dim() - len(shape)], *[1] * len(shape)]
    made = [torch.empty(kept, dtype=torch.float32, device=x.device) for _ in range(statistics)]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return trailing(x, len(shape)), out, made


def _affine(
    x: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None, str]:
    """Contiguous weight and bias of one dtype: that of ``x`` or, where they differ, float32 (exact)."""
    given = {w.dtype for w in (weight, bias) if w is not None} or {x.dtype}
    dtype = given.pop() if len(given) == 1 else torch.float32
    ready = [w if w is None else w.to(dtype).contiguous() for w in (weight, bias)]
    return ready[0], ready[1], library.metal_type(dtype, "norm")


def _numbers(rows: Rows) -> list[int]:
    return [rows.rows, rows.extent, rows.inner, *rows.steps, rows.extent, 0]
