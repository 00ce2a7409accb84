"""reduction and var_mean against the order of their plan, in every stride, thread and batch."""

import math

import pytest
import rows_reference as reference
import torch
from rows_data import (
    EXTENTS,
    FLOATS,
    cancelling,
    normals,
    rows_that_change,
    same_bits,
    strided,
    threads,  # noqa: F401  (fixture)
)
from rows_library import load

load()
OPS = torch.ops.bi_inductor
KINDS = ("sum", "mean", "prod", "sum_squares", "mean_squares", "norm", "amax", "amin")
DIMS = ([-1], [0], [1], [0, 1], [0, 2], [1, 2], [0, 1, 2], [])
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def reduce(x, kind, dims=(-1,), keepdim=False, **kwargs):
    param = 2.0 if kind == "norm" else 0.0
    return OPS.reduction(x, kind, list(dims), keepdim, **{"param": param, "lanes": 64, **kwargs})


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_stride_and_dim_follows_the_plan(kind, dtype):
    torch.manual_seed(0)
    x = normals(3, 70, 37, dtype=dtype)
    for dims in DIMS:
        expected = reference.reduction(x, kind, dims)
        for name, view in strided(x).items():
            actual = reduce(view, kind, dims)
            assert torch.equal(actual, expected), f"{name}, dims {dims}"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_variance_follows_the_plan_in_every_stride(dtype):
    torch.manual_seed(0)
    x = normals(3, 70, 37, dtype=dtype) + 100
    for dims in DIMS:
        for correction in (0.0, 1.0):
            expected = reference.var_mean(x, dims, correction)
            for name, view in strided(x).items():
                actual = OPS.var_mean(view, dims, correction, lanes=64)
                assert torch.equal(actual[0], expected[0]), f"{name}, dims {dims}"
                assert torch.equal(actual[1], expected[1]), f"{name}, dims {dims}"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("n", EXTENTS)
def test_rows_do_not_depend_on_the_batch(n, dtype, threads):  # noqa: F811
    torch.manual_seed(n)
    for x in (normals(5, n, dtype=dtype), cancelling(5, n, dtype=dtype)):
        for kind in ("sum", "mean", "norm"):
            assert rows_that_change(lambda t, k=kind: reduce(t, k), x) == []
            assert torch.equal(reduce(x, kind), reference.reduction(x, kind, [-1]))
        assert rows_that_change(lambda t: OPS.var_mean(t, [-1], 1.0, lanes=64)[0], x) == []


def test_stock_sum_depends_on_the_batch():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    x = cancelling(4, 50257)
    changed = rows_that_change(lambda t: t.sum(-1), x)
    torch.set_num_threads(before)
    assert changed, "control too weak: stock torch agrees with itself on this data"


@pytest.mark.parametrize("kind", ["sum", "sum_squares", "amax", "prod"])
def test_trailing_identities_change_no_bit(kind):
    torch.manual_seed(0)
    identity = {"amax": -math.inf, "prod": 1.0}.get(kind, 0.0)
    x = normals(4, 100)
    for extra in (1, 27, 28, 29, 64, 1000):
        longer = torch.cat([x, torch.full((4, extra), identity)], -1)
        assert torch.equal(reduce(longer, kind), reduce(x, kind))
        assert torch.equal(reduce(longer.t().contiguous().t(), kind), reduce(x, kind))


@pytest.mark.parametrize("kind", [*KINDS, "argmax", "argmin", "any", "all"])
def test_a_nan_stays_in_its_row(kind):
    torch.manual_seed(0)
    x = normals(6, 200)
    clean = reduce(x, kind)
    for at in (0, 63, 64, 199):
        spoiled = x.clone()
        spoiled[2, at] = math.nan
        for view in (spoiled, spoiled.t().contiguous().t()):
            y = reduce(view, kind)
            assert torch.equal(y[[0, 1, 3, 4, 5]], clean[[0, 1, 3, 4, 5]])
            if kind.startswith("arg"):
                assert y[2] == at
            elif y.is_floating_point():
                assert y[2].isnan()


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.0, 0.5, -1.0, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_norms_are_as_exact_as_stock(p, dtype):
    torch.manual_seed(0)
    x = normals(7, 130, dtype=dtype)
    exact = torch.linalg.vector_norm(x.double(), p, -1)
    ours, stock = (
        (t.double() - exact).abs().max()
        for t in (reduce(x, "norm", param=p), torch.linalg.vector_norm(x, p, -1))
    )
    half_ulp = exact.abs().max() * torch.finfo(dtype).eps / 2
    # float64 has no wider type to be compared with: a few ulp.
    assert ours <= 2 * stock + (8 if dtype == torch.float64 else 1) * half_ulp
    assert torch.equal(reduce(x.t().contiguous().t(), "norm", param=p), reduce(x, "norm", param=p))


