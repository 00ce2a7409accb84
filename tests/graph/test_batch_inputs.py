"""Where the batch is in the inputs of a graph: marks, and what AOTAutograd makes of an input."""

import pytest
import torch
from harness import plan_of
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from bi_inductor._torch import unwrapped
from bi_inductor.errors import VariantOpError
from bi_inductor.marking import mark_batch


def over(dim):
    return lambda x: x.sum(dim)


@pytest.mark.parametrize("dynamic", [None, True, False])
@torch.no_grad()
def test_a_mark_says_which_dim_is_the_batch(dynamic):
    with pytest.raises(VariantOpError, match="over the batch"), unwrapped():
        plan_of(over(1), mark_batch(torch.randn(4, 6), 1), dynamic=dynamic)
    assert plan_of(over(0), mark_batch(torch.randn(4, 6), -1), dynamic=dynamic).text()


@torch.no_grad()
def test_explain_heeds_a_mark():
    from bi_inductor import explain

    assert explain(over(1), torch.randn(4, 6)).ok
    assert not explain(over(1), mark_batch(torch.randn(4, 6), 1)).ok


MARKS = {"none": None, "dim 0": 0, "dim 1": 1}


@pytest.mark.parametrize("first", MARKS)
@pytest.mark.parametrize("second", MARKS)
@torch.no_grad()
def test_code_is_not_run_for_other_marks_than_its_own(first, second):
    def marked(name):
        x = torch.randn(4, 6)
        return x if MARKS[name] is None else mark_batch(x, MARKS[name])

    def allowed(name):
        return 0 if MARKS[name] == 1 else 1

    compiled = torch.compile(over(allowed(first)), backend="batch_invariant")
    compiled(marked(first))
    if allowed(first) == allowed(second):
        compiled(marked(second))
    else:
        with pytest.raises(VariantOpError, match="over the batch"), unwrapped():
            compiled(marked(second))


class Packed(nn.Module):
    """A weight of two tensors, as quantised ones are, that the graph reads after its input."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(TwoTensor(torch.randn(6, 6), torch.randn(6, 6)))

    def forward(self, x):
        return x - x.sum(0), self.weight * 2


class Sliced(nn.Module):
    """Views of one tensor of which one is changed: AOTAutograd hands their base in, before the weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x, y):
        weight = self.weight * 2
        x.add_(1)
        return y.sum(0), weight


@pytest.mark.parametrize("grad", [True, False])
def test_inputs_that_are_not_passed_one_by_one_keep_their_batch(grad):
    base = torch.randn(4, 12)
    with torch.set_grad_enabled(grad):
        with pytest.raises(VariantOpError, match="over the batch"), unwrapped():
            plan_of(Packed(), torch.randn(4, 6))
        with pytest.raises(VariantOpError, match="the batch through strides"), unwrapped():
            plan_of(Sliced().requires_grad_(False), base[:, :6], base[:, 3:9])
