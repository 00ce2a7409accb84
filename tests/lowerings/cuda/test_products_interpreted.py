"""The kernels of the product family in Triton's interpreter: logic, masks and tails, in a process of its own."""

import os

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import pytest
import torch

from bi_inductor.errors import LoweringError
from lowerings.cuda import matmul, schedules, shared
from lowerings.cuda.plans import CHAIN

_ROWS = (1, 2, 17, 70)
_TILES = [tile for tile in schedules.ALL_HALVES if not tile.tma]


@pytest.mark.parametrize("tile", _TILES, ids=lambda tile: tile.text())
def test_every_tile_gives_the_rows_of_the_first(tile: schedules.Gemm) -> None:
    a, b = torch.randn(70, 208).half(), torch.randn(72, 208).half().t()
    bias = torch.randn(72).half()
    whole = matmul.mm(a, b, bias, split_size=CHAIN, schedule=_TILES[0])
    exact = torch.addmm(bias.double(), a.double(), b.double())
    assert (whole.double() - exact).abs().max() < 0.05
    for rows in _ROWS:
        assert torch.allclose(
            matmul.mm(a[:rows], b, bias, split_size=CHAIN, schedule=tile), whole[:rows], atol=2e-2
        )


_STREAMED = tuple(dict.fromkeys(tile for _, *tiles in schedules.STREAMED for tile in tiles))


@pytest.mark.parametrize("tile", _STREAMED, ids=lambda tile: tile.text())
def test_few_rows_with_scales_and_other_strides(tile: schedules.Gemm) -> None:
    a, w = torch.randn(20, 64).half()[::2, :48], torch.randn(40, 64).half()[:, 16:]
    bias = torch.randn(10, 1).half()
    out = matmul.mm(a, w.t(), bias, alpha=0.5, beta=2, split_size=CHAIN, schedule=tile)
    exact = 0.5 * (a.double() @ w.double().t()) + 2 * bias.double()
    assert (out.double() - exact).abs().max() < 0.02
    for other in (w.t().contiguous(), torch.randn(40, 56).half()[:, :48].t()):
        with pytest.raises(LoweringError, match="along K"):
            matmul.mm(a, other, split_size=CHAIN, schedule=tile)
    with pytest.raises(LoweringError, match="along K"):
        matmul.mm(a[:, :40], w[:, :40].t(), split_size=CHAIN, schedule=tile)


@pytest.mark.parametrize("rows", [1, 9, 17, 32, 33])
@pytest.mark.parametrize("count", [2, 3])
def test_products_of_one_input_are_each_its_own(rows: int, count: int) -> None:
    a = torch.randn(rows, 80).half()
    weights = [torch.randn(n, 80).half() for n in (40, 72, 24)[:count]]
    assert matmul.choose(a, weights[0].t(), CHAIN).stream == (rows <= 32)
    *outs, last = shared.shared_mm(a, *weights, split_size=CHAIN)
    for out, w in zip([*outs, last], weights, strict=False):
        assert torch.equal(out, matmul.mm(a, w.t(), split_size=CHAIN))
    assert last.shape == ((rows, 24) if count == 3 else (0,))


def test_products_of_one_input_that_do_not_stream_are_launched_one_by_one() -> None:
    a, w = torch.randn(3, 24).half(), torch.randn(10, 24).half()
    assert not matmul.choose(a, w.t(), CHAIN).stream
    first, second, _ = shared.shared_mm(a, w, w[:4], split_size=CHAIN)
    assert torch.equal(first[:, :4], second)
    torch.testing.assert_close(first, (a.double() @ w.double().t()).half())


@pytest.mark.parametrize("tile", schedules.FLOAT32, ids=lambda tile: tile.text())
def test_float32_pieces_strides_and_scales(tile: schedules.Gemm) -> None:
    a, b, bias = torch.randn(1100, 19).t(), torch.randn(1100, 33), torch.randn(19, 1)
    out = matmul.mm(a, b, bias, alpha=0.5, beta=2, split_size=1024, schedule=tile)
    exact = 0.5 * (a.double() @ b.double()) + 2 * bias.double()
    assert (out.double() - exact).abs().max() < 1e-4


def test_bmm_and_empty_sizes() -> None:
    a, b = torch.randn(3, 5, 40), torch.randn(3, 40, 7)
    assert torch.allclose(matmul.bmm(a, b, split_size=1024), a @ b, atol=1e-5)
    bias = torch.randn(7)
    empty = matmul.mm(torch.randn(4, 0), torch.randn(0, 7), bias, split_size=1024)
    assert torch.equal(empty, bias.expand(4, 7))
    assert matmul.mm(torch.randn(0, 3), torch.randn(3, 7), split_size=1024).shape == (0, 7)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_groups_of_any_size(dtype: torch.dtype) -> None:
    a, b = torch.randn(150, 48), torch.randn(4, 48, 20)
    offs = torch.tensor([0, 1, 97, 150], dtype=dtype)
    out = matmul.grouped_mm(a, b, offs, split_size=1024)
    for g, (left, right) in enumerate(zip([0, 0, 1, 97], offs.tolist(), strict=True)):
        assert torch.allclose(out[left:right], a[left:right] @ b[g], atol=1e-5)


def test_one_tile_for_every_number_of_rows() -> None:
    a, b = torch.randn(33, 96), torch.randn(96, 40)
    together = matmul.mm(a, b, split_size=256, uniform=True)
    torch.testing.assert_close(together, a @ b)
    for row in (0, 32):
        alone = a[row : row + 1]
        assert torch.equal(matmul.mm(alone, b, split_size=256, uniform=True)[0], together[row])
        batched = matmul.bmm(alone[None], b[None], split_size=256, uniform=True)
        assert torch.equal(batched[0, 0], together[row])
