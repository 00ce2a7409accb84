"""mm, bmm and grouped_mm: the launchers. Each takes a schedule or chooses one when it is launched."""

import functools
import os

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from bi_inductor.errors import LoweringError
from lowerings.cuda import matmul_float32, matmul_hopper, schedules, schedules_hopper, stream
from lowerings.cuda import matmul_kernels as kernels
from lowerings.cuda.launching import Memory, Repeat, launch, matrix_strides
from lowerings.cuda.matmul_hopper import Again
from lowerings.cuda.plans import FLOAT32_CHAIN, FLOAT32_RUN
from lowerings.cuda.schedules import Float32, Gemm
from lowerings.cuda.schedules_hopper import Hopper

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_GROUP = 8
#: (launch, sizes and strides of the result) of products, by operands
_repeats: Memory[tuple[Repeat | Again, tuple[int, ...], tuple[int, ...]]] = Memory()
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _device(index: int) -> tuple[int, bool, int]:
    """Multiprocessors, whether tensor copies exist, and bytes of shared memory a program may use."""
    properties = torch.cuda.get_device_properties(index)
    shared = schedules.shared_memory(torch.device("cuda", index))
    return properties.multi_processor_count, properties.major >= 9, shared


def mm(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    alpha: float = 1,
    beta: float = 1,
    split_size: int,
    uniform: bool = False,
    schedule: Gemm | Float32 | Hopper | None = None,
) -> Tensor:
    """Return ``alpha * a [M, K] @ b [K, N] + beta * bias``; any strides, bias broadcastable to ``[M, N]``.

    ``uniform`` takes one tile for every number of rows: the same bits.
    """
    if schedule is None or uniform:
        return _repeated(a, b, bias, alpha, beta, split_size, uniform)
    out = a.new_empty((a.shape[0], b.shape[1]))
    _product(a, b, out, bias, alpha, beta, split_size, schedule)
    return out


def _repeated(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    alpha: float,
    beta: float,
    split_size: int,
    uniform: bool,
) -> Tensor:
    """The product of two matrices: what follows from shapes and strides is worked out once for each of them."""
    a_at, b_at = a.data_ptr(), b.data_ptr()
    bias_at = None if bias is None else bias.data_ptr()
    key = (
        *(a.dtype, b.dtype, a.shape, a.stride(), b.shape, b.stride(), alpha, split_size, uniform),
        *(a_at & 15, b_at & 15, a.get_device()),
        None
        if bias is None or bias_at is None
        else (bias.dtype, bias.shape, bias.stride(), beta, bias_at & 15),
    )
    made = _repeats.get(key)
    if made is None:
        out = a.new_empty((a.shape[0], b.shape[1]))
        schedule = _uniform(a.dtype) if uniform else None
        repeat = _product(a, b, out, bias, alpha, beta, split_size, schedule)
        if repeat is not None:
            _repeats.keep(key, (repeat, tuple(out.shape), out.stride()))
        return out
    again, sizes, strides = made
    if isinstance(again, Again):
        out = a.new_empty(sizes)
        again(a, b, out, out if bias is None else bias)
        return out
    out = again.empty(sizes, strides, a.dtype)
    at = out.data_ptr()
    again.at(a_at, b_at, at, at if bias_at is None else bias_at)
    return out


def bmm(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    alpha: float = 1,
    beta: float = 1,
    split_size: int,
    uniform: bool = False,
    schedule: Gemm | Float32 | None = None,
) -> Tensor:
    """Return ``alpha * a [B, M, K] @ b [B, K, N] + beta * bias``; ``uniform`` as for ``mm``."""
    if uniform:
        schedule = _uniform(a.dtype)
    out = a.new_empty((a.shape[0], a.shape[1], b.shape[2]))
    _product(a, b, out, bias, alpha, beta, split_size, schedule)
    return out


