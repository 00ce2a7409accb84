"""Inductor's decompositions, less those that would open what a plan must see whole."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from bi_inductor._torch import core_aten_decompositions, select_decomp_table
from bi_inductor.encoder_layer import encoder_layer, multi_head_attention

#: Kept whole, with the reason: matmuls decompose by M or N (to mul + sum); norms, softmax and reductions
#: open into parts whose rounding Inductor may fuse; ordered adds become atomics.
KEPT_WHOLE = (
    "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "vdot", "_grouped_mm", "_scaled_mm",
    "_softmax", "_log_softmax", "native_layer_norm", "_fused_rms_norm",
    "sum", "mean", "prod", "var", "var_mean", "amax", "amin", "any", "all", "argmax", "argmin",
    "linalg_vector_norm",
    "cumsum", "cumprod", "logcumsumexp", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "_embedding_bag", "_embedding_bag_forward_only", "topk", "sort", "index_add", "scatter_add", "scatter_reduce",
    "convolution",
)  # fmt: skip

#: These overloads only forward to the one that a rule names, so they stay opened.
_FORWARDING = ("var.default", "var.dim", "var_mean.default", "var_mean.dim")


_Table = TypeVar("_Table", bound=dict[Any, Callable[..., Any]])


class DecompositionTable(dict[Any, Callable[..., Any]]):
    """A table that pickles as a call of its factory: its content follows torch's and our version only.

    Inductor's cache key pickles the table, and gives up caching for a plain dict of functions.
    """

    def __reduce_ex__(
        self, protocol: object
    ) -> tuple[Callable[[], "DecompositionTable"], tuple[()]]:
        return (decomposition_table, ())


def decomposition_table() -> DecompositionTable:
    """Return the table to hand to AOTAutograd when Inductor compiles."""
    return _without_templates(DecompositionTable(select_decomp_table()))


def core_table() -> dict[Any, Callable[..., Any]]:
    """The same over core ATen, for compilers that know no op of Inductor."""
    return _without_templates(dict(core_aten_decompositions()))


def _without_templates(table: _Table) -> _Table:
    for name in KEPT_WHOLE:
        packet = getattr(torch.ops.aten, name, None)
        if packet is None:
            continue
        for overload in packet.overloads():
            if f"{name}.{overload}" not in _FORWARDING and not overload.endswith("out"):
                table.pop(getattr(packet, overload), None)
    table.update(own())
    return table


def own() -> dict[Any, Callable[..., Any]]:
    """Return our own decompositions: into ops that have a template, or steps that round where we say."""
    aten, prims = torch.ops.aten, torch.ops.prims
    return {
        aten.addcmul.default: addcmul,
        aten.addcdiv.default: addcdiv,
        aten.add.Tensor: add,
        aten.sub.Tensor: sub,
        **({prims.fma.default: fma} if hasattr(prims, "fma") else {}),  # 2.12 and later
        aten.linalg_solve_triangular.default: solve_triangular,
        aten._adaptive_avg_pool2d.default: adaptive_avg_pool2d,
        aten._cdist_forward.default: cdist,
        aten._trilinear.default: trilinear,
        aten.kthvalue.default: kthvalue,
        aten.median.dim: median,
        aten.nanmedian.dim: nanmedian,
        aten._native_multi_head_attention.default: multi_head_attention,
        aten._transformer_encoder_layer_fwd.default: encoder_layer,
    }


def add(x: Tensor, y: Tensor, *, alpha: float = 1) -> Tensor:
    """``x + y * alpha``, which Inductor contracts on a GPU; left to it where there is no factor."""
    return NotImplemented if alpha == 1 else _step(torch.add, x, _step(torch.mul, y, alpha))


def sub(x: Tensor, y: Tensor, *, alpha: float = 1) -> Tensor:
    """``x - y * alpha``, as ``add``."""
    return NotImplemented if alpha == 1 else _step(torch.sub, x, _step(torch.mul, y, alpha))


def addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    """``x + a * b * value``: every step rounded to the dtype of its operands, none contracted.

    Dynamo writes some calls in these steps before a backend sees them, those with ``value=`` or in place. The other
    spellings follow it here, and eager mode in ``eager/exact.py``.
    """
    return fma(_step(torch.mul, a, b), value, x)


def addcdiv(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    """``x + a / b * value``, in the steps of ``addcmul``."""
    return fma(_step(torch.div, a, b), value, x)


def fma(a: Tensor, b: Tensor | float, c: Tensor) -> Tensor:
    """``a * b + c`` in two steps. Dynamo puts one of a single rounding there, which eager code does not have."""
    return _step(torch.add, c, _step(torch.mul, a, b))


def _step(op: Callable[..., Tensor], x: Tensor, y: Tensor | float) -> Tensor:
    """One operation with its rounding written out: Inductor keeps the halves inside a decomposition in float32."""
    dtype = torch.result_type(x, y)
    if dtype not in (torch.bfloat16, torch.float16):
        return op(x, y)
    wide = (t.to(dtype).float() if isinstance(t, Tensor) else t for t in (x, y))
    return op(*wide).to(dtype)


def solve_triangular(
    a: Tensor, b: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """Solve ``a x = b`` (``x a = b`` if not ``left``) by substitution in halves: products and one division.

    Shapes: a ``[..., n, n]``, b ``[..., n, k]``; leading dims broadcast.
    """
    if not left:
        turned = solve_triangular(a.mT, b.mT, upper=not upper, unitriangular=unitriangular)
        return turned.mT
    n = a.shape[-1]
    if n == 0:
        return b
    if n == 1:
        return b.expand(torch.broadcast_shapes(a.shape[:-2] + b.shape[-2:], b.shape)) / (
            torch.ones_like(a) if unitriangular else a
        )
    cut = n // 2
    top, low = slice(0, cut), slice(cut, n)
    first, second = (low, top) if upper else (top, low)

    def part(rows: slice, right: Tensor) -> Tensor:
        return solve_triangular(a[..., rows, rows], right, upper=upper, unitriangular=unitriangular)

    x = part(first, b[..., first, :])
    y = part(second, b[..., second, :] - torch.matmul(a[..., second, first], x))
    return torch.cat([y, x] if upper else [x, y], dim=-2)


def cdist(x: Tensor, y: Tensor, p: float, _mode: int | None) -> Tensor:
    """Distances ``[..., M, N]`` between the rows of x ``[..., M, D]`` and y ``[..., N, D]``."""
    return torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


def kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The k-th smallest value along ``dim`` and its place, the first of equal ones; a NaN is larger than all."""
    if x.dim() == 0:
        return x.clone(), torch.zeros_like(x, dtype=torch.int64)
    values, places = (part.narrow(dim, k - 1, 1) for part in x.sort(stable=True, dim=dim))
    return _kept(values, places, dim, keepdim)


