"""torch's own transformer modules in eval mode, where each calls one fused kernel of the device."""

import contextlib

import pytest
import torch
from torch import nn

import bi_inductor
from tests.rows import rows_that_change

LENGTH, WIDTH = 10, 64


class Padded(nn.Module):
    """Two layers, of which the second puts its norms first, behind a mask of padded keys and a causal one."""

    def __init__(self):
        super().__init__()
        shared = {"d_model": WIDTH, "nhead": 4, "dim_feedforward": 100, "batch_first": True}
        self.after = nn.TransformerEncoderLayer(**shared)
        self.before = nn.TransformerEncoderLayer(**shared, norm_first=True, activation="gelu")
        self.outer = nn.Bilinear(WIDTH, WIDTH, 5)

    def forward(self, x, lengths):
        padded = torch.arange(LENGTH, device=x.device) >= lengths[:, None]
        causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool, device=x.device).triu(1)
        y = self.before(self.after(x, src_key_padding_mask=padded), src_mask=causal)
        return self.outer(x, y)


@pytest.fixture
def case(device):
    model = Padded().to(device).eval()
    lengths = torch.tensor([LENGTH, 3, 7, 1] * 5, device=device)
    return model, (torch.randn(20, LENGTH, WIDTH, device=device), lengths)


def outputs(model, inputs):
    with torch.no_grad():
        return model(*inputs)


@contextlib.contextmanager
def unfused():
    """The module as it is defined: on CUDA the fused layer takes GELU's tanh approximation, wrong by 7e-4 here."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_rows_of_fused_layers_do_not_follow_their_batch(case):
    model, inputs = case
    compiled = torch.compile(model, backend="batch_invariant", dynamic=True)
    with torch.no_grad():
        assert rows_that_change(compiled, inputs, (1, 2, 3, 17)) == []
        plan = bi_inductor.certificate().graphs[0].plan
        assert plan.count("Attention(") == 2
        assert rows_that_change(model, inputs, (1, 2, 3, 17)), "control too weak"


def test_fused_layers_are_as_accurate_as_stock_and_equal_in_eager_mode(case):
    model, inputs = case
    ours = outputs(torch.compile(model, backend="batch_invariant", dynamic=True), inputs)
    with bi_inductor.batch_invariant_mode():
        assert torch.equal(outputs(model, inputs), ours)
    with unfused():
        stock = outputs(model, inputs)
        exact = outputs(model.double(), (inputs[0].double(), inputs[1]))
    # a query that is padding attends to nothing real; those rows mean nothing
    real = torch.arange(LENGTH, device=stock.device) < inputs[1][:, None]
    budget = 2 * (stock.double() - exact)[real].abs().max()
    assert (ours.double() - exact)[real].abs().max() <= budget


def test_weights_of_attention(device):
    model = nn.MultiheadAttention(WIDTH, 4, batch_first=True).to(device).eval()
    x = torch.randn(6, LENGTH, WIDTH, device=device)
    fn = torch.compile(lambda x: model(x, x, x), backend="batch_invariant", dynamic=True)
    with torch.no_grad():
        assert rows_that_change(fn, (x,), (1, 2, 3)) == []
        for ours, stock in zip(fn(x), model(x, x, x), strict=True):
            torch.testing.assert_close(ours, stock)
