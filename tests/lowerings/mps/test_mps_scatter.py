"""Scatter, bags, pooling, ranks and grouped products: the order of their plan, any schedule of threads, any batch."""

import pytest
import torch
from msl_cpu import model
from properties import DTYPES, SPLIT, data, same
from torch.nn import functional as F

from bi_inductor.errors import LoweringError
from lowerings.mps import matmul, order, scatter


def picks(*shape, below):
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(3))


def added_in_order(x, index, src):
    """Row ``index[i]`` of x gets row i of src, i ascending, in float32."""
    out = x.float().clone()
    for i, row in enumerate(index.tolist()):
        out[row] += src[i].float()
    return out.to(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_adds_follow_the_source_and_are_rounded_once(dtype):
    x, src, index = data(6, 9, dtype=dtype), data(40, 9, dtype=dtype, seed=1), picks(40, below=6)
    wanted = added_in_order(x, index, src)
    assert same(scatter.index_add(x, 0, index, src), wanted)
    assert same(scatter.index_add(x.t(), 1, index, src.t()), wanted.t())
    assert same(scatter.scatter_add(x, 0, index[:, None].expand(40, 9), src), wanted)
    assert same(scatter.index_put_add(x, [index - 6], src), wanted)
    assert same(scatter.index_put_add(x.t(), [None, index], src.t()), wanted.t())
    backwards = scatter.index_add(x, 0, index.flip(0), src.flip(0))
    assert dtype != torch.float32 or not same(backwards, wanted), "control too weak"


def test_scatter_of_every_kind_agrees_with_torch():
    x, index, src = data(4, 5, 3), picks(3, 7, 2, below=5), data(3, 8, 3, seed=1)
    torch.testing.assert_close(scatter.scatter_add(x, 1, index, src), x.scatter_add(1, index, src))
    rows, columns = picks(6, below=4), picks(6, below=3)
    given = data(6, 5, seed=2)
    for indices, values in (
        ([rows, None, columns], given),
        ([rows[:, None], picks(2, below=5)], data(6, 2, 3, seed=2)),
        ([None, picks(6, below=5), columns], data(4, 6, seed=2)),
        ([x > 1], torch.tensor(0.5)),
    ):
        wanted = torch.ops.aten.index_put(x, indices, values, True)
        torch.testing.assert_close(scatter.index_put_add(x, indices, values), wanted)
    integers = picks(5, below=9)
    assert same(
        scatter.index_add(integers, 0, rows, rows, alpha=2),
        integers.index_add(0, rows, rows, alpha=2),
    )
    assert same(scatter.index_add(x, 0, rows[:0], x[:0]), x)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_agree_with_torch_and_do_not_see_each_other(mode):
    weight, index, offsets = data(20, 6), picks(30, below=20), torch.tensor([0, 4, 4, 11])
    scale = data(30, seed=4) if mode == "sum" else None
    out = scatter.embedding_bag(weight, index, offsets, scale, mode, False, 7)
    wanted = F.embedding_bag(
        index, weight, offsets, mode=mode, per_sample_weights=scale, padding_idx=7
    )
    torch.testing.assert_close(out, wanted)
    part = None if scale is None else scale[4:11]
    alone = scatter.embedding_bag(weight, index[4:11], offsets[:1], part, mode, False, 7)
    assert same(alone[0], out[2])


@pytest.mark.parametrize("pads", [True, False])
@pytest.mark.parametrize("ceil", [True, False])
def test_pools_agree_with_torch(pads, ceil):
    x = data(3, 2, 11, 8)
    options = ([3, 2], [2, 2], [1, 1], ceil, pads, None)
    out = order.avg_pool(x, *options)
    torch.testing.assert_close(out, F.avg_pool2d(x, *options[:5]))
    assert same(order.avg_pool(x[1:2], *options), out[1:2])
    torch.testing.assert_close(
        order.avg_pool(x[0], [3], [], [1], False, True, 5), F.avg_pool1d(x[0], 3, 3, 1) * 3 / 5
    )


def test_ranks_are_a_stable_sort():
    x = picks(7, 33, below=9).float()
    x[2, 5] = torch.nan
    for descending in (False, True):
        values, indices = order.topk(x, 33, 1, descending, True)
        wanted = x.sort(dim=1, stable=True, descending=descending)
        assert same(indices, wanted.indices)
        assert same(values.nan_to_num(99), wanted.values.nan_to_num(99))
        assert same(order.topk(x[3:4], 33, 1, descending, True)[1], indices[3:4])
    assert same(order.topk(x.t(), 4, 0, True, True)[1], order.topk(x, 4, 1, True, True)[1].t())
    assert same(
        order.topk(picks(5, below=3), 5, 0, False, True)[0], picks(5, below=3).sort().values
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_grouped_rows_are_rows_of_a_product(dtype):
    a, b = data(9, 300, dtype=dtype), data(3, 300, 10, dtype=dtype, seed=1)
    stops = torch.tensor([4, 4, 8], dtype=torch.int32)
    out = order.grouped_mm(a, b, stops, split_size=SPLIT)
    assert same(out[:4], matmul.mm(a[:4], b[0], split_size=SPLIT))
    assert same(out[4:8], matmul.mm(a[4:8], b[2], split_size=SPLIT))
    assert out[8].abs().max() == 0
    turned = b.transpose(1, 2).contiguous().transpose(1, 2)
    assert same(order.grouped_mm(a, turned, stops, split_size=SPLIT), out)
    with pytest.raises(LoweringError, match="gradients of grouped weights"):
        order.grouped_mm(a, a.t(), stops, split_size=SPLIT)


def test_the_order_of_threads_changes_nothing():
    x, src, index = data(6, 9), data(40, 9, seed=1), picks(40, below=6)
    results = []
    for threads in ("forward", "reverse", "random"):
        with model(order=threads, guard=True):
            results.append(
                (
                    scatter.index_add(x, 0, index, src),
                    scatter.embedding_bag(
                        src, index, index[:0].new_tensor([0, 7]), None, "sum", False, -1
                    ),
                    order.topk(src, 9, 1, True, True)[1],
                    order.avg_pool(src[None], [3], [1], [1], False, True, None),
                )
            )
    for other in results[1:]:
        assert all(map(same, other, results[0]))
