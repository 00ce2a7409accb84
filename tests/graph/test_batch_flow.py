"""The dataflow against brute force: perturb one sample, see which outputs change, compare with the claim."""

import random

import pytest
import torch
from harness import plan_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx import GraphModule

from bi_inductor.decompositions import decomposition_table
from bi_inductor.errors import VariantOpError
from bi_inductor.flow.axes import Axis, Role, Value, regroup, same, total, vary
from bi_inductor.flow.engine import Flow
from bi_inductor.flow.facts import WHOLE_BATCH
from bi_inductor.rules import Verdict, judge

BATCH = 3
_TABLE = decomposition_table()


def batch_of(dims, index):
    """Sample that element ``index`` of a tensor with these abstract dims belongs to, or None."""
    for dim, position in zip(dims, index, strict=True):
        for axis in reversed(dim):
            position, at = divmod(position, axis.extent)
            if axis.role is Role.BATCH:
                return at
    return None


def samples_that_change(fn, x, at):
    """For every element of ``fn(x)``: the samples of ``x`` that it depends on."""
    base = fn(x)
    found = [set() for _ in range(base.numel())]
    for sample in range(x.shape[at]):
        for offset in (1000,):
            other = x.clone()
            other.select(at, sample).add_(offset)
            for i, changed in enumerate((fn(other) != base).flatten().tolist()):
                if changed:
                    found[i].add(sample)
    return found


def claimed(fn, x, at):
    """Trace ``fn`` to ATen and return the abstract value of its result; raises as the planner does."""
    from torch.fx.experimental.proxy_tensor import make_fx

    gm: GraphModule = make_fx(fn, _TABLE, tracing_mode="fake")(x)
    flow = Flow()
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            dims = [vary(size) for size in x.shape]
            dims[at] = (Axis(x.shape[at], Role.BATCH),)
            flow.values[node] = Value(tuple(dims))
        elif node.op == "call_function":
            judged = judge(node, flow)
            if judged.verdict in (Verdict.BATCH_COUPLED, Verdict.UNKNOWN):
                return None
            flow.values[node] = judged.result
        elif node.op == "output":
            value = flow.value(node.args[0])
            return None if isinstance(value.fact, WHOLE_BATCH) else value
    raise AssertionError("no output")


def check(fn, x, at):
    """A claim must be true; a refusal is always allowed here."""
    value = claimed(fn, x, at)
    if value is None:
        return False
    depends = samples_that_change(fn, x, at)
    shape = [total(dim) for dim in value.dims]
    from itertools import product

    for i, index in enumerate(product(*map(range, shape))):
        owner = batch_of(value.dims, index)
        assert depends[i] <= ({owner} if owner is not None else set()), (index, depends[i], value)
    return True


