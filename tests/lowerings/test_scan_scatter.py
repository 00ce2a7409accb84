"""scan, scatter_add, index_add, index_put_add, embedding_bag: order, dtypes, errors."""

import itertools
import math

import pytest
import torch
from rows_data import (
    FLOATS,
    HALVES,
    normals,
    rows_that_change,
    same_bits,
    strided,
    threads,  # noqa: F401  (fixture)
)
from rows_library import load

load()
OPS = torch.ops.bi_inductor
KINDS = ("cumsum", "cumprod", "logcumsumexp")


def wide(dtype):
    """The accumulator of a scatter: float32 for halves."""
    return torch.float32 if dtype in HALVES else dtype


def chain(x, kind):
    """One chain along dim 0, kept in float64 for float32, rounded at every output."""
    step = {"cumsum": torch.add, "cumprod": torch.mul}[kind]
    acc = torch.full_like(x[0], 0.0 if kind == "cumsum" else 1.0)
    acc = acc.to(torch.float32 if x.dtype in HALVES else torch.float64)
    out = []
    for row in x:
        acc = step(acc, row.to(acc.dtype))
        out.append(acc.to(x.dtype))
    return torch.stack(out)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kind", ["cumsum", "cumprod"])
def test_scans_are_one_chain_in_every_stride(kind, dtype, threads):  # noqa: F811
    torch.manual_seed(0)
    x = normals(5, 70, 37, dtype=dtype)
    for dim in range(3):
        expected = chain(x.movedim(dim, 0), kind).movedim(0, dim)
        for name, view in strided(x).items():
            assert torch.equal(OPS.scan(view, kind, dim), expected), f"{name}, dim {dim}"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_logcumsumexp_is_as_exact_as_stock(dtype):
    torch.manual_seed(0)
    x = normals(9, 300, dtype=dtype) * 5
    exact = x.double().logcumsumexp(-1)
    ours, stock = (
        (t.double() - exact).abs().max()
        for t in (OPS.scan(x, "logcumsumexp", 1), x.logcumsumexp(-1))
    )
    ulp = exact.abs().max() * torch.finfo(dtype).eps
    assert ours <= 2 * stock + ulp * (4 if dtype == torch.float64 else 0.5)
    columns = OPS.scan(x.t(), "logcumsumexp", 0).t()
    assert torch.equal(columns, OPS.scan(x, "logcumsumexp", 1))


def test_logcumsumexp_of_infinities_is_as_stock():
    inf = math.inf
    x = torch.tensor([[-inf, -inf, 2, inf, 1], [1, inf, -inf, inf, 0], [0, math.nan, 1, 2, -inf]])
    for dtype in FLOATS:
        ours = OPS.scan(x.to(dtype), "logcumsumexp", 1)
        torch.testing.assert_close(ours, x.to(dtype).logcumsumexp(1), equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 100, 2048, 50257])