def median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower median along ``dim`` and its place; NaN, and its place, where there is one."""
    if x.dim() == 0:
        return kthvalue(x, 1)
    values, places = kthvalue(x, (x.shape[dim] - 1) // 2 + 1, dim, True)
    if x.is_floating_point():
        is_nan = x.isnan()
        spoilt = is_nan.any(dim, keepdim=True)
        values = torch.where(spoilt, torch.nan, values)
        places = torch.where(spoilt, is_nan.to(torch.int32).argmax(dim, keepdim=True), places)
    return _kept(values, places, dim, keepdim)


def nanmedian(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower median of what is no NaN along ``dim``, and its place; NaN where nothing is left."""
    if x.dim() == 0:
        return kthvalue(x, 1)
    count = x.isnan().logical_not().sum(dim, keepdim=True)
    at = ((count - 1) // 2).clamp(min=0)
    values, places = (part.gather(dim, at) for part in x.sort(stable=True, dim=dim))
    return _kept(values, places, dim, keepdim)


def _kept(values: Tensor, places: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def trilinear(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    expand1: Sequence[int],
    expand2: Sequence[int],
    expand3: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> Tensor:
    """The sum over ``sumdim`` of a product of three tensors, each with new dims at ``expandN`` (``nn.Bilinear``)."""
    letters = "abcdefgh"[: x.dim() + len(expand1)]

    def without(dims: Sequence[int]) -> str:
        return "".join(letter for dim, letter in enumerate(letters) if dim not in dims)

    operands = ",".join(map(without, (expand1, expand2, expand3)))
    return torch.einsum(f"{operands}->{without(sumdim)}", x, y, z)


def adaptive_avg_pool2d(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """Average over windows that cover ``x [..., H, W]``: equal ones by pooling, others one by one."""
    height, width = x.shape[-2:]
    rows, columns = output_size
    if height % rows == 0 and width % columns == 0:
        window = [height // rows, width // columns]
        return torch.ops.aten.avg_pool2d.default(x, window, window)
    lines = [
        torch.stack([x[..., r, c].mean((-2, -1)) for c in _windows(width, columns)], -1)
        for r in _windows(height, rows)
    ]
    return torch.stack(lines, -2)


def _windows(extent: int, count: int) -> list[slice]:
    return [slice(i * extent // count, -(-(i + 1) * extent // count)) for i in range(count)]