def random_view(rng, x):
    """One random shape op: (name, function)."""
    rank = x.dim()
    options = ["permute", "flatten", "unflatten", "unsqueeze", "expand", "slice", "sum", "cat"]
    name = rng.choice(options)
    if name == "permute":
        order = rng.sample(range(rank), rank)
        return lambda t: t.permute(order)
    if name == "flatten" and rank > 1:
        start = rng.randrange(rank - 1)
        return lambda t: t.reshape(*t.shape[:start], -1, *t.shape[start + 2 :])
    if name == "unflatten":
        d = rng.randrange(rank)
        divisors = [k for k in range(2, x.shape[d] + 1) if x.shape[d] % k == 0]
        if divisors:
            k = rng.choice(divisors)
            return lambda t: t.reshape(*t.shape[:d], t.shape[d] // k, k, *t.shape[d + 1 :])
    if name == "unsqueeze" and rank < 5:
        d = rng.randrange(rank + 1)
        return lambda t: t.unsqueeze(d)
    if name == "expand" and rank < 5:
        return lambda t: t.unsqueeze(0).expand(2, *t.shape)
    d = rng.randrange(rank)
    if name == "slice" and x.shape[d] > 1:
        return lambda t: t.narrow(d, 0, t.shape[d] - 1)
    if name == "sum" and rank > 2:
        return lambda t: t.sum(d)
    if name == "cat":
        return lambda t: torch.cat([t, 2 * t], d)
    return lambda t: t + 1


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_what_the_flow_claims_of_random_views_is_true(seed):
    rng = random.Random(seed)
    x = torch.arange(BATCH * 2 * 4).reshape(BATCH, 2, 4) * 3 + 1
    at = rng.randrange(3)
    x = x.movedim(0, at).contiguous()
    steps, y = [], x
    for _ in range(rng.randrange(1, 6)):
        step = random_view(rng, y)
        y = step(y)
        if y.numel() > 200:
            break
        steps.append(step)

    def fn(t):
        for step in steps:
            t = step(t)
        return t

    check(fn, x, at)


ROW = {
    "linear": lambda x: x @ torch.arange(4).reshape(4, 1),
    "flattened": lambda x: x.reshape(-1, 4).sum(1).reshape(BATCH, 2),
    "own rows by arange": lambda x: x[torch.arange(BATCH), x[:, 0, 0] % 2],
    "last token": lambda x: x[:, -1],
    "heads": lambda x: x.view(BATCH, 2, 2, 2).transpose(1, 2).reshape(BATCH * 2, 2, 2).sum(-1),
    "take along": lambda x: torch.take_along_dim(x, x.argsort(-1), -1),
    "windows": lambda x: x.unfold(2, 2, 1),
    "cumsum of tokens": lambda x: x.cumsum(1),
    "groups of batches": lambda x: torch.cat([x, -x]).chunk(2)[1],
    "scatter to own": lambda x: torch.zeros_like(x).scatter(2, (x % 4), 5),
    "least common multiple": lambda x: torch.lcm(x.abs() + 1, x.flip(-1).abs() + 2),
    "one hot": lambda x: torch.nn.functional.one_hot(x[..., 0] % 4, 4),
    "where": lambda x: torch.where(x > 5, x, 0),
    "repeat": lambda x: x.repeat(1, 3, 1),
    "write at own places": lambda x: (
        torch.zeros(BATCH, 9).long().index_put((torch.arange(BATCH), x[:, 0, 0] % 9), x[:, 1, 1])
    ),
    "write tokens at own places": lambda x: (
        torch.zeros(BATCH, 9, 4).long().index_put((torch.arange(BATCH)[:, None], x[..., 0] % 9), x)
    ),
    "cache update": lambda x: torch.zeros(BATCH, 6, 4).long().index_copy(1, torch.arange(2, 4), x),
    "counts per sample": lambda x: (
        torch.zeros(BATCH, 9).long().scatter_add(1, x[..., 0] % 9, x[..., 1])
    ),
    "complex": lambda x: torch.view_as_real(torch.view_as_complex(x.float().unflatten(2, (2, 2)))),
    "glu": lambda x: torch.nn.functional.glu(x.float(), 1),
    "median": lambda x: x.median(1).values,
    "distances": lambda x: torch.cdist(
        x.float(), x.float(), compute_mode="donot_use_mm_for_euclid_dist"
    ),
}

MIXED = {
    "first sample for all": lambda x: x + x[0],
    "softmax over dim 0": lambda x: x.float().softmax(0),
    "cumsum over the batch": lambda x: x.cumsum(0),
    "x @ x.T": lambda x: x[:, 0].float() @ x[:, 0].float().T,
    "per-tensor scale (F26)": lambda x: x / x.abs().amax(),
    "flipped": lambda x: x.flip(0),
    "rolled": lambda x: x + x.roll(1, 0),
    "neighbours": lambda x: x[1:] - x[:-1],
    "sorted samples": lambda x: x.sort(0).values,
    "topk samples": lambda x: x[:, 0, 0].topk(2).values + x[0, 0, 0],
    "position in the batch": lambda x: x * torch.arange(BATCH).reshape(BATCH, 1, 1),
    "cut batch": lambda x: torch.cat([x, x[:1]]).reshape(2, 2, 2, 4).sum(0),
    "computed rows": lambda x: x[x[:, 0, 0] % BATCH],
    "diagonal": lambda x: x[:, :, :3].transpose(1, 2).diagonal(0, 0, 1),
    "one number": lambda x: x * x.float().mean().long(),
    "sum of some samples": lambda x: x[:2].sum(0),
    "two picked samples": lambda x: x[0] * x[1],
    "weights from one sample": lambda x: (
        x.float() @ torch.nn.functional.embedding(x[0, :, :], torch.eye(80))[0, :, :4].T
    ),
    "bins over the batch": lambda x: (
        torch.zeros(9).long().index_put((x[:, 0, 0] % 9,), x[:, 1, 1], accumulate=True)
    ),
    "sequence of samples": lambda x: torch.searchsorted(x[:, 0, 0].contiguous(), torch.arange(5)),
    "write others": lambda x: (
        torch.zeros(BATCH, 4).long().index_put((x[:, 0, 0] % BATCH,), x[:, 0])
    ),
    "gate by half the batch": lambda x: torch.nn.functional.glu(torch.cat([x, x]).float(), 0),
    "triangle": lambda x: x[:, 0].tril(),
    "written to the first samples": lambda x: x.scatter(2, torch.zeros(2, 2, 1).long(), 5),
    "scattered samples": lambda x: torch.zeros(5, 4).long().index_add(0, x[:, 0, 0] % 5, x[:, 0]),
}


@pytest.mark.parametrize("name", ROW)
def test_per_sample_work_is_accepted(name):
    x = torch.arange(BATCH * 8).reshape(BATCH, 2, 4) * 3 + 1
    assert check(ROW[name], x, 0)


@pytest.mark.parametrize("name", MIXED)
def test_mixing_samples_is_refused(name):
    x = torch.arange(BATCH * 8).reshape(BATCH, 2, 4) * 3 + 1
    assert claimed(MIXED[name], x, 0) is None


@pytest.mark.parametrize("shape", [(1, 6, 4), (6, 4), (1, 3, 2, 4), (24,)])
def test_a_batch_of_one_survives_views(shape):
    dims = ((Axis(1, Role.BATCH),), vary(6), vary(4))
    made = regroup(dims, shape)
    assert sum(axis.role is Role.BATCH for dim in made for axis in dim) == 1


def test_the_batch_cannot_be_cut():
    assert regroup(((Axis(6, Role.BATCH),), vary(4)), (2, 3, 4)) is None
    assert regroup(((Axis(6, Role.BATCH),), same(4)), (24,)) is not None


def test_the_error_names_op_line_and_remedy():
    with pytest.raises(Exception, match=r"aten\.amax.*test_batch_flow\.py.*on_variant") as caught:
        plan_of(lambda x: x / x.abs().amax(), torch.randn(4, 8))
    assert isinstance(caught.value.inner_exception, VariantOpError)


def test_sizes_that_are_products_of_sums_are_known_to_be_equal():
    """A picture of any size makes ``((s - 1) // 4 + 1)**2`` tokens: torch keeps the product, ours is expanded."""

    def tokens(x):
        patches = torch.nn.functional.conv2d(x, torch.ones(8, 3, 7, 7), stride=4, padding=3)
        return patches.flatten(2).transpose(1, 2).reshape(-1, 8) + torch.arange(8.0)

    plan_of(tokens, torch.randn(5, 3, 32, 32), dynamic=True)


@pytest.mark.parametrize("samples", [1, 3])
def test_samples_behind_their_tokens_and_heads(samples):
    """``nn.MultiheadAttention`` works on ``[L, B * H, D]`` and ``[L * B, E]``: with one sample no dim is its own."""
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def fn(x):
        out, weights = attention(x, x, x)
        return out + x, weights

    planned = plan_of(fn, torch.randn(samples, 5, 8))
    assert sum(step.plan is not None for step in planned.steps) >= 4


def test_one_sample_is_still_not_added_to_others():
    with pytest.raises(Exception, match="over the batch") as raised:
        plan_of(
            lambda x: x.transpose(0, 1).contiguous().view(5, 1, 2, 4).sum(1), torch.randn(1, 5, 8)
        )
    assert isinstance(raised.value.inner_exception, VariantOpError)
