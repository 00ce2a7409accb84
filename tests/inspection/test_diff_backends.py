"""``diff`` under compilers: stock's first culprit by name, ours invariant, a fault behind a graph break."""

import jsonschema
import pytest
import torch
from torch import nn

import bi_inductor
from bi_inductor.errors import InspectionError, VariantOpError
from bi_inductor.inspection.diff_report import JSON_SCHEMA
from tests.inspection.planted import planted
from tests.zoo import ZOO
from tests.zoo.case import build, tokens

pytestmark = pytest.mark.usefixtures("one_library")


class Small(nn.Module):
    """Two products with a norm between them; the second input of the batch is a mask of integers."""

    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(512, 768), nn.LayerNorm(768), nn.Linear(768, 32)

    def forward(self, x, mask):
        hidden = self.norm(self.up(x))
        return {"y": self.down(hidden) * mask[:, None]}


@pytest.fixture
def small():
    return Small().eval(), torch.randn(9, 512), torch.ones(9, dtype=torch.int64)


def test_stock_inductor_is_blamed_at_its_product_and_its_norm(small):
    model, x, mask = small
    report = bi_inductor.diff(model, x, mask, backend="inductor", batch_sizes=(1, 9))
    assert report.status == "variant"
    assert [o.status for o in report.outputs] == ["invariant", "variant"]
    assert report.first.op == "torch.nn.functional.linear"
    assert report.first.module == "up"
    assert "hidden = self.norm(self.up(x))" in report.first.code
    assert report.first.own_ulp > 0
    assert {n.module for n in report.culprits} >= {"up", "norm"}
    assert report.first.layout == "proved"
    jsonschema.validate(report.json(), JSON_SCHEMA)


def test_ours_is_invariant_on_the_same_data(small):
    model, x, mask = small
    report = bi_inductor.diff(model, x, mask, backend="batch_invariant", batch_sizes=(1, 2, 9))
    assert report.ok, report.text()
    assert all(o.rows == () for o in report.outputs)
    assert {o.batch_size for o in report.outputs} == {1, 2, 9}


def test_ours_refuses_by_the_error_of_the_compiler():
    with pytest.raises(VariantOpError, match="amax"):
        bi_inductor.diff(
            lambda x: x / x.amax(), torch.randn(4, 8), backend="batch_invariant", batch_sizes=(1, 4)
        )


def test_eager_is_blamed_at_the_first_product_of_a_decoder():
    case = build(ZOO["llama"])
    report = bi_inductor.diff(
        case.model,
        input_ids=tokens(9, 7)[0],
        use_cache=False,
        backend="eager",
        batch_sizes=(1, 9),
    )
    assert report.first.module == "model.layers.0.self_attn.q_proj"
    assert report.first.evidence == "isolated"
    assert len(report.inherited) > len(report.culprits)
    assert {n.op for n in report.culprits} <= {
        "torch.nn.functional.linear",
        "torch.nn.functional.silu",
    }
    with_masks = [n for n in report.not_comparable if not n.by_design]
    assert len(with_masks) <= 1, with_masks


def test_a_fault_behind_a_graph_break_is_found():
    def model(x):
        y = x.abs()
        print(end="")
        return planted(y, y.shape[0]) + 1

    report = bi_inductor.diff(model, torch.randn(4, 8), backend="aot_eager", batch_sizes=(1, 4))
    assert report.first.op == "bi_test.planted.default"
    assert report.first.graph == 1
    assert [n.op for n in report.culprits] == ["bi_test.planted.default"]


def test_a_value_whose_samples_cannot_be_told_apart_is_listed():
    def model(x):
        return torch.cat([x, x[:1]])[:-1] + 1

    report = bi_inductor.diff(model, torch.randn(4, 8), backend="eager", batch_sizes=(1, 4))
    assert report.ok
    (blind,) = [n for n in report.not_comparable if not n.by_design]
    assert blind.op == "torch.cat"
    assert "[2, 8] alone and [5, 8] in a batch of 4" in blind.reason


def test_options_reach_the_backend(small):
    model, x, mask = small
    with pytest.raises(InspectionError, match="refuses the options: .*nope"):
        bi_inductor.diff(
            model, x, mask, backend="inductor", batch_sizes=(1, 2), options={"nope": True}
        )
