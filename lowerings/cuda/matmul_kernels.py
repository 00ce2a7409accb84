"""Triton kernels of the product family: one chain over K in float32, or the levels of ``matmul_float32_kernels``."""

import triton
import triton.language as tl


@triton.jit
def _epilogue(
    acc,
    bias_ptr,
    rows,
    columns,
    bias_row,
    bias_column,
    mask,
    alpha,
    beta,
    HAS_BIAS: tl.constexpr,
    SCALED: tl.constexpr,
):
    # an explicit fma whose addend is the product: nothing is left for the compiler to contract
    if SCALED:
        acc = acc * alpha
    if HAS_BIAS:
        bias = tl.load(bias_ptr + rows * bias_row + columns * bias_column, mask=mask, other=0.0)
        if SCALED:
            acc = tl.fma(bias.to(tl.float32), tl.zeros_like(acc) + beta, acc)
        else:
            acc = acc + bias.to(tl.float32)
    return acc


@triton.jit
def _chain(
    a_ptrs,
    b_ptrs,
    a_step,
    b_step,
    K,
    SWAP: tl.constexpr,
    CHAIN: tl.constexpr,
    SPLIT: tl.constexpr,
    RUN: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EVEN: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """a_ptrs [BM, BK], b_ptrs [BK, BN]; with SWAP the result is transposed, [BN, BM]. SPLIT 0: one chain."""
    acc = tl.zeros((BN, BM), dtype=tl.float32) if SWAP else tl.zeros((BM, BN), dtype=tl.float32)
    piece = acc
    run = acc
    total = acc
    depth = tl.arange(0, BK)
    for k in range(0, K, BK):
        if EVEN:
            a = tl.load(a_ptrs)
            b = tl.load(b_ptrs)
        else:
            a = tl.load(a_ptrs, mask=(depth < K - k)[None, :], other=0.0)
            b = tl.load(b_ptrs, mask=(depth < K - k)[:, None], other=0.0)
        if WIDEN:
            # the interpreter multiplies halves in their own precision
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        if SWAP:
            acc = tl.dot(tl.trans(b), tl.trans(a), acc, input_precision="ieee")
        else:
            acc = tl.dot(a, b, acc, input_precision="ieee")
        if SPLIT > 0:
            # asked of k, so that no compiler adds a dot onto a sum that it sees begin at zero
            if (k + BK) % CHAIN == 0:
                piece += acc
                acc = tl.zeros_like(acc)
            if (k + BK) % SPLIT == 0:
                run += piece
                piece = tl.zeros_like(acc)
            if (k + BK) % (RUN * SPLIT) == 0:
                total += run
                run = tl.zeros_like(acc)
        a_ptrs += BK * a_step
        b_ptrs += BK * b_step
    if SPLIT > 0:
        acc = total + (run + (piece + acc))
    return acc


@triton.jit(do_not_specialize=["M"])
def product(
    a_ptr, b_ptr, out_ptr, bias_ptr, M, N, K, alpha, beta,
    a_batch, a_row, a_col, b_batch, b_row, b_col, out_batch, out_row, out_col,
    bias_batch, bias_row, bias_col,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
    SWAP: tl.constexpr, CHAIN: tl.constexpr, SPLIT: tl.constexpr, RUN: tl.constexpr, EVEN: tl.constexpr,
    HAS_BIAS: tl.constexpr, SCALED: tl.constexpr, WIDEN: tl.constexpr,
) -> None:  # fmt: skip
    """One tile of ``out [B, M, N] = alpha * a [B, M, K] @ b [B, K, N] + beta * bias``, any strides."""
    pid = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    tiles_m = tl.cdiv(M, BM)
    tiles_n = tl.cdiv(N, BN)
    group = pid // (GROUP * tiles_n)
    first = group * GROUP
    height = min(tiles_m - first, GROUP)
    row0 = (first + (pid % (GROUP * tiles_n)) % height) * BM
    col0 = (pid % (GROUP * tiles_n)) // height * BN
    rows = row0 + tl.arange(0, BM)
    cols = col0 + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    # rows past the end read row 0 and are never stored
    safe_rows = tl.where(rows < M, rows, 0).to(tl.int64)
    safe_cols = tl.where(cols < N, cols, 0).to(tl.int64)
    a_ptrs = (
        a_ptr + batch * a_batch + safe_rows[:, None] * a_row + depth[None, :].to(tl.int64) * a_col
    )
    b_ptrs = (
        b_ptr + batch * b_batch + depth[:, None].to(tl.int64) * b_row + safe_cols[None, :] * b_col
    )
    acc = _chain(a_ptrs, b_ptrs, a_col, b_row, K, SWAP, CHAIN, SPLIT, RUN, BM, BN, BK, EVEN, WIDEN)
    if SWAP:
        r = rows[None, :].to(tl.int64)
        c = cols[:, None].to(tl.int64)
    else:
        r = rows[:, None].to(tl.int64)
        c = cols[None, :].to(tl.int64)
    mask = (r < M) & (c < N)
    acc = _epilogue(
        acc,
        bias_ptr + batch * bias_batch,
        r,
        c,
        bias_row,
        bias_col,
        mask,
        alpha,
        beta,
        HAS_BIAS,
        SCALED,
    )
    tl.store(
        out_ptr + batch * out_batch + r * out_row + c * out_col,
        acc.to(out_ptr.dtype.element_ty),
        mask=mask,
    )


@triton.jit(do_not_specialize=["M"])
def product_tma(
    a_desc, b_desc, out_desc, bias_ptr, M, N, K, alpha, beta, bias_row, bias_col,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PROGRAMS: tl.constexpr,
    B_ROWS_ARE_COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr, SCALED: tl.constexpr,
) -> None:  # fmt: skip
    """Persistent form: tensor copies in and out. ``b_desc`` is over [N, K] when B_ROWS_ARE_COLUMNS."""
    tiles_m = tl.cdiv(M, BM)
    tiles_n = tl.cdiv(N, BN)
    steps = tl.cdiv(K, BK)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, PROGRAMS, flatten=True):
        group = tile // (GROUP * tiles_n)
        first = group * GROUP
        height = min(tiles_m - first, GROUP)
        row0 = (first + (tile % (GROUP * tiles_n)) % height) * BM
        col0 = (tile % (GROUP * tiles_n)) // height * BN
        acc = tl.zeros((BM, BN), dtype=tl.float32)
        for step in range(steps):
            a = a_desc.load([row0, step * BK])
            if B_ROWS_ARE_COLUMNS:
                b = b_desc.load([col0, step * BK]).T
            else:
                b = b_desc.load([step * BK, col0])
            acc = tl.dot(a, b, acc)
        if HAS_BIAS or SCALED:
            r = (row0 + tl.arange(0, BM))[:, None].to(tl.int64)
            c = (col0 + tl.arange(0, BN))[None, :].to(tl.int64)
            acc = _epilogue(
                acc,
                bias_ptr,
                r,
                c,
                bias_row,
                bias_col,
                (r < M) & (c < N),
                alpha,
                beta,
                HAS_BIAS,
                SCALED,
            )
        # two halves need half the shared memory of the staging buffer
        halves = tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1))
        left, right = tl.split(halves)
        out_desc.store([row0, col0], left.to(out_desc.dtype))
        out_desc.store([row0, col0 + BN // 2], right.to(out_desc.dtype))


@triton.jit
def grouped_product(
    a_ptr, b_ptr, out_ptr, offs_ptr, N, K, groups,
    a_row, a_col, b_group, b_row, b_col, out_row,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    CHAIN: tl.constexpr, SPLIT: tl.constexpr, RUN: tl.constexpr, EVEN: tl.constexpr, WIDEN: tl.constexpr,
) -> None:  # fmt: skip
    """Tile ``pid`` of the rows: the groups' own tiles follow one another, so a group never shares a tile."""
    pid = tl.program_id(1)
    before = 0
    end = 0
    row0 = 0
    found = -1
    left = 0
    for g in range(groups):
        right = tl.load(offs_ptr + g)
        tiles = tl.cdiv(right - left, BM)
        if (pid >= before) & (pid < before + tiles):
            found = g
            row0 = left + (pid - before) * BM
            end = right
        before += tiles
        left = right
    if found >= 0:
        rows = row0 + tl.arange(0, BM)
        cols = tl.program_id(0) * BN + tl.arange(0, BN)
        depth = tl.arange(0, BK)
        safe_rows = tl.where(rows < end, rows, row0).to(tl.int64)
        safe_cols = tl.where(cols < N, cols, 0).to(tl.int64)
        a_ptrs = a_ptr + safe_rows[:, None] * a_row + depth[None, :].to(tl.int64) * a_col
        b_ptrs = b_ptr + found.to(tl.int64) * b_group + depth[:, None].to(tl.int64) * b_row
        b_ptrs += safe_cols[None, :] * b_col
        acc = _chain(
            a_ptrs, b_ptrs, a_col, b_row, K, False, CHAIN, SPLIT, RUN, BM, BN, BK, EVEN, WIDEN
        )
        mask = (rows < end)[:, None] & (cols < N)[None, :]
        out = out_ptr + rows[:, None].to(tl.int64) * out_row + cols[None, :]
        tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=mask)
