"""mm and bmm on Metal: one plan, tile and GEMV schedules; and the opt-in simdgroup tier."""

from torch import Tensor

from bi_inductor.errors import LoweringError
from lowerings.mps import library, plans, schedules
from lowerings.mps.schedules import Gemv, Tile

Number = int | float


def mm(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    alpha: Number = 1,
    beta: Number = 1,
    split_size: int,
    uniform: bool = False,
) -> Tensor:
    """``alpha * (a [M, K] @ b [K, N]) + beta * bias``; bias broadcasts to the product."""
    out = bmm(
        a[None], b[None], bias, alpha=alpha, beta=beta, split_size=split_size, uniform=uniform
    )
    return out[0]


def bmm(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    alpha: Number = 1,
    beta: Number = 1,
    split_size: int,
    uniform: bool = False,
) -> Tensor:
    """``a [B, M, K] @ b [B, K, N]`` with any strides; float32, float16 or bfloat16, all of one dtype.

    ``uniform`` takes one tile for every number of rows: the same bits.
    """
    return bmm_with(
        schedules.UNIFORM if uniform else schedules.matmul_schedule(a.shape[1]),
        a,
        b,
        bias,
        alpha=alpha,
        beta=beta,
        split_size=split_size,
    )


def bmm_with(
    schedule: Tile | Gemv,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    alpha: Number = 1,
    beta: Number = 1,
    split_size: int,
) -> Tensor:
    """``bmm`` under a given schedule: the same bits under every one of them."""
    dtype = _check(a, b, bias, split_size)
    batch, rows, depth = a.shape
    columns = b.shape[2]
    out = a.new_empty(batch, rows, columns)
    library.check_size("bmm", a, b, out)
    if not out.numel():
        return out
    if beta == 0:
        bias = None
    if bias is not None:
        bias = bias.expand(out.shape)
    if not depth:  # no element to point a kernel at
        a, b = a.new_zeros(batch, rows, 1), b.new_zeros(batch, 1, columns)
        depth = 1
    c = a if bias is None else bias
    has_bias = int(bias is not None)
    p = [rows, columns, depth, *_strides(a), *_strides(b), columns, rows * columns]
    p += [has_bias, *(_strides(c)[:2] if has_bias else (0, 0)), c.stride(0) if has_bias else 0]
    args = (a, b, out, c, p, [float(alpha), float(beta)])
    if split_size == plans.SIMDGROUP_SPLIT:
        fragment = "half" if dtype == "half" else "float"
        lib = library.load("matmul_simdgroup", T=dtype, FRAGMENT=fragment)
        groups = [-(-columns // 32), -(-rows // 32), batch]
        library.launch(lib.bi_matmul_simdgroup, *args, groups=groups, size=128)
        return out
    match schedule:
        case Gemv(rows=block):
            lib = library.load("gemv", T=dtype, ROWS=block, SPLIT=split_size)
            by_k = b.stride(1) == 1 and b.stride(2) != 1
            groups = [-(-columns // (8 if by_k else 32)), -(-rows // block), batch]
            kernel = lib.bi_gemv_k if by_k else lib.bi_gemv_n
            library.launch(kernel, *args, groups=groups, size=256)
        case Tile(block_m=m, block_n=n, block_k=k):
            lib = library.load("matmul", T=dtype, M=m, N=n, K=k, SPLIT=split_size)
            groups = [-(-columns // n), -(-rows // m), batch]
            library.launch(lib.bi_matmul_tile, *args, groups=groups, size=schedule.threads)
    return out


def _strides(x: Tensor) -> tuple[int, int, int]:
    return x.stride(1), x.stride(2), x.stride(0)


def _check(a: Tensor, b: Tensor, bias: Tensor | None, split_size: int) -> str:
    numbers = (plans.MATMUL_SPLIT, plans.SIMDGROUP_SPLIT)
    library.check_number("mm", "split_size", split_size, *numbers)
    kinds = {x.dtype for x in (a, b, bias) if x is not None}
    if len(kinds) != 1 or not a.dtype.is_floating_point:
        names = ", ".join(sorted(map(str, kinds)))
        raise LoweringError(f"mm: operands must share one floating dtype on mps, got {names}")
    if a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1]:
        raise LoweringError(f"mm: shapes {tuple(a.shape)} and {tuple(b.shape)} do not multiply")
    return library.metal_type(a.dtype, "mm")
