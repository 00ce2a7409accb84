"""Code of other torch.compile backends in the mode: it runs through the templates, or it is refused."""

import threading
import warnings

import pytest
import torch
from torch.nn import functional as F

import bi_inductor
from bi_inductor import batch_invariant_mode
from bi_inductor.errors import VariantOpError
from tests.rows import bits_equal, rows_that_change

STOCK = "runs eagerly inside batch_invariant_mode"


def norm(x):
    return F.layer_norm(x, x.shape[-1:]) * 0.1


@pytest.fixture
def x():
    return torch.randn(9, 1023)


@pytest.fixture
def eager(x):
    with batch_invariant_mode():
        return norm(x)


def test_code_compiled_before_runs_through_the_templates(x, eager):
    stock = torch.compile(norm, backend="inductor", dynamic=False)
    assert rows_that_change(stock, (x,), batches=(2, 9)), "control too weak"
    assert not bits_equal(stock(x), eager)
    with batch_invariant_mode():
        with pytest.warns(UserWarning, match=rf"'inductor'.*test_compiled.py.*{STOCK}"):
            inside = stock(x)
        assert bits_equal(inside, eager)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert rows_that_change(stock, (x,), batches=(2, 9)) == []
        with batch_invariant_mode(False):
            assert not bits_equal(stock(x), eager)
    assert not bits_equal(stock(x), eager)


@pytest.mark.parametrize(
    "settings", [{}, {"fullgraph": True}, {"dynamic": True}, {"mode": "max-autotune"}], ids=str
)
def test_code_first_called_inside_is_not_compiled(x, eager, settings):
    stock = torch.compile(norm, backend="inductor", **settings)
    with batch_invariant_mode(), pytest.warns(UserWarning, match=STOCK):
        assert bits_equal(stock(x), eager)


def test_modules_and_decorated_methods_are_covered(x, eager):
    class Norm(torch.nn.Module):
        @torch.compile
        def forward(self, x):
            return norm(x)

    compiled = torch.compile(torch.nn.Sequential(torch.nn.Identity(), Norm()))
    with batch_invariant_mode(), pytest.warns(UserWarning, match=STOCK):
        assert bits_equal(compiled(x), eager)


def test_the_backward_of_what_ran_inside_is_covered(x):
    w = torch.randn(1023, requires_grad=True)

    def loss(x, w):
        return norm(x * w).square().sum()

    stock = torch.compile(loss, backend="inductor")
    with batch_invariant_mode():
        with pytest.warns(UserWarning, match=STOCK):
            value = stock(x, w)
        (made,) = torch.autograd.grad(value, w)
        (expected,) = torch.autograd.grad(loss(x, w), w)
    assert bits_equal(made, expected)


def test_a_stance_that_runs_what_is_cached_is_covered(x, eager):
    stock = torch.compile(norm, backend="inductor", dynamic=False)
    assert not bits_equal(stock(x), eager), "control too weak"
    with (
        torch.compiler.set_stance("eager_on_recompile"),
        batch_invariant_mode(),
        pytest.warns(UserWarning, match=STOCK),
    ):
        assert bits_equal(stock(x), eager)


def test_our_own_backend_runs_compiled_next_to_it(x, eager):
    ours = torch.compile(norm, backend="batch_invariant", fullgraph=True)
    stock = torch.compile(norm, backend="inductor")
    with batch_invariant_mode():
        assert bits_equal(ours(x), eager)
        assert bi_inductor.certificate().graphs, "the function was not compiled"
        with pytest.warns(UserWarning, match=STOCK):
            assert bits_equal(stock(x), eager)
        assert bits_equal(ours(x), eager)


def test_other_threads_run_what_they_compiled(x, eager):
    stock = torch.compile(norm, backend="inductor", dynamic=False)
    alone = stock(x)
    made = []
    with batch_invariant_mode():
        thread = threading.Thread(target=lambda: made.append(stock(x)))
        thread.start()
        thread.join()
    assert bits_equal(made[0], alone)
    assert not bits_equal(made[0], eager)


def switches(x):
    y = x + 1
    with batch_invariant_mode():
        return norm(y)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_switching_it_on_inside_foreign_code_is_refused(x):
    stock = torch.compile(switches, backend="inductor")
    with pytest.raises(
        VariantOpError, match=r"test_compiled.py.*by the backend 'inductor'.*around the call"
    ):
        stock(x)
    assert not bi_inductor.is_batch_invariant_mode_enabled()


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace", "ignore:graph break")
def test_switching_it_on_inside_our_code_is_fine(x):
    ours = torch.compile(switches, backend="batch_invariant")
    assert bits_equal(ours(x), switches(x))
