"""Mixture of experts: rows may be permuted when it is proved that they come back."""

import pytest
import torch
import torch.nn.functional as F
from harness import plan_of

from bi_inductor.errors import VariantOpError

E, K, H, N = 4, 2, 8, 16
GATE = torch.randn(H, E)
UP = torch.randn(E, H, N).bfloat16()
DOWN = torch.randn(E, N, H).bfloat16()


def route(x):
    weights, experts = (x.reshape(-1, H) @ GATE).softmax(-1).topk(K)
    return x.reshape(-1, H), weights.reshape(-1), experts.reshape(-1)


def grouped(rows, offsets):
    return F.grouped_mm(
        F.silu(F.grouped_mm(rows.bfloat16(), UP, offs=offsets)), DOWN, offs=offsets
    ).float()


def offsets_of(keys):
    return torch.histc(keys.float(), bins=E, min=0, max=E - 1).cumsum(0, dtype=torch.int32)


def inverse_by_index_put(x):
    tokens, weights, experts = route(x)
    keys, order = experts.sort()
    out = grouped(tokens[order // K], offsets_of(keys)) * weights[order, None]
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.shape[0])
    return out[inverse].view(-1, K, H).sum(1).view_as(x)


def inverse_by_argsort(x):
    tokens, weights, experts = route(x)
    order = experts.argsort(stable=True)
    counts = F.one_hot(experts, E).sum(0)
    out = grouped(tokens[order // K], counts.cumsum(0).int()) * weights[order, None]
    return out[order.argsort()].view(-1, K, H).sum(1).view_as(x)


def ordered_scatter_add(x):
    tokens, weights, experts = route(x)
    keys, order = experts.sort()
    place = order // K
    out = grouped(tokens[place], offsets_of(keys)) * weights[order, None]
    return torch.zeros_like(tokens).index_add(0, place, out).view_as(x)


def weights_per_row(x):
    tokens, weights, experts = route(x)
    rows = tokens.repeat_interleave(K, 0)
    out = torch.bmm(rows.unsqueeze(1), UP.float()[experts]).squeeze(1) * weights[:, None]
    return out.view(-1, K, N).sum(1)


def every_expert(x):
    tokens, weights, experts = route(x)
    mask = torch.zeros(tokens.shape[0], E).scatter(1, experts.view(-1, K), weights.view(-1, K))
    out = torch.bmm(tokens.expand(E, -1, H), UP.float())
    return (out * mask.t().unsqueeze(-1)).sum(0)


PROVED = [
    inverse_by_index_put,
    inverse_by_argsort,
    ordered_scatter_add,
    weights_per_row,
    every_expert,
]


@pytest.mark.parametrize("model", PROVED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_routing_that_comes_back_is_proved(model, dynamic):
    with torch.no_grad():
        planned = plan_of(model, torch.randn(3, 5, H), dynamic=dynamic)
    assert not planned.variants


def never_put_back(x):
    tokens, _, experts = route(x)
    _, order = experts.sort()
    return tokens[order // K]


def wrong_offsets(x):
    tokens, _, experts = route(x)
    _, order = experts.sort()
    out = grouped(tokens[order // K], offsets_of(E - 1 - experts))
    return out[order.argsort()]


def changed_offsets(x):
    tokens, _, experts = route(x)
    keys, order = experts.sort()
    counts = torch.histc(keys.float(), bins=E, min=0, max=E - 1) + 1
    return grouped(tokens[order // K], counts.cumsum(0, dtype=torch.int32))[order.argsort()]


def sum_in_routed_order(x):
    tokens, _, experts = route(x)
    _, order = experts.sort()
    return tokens + tokens[order // K].cumsum(0)[::K]


def counts_scale_rows(x):
    tokens, _, experts = route(x)
    return tokens * F.one_hot(experts, E).sum(0).float().max()


def other_permutation(x):
    tokens, _, experts = route(x)
    _, first = experts.sort()
    _, second = (E - 1 - experts).sort()
    return tokens[first // K][second.argsort()]


def capacity(x):
    tokens, _, experts = route(x)
    position = F.one_hot(experts, E).cumsum(0)
    return (position < 4).float()


REFUSED = [
    never_put_back, wrong_offsets, changed_offsets, sum_in_routed_order, counts_scale_rows, other_permutation, capacity,
]  # fmt: skip


@pytest.mark.parametrize("model", REFUSED, ids=lambda f: f.__name__)
def test_routing_that_mixes_samples_is_refused(model):
    with torch.no_grad(), pytest.raises(Exception, match="on_variant") as caught:
        plan_of(model, torch.randn(3, 5, H))
    assert isinstance(caught.value.inner_exception, VariantOpError)
