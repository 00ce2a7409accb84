"""Functions that torch opens by sizes and strides: a slice lies in one piece for one sample, and in several for two."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import bi_inductor
from bi_inductor.composites import COMPOSITES
from tests.rows import bits_equal, rows_that_change

pytestmark = pytest.mark.usefixtures("one_library")

BATCHES = (2, 5, 33)
_LAYER = nn.Linear(48, 33).bfloat16().requires_grad_(False)
_WEIGHTS = [
    torch.randn(n, m, generator=torch.Generator().manual_seed(n)).bfloat16()
    for n, m in ((48, 64), (64, 20), (20, 48))
]
_RECURRENT = {
    kind: getattr(nn, kind)(16, 24, batch_first=True).bfloat16().requires_grad_(False)
    for kind in ("LSTM", "GRU")
}


def _einsum(x: Tensor) -> Tensor:
    # what opt_einsum, where it is installed, finds cheapest
    path = [1, 2, 0, 1] if len(x) > 20 else [0, 1, 0, 1]
    return torch.ops.aten.einsum("bi,ij,jk->bk", [x, *_WEIGHTS[:2]], path=path)


#: name -> a function of ``x [B, 6, 48]``; those of ``_FOLLOWING`` have other rows in stock torch
CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear of a tail": lambda x: _LAYER(x[:, 1:]),
    "linear of the last": lambda x: _LAYER(x[:, -1:]),
    "linear of every other": lambda x: _LAYER(x[:, ::2]),
    "linear of four dims": lambda x: _LAYER(x[:, 2:].unflatten(1, (2, 2))[:, :, 1:]),
    "linear turned": lambda x: _LAYER(x.transpose(0, 1)).transpose(0, 1),
    "linear without bias": lambda x: nn.functional.linear(x[:, 1:], _LAYER.weight),
    "multi_dot": lambda x: torch.linalg.multi_dot([x[:, 0], *_WEIGHTS]),
    "chain_matmul": lambda x: torch.chain_matmul(x[:, 0], *_WEIGHTS),
    "einsum": lambda x: _einsum(x[:, 0]),
    **{kind: lambda x, net=net: net(x[:, :2, :16])[0] for kind, net in _RECURRENT.items()},
}
_FOLLOWING = ("linear of a tail", "linear of the last", "multi_dot", "einsum")


def _samples() -> Tensor:
    return torch.randn(max(BATCHES), 6, 48, generator=torch.Generator().manual_seed(3)).bfloat16()


@pytest.fixture(scope="module")
def compiled() -> Callable[[Tensor], list[Tensor]]:
    """All of them as one graph, for every batch."""

    def together(x: Tensor) -> list[Tensor]:
        return [case(x) for case in CASES.values()]

    return torch.compile(together, backend="batch_invariant", dynamic=True, fullgraph=True)


@pytest.mark.filterwarnings("ignore:.*chain_matmul")
def test_compiled_rows_do_not_follow_the_batch(compiled) -> None:
    with torch.no_grad():
        assert not rows_that_change(compiled, (_samples(),), BATCHES)


@pytest.mark.filterwarnings("ignore:.*chain_matmul")
@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_eager_rows_do_not_follow_the_batch_and_are_the_compiled_ones(grad, compiled) -> None:
    x = _samples()
    with torch.no_grad():
        wanted = compiled(x[:5].clone())
    with grad(), bi_inductor.batch_invariant_mode():
        for case, out in zip(CASES.values(), wanted, strict=True):
            assert not rows_that_change(case, (x.clone(),), (1, 33), lambda batch: (batch - 1,))
            assert bits_equal(case(x[:5].clone()), out)


@pytest.mark.filterwarnings("ignore:.*chain_matmul")
@pytest.mark.parametrize("name", _FOLLOWING)
def test_stock_rows_do(name) -> None:
    with torch.no_grad():
        assert rows_that_change(CASES[name], (_samples(),), BATCHES)


def test_a_slice_has_the_plan_of_a_whole() -> None:
    def plan(x: Tensor) -> str:
        return bi_inductor.explain(lambda x: _LAYER(x[:, 1:]), x).text()

    with bi_inductor.batch_invariant_mode():
        pass  # eager mode has put itself in front of the functions, which hides them from the dispatcher's own table
    assert plan(_samples()[:1]).count("addmm") == plan(_samples()).count("addmm") == 1


def test_gradients_of_a_slice_are_those_of_a_copy() -> None:
    layer, x = nn.Linear(48, 33), torch.randn(5, 6, 48, requires_grad=True)
    grads = []
    for cut in (lambda x: x[:, 1:], lambda x: x[:, 1:].contiguous()):
        fn = torch.compile(lambda x, cut=cut: layer(cut(x)), backend="batch_invariant")
        grads.append(torch.autograd.grad(fn(x).square().sum(), (x, *layer.parameters())))
        with bi_inductor.batch_invariant_mode():
            loss = layer(cut(x)).square().sum()
            grads.append(torch.autograd.grad(loss, (x, *layer.parameters())))
    assert all(
        bits_equal(a, b) for other in grads[1:] for a, b in zip(other, grads[0], strict=True)
    )


def test_outside_of_the_mode_and_of_compilations_torch_opens_them_as_ever() -> None:
    x = _samples()
    before = {name: CASES[name](x) for name in ("linear of a tail", "multi_dot", "GRU")}
    with bi_inductor.batch_invariant_mode():
        CASES["multi_dot"](x)
    assert all(bits_equal(CASES[name](x), out) for name, out in before.items())
    kernel = torch._C.DispatchKey.CompositeImplicitAutograd
    assert all(op.py_kernels.get(kernel) is not ours for op, ours in COMPOSITES.items())
