"""Compiled models: one sample alone against the same sample in batches, raw bits, stock torch as the control."""

import pytest
import torch

import bi_inductor
from tests import models
from tests.rows import rows_that_change


def compiled(case: models.Case, backend: str, dynamic: bool | None):
    def call(*x):
        return case.call(case.model, x)

    fn = torch.compile(call, backend=backend, dynamic=dynamic)

    def run(*x):
        with torch.no_grad():
            return fn(*(t.to(dtype_of(case)) if t.is_floating_point() else t for t in x))

    return run


def dtype_of(case: models.Case) -> torch.dtype:
    return next(case.model.parameters()).dtype


@pytest.mark.parametrize("name", models.MODELS)
def test_rows_do_not_depend_on_the_batch(name):
    case = models.make(name)
    ours = compiled(case, "batch_invariant", dynamic=None)
    assert rows_that_change(ours, case.inputs(17), batches=(2, 5, 17)) == []
    certificate = bi_inductor.certificate()
    assert certificate.is_invariant
    assert "planned" in certificate.graphs[0].plan, "no template ran"


@pytest.mark.parametrize("name", ["llama", "bert", "mixtral"])
def test_bfloat16_rows_do_not_depend_on_the_batch(name):
    case = models.make(name, torch.bfloat16)
    ours = compiled(case, "batch_invariant", dynamic=True)
    assert rows_that_change(ours, case.inputs(17), batches=(2, 5, 17)) == []


@pytest.mark.parametrize("name", ["llama", "bert", "resnet"])
def test_stock_torch_fails_on_the_same_data(name):
    case = models.make(name)
    stock = compiled(case, "inductor", dynamic=None)
    assert rows_that_change(stock, case.inputs(17), batches=(2, 5, 17)), "control too weak"


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "vit"])
def test_results_are_as_accurate_as_stock(name):
    case = models.make(name)
    x = case.inputs(3)
    with torch.no_grad():
        eager = case.call(case.model, x)
        ours = compiled(case, "batch_invariant", dynamic=False)(*x)
        exact = case.call(
            case.model.double(), tuple(t.double() if t.is_floating_point() else t for t in x)
        )
    budget = 2 * (eager - exact).abs().max() + 1e-6
    assert (ours - exact).abs().max() <= budget
