"""Single ops in the mode: rows, ``out=``, in place, gradients, and the flaws of other libraries."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bi_inductor import batch_invariant_mode
from tests.rows import bits_equal, rows_that_change


def in_mode(fn):
    def run(*x):
        with batch_invariant_mode():
            return fn(*x)

    return run


W = torch.randn(1023, 65, generator=torch.Generator().manual_seed(1))
BIAS = torch.randn(65, generator=torch.Generator().manual_seed(2))
ROW_OPS = {
    "mm": lambda x: x @ W,
    "vector": lambda x: x @ W[:, 0],
    "linear": lambda x: F.linear(x, W.T, BIAS),
    "addmm": lambda x: torch.addmm(BIAS, x, W, alpha=0.5, beta=2),
    "einsum": lambda x: torch.einsum("bk,kn->bn", x, W),
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: F.log_softmax(x, -1, dtype=torch.float64),
    "logsumexp": lambda x: x.logsumexp(-1),
    "mean": lambda x: x.mean(-1),
    "mean_dims": lambda x: x[:, :1020].view(-1, 4, 255).mean((1, 2)),
    "var": lambda x: x.var(-1),
    "norm": lambda x: x.norm(dim=-1),
    "layer_norm": lambda x: F.layer_norm(x, (1023,)),
    "rms_norm": lambda x: F.rms_norm(x, (1023,)),
    "group_norm": lambda x: F.group_norm(x[:, :1020].view(-1, 4, 255), 2),
    "cumsum": lambda x: x.cumsum(-1),
    "silu": lambda x: F.silu(x[:, :13]),
    "softplus": lambda x: F.softplus(x[:, :13]),
    "conv": lambda x: F.conv1d(x.unsqueeze(1), W[:5, :3].T.reshape(3, 1, 5).contiguous()),
    "cosine": lambda x: F.cosine_similarity(x, W[:, 0], dim=-1),
}


@pytest.mark.parametrize("name", ROW_OPS)
def test_rows_do_not_depend_on_the_batch(name):
    x = torch.randn(65, 1023) * torch.randn(65, 1023).mul(4).exp2()
    assert rows_that_change(in_mode(ROW_OPS[name]), (x,), batches=(2, 3, 33, 64)) == []


def test_stock_fails_on_the_same_data():
    x = torch.randn(65, 1023) * torch.randn(65, 1023).mul(4).exp2()
    bad = [n for n, op in ROW_OPS.items() if rows_that_change(op, (x,), batches=(2, 3, 33, 64))]
    assert {"mm", "linear", "addmm"} <= set(bad), bad


def test_out_forms_and_methods_share_their_bits():
    x = torch.randn(5, 1023)
    with batch_invariant_mode():
        for made, out in (
            (torch.mm(x, W), torch.mm(x, W, out=torch.empty(5, 65))),
            (torch.addmm(BIAS, x, W), torch.addmm(BIAS, x, W, out=torch.empty(5, 65))),
            (torch.sum(x, -1), torch.sum(x, -1, out=torch.empty(5))),
            (torch.exp(x), torch.exp(x, out=torch.empty(5, 1023))),
            (torch.exp(x), x.clone().exp_()),
            (torch.sigmoid(x), x.clone().sigmoid_()),
            (torch.add(x, x, alpha=3), x.clone().add_(x, alpha=3)),
        ):
            assert bits_equal(made, out)


def test_out_is_resized_and_keeps_its_storage():
    x, out = torch.randn(5, 1023), torch.empty(0)
    with batch_invariant_mode():
        assert torch.mm(x, W, out=out) is out
        assert out.shape == (5, 65)
        with pytest.raises(RuntimeError, match="can't be cast"):
            torch.mm(x, W, out=torch.empty(5, 65, dtype=torch.int64))


def test_in_place_ops_write_through_views():
    x = torch.randn(4, 6)
    expected = x.clone()
    with batch_invariant_mode():
        x[:, ::2].tanh_()
        expected[:, ::2] = torch.tanh(expected[:, ::2])
    assert bits_equal(x, expected)


def test_a_mean_over_everything_is_a_mean():
    x = torch.randn(4, 5, 6) + 1
    with batch_invariant_mode():
        torch.testing.assert_close(x.mean(), x.double().mean().float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts_of_elementwise_results_are_torchs(dtype):
    x = torch.randn(2, 3, 4, 5, dtype=dtype)
    views = [
        x,
        x.to(memory_format=torch.channels_last),
        x.permute(3, 0, 2, 1),
        x[:, 1:, ::2],
        x[0, 0, 0, 0],
        x[:0],
    ]
    for view in views:
        with batch_invariant_mode():
            made = torch.exp(view)
        stock = torch.exp(view)
        assert made.shape == stock.shape
        assert made.dtype == stock.dtype
        assert made.stride() == stock.stride()
        torch.testing.assert_close(made, stock)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(96), nn.Linear(96, 192), nn.Linear(192, 96)
        self.attention = nn.MultiheadAttention(96, 4, batch_first=True)

    def forward(self, x):
        y = self.norm(x)
        y = self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(y)))


def gradients(model, x, dtype=torch.float32):
    model = model.to(dtype)
    model.zero_grad()
    x = x.detach().to(dtype).requires_grad_()
    model(x).square().mean().backward()
    return [x.grad.clone(), *(p.grad.clone() for p in model.parameters())]


def test_gradients_are_right():
    torch.manual_seed(0)
    model, x = Block(), torch.randn(3, 17, 96)
    stock = gradients(model, x)
    with batch_invariant_mode():
        ours = gradients(model, x)
    exact = gradients(model, x, torch.float64)
    for a, b, c in zip(ours, stock, exact, strict=True):
        budget = 4 * (b - c).abs().max() + 1e-6 * c.abs().max()
        assert (a - c).abs().max() <= budget


def test_gradients_of_a_sample_do_not_depend_on_the_batch():
    model = Block()

    def gradient(x):
        x = x.detach().requires_grad_()
        (made,) = torch.autograd.grad(model(x).square().sum(), x)
        return made

    x = torch.randn(17, 9, 96)
    assert rows_that_change(in_mode(gradient), (x,), batches=(2, 5, 17)) == []
    assert rows_that_change(gradient, (x,), batches=(2, 5, 17)), "control too weak"


def test_training_steps_work():
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    x, y = torch.randn(32, 8), torch.randn(32, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    losses = []
    with batch_invariant_mode():
        for _ in range(20):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_what_a_mask_selects_may_be_written_back_by_it():
    x = torch.randn(5, 7, 3)
    mask = x[..., 0] > 0
    expected = torch.zeros_like(x)
    expected[mask] = x[mask]
    with batch_invariant_mode():
        made = torch.zeros_like(x)
        made[mask] = x[mask]
    assert torch.equal(made, expected)
