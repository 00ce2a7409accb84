"""Ops that our own table opens: the values of stock torch, and the places of one order for every batch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import bi_inductor
from tests.rows import bits_equal, rows_that_change

#: ranks along a dim: many equal values, and NaN
RANKS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "median": lambda x: x.median(-1),
    "median, dim kept": lambda x: x.median(1, keepdim=True),
    "median of integers": lambda x: x.nan_to_num().long().median(2),
    "nanmedian": lambda x: x.nanmedian(1),
    "kthvalue": lambda x: x.kthvalue(3, -1),
}


@pytest.fixture(scope="module")
def samples() -> Tensor:
    x = torch.randint(0, 5, (5, 6, 9), generator=torch.Generator().manual_seed(0)).float()
    x[1, 2, 3] = x[3, 1] = torch.nan
    return x


@pytest.fixture(scope="module")
def compiled() -> Callable[[Tensor], list[tuple[Tensor, Tensor]]]:
    return torch.compile(
        lambda x: [tuple(rank(x)) for rank in RANKS.values()],
        backend="batch_invariant",
        dynamic=True,
    )


def test_ranks_are_stocks_and_each_place_holds_its_value(samples, compiled) -> None:
    for (values, places), rank in zip(compiled(samples), RANKS.values(), strict=True):
        assert bits_equal(values, rank(samples).values)
        dim = 1 if values.shape[1] != samples.shape[1] else 2
        at = places if places.dim() == 3 else places.unsqueeze(dim)
        there = samples.nan_to_num().gather(dim, at).reshape(values.shape)
        assert bits_equal(there.to(values.dtype), values.nan_to_num())


def test_ranks_do_not_follow_the_batch_and_eager_mode_has_them(samples, compiled) -> None:
    assert not rows_that_change(compiled, (samples,), (1, 2, 5))
    with bi_inductor.batch_invariant_mode():
        for pair, rank in zip(compiled(samples), RANKS.values(), strict=True):
            assert all(bits_equal(a, b) for a, b in zip(pair, rank(samples), strict=True))
