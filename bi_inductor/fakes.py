"""Fake kernels of ``torch.ops.bi_inductor.*``: shapes, strides and dtypes of the outputs, for tracing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bi_inductor.ops import _LIB

_fake = torch.library.register_fake


def _register(name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
    return _fake(f"bi_inductor::{name}", lib=_LIB)


@_register("mm")
def _mm(a: Tensor, b: Tensor, bias: Tensor | None = None, **_: object) -> Tensor:
    return a.new_empty((a.shape[0], b.shape[1]))


@_register("bmm")
def _bmm(a: Tensor, b: Tensor, bias: Tensor | None = None, **_: object) -> Tensor:
    return a.new_empty((a.shape[0], a.shape[1], b.shape[2]))


@_register("grouped_mm")
def _grouped_mm(
    a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, **_: object
) -> Tensor:
    if a.dim() == 2 and b.dim() == 2:
        assert offs is not None
        return a.new_empty((offs.shape[0], a.shape[0], b.shape[1]))
    if a.dim() == 3 and b.dim() == 3:
        return a.new_empty((a.shape[0], a.shape[1], b.shape[2]))
    return a.new_empty((a.shape[-2], b.shape[-1]))


@_register("convolution")
def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    **_: object,
) -> Tensor:
    dims = weight.dim() - 2
    stride, padding, dilation, output_padding = (
        list(v) * (dims // len(v)) for v in (stride, padding, dilation, output_padding)
    )
    sizes = []
    for i in range(dims):
        extent, kernel = x.shape[x.dim() - dims + i], weight.shape[2 + i]
        if transposed:
            size = (extent - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel - 1) + 1
            sizes.append(size + output_padding[i])
        else:
            sizes.append(
                (extent + 2 * padding[i] - dilation[i] * (kernel - 1) - 1) // stride[i] + 1
            )
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return x.new_empty((*x.shape[: x.dim() - dims - 1], channels, *sizes))


@_register("attention")
def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, **_: object
) -> tuple[Tensor, Tensor]:
    *batch, queries, _d = q.shape
    acc = torch.float64 if q.dtype == torch.float64 else torch.float32
    lse = q.new_empty((*batch, queries), dtype=acc)
    if q.dim() == 3:
        return q.new_empty((*batch, queries, v.shape[-1])), lse
    # heads inside, as models want it back: [B, H, Lq, Dv] over memory [B, Lq, H, Dv]
    out = q.new_empty((batch[0], queries, batch[1], v.shape[-1])).transpose(1, 2)
    return out, lse


def _reduced(x: Tensor, dims: Sequence[int], keepdim: bool) -> list[int]:
    gone = {d % max(x.dim(), 1) for d in (dims or range(x.dim()))}
    sizes = [1 if i in gone else s for i, s in enumerate(x.shape)]
    return sizes if keepdim else [s for i, s in enumerate(sizes) if i not in gone]


def _reduction_dtype(kind: str, dtype: torch.dtype) -> torch.dtype:
    if kind in ("any", "all"):
        return torch.bool
    if kind in ("argmax", "argmin"):
        return torch.int64
    exact = not (dtype.is_floating_point or dtype.is_complex)
    return torch.int64 if kind in ("sum", "prod") and exact else dtype


@_register("reduction")
def _reduction(
    x: Tensor,
    kind: str,
    dims: Sequence[int],
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
    **_: object,
) -> Tensor:
    return x.new_empty(_reduced(x, dims, keepdim), dtype=dtype or _reduction_dtype(kind, x.dtype))


@_register("var_mean")
def _var_mean(
    x: Tensor, dims: Sequence[int], correction: float, keepdim: bool = False, **_: object
) -> tuple[Tensor, Tensor]:
    sizes = _reduced(x, dims, keepdim)
    return x.new_empty(sizes), x.new_empty(sizes)


@_register("softmax")
def _softmax(
    x: Tensor, dim: int, log: bool, *, dtype: torch.dtype | None = None, **_: object
) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype or x.dtype)


def _statistics(x: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    kept = x.dim() - len(shape)
    return x.new_empty((*x.shape[:kept], *(1 for _ in shape)), dtype=dtype)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


@_register("layer_norm")
def _layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    **_: object,
) -> tuple[Tensor, Tensor, Tensor]:
    # ATen on the CPU keeps the statistics in x's dtype unless the weights are wider
    mixed = weight is not None and weight.dtype != x.dtype
    dtype = _accumulator(x.dtype) if mixed else x.dtype
    return x.new_empty(x.shape), _statistics(x, shape, dtype), _statistics(x, shape, dtype)


@_register("rms_norm")
def _rms_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, eps: float, **_: object
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), _statistics(x, shape, _accumulator(x.dtype))


@_register("add_rms_norm")
def _add_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, eps: float, **_: object
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((0,) if residual is None else x.shape)


@_register("shared_mm")
def _shared_mm(
    a: Tensor, first: Tensor, second: Tensor, third: Tensor | None = None, **_: object
) -> tuple[Tensor, Tensor, Tensor]:
    left, middle = (a.new_empty((a.shape[0], w.shape[0])) for w in (first, second))
    return left, middle, a.new_empty((0,) if third is None else (a.shape[0], third.shape[0]))


@_register("scan")
def _scan(x: Tensor, kind: str, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    exact = not x.dtype.is_floating_point
    return x.new_empty(x.shape, dtype=dtype or (torch.int64 if exact else x.dtype))


@_register("scatter_add")
def _scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@_register("index_add")
def _index_add(x: Tensor, dim: int, index: Tensor, src: Tensor, **_: object) -> Tensor:
    return x.new_empty(x.shape)


@_register("index_put_add")
def _index_put_add(x: Tensor, indices: Sequence[Tensor | None], values: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@_register("embedding_bag")
def _embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    per_sample_weights: Tensor | None,
    mode: str,
    include_last_offset: bool,
    padding_idx: int,
) -> Tensor:
    bags = offsets.shape[0] - int(include_last_offset)
    return weight.new_empty((bags, weight.shape[1]))


@_register("avg_pool")
def _avg_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    dims = len(kernel_size)
    steps = list(stride) or list(kernel_size)
    sizes = [
        _pooled(x.shape[x.dim() - dims + i], kernel_size[i], steps[i], padding[i], ceil_mode)
        for i in range(dims)
    ]
    return x.new_empty((*x.shape[: x.dim() - dims], *sizes))


def _pooled(extent: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    size = (extent + 2 * padding - kernel + (stride - 1 if ceil_mode else 0)) // stride + 1
    # a window must begin inside the input or its left padding
    if ceil_mode and (size - 1) * stride >= extent + padding:
        size -= 1
    return size


@_register("topk")
def _topk(x: Tensor, k: int, dim: int, largest: bool, sorted: bool) -> tuple[Tensor, Tensor]:
    sizes = list(x.shape)
    if sizes:
        sizes[dim] = k
    return x.new_empty(sizes), x.new_empty(sizes, dtype=torch.int64)
