"""avg_pool and topk: order inside a window, ties, and the same results for every layout."""

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
POOLS = {
    1: torch.nn.functional.avg_pool1d,
    2: torch.nn.functional.avg_pool2d,
    3: torch.nn.functional.avg_pool3d,
}
SHAPES = {"1d": (2, 3, 17), "2d": (2, 3, 11, 9), "3d": (2, 2, 7, 8, 9), "2d unbatched": (3, 11, 9)}


def pool(x, kernel, stride=(), padding=None, ceil=False, include=True, divisor=None):
    return OPS.avg_pool(x, kernel, stride, padding or [0] * len(kernel), ceil, include, divisor)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pools_mean_what_stock_means(shape, dtype):
    torch.manual_seed(0)
    x = normals(*SHAPES[shape], dtype=dtype)
    n = int(shape[0])
    for k, s, p, ceil, include in itertools.product((2, 3), (1, 2, 3), (0, 1), (0, 1), (0, 1)):
        options = (bool(ceil), bool(include))
        exact = POOLS[n](x.double(), k, s, p, *options)
        torch.testing.assert_close(
            pool(x, [k] * n, [s] * n, [p] * n, *options), exact.to(dtype), check_stride=False
        )
        if n > 1:
            exact = POOLS[n](x.double(), k, None, p, *options, 7)
            ours = pool(x, [k] * n, [], [p] * n, *options, 7)
            torch.testing.assert_close(ours, exact.to(dtype))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_window_is_added_in_row_major_order(dtype, threads):  # noqa: F811
    torch.manual_seed(0)
    x = normals(3, 5, 12, 10, dtype=dtype)
    acc = torch.zeros(3, 5, 4, 2, dtype=torch.float32 if dtype in HALVES else dtype)
    for i, j in itertools.product(range(3), range(5)):
        acc = acc + x[:, :, i::3, j::5].to(acc.dtype)
    expected = (acc / 15).to(dtype)
    assert torch.equal(pool(x, [3, 5]), expected)
    assert torch.equal(pool(x.contiguous(memory_format=torch.channels_last), [3, 5]), expected)
    assert rows_that_change(lambda t: pool(t, [3, 5]), x) == []


def test_bad_pools_name_the_bad_value():
    x = torch.ones(1, 1, 4, 4)
    with pytest.raises(RuntimeError, match="padding at most half the kernel"):
        pool(x, [2, 2], [2, 2], [2, 2])
    with pytest.raises(RuntimeError, match=r"too small for kernel_size \[5, 5\]"):
        pool(x, [5, 5])
    with pytest.raises(RuntimeError, match="divisor_override must not be zero"):
        pool(x, [2, 2], divisor=0)


def check_topk(x, k, dim, largest):
    values, indices = OPS.topk(x, k, dim, largest, True)
    expected = x.sort(dim=dim, descending=largest, stable=True)
    assert torch.equal(indices, expected.indices.narrow(dim, 0, k))
    assert same_bits(values, expected.values.narrow(dim, 0, k))


@pytest.mark.parametrize("largest", [True, False], ids=["largest", "smallest"])
@pytest.mark.parametrize("dtype", [*FLOATS, torch.int64, torch.int32, torch.uint8], ids=str)
def test_topk_is_the_head_of_a_stable_sort(dtype, largest, threads):  # noqa: F811
    torch.manual_seed(0)
    for scale in (3, 1000):  # the first has many ties
        x = (normals(4, 150, 40) * scale).round().clamp(-120, 120).to(dtype)
        for view in strided(x).values() if dtype.is_floating_point else [x]:
            for dim in range(3):
                for k in (0, 1, 3, x.shape[dim]):
                    if k <= x.shape[dim]:
                        check_topk(view, k, dim, largest)


@pytest.mark.parametrize("largest", [True, False], ids=["largest", "smallest"])
@pytest.mark.parametrize("k", [1, 50, 1000, 50257])
def test_topk_of_a_vocabulary(k, largest):
    torch.manual_seed(0)
    x = normals(3, 50257)
    for view in (x, x.bfloat16(), x.sort().values, x.sort(descending=True).values):
        check_topk(view, k, 1, largest)
        assert rows_that_change(lambda t: OPS.topk(t, k, 1, largest, True)[1], view) == []


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nan_is_the_largest_and_zeros_are_equal(dtype):
    nan, inf = math.nan, math.inf
    x = torch.tensor([1, nan, 3, nan, -1, inf, -inf, -0.0, 0.0], dtype=dtype)
    assert OPS.topk(x, 9, 0, True, True)[1].tolist() == [1, 3, 5, 2, 0, 7, 8, 4, 6]
    assert OPS.topk(x, 9, 0, False, True)[1].tolist() == [6, 4, 7, 8, 0, 2, 5, 1, 3]
    long = torch.cat([x, torch.zeros(500, dtype=dtype), x])
    assert OPS.topk(long, 3, 0, True, True)[1].tolist() == [1, 3, 510]
    assert OPS.topk(long, 3, 0, False, True)[1].tolist() == [6, 515, 4]
    assert OPS.topk(torch.full((400,), nan, dtype=dtype), 3, 0, False, False)[1].tolist() == [
        0,
        1,
        2,
    ]


def test_topk_of_scalars_empty_rows_and_too_large_k():
    assert [t.item() for t in OPS.topk(torch.tensor(3.0), 1, 0, True, True)] == [3, 0]
    assert OPS.topk(torch.empty(0, 5), 2, 1, True, True)[0].shape == (0, 2)
    with pytest.raises(RuntimeError, match="between 0 and the size 5 of dim -1, got 6"):
        OPS.topk(torch.ones(2, 5), 6, -1, True, True)
