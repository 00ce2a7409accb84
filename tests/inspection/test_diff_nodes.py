"""``diff`` under eager: planted faults at the right node, inherited differences not blamed, bad input in a sentence."""

from dataclasses import dataclass

import jsonschema
import pytest
import torch
from torch import nn

import bi_inductor
from bi_inductor.errors import InspectionError
from bi_inductor.inspection.diff_report import JSON_SCHEMA
from tests.inspection.planted import Graph, planted

pytestmark = pytest.mark.usefixtures("one_library")


@pytest.mark.parametrize("seed", range(20))
def test_planted_faults_are_found_at_their_nodes_and_nowhere_else(seed):
    model = Graph(seed)
    report = bi_inductor.diff(model, torch.randn(5, 4, 8), backend="eager", batch_sizes=(1, 5))
    assert [n.op for n in report.culprits] == ["bi_test.planted.default"] * 2
    assert report.first is report.culprits[0]
    assert report.first.own_ulp == 1
    assert report.first.changed == 1
    assert not report.ok
    assert report.not_comparable == ()
    assert all(n.evidence == "inherited" for n in report.nodes if n not in report.culprits)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_graph_without_faults_is_invariant(seed):
    report = bi_inductor.diff(
        Graph(seed, faults=0), torch.randn(5, 4, 8), backend="eager", batch_sizes=(1, 5)
    )
    assert report.ok
    assert report.compared > 12


@dataclass
class Output:
    logits: torch.Tensor
    extra: dict[str, torch.Tensor]


class Names(nn.Module):
    """Keyword inputs, integers, a dataclass with a dict, a shared table, and a fault in one branch."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(16, 8)

    def forward(self, ids, mask=None, positions=None):
        h = self.table(ids) + self.table(positions)
        h = planted(h, ids.shape[0])
        return Output(logits=h * mask[..., None], extra={"ids": ids + 1, "shape": positions})


def test_names_kwargs_integers_and_dataclasses():
    ids = torch.randint(0, 16, (4, 5))
    report = bi_inductor.diff(
        Names().eval(),
        ids,
        mask=torch.ones_like(ids),
        positions=torch.arange(5)[None],
        backend="eager",
        batch_sizes=(1, 2, 4),
    )
    by_name = {o.output: o.status for o in report.outputs if o.batch_size == 4}
    assert by_name == {"logits": "variant", "extra.ids": "invariant", "extra.shape": "invariant"}
    assert report.first.op == "bi_test.planted.default"
    assert "test_diff_nodes.py" in report.first.line
    assert "planted(h" in report.first.code
    assert report.first.batch_sizes == (2, 4)
    jsonschema.validate(report.json(), JSON_SCHEMA)
    assert "planted" in report.text()


def test_a_matmul_that_splits_with_the_batch_is_named_by_its_line():
    def model(x, w=torch.randn(64, 8)):  # noqa: B008
        if x.shape[0] > 1:
            return x[:, :32] @ w[:32] + x[:, 32:] @ w[32:]
        return x @ w

    report = bi_inductor.diff(model, torch.randn(6, 64), backend="eager", batch_sizes=(1, 6))
    assert report.status == "variant"
    named = {n.line.rsplit(":", 1)[-1] for n in report.not_comparable}
    line = model.__code__.co_firstlineno + 2
    assert str(line) in named
    assert any("one sample alone does not run it" in n.reason for n in report.not_comparable)


def test_an_op_that_reduces_over_the_batch_is_blamed_with_its_reason():
    def model(x):
        return x / x.abs().amax()

    report = bi_inductor.diff(model, torch.randn(6, 64), backend="eager", batch_sizes=(1, 6))
    assert report.first.op == "Tensor.amax"
    assert "reduces over the batch" in report.first.reason
    assert [n.op for n in report.culprits] == ["Tensor.amax"]


def test_an_output_without_samples_is_not_comparable():
    report = bi_inductor.diff(
        lambda x: (x + 1, x.sum()),
        torch.randn(6, 64),
        backend="eager",
        batch_sizes=(1, 6),
        nodes=False,
    )
    assert [o.status for o in report.outputs] == [
        "invariant",
        "invariant",
        "invariant",
        "not comparable",
    ]
    assert report.status == "not comparable"
    assert not report.ok
    assert "whose numbers [1] holds" in report.text()


def test_one_sample_is_repeated_and_said_so():
    report = bi_inductor.diff(
        lambda x: x + 1, torch.randn(1, 64), backend="eager", batch_sizes=(1, 6)
    )
    assert report.ok
    assert report.notes == ("the input holds one sample, so the batches repeat it",)


@pytest.mark.parametrize(
    ("model", "args", "options", "text"),
    [
        (lambda x: x, (3,), {}, "no input has a batch dimension"),
        (lambda x: x, (torch.randn(4, 2),), {"batch_sizes": (1,)}, "at least one of them above 1"),
        (lambda x: x, (torch.randn(4, 2),), {"batch_sizes": 7}, "must be positive integers"),
        (lambda x: x, (torch.randn(0, 2),), {}, "at least 1: x has 0"),
        (lambda x: 3, (torch.randn(4, 2),), {}, "returned no tensor"),
        (lambda x: x.relu() + torch.rand_like(x), (torch.randn(4, 2),), {}, "runs twice"),
        (lambda x: x @ x, (torch.randn(4, 2),), {}, "does not run on these inputs: "),
        (lambda x, c: x, (torch.randn(4, 2), object()), {}, "c is a object, which cannot be cut"),
        (lambda x: x, (torch.randn(4, 2),), {"backend": "nope"}, "knows no backend 'nope'"),
    ],
)
def test_bad_input_is_one_sentence(model, args, options, text):
    with pytest.raises(InspectionError, match=text.replace("(", r"\(")) as caught:
        bi_inductor.diff(model, *args, **{"backend": "eager", **options})
    assert "\n" not in str(caught.value)