@pytest.mark.parametrize("kind", ["sum", "mean", "norm"])
@pytest.mark.parametrize("n", [100, 2048, 50257])
def test_error_is_within_twice_the_error_of_stock(kind, n):
    torch.manual_seed(0)
    x = normals(64, n)
    stock_op = {"sum": torch.sum, "mean": torch.mean, "norm": torch.linalg.vector_norm}[kind]
    exact = stock_op(x.double(), dim=-1)
    ours, stock = ((t.double() - exact).abs() for t in (reduce(x, kind), stock_op(x, dim=-1)))
    half_ulp = exact.abs().max() * torch.finfo(torch.float32).eps / 2
    assert ours.square().mean().sqrt() <= 2 * (stock.square().mean().sqrt() + half_ulp)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_are_exact_and_typed_as_stock(dtype):
    torch.manual_seed(0)
    x = torch.randint(0, 2 if dtype == torch.bool else 100, (4, 33, 5)).to(dtype)
    for dim in (0, 1, 2):
        for kind in ("sum", "prod", "amax", "amin", "any", "all"):
            expected = getattr(torch, kind)(x, dim)
            assert_same_integers(reduce(x, kind, [dim]), expected)
        if dtype != torch.bool:
            index = reduce(x, "argmax", [dim], keepdim=True)
            assert torch.equal(x.gather(dim, index), x.amax(dim, keepdim=True))


def assert_same_integers(actual, expected):
    assert actual.dtype == expected.dtype
    assert torch.equal(actual, expected)


def test_the_lowest_index_wins():
    x = torch.tensor([[1.0, 3, 3, 2], [math.nan, 3, math.nan, 9], [-0.0, 0.0, -1, 0]])
    for view in (x, x.t().contiguous().t(), x.bfloat16(), x.double()):
        assert reduce(view, "argmax").tolist() == [1, 0, 0]
        assert reduce(-view, "argmin").tolist() == [1, 0, 0]
    repeated = torch.tensor([[5, 1, 5, 1]])
    assert reduce(repeated, "argmax").tolist() == [0]
    assert reduce(repeated, "argmin").tolist() == [1]


def test_dtype_is_the_type_of_the_result():
    torch.manual_seed(0)
    x = normals(5, 300, dtype=torch.bfloat16)
    wide = reduce(x, "sum", dtype=torch.float32)
    assert torch.equal(wide, reduce(x.float(), "sum"))
    assert torch.equal(wide.bfloat16(), reduce(x, "sum"))
    assert reduce(torch.tensor([1.5, 2.5]), "sum", dtype=torch.int64) == 3
    assert reduce(torch.tensor([1, 2]), "mean", dtype=torch.float32) == 1.5


@pytest.mark.parametrize("kind", ["sum", "mean", "prod", "any", "all", "norm"])
def test_empty_extents_give_what_stock_gives(kind):
    x = torch.empty(2, 0)
    op = torch.linalg.vector_norm if kind == "norm" else getattr(torch, kind)
    assert torch.equal(reduce(x, kind).isnan(), op(x, dim=-1).isnan())
    assert torch.equal(reduce(x, kind).nan_to_num(7), op(x, dim=-1).nan_to_num(7))
    assert reduce(torch.empty(0, 5), kind).shape == (0,)


@pytest.mark.parametrize("kind", ["amax", "amin", "argmax", "argmin"])
def test_empty_extents_without_a_value_raise(kind):
    with pytest.raises(IndexError, match="non-zero size"):
        reduce(torch.empty(2, 0), kind)


def test_scalars_and_keepdim():
    assert reduce(torch.tensor(3.0), "sum", []).shape == ()
    assert reduce(torch.tensor(3.0), "argmax", [0]) == 0
    assert reduce(torch.ones(2, 3, 4), "sum", [0, 2], keepdim=True).shape == (1, 3, 1)
    assert reduce(torch.ones(2, 3, 4), "sum", [], keepdim=True).shape == (1, 1, 1)


def test_bad_calls_name_the_bad_value():
    x = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="plan asks for 32"):
        reduce(x, "sum", lanes=32)
    with pytest.raises(RuntimeError, match="unknown kind 'median'"):
        reduce(x, "median")
    with pytest.raises(IndexError, match="dim 2 is out of range"):
        reduce(x, "sum", [2])
    with pytest.raises(RuntimeError, match="appears twice"):
        reduce(x, "sum", [0, -2])
    with pytest.raises(RuntimeError, match="ComplexFloat"):
        reduce(x + 0j, "sum")


def test_denormals_are_kept_whatever_the_thread_is_set_to():
    x = torch.full((3, 100), 1e-40)
    expected = reduce(x, "sum")
    torch.set_flush_denormal(True)
    flushed = reduce(x, "sum")
    torch.set_flush_denormal(False)
    assert expected.min() > 0
    assert same_bits(flushed, expected)