def grouped_mm(
    a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, *, split_size: int
) -> Tensor:
    """Return rows ``a [M, K]``, cut at ``offs [G]``, each group times its ``b [G, K, N]``; 3-d a is bmm.

    Raises:
        LoweringError: the groups are cut along N or K, or there is a bias: the plan has no order for it.
    """
    _check(a, b, split_size)
    if a.dim() == 3 and b.dim() == 3:
        return bmm(a, b, bias, split_size=split_size)
    if a.dim() != 2 or b.dim() != 3 or offs is None or bias is not None:
        raise LoweringError(
            f"grouped_mm of {a.dim()}-d and {b.dim()}-d operands (bias: {bias is not None}) has no CUDA kernel; "
            "cut the groups along the rows of a, and add the bias outside"
        )
    rows, depth = a.shape
    groups, _, columns = b.shape
    out = a.new_zeros((rows, columns))
    if not out.numel() or not depth:
        return out
    tile = _uniform(a.dtype)
    grid = (-(-columns // tile.n), rows // tile.m + groups)
    launch(
        kernels.grouped_product,
        grid,
        # the kernel walks the offsets in int32
        (a, b, out, offs.to(torch.int32)),
        (columns, depth, groups, *a.stride(), *b.stride(), out.stride(0)),
        **_constants(tile, depth, split_size, a.dtype),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


def _product(
    a: Tensor,
    b: Tensor,
    out: Tensor,
    bias: Tensor | None,
    alpha: float,
    beta: float,
    split_size: int,
    schedule: Gemm | Float32 | Hopper | None,
) -> Repeat | Again | None:
    """Fill ``out [M, N]`` or ``[B, M, N]``; a, b and out have one rank. Return what does it again, if one can."""
    _check(a, b, split_size)
    if bias is not None and bias.shape != out.shape:
        bias = bias.expand(out.shape)
    if not out.numel():
        return None
    if schedule is None:
        schedule = choose(a, b, split_size)
    scaled = alpha != 1 or (bias is not None and beta != 1)
    if isinstance(schedule, Float32):
        return matmul_float32.run(a, b, out, bias, alpha, beta, scaled, schedule, split_size)
    if isinstance(schedule, Hopper) or schedule.tma:
        if out.dim() == 3:
            a, b, out, bias = a[0], b[0], out[0], None if bias is None else bias[0]
        if isinstance(schedule, Hopper):
            sms, _, _ = _device(a.device.index or 0)
            return matmul_hopper.run(a, b, out, bias, alpha, beta, schedule, sms)
        _launch_tma(a, b, out, bias, alpha, beta, scaled, schedule)
        return None
    if schedule.stream:
        return stream.product(a, b, out, bias, alpha, beta, scaled, schedule)
    *batch, rows, columns = out.shape
    depth = a.shape[-1]
    tiles = -(-rows // schedule.m) * -(-columns // schedule.n)
    return launch(
        kernels.product,
        (tiles, *batch, 1)[:2],
        (a, b, out, out if bias is None else bias),
        (
            *(rows, columns, depth, float(alpha), float(beta)),
            *(*matrix_strides(a), *matrix_strides(b), *matrix_strides(out)),
            *((0, 0, 0) if bias is None else matrix_strides(bias)),
        ),
        GROUP=_GROUP,
        SWAP=schedule.swap,
        HAS_BIAS=bias is not None,
        SCALED=scaled,
        **_constants(schedule, depth, split_size, a.dtype),
        num_warps=schedule.warps,
        num_stages=schedule.stages,
    )


def _constants(
    tile: Gemm, depth: int, split_size: int, dtype: torch.dtype
) -> dict[str, int | bool]:
    return {
        "BM": tile.m,
        "BN": tile.n,
        "BK": tile.k,
        # a float32 total begins at zero, even that of a single piece: a negative zero becomes a positive one
        "SPLIT": split_size if depth > split_size or dtype == torch.float32 else 0,
        "CHAIN": FLOAT32_CHAIN if dtype == torch.float32 else split_size,
        "RUN": FLOAT32_RUN if dtype == torch.float32 else 1,
        "EVEN": depth % tile.k == 0,
        "WIDEN": _INTERPRETED,
    }


def _launch_tma(
    a: Tensor,
    b: Tensor,
    out: Tensor,
    bias: Tensor | None,
    alpha: float,
    beta: float,
    scaled: bool,
    tile: Gemm,
) -> None:
    rows, columns = out.shape
    by_columns = b.stride(0) == 1 and b.stride(1) != 1
    weights = b.t() if by_columns else b
    block = [tile.n, tile.k] if by_columns else [tile.k, tile.n]
    sms, _, _ = _device(a.device.index or 0)
    programs = min(sms, -(-rows // tile.m) * -(-columns // tile.n))
    launch(
        kernels.product_tma,
        (programs,),
        (
            TensorDescriptor.from_tensor(a, [tile.m, tile.k]),
            TensorDescriptor.from_tensor(weights, block),
            TensorDescriptor.from_tensor(out, [tile.m, tile.n // 2]),
            out if bias is None else bias,
        ),
        (
            rows,
            columns,
            a.shape[1],
            float(alpha),
            float(beta),
            *((0, 0) if bias is None else bias.stride()),
        ),
        BM=tile.m,
        BN=tile.n,
        BK=tile.k,
        GROUP=_GROUP,
        PROGRAMS=sms,
        B_ROWS_ARE_COLUMNS=by_columns,
        HAS_BIAS=bias is not None,
        SCALED=scaled,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def _uniform(dtype: torch.dtype) -> Gemm:
    return schedules.FLOAT32[1] if dtype == torch.float32 else schedules.POINTERS[0]


def choose(
    a: Tensor, b: Tensor, split_size: int, *, columns: int | None = None
) -> Gemm | Float32 | Hopper:
    """Return the schedule of ``a @ b``: strides and sizes are looked up; only the addresses are looked at.

    ``columns``: of all products in the launch, where b's are not all.
    """
    aligned = not (a.data_ptr() | b.data_ptr()) & 15
    return _chosen(
        a.dtype,
        a.shape,
        a.stride(),
        b.stride(),
        columns or b.shape[-1],
        split_size,
        aligned,
        a.get_device(),
    )


@functools.lru_cache(1 << 14)
def _chosen(
    dtype: torch.dtype,
    shape: tuple[int, ...],
    a_strides: tuple[int, ...],
    b_strides: tuple[int, ...],
    columns: int,
    split_size: int,
    aligned: bool,
    index: int,
) -> Gemm | Float32 | Hopper:
    sms, copies, shared = (132, False, 227 << 10) if _INTERPRETED else _device(index)
    *batches, rows, depth = shape
    batch = batches[0] if batches else 1
    steps = 16 // dtype.itemsize
    streamed = not batches and depth <= split_size and aligned
    one_chain = batch == 1 and depth <= split_size and aligned and min(rows, columns, depth) > 1
    b_row, b_column = b_strides[-2:]
    # a tensor copy wants one unit stride and the rest in steps of 16 bytes
    pitch = b_row if b_column == 1 else b_column if b_row == 1 else 1
    a_fits = a_strides[-1] == 1 and a_strides[-2] > 0 and a_strides[-2] % steps == 0
    tma = (
        copies
        and one_chain
        and a_fits
        and pitch > 0
        and pitch % steps == 0
        and columns % steps == 0
    )
    if (
        tma
        and dtype != torch.float32
        and schedules_hopper.takes(rows, depth)
        and matmul_hopper.is_hopper(index)
    ):
        return schedules_hopper.choose(rows, columns, depth, sms=sms)
    if dtype == torch.float32 and not _INTERPRETED:
        return schedules.float32(
            rows, columns, depth, split_size, batch=batch, sms=sms, shared=shared
        )
    return schedules.gemm(
        rows,
        columns,
        dtype,
        sms=sms,
        tma=tma,
        stream=streamed and stream.streams(depth, a_strides, b_strides, rows),
        shared=shared,
    )


def _check(a: Tensor, b: Tensor, split_size: int) -> None:
    if a.dtype != b.dtype or a.dtype not in _DTYPES:
        raise LoweringError(
            f"a product of {a.dtype} and {b.dtype} has no CUDA kernel; cast both to one of "
            + ", ".join(map(str, _DTYPES))
        )
    # of a chain, and of the deepest tile
    least = FLOAT32_CHAIN if a.dtype == torch.float32 else 256
    if split_size <= 0 or split_size % least:
        raise LoweringError(
            f"split_size must be a positive multiple of {least}, got {split_size}; lowerings/cuda/plans.py names the number"
        )
