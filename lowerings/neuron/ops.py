"""The ops ``torch.ops.bi_inductor.neuron_*``: arguments checked, tensors brought into the kernels' shapes.

Each has the meaning of the op without the prefix, less the plan number, which ``graph.py`` has checked. They
carry names of their own because a ``custom_op`` silently replaces another one of its name.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bi_inductor.errors import LoweringError
from lowerings.neuron.plans import MAX_HEAD, NEG, REDUCTIONS, plan_of
from lowerings.neuron.schedules import matmul_schedule

Define = Callable[[str, Callable[..., Any], Callable[..., Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """``define(name, function, fake)`` makes an op, ``wrap(kernel)`` a function of tensors, ``kernels`` holds them."""

    define: Define
    wrap: Callable[[Any], Callable[..., Any]]
    kernels: Any


def register(toolchain: Toolchain) -> None:
    """Define all Neuron ops with the given toolchain; once per process."""
    _register_matmul(toolchain)
    _register_attention(toolchain)
    _register_reductions(toolchain)
    _register_softmax(toolchain)
    _register_norms(toolchain)


def _register_matmul(toolchain: Toolchain) -> None:
    kernel = toolchain.wrap(toolchain.kernels.matmul)

    def neuron_mm(a: Tensor, b: Tensor, bias: Tensor | None, alpha: float, beta: float) -> Tensor:
        out = neuron_mm_fake(a, b, bias, alpha, beta)
        if out.numel() == 0:
            return out
        lhs, rhs = (t if t.dim() == 3 else t.unsqueeze(0) for t in (a, b))
        rows, depth = lhs.shape[1:]
        schedule = matmul_schedule(rows, depth, a.element_size())
        addend = (
            None
            if bias is None or beta == 0
            else _bias_gmn(bias, (lhs.shape[0], rows, rhs.shape[2]))
        )
        lhs = lhs.transpose(1, 2).contiguous()
        product = kernel(lhs, rhs.contiguous(), addend, alpha, beta, schedule.hold_panel)
        return product.reshape(out.shape)  # type: ignore[no-any-return]

    def neuron_mm_fake(
        a: Tensor, b: Tensor, bias: Tensor | None, alpha: float, beta: float
    ) -> Tensor:
        _check("mm", a, b, bias)
        if a.dim() != b.dim() or a.dim() not in (2, 3) or a.shape[-1] != b.shape[-2]:
            raise LoweringError(f"neuron_mm: cannot multiply {tuple(a.shape)} by {tuple(b.shape)}")
        if a.dtype != b.dtype:
            raise LoweringError(
                f"neuron_mm: dtypes differ, {a.dtype} and {b.dtype}; cast one of them"
            )
        if a.shape[-1] == 0:
            raise LoweringError(
                "neuron_mm: K is 0, there is nothing to add up; use the bias itself"
            )
        return a.new_empty((*a.shape[:-1], b.shape[-1]))

    def neuron_scan(x: Tensor, kind: str, dim: int, dtype: torch.dtype | None) -> Tensor:
        out = neuron_scan_fake(x, kind, dim, dtype)
        if out.numel() == 0:
            return out
        length = x.shape[dim]
        marks = x.movedim(dim, -1).reshape(1, -1, length).to(torch.float32)
        ones = marks.new_ones(length, length).triu()[None]
        hold = matmul_schedule(marks.shape[1], length, 4).hold_panel
        counts = kernel(marks.transpose(1, 2).contiguous(), ones, None, 1.0, 1.0, hold)
        turned = counts.reshape(x.movedim(dim, -1).shape).movedim(-1, dim)
        return turned.to(out.dtype).contiguous()  # type: ignore[no-any-return]

    def neuron_scan_fake(x: Tensor, kind: str, dim: int, dtype: torch.dtype | None) -> Tensor:
        _check("scan", x)
        if kind != "cumsum" or x.dim() == 0:
            raise LoweringError(f"neuron_scan: no kernel for {kind} of {tuple(x.shape)}")
        return x.new_empty(x.shape, dtype=dtype or torch.int64)

    toolchain.define("bi_inductor::neuron_mm", neuron_mm, neuron_mm_fake)
    toolchain.define("bi_inductor::neuron_scan", neuron_scan, neuron_scan_fake)


def _bias_gmn(bias: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return ``bias`` as ``[1 or B, 1 or M, N]``."""
    view = bias.reshape((1,) * (3 - bias.dim()) + tuple(bias.shape))
    return view.expand(view.shape[0], view.shape[1], shape[2]).contiguous()


