"""mm, bmm and grouped_mm: the order of the plan, its schedules, and what a row may depend on."""

import itertools

import gemm_library
import gemm_reference as reference
import pytest
import torch

gemm_library.load()
ops = torch.ops.bi_inductor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ROWS = (1, 2, 3, 4, 5, 6, 8, 9, 16, 33, 70)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def values(*shape: int, dtype: torch.dtype, kind: str = "normal") -> torch.Tensor:
    x = torch.randn(shape, dtype=torch.float64)
    if kind == "wide":
        exponents = 8 if dtype is torch.float16 else 20
        x = x * 2.0 ** torch.randint(-exponents, exponents // 2, shape)
    if kind == "cancelling":
        x[..., 1::2] = -x[..., : x.shape[-1] // 2 * 2 : 2] * (1 + 2.0**-9)
    return x.to(dtype)


def laid_out(b_kn: torch.Tensor, layout: str) -> torch.Tensor:
    """The same matrix with other strides."""
    k, n = b_kn.shape
    if layout == "columns":
        return b_kn.t().contiguous().t()
    if layout == "strided":
        holder = torch.full((2 * k, 3 * n + 1), torch.nan, dtype=b_kn.dtype)
        holder[::2, 1 : 3 * n + 1 : 3] = b_kn
        return holder[::2, 1 : 3 * n + 1 : 3]
    return b_kn.contiguous()


LAYOUTS = ("rows", "columns", "strided")


def product(
    a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None, **kwargs
) -> torch.Tensor:
    return ops.mm(
        a, b, bias, split_size=kwargs.pop("split_size", reference.SPLIT_SIZE[a.dtype]), **kwargs
    )


@pytest.mark.parametrize("kind", ["normal", "wide", "cancelling"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_order_is_the_one_of_the_plan(dtype, kind):
    shapes = ((3, 70, 5),) if dtype is torch.float64 else ((3, 70, 5), (7, 1100, 18), (2, 33, 40))
    for m, k, n in shapes:
        a, b = values(m, k, dtype=dtype, kind=kind), values(n, k, dtype=dtype, kind=kind).t()
        for layout in LAYOUTS:
            ours = product(a, laid_out(b, layout), split_size=64)
            assert torch.equal(ours, reference.mm(a, b, split_size=64)), (m, k, n, layout)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_and_layouts_and_threads_do_not_change_bits(dtype):
    for k, n in ((1, 3), (31, 65), (130, 1), (576, 33), (1300, 90)):
        a, b = values(ROWS[-1], k, dtype=dtype, kind="wide"), values(k, n, dtype=dtype, kind="wide")
        expected = product(a, b)
        for m, layout, threads in itertools.product(ROWS, LAYOUTS, (1, 2, 3)):
            torch.set_num_threads(threads)
            rows = torch.randperm(ROWS[-1])[:m]
            laid = laid_out(b, layout)
            assert torch.equal(product(a[rows], laid), expected[rows]), (k, n, m, layout, threads)
            assert torch.equal(product(a[rows].t().contiguous().t(), laid), expected[rows])
            assert torch.equal(product(a[rows], laid, uniform=True), expected[rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_many_rows_and_wide_products_keep_the_bits(dtype):
    a, b = values(513, 1200, dtype=dtype), values(1200, 1100, dtype=dtype)
    whole = product(a, b)
    for layout, threads in itertools.product(("rows", "columns"), (1, 2, 3)):
        torch.set_num_threads(threads)
        assert torch.equal(product(a, laid_out(b, layout)), whole)
    for row in (0, 249, 250, 512):
        assert torch.equal(product(a[row : row + 1], b)[0], whole[row])
        assert torch.equal(product(a[row : row + 1], laid_out(b, "columns"))[0], whole[row])


def test_stock_torch_fails_the_same_check():
    a, b = values(70, 1300, dtype=torch.float32), values(1300, 256, dtype=torch.float32)
    whole = torch.mm(a, b)
    changed = [m for m in ROWS if not torch.equal(torch.mm(a[:m], b), whole[:m])]
    assert changed, "control too weak: stock torch agrees with itself on this data"


@pytest.mark.parametrize("isa", gemm_library.host_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_instruction_sets_agree(isa, dtype):
    for (k, n), kind in itertools.product(((70, 19), (650, 37)), ("normal", "wide", "cancelling")):
        a, b = values(34, k, dtype=dtype, kind=kind), values(k, n, dtype=dtype, kind=kind)
        expected = product(a, b, split_size=128)
        for m, layout in itertools.product((1, 4, 9, 34), LAYOUTS):
            ours = gemm_library.mm_of_isa(isa, a[:m], laid_out(b, layout), 128, threads=2)
            assert torch.equal(ours, expected[:m]), (k, n, kind, m, layout)


@pytest.mark.parametrize("isa", gemm_library.host_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_instruction_sets_agree_on_denormals_and_infinities(isa, dtype):
    info = torch.finfo(dtype)
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, torch.inf, -torch.inf, torch.nan, info.max, info.tiny,
                            info.tiny / 2, -info.tiny / 4, 3.0], dtype=torch.float64)  # fmt: skip
    for share in (0.02, 0.3, 1.0):
        a, b = values(16, 96, dtype=dtype), values(96, 20, dtype=dtype)
        for x in (a, b):
            chosen = torch.rand(x.shape) < share
            x[chosen] = special[torch.randint(len(special), x.shape)].to(dtype)[chosen]
            if share == 0.3:
                x[~torch.isfinite(x)] = info.tiny / 8
                x *= info.tiny**0.5
        expected = product(a, b, split_size=64)
        for layout in LAYOUTS:
            for m in (1, 6, 16):
                ours = gemm_library.mm_of_isa(isa, a[:m], laid_out(b, layout), 64)
                assert same(ours, expected[:m])


def same(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Equal bits, signed zeros included, up to the payload of a NaN."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.dtype.itemsize]
    equal = x.contiguous().view(integer) == y.contiguous().view(integer)
    return bool((equal | (x.isnan() & y.isnan())).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_nan_stays_in_its_row(dtype):
    a, b = values(33, 200, dtype=dtype), values(200, 40, dtype=dtype)
    clean = product(a, b)
    for row, bad in ((0, torch.nan), (17, torch.inf), (32, -torch.inf)):
        spoiled = a.clone()
        spoiled[row, 3] = bad
        for layout in LAYOUTS:
            out = product(spoiled, laid_out(b, layout))
            others = torch.arange(33) != row
            assert torch.equal(out[others], clean[others])
            assert not torch.isfinite(out[row]).any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bias_alpha_and_beta(dtype):
    m, k, n = 6, 65, 19
    a, b = values(m, k, dtype=dtype), values(k, n, dtype=dtype)
    for shape in ((), (n,), (1, n), (m, 1), (m, n)):
        bias = values(*shape, dtype=dtype)
        for alpha, beta in ((1, 1), (0.5, 1), (2, -0.75), (1, 0)):
            expected = reference.mm(a, b, bias, alpha, beta)
            assert torch.equal(product(a, b, bias, alpha=alpha, beta=beta), expected), (
                shape,
                alpha,
                beta,
            )
            assert torch.equal(
                product(a, laid_out(b, "columns"), bias, alpha=alpha, beta=beta), expected
            )
    nan = torch.full((n,), torch.nan, dtype=dtype)
    assert torch.equal(product(a, b, nan, beta=0), product(a, b))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_is_within_twice_that_of_stock(dtype):
    for k in (768, 4096):
        a, b = values(48, k, dtype=dtype), values(k, 64, dtype=dtype)
        exact = a.double() @ b.double() if dtype is not torch.float64 else None
        if exact is None:
            assert torch.allclose(product(a, b), a @ b, rtol=0, atol=1e-12 * k**0.5)
            continue
        half_ulp = exact.abs().max() * torch.finfo(dtype).eps / 2
        budget = 2 * ((a @ b).double() - exact).abs().max() + half_ulp
        assert (product(a, b).double() - exact).abs().max() <= budget


def test_appended_zeros_change_nothing():
    for dtype in DTYPES:
        a, b = values(5, 300, dtype=dtype), values(300, 21, dtype=dtype)
        longer_a = torch.cat([a, torch.zeros(5, 777, dtype=dtype)], 1)
        longer_b = torch.cat([b, torch.zeros(777, 21, dtype=dtype)], 0)
        assert torch.equal(product(longer_a, longer_b), product(a, b))


def test_empty_extents():
    for dtype in DTYPES:
        assert product(values(0, 5, dtype=dtype), values(5, 3, dtype=dtype)).shape == (0, 3)
        assert product(values(4, 5, dtype=dtype), values(5, 0, dtype=dtype)).shape == (4, 0)
        bias = values(3, dtype=dtype)
        empty = product(values(2, 0, dtype=dtype), values(0, 3, dtype=dtype), bias)
        assert torch.equal(empty, bias.expand(2, 3))
        assert ops.bmm(
            values(0, 2, 3, dtype=dtype), values(0, 3, 2, dtype=dtype), split_size=64
        ).shape == (0, 2, 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bmm_is_mm_of_each_entry(dtype):
    split = reference.SPLIT_SIZE[dtype]
    for batch, m, k, n in ((1, 3, 40, 5), (5, 1, 64, 70), (12, 33, 64, 50), (3, 70, 50, 64)):
        a, b = values(batch, m, k, dtype=dtype), values(batch, k, n, dtype=dtype)
        bias = values(batch, 1, n, dtype=dtype)
        for other, threads in itertools.product((b, b.mT.contiguous().mT), (1, 2, 3)):
            torch.set_num_threads(threads)
            out = ops.bmm(a, other, bias, split_size=split)
            for i in range(batch):
                assert torch.equal(out[i], product(a[i], b[i], bias[i]))
    query = values(2, 5, 4, 64, dtype=dtype).transpose(1, 2).flatten(0, 1)
    key = values(1, 64, 9, dtype=dtype).expand(8, 64, 9)
    assert torch.equal(
        ops.bmm(query, key, split_size=split)[3], product(query[3].contiguous(), key[3])
    )


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.int8], ids=str)
def test_integers_are_exact(dtype):
    a, b = torch.randint(0, 100, (7, 30)).to(dtype), torch.randint(0, 100, (30, 9)).to(dtype)
    bias = torch.ones(9, dtype=dtype)
    assert torch.equal(ops.mm(a, b, split_size=64), a @ b)
    assert torch.equal(
        ops.mm(a, b, bias, alpha=2, beta=3, split_size=64), torch.addmm(bias, a, b, alpha=2, beta=3)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_groups_have_the_bits_of_mm(dtype, threads):
    torch.set_num_threads(threads)
    split = reference.SPLIT_SIZE[dtype]
    ends = torch.tensor([3, 3, 20, 21], dtype=torch.int32)
    spans = list(zip([0, 3, 3, 20], ends.tolist(), strict=True))
    a, b = values(24, 72, dtype=dtype), values(4, 72, 50, dtype=dtype)
    for weights in (b, b.mT.contiguous().mT):
        out = ops.grouped_mm(a, weights, ends, split_size=split)
        for g, (start, end) in enumerate(spans):
            assert torch.equal(out[start:end], product(a[start:end], b[g]))
        assert not out[21:].any()
    wide = values(72, 24, dtype=dtype)
    out = ops.grouped_mm(b.mT, wide, ends, split_size=split)
    for g, (start, end) in enumerate(spans):
        assert torch.equal(out[:, start:end], product(b[g].t(), wide[:, start:end]))
    left, right = values(6, 24, dtype=dtype), values(24, 10, dtype=dtype)
    out = ops.grouped_mm(left, right, ends, split_size=split)
    for g, (start, end) in enumerate(spans):
        assert torch.equal(out[g], product(left[:, start:end], right[start:end]))
    assert torch.equal(
        ops.grouped_mm(b.mT, b, None, split_size=split), ops.bmm(b.mT, b, split_size=split)
    )


def test_grouped_mm_follows_torch():
    ends = torch.tensor([16, 16, 48], dtype=torch.int32)
    a, b = values(48, 64, dtype=torch.bfloat16), values(3, 64, 32, dtype=torch.bfloat16)
    for left, right in (
        (a, b),
        (b.mT.contiguous(), values(64, 48, dtype=torch.bfloat16)),
        (a.t().contiguous(), a),
    ):
        stock = torch.nn.functional.grouped_mm(left, right.mT.contiguous().mT, offs=ends)
        ours = ops.grouped_mm(left, right, ends, split_size=1024)
        torch.testing.assert_close(ours, stock, rtol=2e-2, atol=2e-1)


def test_errors_name_the_value_and_the_remedy():
    a, b = torch.ones(2, 3), torch.ones(3, 4)
    with pytest.raises(ValueError, match="multiple of 64, got 100"):
        ops.mm(a, b, split_size=100)
    with pytest.raises(RuntimeError, match="the last dim of a"):
        ops.mm(a, b.t(), split_size=64)
    with pytest.raises(RuntimeError, match="convert one"):
        ops.mm(a, b.double(), split_size=64)
    with pytest.raises(NotImplementedError, match="ComplexFloat"):
        ops.mm(a.to(torch.complex64), b.to(torch.complex64), split_size=64)
    with pytest.raises(ValueError, match="got 1 after 2"):
        ops.grouped_mm(
            a, b[None].expand(2, 3, 4), torch.tensor([2, 1], dtype=torch.int32), split_size=64
        )
