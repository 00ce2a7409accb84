"""topk and sort by rank, average pooling, grouped products: one thread a result."""

from collections.abc import Sequence

import torch
from torch import Tensor

import bi_inductor.fakes  # noqa: F401  (the shape of a pooled result)
from bi_inductor.errors import LoweringError
from lowerings.mps import library, plans
from lowerings.mps.matmul import bmm


def topk(x: Tensor, k: int, dim: int, largest: bool, sorted: bool) -> tuple[Tensor, Tensor]:
    """The k first of each row in a stable order, with their indices; always sorted."""
    if not x.dim():
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    metal = library.metal_type(x.dtype, "topk")
    library.check_size("topk", x)
    rows = x.movedim(dim, -1).contiguous()
    count = rows.shape[-1]
    if not 0 <= k <= count:
        raise LoweringError(f"topk: k={k} of {count} elements")
    values = rows.new_empty(*rows.shape[:-1], k)
    indices = torch.empty_like(values, dtype=torch.int64)
    if values.numel():
        lib = library.load("rank", T=metal, A=library.TYPES[x.dtype][1])
        p = [rows.numel() // count, count, k, int(largest)]
        args = (rows, values, indices, p)
        library.launch(lib.bi_rank, *args, groups=[-(-rows.numel() // 64)], size=64)
    return values.movedim(-1, dim).contiguous(), indices.movedim(-1, dim).contiguous()


def avg_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Average over windows of the last 1 to 3 dims of ``x``; shapes as in torch."""
    dims = len(kernel_size)
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    fake = torch.ops.bi_inductor.avg_pool.default(x.to("meta"), *options)
    out = x.new_empty(fake.shape)
    metal = library.metal_type(x.dtype, "avg_pool")
    library.check_size("avg_pool", x, out)
    if divisor_override == 0:
        raise LoweringError("avg_pool: divisor_override must not be 0")
    if out.numel():

        def three(values: Sequence[int], missing: int) -> list[int]:
            return [missing] * (3 - dims) + list(values)

        p = [x.shape[: x.dim() - dims].numel(), *three(x.shape[x.dim() - dims :], 1)]
        p += [*three(out.shape[x.dim() - dims :], 1), *three(kernel_size, 1)]
        p += [*three(list(stride) or kernel_size, 1), *three(padding, 0)]
        p += [divisor_override or 0, int(count_include_pad)]
        lib = library.load("pool", T=metal)
        args = (x.contiguous(), out, p)
        library.launch(lib.bi_avg_pool, *args, groups=[-(-out.numel() // 64)], size=64)
    return out


def grouped_mm(
    a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, *, split_size: int
) -> Tensor:
    """Rows ``a [M, K]`` up to ``offs[g]`` times ``b[g]``, ``b [G, K, N]``; rows past the last group give 0."""
    library.check_number("grouped_mm", "split_size", split_size, plans.MATMUL_SPLIT)
    if bias is not None:
        raise LoweringError("grouped_mm: a bias is not available on mps; add it to the product")
    if a.dim() == 3 and b.dim() == 3 and offs is None:
        return bmm(a, b, split_size=split_size)
    if a.dim() != 2 or b.dim() != 3 or offs is None or a.dtype != b.dtype:
        raise LoweringError(
            f"grouped_mm: on mps it takes rows [M, K] and matrices [G, K, N] of one dtype, got {tuple(a.shape)} "
            f"{a.dtype} and {tuple(b.shape)} {b.dtype}; gradients of grouped weights are not available"
        )
    out = a.new_empty(a.shape[0], b.shape[2])
    library.check_size("grouped_mm", a, b, out)
    if out.numel() and not a.shape[1]:
        return out.zero_()
    if out.numel():
        metal = library.metal_type(a.dtype, "grouped_mm")
        lib = library.load("grouped", T=metal, SPLIT=split_size)
        p = [a.shape[0], b.shape[2], a.shape[1], b.shape[0], *a.stride(), *b.stride()]
        args = (a, b, offs.int().contiguous(), out, p)
        library.launch(lib.bi_grouped, *args, groups=[-(-out.numel() // 64)], size=64)
    return out