def test_scanned_rows_do_not_depend_on_the_batch(kind, n, threads):  # noqa: F811
    torch.manual_seed(n)
    x = normals(11, n)
    assert rows_that_change(lambda t: OPS.scan(t, kind, 1), x) == []
    prefix = OPS.scan(x[:, : n // 2 + 1], kind, 1)
    assert same_bits(OPS.scan(x, kind, 1)[:, : n // 2 + 1], prefix)


def test_a_nan_stays_in_its_scan():
    torch.manual_seed(0)
    x = normals(6, 50)
    spoiled = x.clone()
    spoiled[2, 20] = math.nan
    for kind in KINDS:
        ours, clean = OPS.scan(spoiled, kind, 1), OPS.scan(x, kind, 1)
        assert torch.equal(ours[[0, 1, 3, 4, 5]], clean[[0, 1, 3, 4, 5]])
        assert torch.equal(ours[2, :20], clean[2, :20])
        assert ours[2, 20:].isnan().all()


def test_integer_scans_promote_and_convert_as_stock():
    x = torch.randint(-5, 6, (4, 30), dtype=torch.int8)
    for kind in ("cumsum", "cumprod"):
        op = getattr(torch, kind)
        for source in (x, x.bool(), x.int(), x.long()):
            for dim in (0, 1):
                assert torch.equal(OPS.scan(source, kind, dim), op(source, dim))
        assert torch.equal(OPS.scan(x, kind, 1, dtype=torch.int32), op(x, 1, dtype=torch.int32))
        assert OPS.scan(x, kind, 1, dtype=torch.float32).dtype == torch.float32
    assert OPS.scan(torch.tensor(3.0), "cumsum", 0) == 3
    assert OPS.scan(torch.empty(0, 4), "cumsum", 1).shape == (0, 4)


def scatter_in_order(x, dim, index, src):
    """Sources one after another in ascending order along dim, rounded once at the end."""
    out = x.to(wide(x.dtype)).clone()
    out, index, src = out.movedim(dim, 0), index.movedim(dim, 0), src.movedim(dim, 0)
    cut = tuple(slice(s) for s in index.shape[1:])
    grid = torch.meshgrid(*(torch.arange(s) for s in index.shape[1:]), indexing="ij")
    for j in range(index.shape[0]):
        out[(index[j], *grid)] += src[j][cut].to(out.dtype)
    return out.movedim(0, dim).to(x.dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_scatter_add_adds_in_source_order(dtype, threads):  # noqa: F811
    torch.manual_seed(0)
    x = normals(7, 6, 20, dtype=dtype)
    for dim in range(3):
        shape = [5, 4, 9]
        shape[dim] = 200
        index = torch.randint(0, x.shape[dim], shape)
        src = normals(*(s + 1 for s in shape), dtype=dtype) * 100
        expected = scatter_in_order(x, dim, index, src)
        assert torch.equal(OPS.scatter_add(x, dim, index, src), expected)
        turned = [t.permute(2, 0, 1).contiguous().permute(1, 2, 0) for t in (x, index, src)]
        assert torch.equal(OPS.scatter_add(turned[0], dim, *turned[1:]), expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_index_add_adds_in_source_order(dtype, threads):  # noqa: F811
    torch.manual_seed(0)
    x = normals(7, 6, 150, dtype=dtype)
    for dim in range(3):
        shape = list(x.shape)
        shape[dim] = 300
        index = torch.randint(0, x.shape[dim], (300,))
        src = normals(*shape, dtype=dtype) * 100
        index_nd = index.view([-1 if d == dim else 1 for d in range(3)]).expand(shape)
        expected = scatter_in_order(x, dim, index_nd, src)
        assert torch.equal(OPS.index_add(x, dim, index, src), expected)
        assert torch.equal(OPS.index_add(x, dim, index.int(), src.mT.contiguous().mT), expected)
        doubled = scatter_in_order(x, dim, index_nd, src.to(wide(dtype)) * 2)
        assert torch.equal(OPS.index_add(x, dim, index, src, alpha=2), doubled)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_index_put_add_is_index_put_with_accumulate(dtype):
    torch.manual_seed(0)
    x = torch.randint(-8, 8, (7, 6, 20)).to(dtype)  # small integers: every order gives one sum
    rows, columns = torch.randint(-7, 7, (3, 1)), torch.randint(0, 20, (4,))
    cases = [
        ([rows, None, columns], (3, 4, 6)),
        ([rows], (3, 1, 6, 20)),
        ([None, torch.randint(0, 6, (8,))], (7, 8, 20)),
        ([torch.arange(42).view(7, 6) % 3 == 0], (1, 20)),
        ([None, rows % 6, columns], (7, 3, 4)),
        ([rows, rows % 6], (20,)),
        ([rows.int(), rows.int() % 6, columns.int()], (1,)),
    ]
    for indices, shape in cases:
        values = torch.randint(-8, 8, shape).to(dtype)
        long = [i if i is None or i.dtype == torch.bool else i.long() for i in indices]
        expected = torch.ops.aten.index_put(x, long, values, True)
        assert torch.equal(OPS.index_put_add(x, indices, values), expected)


def test_index_put_add_adds_in_source_order(threads):  # noqa: F811
    torch.manual_seed(0)
    x, values = normals(10, 64), normals(1000, 64) * 100
    index = torch.randint(0, 10, (1000,))
    expected = scatter_in_order(x, 0, index[:, None].expand(1000, 64), values)
    assert torch.equal(OPS.index_put_add(x, [index], values), expected)
    assert torch.equal(OPS.index_put_add(x, [index - 10], values), expected)


def test_integer_scatters_are_exact():
    x, index = torch.zeros(5, dtype=torch.int32), torch.tensor([0, 4, 0, 0])
    src = torch.tensor([1, 2, 3, 4], dtype=torch.int32)
    assert OPS.scatter_add(x, 0, index, src).tolist() == [8, 0, 0, 0, 2]
    assert OPS.index_add(x, 0, index, src, alpha=-3).tolist() == [-24, 0, 0, 0, -6]


def test_scatters_leave_their_input_alone_and_take_empty_ones():
    x, index, src = torch.ones(3, 4), torch.zeros(0, dtype=torch.long), torch.empty(0, 4)
    assert torch.equal(OPS.index_add(x, 0, index, src), x)
    assert torch.equal(OPS.scatter_add(x, 0, torch.zeros(0, 4, dtype=torch.long), src), x)
    OPS.index_add(x, 0, torch.tensor([1]), torch.ones(1, 4))
    assert torch.equal(x, torch.ones(3, 4))
    assert OPS.scatter_add(torch.tensor(1.0), 0, torch.tensor(0), torch.tensor(2.0)) == 3


def test_bad_indices_are_named():
    x = torch.ones(3, 4)
    with pytest.raises(IndexError, match="index 3 is out of bounds for size 3"):
        OPS.index_add(x, 0, torch.tensor([0, 3]), torch.ones(2, 4))
    with pytest.raises(IndexError, match="index -1 is out of bounds"):
        OPS.scatter_add(x, 0, torch.full((1, 4), -1), torch.ones(1, 4))
    with pytest.raises(IndexError, match="index -4 is out of bounds"):
        OPS.index_put_add(x, [torch.tensor([-4])], torch.ones(1, 4))
    with pytest.raises(IndexError, match="index 9 is out of bounds"):
        OPS.embedding_bag(x, torch.tensor([9]), torch.tensor([0]), None, "sum", False, -1)
    with pytest.raises(RuntimeError, match="destination's dtype"):
        OPS.index_add(x, 0, torch.tensor([0]), torch.ones(1, 4, dtype=torch.float64))


def bags_in_order(weight, indices, bounds, sample, mode, padding):
    out = []
    for begin, end in itertools.pairwise(bounds):
        kept = [j for j in range(begin, end) if indices[j] != padding]
        rows = weight[indices[kept]].to(wide(weight.dtype))
        if sample is not None:
            rows = rows * sample[kept].to(rows.dtype)[:, None]
        acc = torch.zeros(weight.shape[1], dtype=rows.dtype)
        for row in rows:
            acc = acc + row
        if mode == "mean" and kept:
            acc = acc / len(kept)
        if mode == "max" and kept:
            acc = rows.amax(0)
        out.append(acc.to(weight.dtype))
    return torch.stack(out)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_add_in_order(mode, dtype, threads):  # noqa: F811
    torch.manual_seed(0)
    weight, indices = normals(30, 37, dtype=dtype), torch.randint(0, 30, (400,))
    bounds = [0, 0, 3, 10, 300, 400]
    sample = normals(400, dtype=dtype) if mode == "sum" else None
    for padding in (-1, 5):
        for weights in {None, sample} if sample is not None else [None]:
            expected = bags_in_order(weight, indices, bounds, weights, mode, padding)
            for last in (False, True):
                offsets = torch.tensor(bounds if last else bounds[:-1])
                bags = OPS.embedding_bag(weight, indices, offsets, weights, mode, last, padding)
                assert torch.equal(bags, expected)
            alone = OPS.embedding_bag(
                weight, indices[3:10], torch.tensor([0]),
                None if weights is None else weights[3:10], mode, False, padding,
            )  # fmt: skip
            assert torch.equal(alone[0], expected[2])
