"""Scans, ordered adds, bags, windows and convolutions in Triton's interpreter, in a process of its own."""

import os

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lowerings.cuda import convolution, pool, reduction, scan, scatter, topk
from lowerings.cuda.plans import LANES


@pytest.mark.parametrize("kind", ["cumsum", "cumprod", "logcumsumexp"])
def test_scans(kind: str) -> None:
    x = torch.randn(1, 1100, 1) if kind == "cumsum" else 1 + torch.randn(1, 50, 1) * 1e-3
    out = scan.scan(x, kind, 1)
    exact = getattr(torch, kind)(x.double(), 1)
    assert (out - exact).abs().max() < 1e-4
    if kind == "cumsum":
        assert torch.equal(scan.scan(functional.pad(x, (0, 0, 0, 9)), kind, 1)[:, :1100], out)
        ints = torch.randint(0, 5, (4, 9))
        assert torch.equal(scan.scan(ints, kind, 0), ints.cumsum(0))


def _in_order(x: Tensor, index: Tensor, src: Tensor, alpha: float = 1) -> Tensor:
    out = x.clone().float()
    for i, row in zip(index.tolist(), src, strict=True):
        out[i] += row.float() * alpha
    return out.to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_index_add_adds_in_the_order_of_the_source(dtype: torch.dtype) -> None:
    x, src = (torch.randn(n, 7).mul(8).to(dtype) for n in (5, 40))
    index = torch.randint(0, 5, (40,))
    assert torch.equal(scatter.index_add(x, 0, index, src), _in_order(x, index, src))
    turned = scatter.index_add(x.t(), 1, index, src.t(), alpha=2)
    assert torch.equal(turned, _in_order(x, index, src, 2).t())


def test_scatter_add_and_index_put() -> None:
    x, src = torch.zeros(4, 6), torch.randint(-9, 9, (5, 8)).float()
    index = torch.randint(0, 4, (5, 6))
    assert torch.equal(scatter.scatter_add(x, 0, index, src), x.scatter_add(0, index, src))
    wide = torch.zeros(4, 5, 6)
    rows, columns = torch.randint(-4, 4, (3, 1)), torch.randint(0, 6, (9,))
    keep = torch.tensor([True, False, True, True, False])
    for indices, shape in (
        ([rows, None, columns], (3, 9, 5)),
        ([None, None, columns], (4, 5, 9)),
        ([rows], (3, 1, 5, 6)),
        ([None, keep], (4, 3, 6)),
    ):
        values = torch.randint(-9, 9, shape).float()
        exact = torch.ops.aten.index_put(wide, indices, values, True)
        assert torch.equal(scatter.index_put_add(wide, indices, values), exact)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("last", [False, True])
def test_bags(mode: str, last: bool) -> None:
    weight, indices = torch.randn(9, 20), torch.randint(0, 9, (12,))
    offsets = torch.tensor([0, 3, 3, 7, 12] if last else [0, 3, 3, 7])
    samples = torch.randn(12) if mode == "sum" else None
    out = scatter.embedding_bag(weight, indices, offsets, samples, mode, last, 2)
    exact = functional.embedding_bag(
        indices, weight, offsets, mode=mode, per_sample_weights=samples,
        include_last_offset=last, padding_idx=2,
    )  # fmt: skip
    assert (out - exact).abs().max() < 1e-6


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("ceil", [False, True])
def test_pools(counted: bool, ceil: bool) -> None:
    for dims, fn in ((1, functional.avg_pool1d), (2, functional.avg_pool2d), (3, functional.avg_pool3d)):  # fmt: skip
        x = torch.randn(2, 1, *(5, 6, 7)[:dims])
        out = pool.avg_pool(x, [3] * dims, [2] * dims, [1] * dims, ceil, counted, None)
        exact = fn(x, 3, 2, 1, ceil_mode=ceil, count_include_pad=counted)
        assert (out - exact).abs().max() < 1e-6


def test_topk_takes_the_lower_index() -> None:
    values, places = topk.topk(torch.tensor([[1.0, 3, 3, 2]]), 2, -1, True, True)
    assert values.tolist() == [[3, 3]]
    assert places.tolist() == [[1, 2]]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dims", [1, 2])
def test_convolutions(groups: int, transposed: bool, dims: int) -> None:
    x, bias = torch.randn(3, 4, *(9, 8)[:dims]), torch.randn(6)
    shape = (4, 6 // groups) if transposed else (6, 4 // groups)
    weight = torch.randn(*shape, *(3, 2)[:dims])
    for stride, padding, dilation, extra in ((1, 0, 1, 0), (2, 1, 2, 1 if transposed else 0)):
        given = [[v] * dims for v in (stride, padding, dilation)]
        out = convolution.convolution(
            x, weight, bias, *given, transposed, [extra] * dims, groups, split_size=1024
        )
        exact = torch.convolution(x, weight, bias, *given, transposed, [extra] * dims, groups)
        assert (out - exact).abs().max() < 1e-4
        alone = convolution.convolution(
            x[1:2], weight, bias, *given, transposed, [extra] * dims, groups, split_size=1024
        )
        assert (alone - out[1:2]).abs().max() < 1e-5


def test_products_and_other_norms() -> None:
    x = 1 + torch.randn(3, 5000) * 1e-3
    out = reduction.reduction(x, "prod", [1], lanes=LANES)
    assert torch.allclose(out, x.double().prod(1).float(), rtol=1e-5)
    for p in (0.0, 3.0, float("inf")):
        found = reduction.reduction(x, "norm", [1], param=p, lanes=LANES)
        assert torch.allclose(found, torch.linalg.vector_norm(x, p, 1), rtol=1e-5)
