"""Models in the mode: one sample alone against the same sample in batches, and against the compiled model."""

import pytest
import torch

import bi_inductor
from tests.rows import bits_equal, flat, rows_that_change
from tests.zoo import CHOSEN, ZOO
from tests.zoo.case import build


def in_mode(case):
    def run(*x):
        with torch.no_grad(), bi_inductor.batch_invariant_mode():
            return case(*x)

    return run


@pytest.mark.parametrize("name", CHOSEN)
def test_rows_do_not_depend_on_the_batch(name):
    case = build(ZOO[name])
    assert rows_that_change(in_mode(case), case.inputs(17), batches=(2, 17)) == []


@pytest.mark.parametrize("name", ["llama", "bert", "resnet"])
def test_stock_eager_fails_on_the_same_data(name):
    case = build(ZOO[name])

    def stock(*x):
        with torch.no_grad():
            return case(*x)

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
    case = build(ZOO[name]).to(dtype)
    x = tuple(t.to(dtype) if t.is_floating_point() else t for t in case.inputs(3))
    eager = in_mode(case)(*x)
    compiled = torch.compile(case, backend="batch_invariant", dynamic=False)
    with torch.no_grad():
        made = compiled(*x)
    assert all(bits_equal(a, b) for a, b in zip(flat(eager), flat(made), strict=True))


def test_inference_mode_gives_the_same_bits():
    """There torch hands composite ops (linear, attention) over whole."""
    case = build(ZOO["gpt2"])
    x = case.inputs(3)
    with torch.inference_mode(), bi_inductor.batch_invariant_mode():
        made = case(*x)
    assert bits_equal(made, in_mode(case)(*x))
