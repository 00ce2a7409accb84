"""Known traps of batch-invariant stacks, each named with the line of the user's source that it comes from."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bi_inductor

X = torch.zeros(8, 16)
MAPS = torch.zeros(4, 3, 8, 8)


def per_tensor_scale(x):
    return x / x.abs().amax()  # here


def softmax_over_the_batch(x):
    return F.softmax(x, dim=0)  # here


def mean_of_everything(x):
    return x - x.mean()  # here


def mean_over_two_dims_with_the_batch(x):
    return x - x.mean((0, 2), keepdim=True)  # here


def sum_of_the_other_rows(x):
    return x + x.sum(0)  # here


def cumsum_over_the_batch(x):
    return x.cumsum(0)  # here


def sort_over_the_batch(x):
    return x.sort(0).values  # here


def neighbours_through_a_product(x):
    return x @ x.t()  # here


def neighbours_through_a_roll(x):
    return x.roll(1, 0) + x  # here


def scatter_with_duplicates_over_the_batch(x):
    index = torch.zeros(8, 16, dtype=torch.long)
    return torch.zeros(4, 16).scatter_add(0, index, x)  # here


def scaled_by_the_batch_size(x):
    return x / x.shape[0]  # here


def dropout_in_evaluation(x):
    return F.dropout(x, 0.5, training=True)  # here


def an_op_without_a_rule(x):
    return torch.linalg.svdvals(x.reshape(8, 4, 4))  # here


class TrainingNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn(x)  # here


TRAPS = [
    (per_tensor_scale, X, "coupled", "aten.amax.default"),
    (softmax_over_the_batch, X, "coupled", "aten._softmax.default"),
    (mean_of_everything, X, "coupled", "aten.mean.d"),
    (mean_over_two_dims_with_the_batch, MAPS, "coupled", "aten.mean.dim"),
    (sum_of_the_other_rows, X, "coupled", "aten.sum.dim_IntList"),
    (cumsum_over_the_batch, X, "coupled", "aten.cumsum.default"),
    (sort_over_the_batch, X, "coupled", "aten.sort"),
    (neighbours_through_a_product, X, "coupled", "aten.mm.default"),
    (neighbours_through_a_roll, X, "coupled", "aten."),
    (scatter_with_duplicates_over_the_batch, X, "coupled", "aten.scatter_add.default"),
    (scaled_by_the_batch_size, X, "coupled", "aten.div.Tensor"),
    (dropout_in_evaluation, X, "coupled", "aten."),
    (an_op_without_a_rule, X, "unknown", "aten._linalg_svd.default"),
    (TrainingNorm(), MAPS, "coupled", "aten.var_mean.correction"),
]


def line_of(model):
    """The number of the line that is marked ``# here``."""
    source, first = inspect.getsourcelines(type(model) if isinstance(model, nn.Module) else model)
    return first + next(i for i, line in enumerate(source) if "# here" in line)


def name_of(trap):
    return trap[0].__name__ if inspect.isfunction(trap[0]) else type(trap[0]).__name__


@pytest.mark.parametrize("trap", TRAPS, ids=name_of)
def test_a_trap_is_named_with_its_line(trap):
    model, x, verdict, op = trap
    with torch.no_grad():
        report = bi_inductor.explain(model, x)
    assert not report.ok
    first = report.problems[0]
    assert (first.verdict, first.file, first.line) == (verdict, __file__, line_of(model))
    assert first.op.startswith(op)
    assert first.reason
    assert first.remedy
    assert f"{first.line}" in str(report)


def scatter_with_duplicates_in_a_row(x):
    index = torch.zeros(x.shape, dtype=torch.long)
    return x.new_zeros(x.shape[0], 4).scatter_add(1, index, x)


SOUND = {
    "per-row scale": lambda x: x / x.abs().amax(-1, keepdim=True),
    "softmax over features": lambda x: F.softmax(x, dim=-1),
    "mean over two dims": lambda x: x.reshape(8, 4, 4).mean((1, 2)),
    "scatter with duplicates in a row": scatter_with_duplicates_in_a_row,
    "evaluation norm": nn.BatchNorm1d(16).eval(),
}


@pytest.mark.parametrize("name", SOUND)
def test_the_sound_spelling_of_a_trap_passes(name):
    """The control: nothing is refused for being near a trap."""
    with torch.no_grad():
        report = bi_inductor.explain(SOUND[name], X)
    assert report.ok, str(report)


def test_all_problems_are_shown_not_the_first():
    def three(x):
        x = x / x.abs().amax()
        x = x + torch.linalg.svdvals(x.reshape(8, 4, 4)).sum(-1, keepdim=True)
        return x.softmax(0)

    with torch.no_grad():
        report = bi_inductor.explain(three, X)
    first = inspect.getsourcelines(three)[1]
    lines = [p.line - first for p in report.problems]
    assert sorted(set(lines)) == [1, 2, 3]
    assert {p.verdict for p in report.problems} == {"coupled", "unknown"}


def test_a_line_of_torch_is_not_the_users_line():
    """RMSNorm is traced through torch/nn/functional.py."""

    def normed(x):
        return nn.RMSNorm(16)(x)  # here

    with torch.no_grad():
        report = bi_inductor.explain(normed, X)
    planned = [n for n in report.graphs[0].nodes if n.plan]
    assert planned
    assert {(n.file, n.line) for n in planned} == {(__file__, line_of(normed))}


def test_batch_norm_in_training_says_what_to_do():
    with torch.no_grad():
        report = bi_inductor.explain(TrainingNorm(), MAPS)
    assert "model.eval()" in report.problems[0].remedy