def _register_attention(toolchain: Toolchain) -> None:
    kernel = toolchain.wrap(toolchain.kernels.attention)

    def neuron_attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        is_causal: bool,
        scale: float | None,
    ) -> tuple[Tensor, Tensor]:
        out, lse = neuron_attention_fake(q, k, v, mask, is_causal, scale)
        if out.numel() == 0:
            return out, lse
        keys = k.flatten(0, 1)
        res, row_lse = kernel(
            q.flatten(0, 1).transpose(1, 2).contiguous(),
            keys.transpose(1, 2).contiguous(),
            v.flatten(0, 1).contiguous(),
            None if mask is None else _mask_gts(mask, q, k),
            q.shape[-1] ** -0.5 if scale is None else scale,
            is_causal,
            0,
        )
        seen = row_lse.reshape(lse.shape)
        # heads inside, as the graph was traced
        res = res.reshape(out.shape).transpose(1, 2).contiguous().transpose(1, 2)
        return res, torch.where(seen > NEG / 2, seen, -math.inf)

    def neuron_attention_fake(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        is_causal: bool,
        scale: float | None,
    ) -> tuple[Tensor, Tensor]:
        _check("attention", q, k, v)
        _check_heads(q, k, v)
        batch, heads, tokens = q.shape[:3]
        out = q.new_empty((batch, tokens, heads, v.shape[-1])).transpose(1, 2)
        return out, q.new_empty(q.shape[:-1], dtype=torch.float32)

    toolchain.define("bi_inductor::neuron_attention", neuron_attention, neuron_attention_fake)


def _check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    if q.shape[-1] > MAX_HEAD or v.shape[-1] > MAX_HEAD:
        raise LoweringError(
            f"neuron_attention: head dims {q.shape[-1]} and {v.shape[-1]}; one pass of the tensor engine takes "
            f"{MAX_HEAD}. Use more heads, or keep this layer off the NeuronCore"
        )
    if q.dtype != k.dtype or q.dtype != v.dtype:
        raise LoweringError(f"neuron_attention: dtypes differ: {q.dtype}, {k.dtype}, {v.dtype}")
    if q.shape[1] % k.shape[1] or k.shape[2] == 0:
        raise LoweringError(
            f"neuron_attention: q {tuple(q.shape)} and k {tuple(k.shape)} need at least one key and a number "
            "of query heads that is a multiple of the key heads"
        )


def _mask_gts(mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """Return the mask as additive float32 ``[G, T, S]``, G one of 1, B, B * H; nothing below NEG."""
    batch, heads, tokens = q.shape[:3]
    if mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, NEG)
    mask = mask.to(torch.float32).clamp(min=NEG)
    mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
    groups = (mask.shape[0], 1) if mask.shape[1] == 1 else (batch, heads)
    return mask.expand(*groups, tokens, k.shape[2]).flatten(0, 1).contiguous()


def _register_reductions(toolchain: Toolchain) -> None:
    reduce_kernel = toolchain.wrap(toolchain.kernels.row_reduce)
    var_kernel = toolchain.wrap(toolchain.kernels.var_mean)

    def neuron_reduction(
        x: Tensor, kind: str, dims: list[int], keepdim: bool, dtype: torch.dtype | None
    ) -> Tensor:
        out = neuron_reduction_fake(x, kind, dims, keepdim, dtype)
        if out.numel() == 0:
            return out
        rows = _rows_last(x if dtype is None else x.to(dtype), dims)
        factor = 1.0 / rows.shape[1] if kind.startswith("mean") else 1.0
        if kind == "amin":  # exact either way
            return -reduce_kernel(-rows, "amax", 1.0).reshape(out.shape)  # type: ignore[no-any-return]
        name = {"mean": "sum", "mean_squares": "sum_squares"}.get(kind, kind)
        return reduce_kernel(rows, name, factor).reshape(out.shape)  # type: ignore[no-any-return]

    def neuron_reduction_fake(
        x: Tensor, kind: str, dims: list[int], keepdim: bool, dtype: torch.dtype | None
    ) -> Tensor:
        if kind not in REDUCTIONS:
            raise LoweringError(
                f"neuron_reduction: no kernel for {kind!r}; there is {', '.join(REDUCTIONS)}"
            )
        out = x.new_empty(_reduced_shape(x, dims, keepdim), dtype=dtype)
        _check("reduction", out)
        return out

    def neuron_var_mean(
        x: Tensor, dims: list[int], correction: float, keepdim: bool
    ) -> tuple[Tensor, Tensor]:
        out, mean = neuron_var_mean_fake(x, dims, correction, keepdim)
        if out.numel() == 0:
            return out, mean
        rows = _rows_last(x, dims)
        var, average = var_kernel(rows, rows.shape[1] - correction)
        return var.reshape(out.shape), average.reshape(out.shape)

    def neuron_var_mean_fake(
        x: Tensor, dims: list[int], correction: float, keepdim: bool
    ) -> tuple[Tensor, Tensor]:
        _check("var_mean", x)
        shape = _reduced_shape(x, dims, keepdim)
        count = x.numel() // max(1, math.prod(shape))
        if x.numel() and count <= correction:
            raise LoweringError(f"neuron_var_mean: {count} values and a correction of {correction}")
        return x.new_empty(shape), x.new_empty(shape)

    toolchain.define("bi_inductor::neuron_reduction", neuron_reduction, neuron_reduction_fake)
    toolchain.define("bi_inductor::neuron_var_mean", neuron_var_mean, neuron_var_mean_fake)


