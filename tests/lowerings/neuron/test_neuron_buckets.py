"""Row buckets in front of a compiled model: programs counted, padding that reaches no row, what is refused."""

import math

import pytest
import torch
from nki_emulator import machine

from lowerings.neuron import bucket_rows, graph

HIDDEN = 64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_all_batches_of_a_bucket_run_one_program():
    shapes = []

    def model(x, *, scale):
        shapes.append(tuple(x.shape))
        return {"y": torch.nn.functional.linear(x, normal(5, 64)) * scale}

    bucketed, x = bucket_rows(model, 64), normal(64, 64)
    full = bucketed(x, scale=x[:, :1])["y"]
    for m in (1, 7, 33, 63):
        assert torch.equal(bucketed(x[:m], scale=x[:m, :1])["y"], full[:m]), m
    assert set(shapes) == {(64, 64)}
    assert bucketed(normal(65, 64), scale=normal(65, 1))["y"].shape == (65, 5)


SHARED = {"batch_dims": {"table": None}}


class Head(torch.nn.Module):
    """Kernels of ours between pointwise ops, and an argument that the batch shares."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.proj, self.norm = torch.nn.Linear(HIDDEN, 7), torch.nn.LayerNorm(HIDDEN)

    def forward(self, x, table=None):
        return self.proj(self.norm(torch.nn.functional.gelu(x) + table)).softmax(-1)


@pytest.fixture
def programs(as_on_a_neuron_core, monkeypatch):
    """The graphs that reach the vendor's compiler: one program each."""
    seen, stock = [], graph.find_backend

    def find(name):
        def compile_one(gm, example_inputs):
            seen.append(tuple(tuple(x.shape) for x in example_inputs))
            return stock(name)(gm, example_inputs)

        return compile_one

    monkeypatch.setattr(graph, "find_backend", find)
    return seen


@torch.no_grad()
def test_a_bucketed_model_compiles_one_program_for_each_bucket(programs):
    run = torch.compile(Head().eval(), backend="batch_invariant", dynamic=False, options=SHARED)
    bucketed = bucket_rows(run, 64, batch_dims=SHARED["batch_dims"])
    x, table = normal(70, HIDDEN), normal(HIDDEN, seed=1)
    with machine(order="blas"):
        full = bucketed(x[:64], table)
        for m in (1, 2, 7, 33, 63):
            assert torch.equal(bucketed(x[:m], table=table), full[:m]), m
        assert len(programs) == 1, "batches 1..64 are one program"
        assert bucketed(x, table).shape == (70, 7)
        assert torch.equal(bucketed(x[:66], table), bucketed(x, table)[:66])
        assert len(programs) == 2, "65..128 are the second"
        run(x[:7], table)
        run(x[:9], table)
        assert len(programs) == 4, "control: without buckets each batch is a program"


@torch.no_grad()
def test_padding_rows_cannot_touch_real_rows(programs):
    """The planner's verdict, then the bits: whatever stands in the padding, the real rows keep theirs."""
    run = torch.compile(Head().eval(), backend="batch_invariant", dynamic=False, options=SHARED)
    x, table = normal(16, HIDDEN), normal(HIDDEN, seed=1)
    with machine(order="adversarial"):
        full = run(x, table)
        for padding in (0.0, 1e30, math.nan):
            assert torch.equal(
                run(torch.cat([x[:5], torch.full_like(x[5:], padding)]), table)[:5], full[:5]
            )
    mixed = torch.compile(lambda x: x - x.mean(0), backend="batch_invariant", dynamic=False)
    with pytest.raises(Exception, match=r"aten.mean.*batch"):
        bucket_rows(mixed, 16)(x[:5])


def test_an_argument_shared_by_the_batch_is_named():
    f = bucket_rows(
        lambda x, table, **rest: x + table + rest.get("more", 0),
        4,
        batch_dims={"table": None, "more": None},
    )
    x, table = normal(3, 3), normal(3, 1)  # [3, 1] would pass for a batch of three
    with pytest.raises(Exception, match="must match the size"):
        f(x, table)
    table = normal(3)
    assert torch.equal(f(x, table), x + table)
    assert torch.equal(f(x=x, table=table, more=table), x + table + table)
    columns = bucket_rows(lambda x: x.t(), 4, batch_dims={"x": 1})
    assert torch.equal(columns(x), x.t())
    with pytest.raises(ValueError, match="names tabel, which is no argument; the arguments are x"):
        bucket_rows(lambda x: x, 4, batch_dims={"tabel": None})


def test_buckets_refuse_what_they_cannot_pad():
    f = bucket_rows(lambda *x: x[0].sum(), 8)
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        f(normal(2, 1), normal(3, 1))
    with pytest.raises(ValueError, match="the 8 padded rows"):
        f(normal(2, 1))
    with pytest.raises(ValueError, match="at least 1"):
        bucket_rows(f, 0)
