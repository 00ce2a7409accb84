"""Models in the mode: one sample alone against the same sample in batches, and against the compiled model."""

import pytest
import torch

import bi_inductor
from tests import models
from tests.rows import bits_equal, flat, rows_that_change


def in_mode(case):
    def run(*x):
        with torch.no_grad(), bi_inductor.batch_invariant_mode():
            return case.call(case.model, x)

    return run


@pytest.mark.parametrize("name", models.MODELS)
def test_rows_do_not_depend_on_the_batch(name):
    case = models.make(name)
    assert rows_that_change(in_mode(case), case.inputs(17), batches=(2, 17)) == []


@pytest.mark.parametrize("name", ["llama", "bert", "resnet"])
def test_stock_eager_fails_on_the_same_data(name):
    case = models.make(name)

    def stock(*x):
        with torch.no_grad():
            return case.call(case.model, x)

    assert rows_that_change(stock, case.inputs(17), batches=(2, 17)), "control too weak"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("llama", torch.float32),
        ("llama", torch.bfloat16),
        ("gpt2", torch.float32),
        ("bert", torch.float32),
        ("mixtral", torch.float32),
        ("resnet", torch.float32),
    ],
)
def test_eager_and_compiled_agree_bitwise(name, dtype):
    case = models.make(name, dtype)
    x = tuple(t.to(dtype) if t.is_floating_point() else t for t in case.inputs(3))
    eager = in_mode(case)(*x)
    compiled = torch.compile(
        lambda *x: case.call(case.model, x), backend="batch_invariant", dynamic=False
    )
    with torch.no_grad():
        made = compiled(*x)
    assert all(bits_equal(a, b) for a, b in zip(flat(eager), flat(made), strict=True))


def test_inference_mode_gives_the_same_bits():
    """There torch hands composite ops (linear, attention) over whole."""
    case = models.make("gpt2")
    x = case.inputs(3)
    with torch.inference_mode(), bi_inductor.batch_invariant_mode():
        made = case.call(case.model, x)
    assert bits_equal(made, in_mode(case)(*x))
