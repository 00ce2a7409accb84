"""The mode as a switch: nesting, exceptions, threads, decorators, and code that is compiled inside or outside."""

import threading

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.flop_counter import FlopCounterMode

import bi_inductor
from bi_inductor import (
    batch_invariant_mode,
    is_batch_invariant_mode_enabled,
    set_batch_invariant_mode,
)
from bi_inductor.errors import OptionError, UnknownOpError, VariantOpError
from tests.rows import bits_equal, rows_that_change


def product(x, w):
    return x @ w


@pytest.fixture
def data():
    return torch.randn(65, 1023), torch.randn(1023, 64)


def is_on(x, w) -> bool:
    """Whether ops really go through the templates, not only whether a flag says so."""
    with batch_invariant_mode():
        ours = product(x, w)
    return bits_equal(product(x, w), ours)


def test_a_block_turns_the_mode_on_and_off(data):
    assert not is_on(*data)
    with batch_invariant_mode():
        assert is_batch_invariant_mode_enabled()
        assert is_on(*data)
    assert not is_batch_invariant_mode_enabled()
    assert not is_on(*data)


def test_blocks_nest(data):
    with batch_invariant_mode():
        with batch_invariant_mode():
            assert is_on(*data)
        assert is_on(*data)
        with batch_invariant_mode(False):
            assert not is_on(*data)
            with batch_invariant_mode():
                assert is_on(*data)
            assert not is_on(*data)
        assert is_on(*data)
    assert not is_on(*data)


def test_switched_off_by_a_call_it_leaves_the_dispatch_stack(data):
    set_batch_invariant_mode(True)
    assert is_on(*data)
    assert len(_get_current_dispatch_mode_stack()) == 1
    set_batch_invariant_mode(False)
    assert _get_current_dispatch_mode_stack() == []
    assert not is_on(*data)


def test_switched_off_under_another_mode_it_leaves_with_its_block(data):
    with batch_invariant_mode():
        with FlopCounterMode(display=False):
            set_batch_invariant_mode(False)
            assert not is_batch_invariant_mode_enabled()
        assert not is_on(*data)
    assert _get_current_dispatch_mode_stack() == []


def attend(q, mask):
    return flex_attention(q, q, q, block_mask=mask)


def test_flex_attention_compiles_inside_and_is_refused_eager():
    q = torch.randn(2, 2, 64, 32)
    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, 64, 64, device="cpu")
    ours = torch.compile(attend, backend="batch_invariant")
    with torch.no_grad():
        outside = ours(q, mask)
        torch.compiler.reset()
        with batch_invariant_mode():
            assert bits_equal(ours(q, mask), outside)
            with pytest.raises(UnknownOpError, match="flex_attention"):
                flex_attention(q, q, q)


def test_an_exception_restores_what_was_on(data):
    with batch_invariant_mode():
        with pytest.raises(KeyError), batch_invariant_mode(False):
            raise KeyError
        assert is_on(*data)
    with pytest.raises(KeyError), batch_invariant_mode():
        raise KeyError
    assert not is_on(*data)


def test_one_object_can_be_entered_again(data):
    mode = batch_invariant_mode()
    with mode, mode:
        assert is_on(*data)
    assert not is_on(*data)


def test_a_function_can_be_decorated(data):
    @batch_invariant_mode()
    def decorated():
        return product(*data)

    made = decorated()
    with batch_invariant_mode():
        assert bits_equal(made, product(*data))
    assert not is_batch_invariant_mode_enabled()


def test_the_setter_acts_as_a_call_and_as_a_block(data):
    bi_inductor.set_batch_invariant_mode(True)
    try:
        assert is_on(*data)
        with bi_inductor.set_batch_invariant_mode(False):
            assert not is_on(*data)
        assert is_on(*data)
    finally:
        bi_inductor.set_batch_invariant_mode(False)
    assert not is_on(*data)