def _register_softmax(toolchain: Toolchain) -> None:
    kernel = toolchain.wrap(toolchain.kernels.softmax)

    def neuron_softmax(x: Tensor, dim: int, log: bool, dtype: torch.dtype | None) -> Tensor:
        out = neuron_softmax_fake(x, dim, log, dtype)
        if out.numel() == 0:
            return out
        turned = out.movedim(dim, -1).shape
        rows = _rows_last(x.to(out.dtype), (dim,))
        return kernel(rows, log).reshape(turned).movedim(-1, dim).contiguous()  # type: ignore[no-any-return]

    def neuron_softmax_fake(x: Tensor, dim: int, log: bool, dtype: torch.dtype | None) -> Tensor:
        out = x.new_empty(x.shape, dtype=dtype)
        _check("softmax", out)
        return out

    toolchain.define("bi_inductor::neuron_softmax", neuron_softmax, neuron_softmax_fake)


def _register_norms(toolchain: Toolchain) -> None:
    layer_kernel = toolchain.wrap(toolchain.kernels.layer_norm)
    rms_kernel = toolchain.wrap(toolchain.kernels.rms_norm)

    def neuron_layer_norm(
        x: Tensor,
        shape: list[int],
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, mean, rstd = neuron_layer_norm_fake(x, shape, weight, bias, eps)
        if out.numel() == 0:
            return out, mean, rstd
        rows = _rows_last(x, range(x.dim() - len(shape), x.dim()))
        res, means, rstds = layer_kernel(rows, _one_row(weight), _one_row(bias), eps)
        statistics = (s.reshape(mean.shape).to(mean.dtype) for s in (means, rstds))
        return res.reshape(out.shape), *statistics

    def neuron_layer_norm_fake(
        x: Tensor,
        shape: list[int],
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        _check("layer_norm", x, weight, bias)
        stats = _statistics_shape(x, shape)
        mixed = weight is not None and weight.dtype != x.dtype
        dtype = torch.float32 if mixed else x.dtype
        mean, rstd = (x.new_empty(stats, dtype=dtype) for _ in range(2))
        return x.new_empty(x.shape), mean, rstd

    def neuron_rms_norm(
        x: Tensor, shape: list[int], weight: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        out, rstd = neuron_rms_norm_fake(x, shape, weight, eps)
        if out.numel() == 0:
            return out, rstd
        rows = _rows_last(x, range(x.dim() - len(shape), x.dim()))
        res, rstds = rms_kernel(rows, _one_row(weight), eps)
        return res.reshape(out.shape), rstds.reshape(rstd.shape)

    def neuron_rms_norm_fake(
        x: Tensor, shape: list[int], weight: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        _check("rms_norm", x, weight)
        stats = _statistics_shape(x, shape)
        return x.new_empty(x.shape), x.new_empty(stats, dtype=torch.float32)

    toolchain.define("bi_inductor::neuron_layer_norm", neuron_layer_norm, neuron_layer_norm_fake)
    toolchain.define("bi_inductor::neuron_rms_norm", neuron_rms_norm, neuron_rms_norm_fake)


def _check(op: str, *tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None:
            try:
                plan_of(op, tensor.dtype)
            except ValueError as error:
                raise LoweringError(str(error)) from None


def _one_row(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.reshape(1, -1).contiguous()


def _rows_last(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Return ``x`` as contiguous ``[M, H]`` with the reduced dims, ascending, in H."""
    reduced = sorted(d % x.dim() for d in dims) or list(range(x.dim()))
    kept = [d for d in range(x.dim()) if d not in reduced]
    width = math.prod(x.shape[d] for d in reduced)
    return x.permute(*kept, *reduced).reshape(-1, width).contiguous()


def _reduced_shape(x: Tensor, dims: Sequence[int], keepdim: bool) -> list[int]:
    reduced = {d % x.dim() for d in dims} or set(range(x.dim()))
    if any(x.shape[d] == 0 for d in reduced):
        raise LoweringError(
            f"Neuron reduction over dims {sorted(reduced)} of {tuple(x.shape)}: no values"
        )
    sizes = [(1 if d in reduced else n) for d, n in enumerate(x.shape)]
    return sizes if keepdim else [n for d, n in enumerate(sizes) if d not in reduced]


def _statistics_shape(x: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    dims = len(shape)
    if tuple(x.shape[x.dim() - dims :]) != tuple(shape):
        raise LoweringError(
            f"Neuron norm over {tuple(shape)} of {tuple(x.shape)}: not its last dims"
        )
    return (*x.shape[: x.dim() - dims], *(1,) * dims)
