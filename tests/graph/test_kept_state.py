"""What may be written where the next call, or another view, reads it."""

import pytest
import torch
from torch import nn

from bi_inductor.flow.movement import spells_view
from tests.graph.harness import plans_of


class Keeps(nn.Module):
    """Writes something of a batch into a buffer that every call reads."""

    def __init__(self, of_batch):
        super().__init__()
        self.of_batch = of_batch
        self.register_buffer("kept", torch.zeros(8))

    def forward(self, x):
        y = x + self.kept
        self.kept.copy_(self.of_batch(x, self.kept))
        return y


def test_state_may_not_keep_a_sample():
    with pytest.raises(Exception, match="state that the samples of the next call share"):
        plans_of(Keeps(lambda x, kept: x[0]), torch.randn(4, 8))


def test_state_may_follow_itself():
    assert plans_of(Keeps(lambda x, kept: kept + 1), torch.randn(4, 8))


def test_weights_are_not_counted_over_the_batch():
    keys = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(Exception, match="bins"):
        plans_of(lambda w: torch.bincount(keys, weights=w, minlength=2), torch.randn(4))


def test_an_offset_counts_from_the_start_of_the_storage():
    whole = torch.randn(5, 8)
    rest = whole[1:]
    assert not spells_view(rest, rest.as_strided((4, 8), (8, 1), 0), 0)
    assert spells_view(rest, rest.as_strided((4, 8), (8, 1), 8), 8)
    assert spells_view(rest, rest.as_strided((4, 8), (8, 1)), None)
