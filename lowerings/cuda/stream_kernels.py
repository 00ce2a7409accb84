"""Products of few rows: the weights stream past them once, so what counts is how many bytes are in flight.

Weights are [N, K], K side by side, and fill the 16 or 64-row side of the tensor core; out = x [M, K] @ w.t(). The chain over
K is that of ``matmul_kernels.product``: the same bits.
"""

import triton
import triton.language as tl

from lowerings.cuda.matmul_kernels import _epilogue
from lowerings.cuda.overlap_kernels import follow


@triton.jit
def _tile(
    x_ptr, w_ptr, out_ptr, bias_ptr, tile, M, N, K, alpha, beta, x_row, w_row, out_row, bias_row, bias_col,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr,
    HAS_BIAS: tl.constexpr, SCALED: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Columns [tile * BN, tile * BN + BN) of the rows of this program."""
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tile * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    # rows past the end are zeros and cost no traffic; columns past the end read column 0 and are never stored
    real = (m < M)[:, None]
    x_at = x_ptr + m.to(tl.int64)[:, None] * x_row + k[None, :]
    w_at = w_ptr + tl.where(n < N, n, 0).to(tl.int64)[:, None] * w_row + k[None, :]
    acc = tl.zeros((BN, BM), tl.float32)
    for begin in range(0, K, BK):
        if EVEN:
            w = tl.load(w_at)
            x = tl.load(x_at, mask=real, other=0.0)
        else:
            inside = (k < K - begin)[None, :]
            w = tl.load(w_at, mask=inside, other=0.0)
            x = tl.load(x_at, mask=real & inside, other=0.0)
        if WIDEN:
            # the interpreter multiplies halves in their own precision
            w = w.to(tl.float32)
            x = x.to(tl.float32)
        acc = tl.dot(w, tl.trans(x), acc)
        w_at += BK
        x_at += BK
    r = m.to(tl.int64)[None, :]
    c = n.to(tl.int64)[:, None]
    mask = (r < M) & (c < N)
    acc = _epilogue(acc, bias_ptr, r, c, bias_row, bias_col, mask, alpha, beta, HAS_BIAS, SCALED)
    tl.store(out_ptr + r * out_row + c, acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["M"])
def product_stream(
    x_ptr, w_ptr, out_ptr, bias_ptr, M, N, K, alpha, beta, x_row, w_row, out_row, bias_row, bias_col,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr,
    HAS_BIAS: tl.constexpr, SCALED: tl.constexpr, WIDEN: tl.constexpr, OVERLAP: tl.constexpr,
) -> None:  # fmt: skip
    """One tile of ``out [M, N] = alpha * x [M, K] @ w [N, K].t() + beta * bias``."""
    follow(OVERLAP)
    _tile(
        x_ptr, w_ptr, out_ptr, bias_ptr, tl.program_id(0), M, N, K, alpha, beta, x_row, w_row, out_row, bias_row, bias_col,
        BM, BN, BK, EVEN, HAS_BIAS, SCALED, WIDEN,
    )  # fmt: skip


@triton.jit(do_not_specialize=["M"])
def products_stream(
    x_ptr, w0, w1, w2, out0, out1, out2, M, N0, N1, N2, K, x_row, w_row0, w_row1, w_row2,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr,
    WIDEN: tl.constexpr, OVERLAP: tl.constexpr,
) -> None:  # fmt: skip
    """One tile of one of ``out_i [M, N_i] = x @ w_i.t()``; N2 may be 0."""
    follow(OVERLAP)
    # 16-byte loads survive a selected pointer, not a branch
    pid = tl.program_id(0)
    first = tl.cdiv(N0, BN)
    second = first + tl.cdiv(N1, BN)
    w_ptr = tl.where(pid < first, w0, tl.where(pid < second, w1, w2))
    out_ptr = tl.where(pid < first, out0, tl.where(pid < second, out1, out2))
    w_row = tl.where(pid < first, w_row0, tl.where(pid < second, w_row1, w_row2))
    N = tl.where(pid < first, N0, tl.where(pid < second, N1, N2))
    tile = pid - tl.where(pid < first, 0, tl.where(pid < second, first, second))
    _tile(
        x_ptr, w_ptr, out_ptr, out_ptr, tile, M, N, K, 1.0, 1.0, x_row, w_row, N, 0, 0,
        BM, BN, BK, EVEN, False, False, WIDEN,
    )  # fmt: skip
