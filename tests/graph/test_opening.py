"""What is settled before planning: epsilons as constants under a guard, key heads that a model wrote out."""

import sys

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx

import bi_inductor.fakes  # noqa: F401  (defines the ops)
from bi_inductor.opening import settle_epsilons, share_heads
from lowerings.table import load


class Norm(nn.Module):
    """As transformers' models spell it, with a number that is no epsilon beside it."""

    def __init__(self, eps):
        super().__init__()
        self.eps, self.factor = eps, 1.5

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.factor


def _float_inputs(gm):
    return [
        n.target
        for n in gm.graph.find_nodes(op="placeholder")
        if getattr(n.meta["example_value"], "dtype", None) == torch.float64
    ]


def test_an_epsilon_is_a_constant_and_another_float_stays_an_input():
    seen = []

    def backend(gm, example_inputs):
        settle_epsilons(gm)
        seen.append(_float_inputs(gm))
        return gm

    counter = CompileCounterWithBackend(backend)
    torch._dynamo.reset()
    norm, x = Norm(1e-3), torch.randn(4, 8)
    with torch.no_grad():
        compiled = torch.compile(norm, backend=counter.backend, dynamic=True)
        assert torch.equal(compiled(x), norm(x))
        norm.factor = 2.5
        assert torch.equal(compiled(x), norm(x))
        assert len(seen) == 1
        assert ["factor" in name for name in seen[0]] == [True]
        # the guard
        norm.eps = 1.0
        assert torch.equal(compiled(x), norm(x))
        assert len(seen) == 2


def _expanded(x):
    return x[:, :, None].expand(2, 2, 3, 9, 16).reshape(2, 6, 9, 16)


def _sliced(x):
    """As AOTAutograd writes ``x[:, :, None, :, :]``."""
    whole, all_of = torch.ops.aten.slice.Tensor, (0, sys.maxsize)
    return (
        whole(whole(x, 0, *all_of).unsqueeze(2), 3, *all_of)
        .expand(2, 2, 3, 9, 16)
        .reshape(2, 6, 9, 16)
    )


def _graph(f, *inputs):
    return make_fx(f, tracing_mode="symbolic")(*inputs)


@pytest.mark.parametrize(
    "repeat",
    [_expanded, lambda x: x.repeat_interleave(3, 1), _sliced],
    ids=["expand", "interleave", "slices"],
)
def test_repeated_heads_are_handed_over_once_with_the_same_bits(repeat):
    load("cpu")
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 6, 5, 16), torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 16)

    def f(q, k, v):
        return torch.ops.bi_inductor.attention.default(
            q, repeat(k * 1), repeat(v * 1), split_size=512
        )

    gm = _graph(f, q, k, v)
    expected = gm(q, k, v)
    share_heads(gm.graph)
    gm.recompile()
    (node,) = gm.graph.find_nodes(
        op="call_function", target=torch.ops.bi_inductor.attention.default
    )
    assert [x.meta["val"].shape[1] for x in node.args[1:3]] == [2, 2]
    assert not gm.graph.find_nodes(op="call_function", target=torch.ops.aten.expand.default)
    for found, ours in zip(gm(q, k, v), expected, strict=True):
        assert torch.equal(found, ours)


@pytest.mark.parametrize(
    "change",
    [
        # heads side by side in another order, a copy that is no repetition, keys alone
        lambda k, v: (k.repeat(1, 3, 1, 1), v.repeat(1, 3, 1, 1)),
        lambda k, v: (_expanded(k) * 2, _expanded(v)),
        lambda k, v: (_expanded(k), v.repeat(1, 3, 1, 1)),
        # one sample's keys for every sample
        lambda k, v: (_expanded(k[:1]), _expanded(v[:1])),
    ],
    ids=["tiled", "scaled", "keys alone", "one sample"],
)
def test_what_is_no_repetition_stays(change):
    q, k, v = torch.randn(2, 6, 5, 16), torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 16)

    def f(q, k, v):
        return torch.ops.bi_inductor.attention.default(q, *change(k * 1, v * 1), split_size=512)

    gm = _graph(f, q, k, v)
    before = str(gm.graph)
    share_heads(gm.graph)
    assert str(gm.graph) == before
