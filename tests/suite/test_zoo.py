"""Every architecture of the zoo, compiled: a sample alone and in a batch, raw bits; stock torch is the control."""

import pytest
import torch

import bi_inductor
from bi_inductor.testing import run_negative_control
from tests.zoo import ZOO
from tests.zoo.case import build

HALF = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("name", ZOO)
def test_rows_do_not_depend_on_the_batch(name, batch_invariant):
    """Two graphs each: of one sample, and of five."""
    case = build(ZOO[name])
    batch_invariant(
        case.run, case.inputs, axes=("batch",), batch_sizes=(1, 5), dynamic=False, seed=1
    )
    templates_ran()


def templates_ran():
    certificate = bi_inductor.certificate()
    assert certificate.graphs
    assert certificate.is_invariant
    assert all("planned" in graph.plan for graph in certificate.graphs), "no template ran"


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_bfloat16_rows_do_not_depend_on_the_batch(name, batch_invariant):
    case = build(ZOO[name], torch.bfloat16)
    batch_invariant(
        case.run, case.inputs, axes=("batch",), batch_sizes=(1, 2, 17), dynamic=True, seed=1
    )
    templates_ran()


@pytest.mark.parametrize("name", ["llama", "bert", "resnet"])
def test_stock_torch_fails_on_the_same_data(name):
    case = build(ZOO[name])
    run_negative_control(case.run, case.inputs, batch_sizes=(2, 5, 17), seed=1)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "vit"])
def test_results_are_as_accurate_as_stock(name):
    case = build(ZOO[name])
    torch.manual_seed(1)
    x = case.inputs(5)
    with torch.no_grad():
        eager = case.run(*x)
        ours = torch.compile(case.run, backend="batch_invariant", dynamic=False)(*x)
        case.model.double()
        exact = case.run(*x)
    budget = 2 * (eager - exact).abs().max() + 1e-6
    assert (ours - exact).abs().max() <= budget


@pytest.mark.parametrize("name", ["llama", "resnet"])
def test_every_axis_of_a_whole_model(name, batch_invariant):
    case = build(ZOO[name])
    batch_invariant(case.run, case.inputs, batch_sizes=(1, 2, 3, 5, 8), dynamic=True, seed=1)


def test_a_causal_model_gives_a_token_the_same_bits_at_every_length(batch_invariant):
    case = build(ZOO["llama"])

    def long(n):
        return torch.randint(3, 128, (n, 70))

    batch_invariant(case.run, long, axes=("length",), batch_sizes=(1, 2), dynamic=True)


# ---- make test-all: every architecture in every dtype along every axis


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_every_axis(name, dtype, batch_invariant):
    case = build(ZOO[name], dtype)
    batch_invariant(
        case.run, case.inputs, batch_sizes=(1, 2, 3, 5, 8, 17, 33, 64), dynamic=True, seed=1
    )