def test_threads_have_modes_of_their_own(data):
    entered, leave = threading.Event(), threading.Event()
    seen = []

    def inside():
        with batch_invariant_mode():
            entered.set()
            leave.wait(10)
            seen.append(product(*data))

    thread = threading.Thread(target=inside)
    thread.start()
    entered.wait(10)
    assert not is_batch_invariant_mode_enabled()
    assert not is_on(*data)
    leave.set()
    thread.join()
    with batch_invariant_mode():
        assert bits_equal(seen[0], product(*data))


def test_a_wrong_option_is_an_error():
    with pytest.raises(OptionError, match="'error', 'warn'"):
        batch_invariant_mode(on_variant="ignore")


def test_an_op_without_a_rule_is_refused():
    x = torch.randn(3, 3)
    with (
        batch_invariant_mode(),
        pytest.raises(UnknownOpError, match=r"linalg_eigh.*test_mode.py") as e,
    ):
        torch.linalg.eigh(x @ x.T)
    assert "batch_invariant_mode(on_variant='warn')" in str(e.value)


def test_an_op_without_a_rule_can_be_accepted():
    x = torch.randn(3, 3)
    with batch_invariant_mode(on_variant="warn"), pytest.warns(UserWarning, match="linalg_eigh"):
        values = torch.linalg.eigh(x @ x.T).eigenvalues
    assert values.shape == (3,)


def test_batch_norm_in_training_is_refused():
    norm = torch.nn.BatchNorm1d(4)
    with batch_invariant_mode(), pytest.raises(VariantOpError, match="model.eval"):
        norm(torch.randn(3, 4))
    with batch_invariant_mode():
        norm.eval()(torch.randn(3, 4))


def test_dropout_is_for_training_only():
    x = torch.randn(3, 4)
    with batch_invariant_mode():
        F.dropout(x, 0.5, training=True)
        with torch.no_grad(), pytest.raises(VariantOpError, match="random numbers"):
            F.dropout(x, 0.5, training=True)


def test_code_compiled_inside_runs_compiled(data):
    """Dynamo skips frames under an ordinary dispatch mode; ours is transparent to it."""
    x, w = data
    compiled = torch.compile(
        lambda x, w: F.gelu(x @ w).sum(-1), backend="batch_invariant", fullgraph=True
    )
    with batch_invariant_mode():
        inside = compiled(x, w)
        eager = F.gelu(x @ w).sum(-1)
    assert bi_inductor.certificate().graphs, "the function was not compiled"
    assert bits_equal(inside, compiled(x, w))
    assert bits_equal(inside, eager)


@pytest.mark.filterwarnings("ignore:graph break")
def test_code_behind_a_graph_break_runs_in_the_mode(data):
    x, _ = data
    up, down = torch.nn.Linear(1023, 64), torch.nn.Linear(64, 1023)

    @torch.compiler.disable
    def outside_of_graphs(y):
        return down(y)

    compiled = torch.compile(
        lambda x: outside_of_graphs(F.gelu(up(x))) + x, backend="batch_invariant"
    )

    def inside(x):
        with torch.no_grad(), batch_invariant_mode():
            return compiled(x)

    def stock(x):
        with torch.no_grad():
            return compiled(x)

    assert rows_that_change(inside, (x,), batches=(2, 17)) == []
    assert rows_that_change(stock, (x,), batches=(2, 17)), "control too weak"


def test_ops_inside_a_tensor_subclass_go_through_the_templates(data):
    x, w = data
    assert rows_that_change(lambda x: (TwoTensor(x, x) @ w).a, [x]), "control too weak"
    with batch_invariant_mode():
        assert rows_that_change(lambda x: (TwoTensor(x, x) @ w).a, [x]) == []
        assert bits_equal((TwoTensor(x, x) @ w).b, product(x, w))
        ragged = torch.nested.nested_tensor([x[:3], x[3:8]], layout=torch.jagged)
        assert bits_equal((ragged @ w).values(), product(x[:8], w))
