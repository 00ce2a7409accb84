"""``explain``: what a report says of graphs, symbols, devices and bad input; its text, JSON and DOT."""

import dataclasses
import json
import time
from importlib import resources

import jsonschema
import pytest
import torch
from torch import nn

import bi_inductor
from bi_inductor.errors import InspectionError, OptionError, UnsupportedDeviceError
from bi_inductor.inspection.capture import with_batch
from bi_inductor.inspection.explain import explain_devices


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return x + self.down(self.up(self.norm(x)).relu())


class Stack(nn.Module):
    def __init__(self, depth=3):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(depth))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def explained(model, *args, **kwargs):
    with torch.no_grad():
        return bi_inductor.explain(model, *args, **kwargs)


@pytest.fixture(scope="module")
def stack():
    return explained(Stack(), torch.zeros(4, 5, 16))


def test_a_node_tells_its_plan_place_and_sizes(stack):
    node = next(n for n in stack.graphs[0].nodes if n.template and n.template.startswith("Matmul"))
    assert node.verdict == "planned"
    assert node.plan.text == "split_size=1024 acc=float32 order=pieces-in-order"
    assert (node.module, node.code) == (
        "layers.0.up",
        "return x + self.down(self.up(self.norm(x)).relu())",
    )
    assert node.place.startswith("tests/inspection/test_explain.py:")
    assert (node.shape, node.batch_dim, node.reduces) == ("[5*B, 32]", 0, ("16",))
    assert "bi_inductor.mm.default" in node.after[0]
    assert "split_size=1024" in node.after[0]


def test_symbols_say_which_is_the_batch():
    report = explained(Stack(1), torch.zeros(4, 5, 16), dynamic=True)
    symbols = {s.source: (s.is_batch, s.example) for s in report.graphs[0].symbols}
    assert symbols["x.shape[0]"] == (True, 4)
    assert symbols["x.shape[1]"] == (False, 5)


def test_numbers_that_depend_on_a_symbolic_size_say_so():
    report = explained(lambda x: x.sum(1) * 2, torch.zeros(4, 5, 16), dynamic=True)
    (length,) = (s.name for s in report.graphs[0].symbols if s.source == "x.shape[1]")
    assert report.ok
    assert report.graphs[0].nodes[-1].depends_on == (length,)
    assert "B" not in report.graphs[0].nodes[-1].depends_on


def test_repeated_layers_are_one_row(stack):
    rows = {(row.module, row.count) for row in stack.rows()}
    assert ("layers.{0-2}.up", 3) in rows
    assert len(stack.rows()) == 3


def test_the_table_fits_a_hundred_columns(stack):
    bad = explained(lambda x: x.softmax(0) / x.abs().amax(), torch.zeros(4, 16), device="mps")
    for report in (stack, bad):
        lines = str(report).splitlines()
        assert max(map(len, lines)) <= 100
    assert "layers.{0-2}.up" in str(stack)
    planned_only = dataclasses.replace(bad, compiles=False)
    assert "plans only: the backend does not compile for mps yet" in str(planned_only)


def test_json_follows_the_published_schema(stack):
    text = resources.files("bi_inductor.inspection").joinpath("explain.schema.json").read_text()
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    bad = explained(lambda x: x.softmax(0), torch.zeros(4, 16), device="neuron")
    for report in (stack, bad):
        jsonschema.validate(json.loads(json.dumps(report.json())), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**stack.json(), "device": "abacus"}, schema)


def test_dot_has_every_node_in_the_cluster_of_its_module(stack):
    text = stack.dot()
    assert text.count("fillcolor=") == len(stack.graphs[0].nodes)
    assert 'subgraph "cluster_g0.layers.1.up"' in text
    assert text.count("{") == text.count("}")


def test_a_graph_break_is_shown_with_its_reason_and_both_graphs():
    def broken(x):
        y = x.relu() @ x.new_ones(16, 4)
        print("a side effect")
        return y.softmax(-1)

    report = explained(broken, torch.zeros(4, 16))
    assert len(report.graphs) == 2
    assert "test_explain.py" in report.graph_breaks[0]
    assert not report.ok
    assert {r.op for r in report.rows()} == {"aten.mm.default", "aten._softmax.default"}


def test_code_that_reads_values_is_reported_not_run():
    def reads(x):
        return x.relu() if float(x.sum(-1)[0]) > 0 else x

    report = explained(reads, torch.zeros(4, 16))
    assert "reads the value of a tensor" in report.stopped
    assert not report.ok


def test_no_kernel_runs_and_no_data_is_needed(monkeypatch):
    """Parameters and inputs on the meta device: nothing could be computed if one tried."""
    with torch.device("meta"):
        model, x = Stack(1), torch.zeros(4, 5, 16)
    real = explained(Stack(1), torch.zeros(4, 5, 16))
    assert explained(model, x).text() == real.text()


def test_a_missing_lowering_is_its_own_verdict():
    reports = None
    with torch.no_grad():
        reports = explain_devices(
            lambda x: x.sort(-1).values, torch.zeros(4, 16), devices=("cpu", "neuron")
        )
    assert reports["cpu"].ok
    (problem,) = reports["neuron"].problems
    assert problem.verdict == "unsupported"
    assert "neuron has no plan for Sort" in problem.reason


def test_a_kind_without_a_kernel_is_unsupported():
    report = explained(lambda x: x.prod(-1), torch.zeros(4, 16), device="neuron")
    assert "neuron has no kernel for prod" in report.problems[0].reason


def test_gradients_are_explained_outside_no_grad():
    model = nn.Linear(16, 4)
    report = bi_inductor.explain(model, torch.zeros(4, 16))
    assert any(n.backward for n in report.graphs[0].nodes)
    assert report.ok
    assert "(a gradient or loss)" in report.text()


def test_kernels_are_attached_when_asked_for():
    report = explained(lambda x: x.relu() + 1, torch.zeros(4, 16), kernels=True)
    assert "cpp_fused" in report.graphs[0].kernels[0]
    with pytest.raises(UnsupportedDeviceError, match="leave out kernels"):
        explained(lambda x: x, torch.zeros(4, 16), kernels=True, device="mps")


def test_batch_dims_can_be_named():
    def sums(x):
        return x.sum(0)

    assert not explained(sums, torch.zeros(4, 16)).ok
    assert explained(sums, torch.zeros(4, 16), options={"batch_dims": {"x": 1}}).ok
    with pytest.raises(OptionError):
        explained(sums, torch.zeros(4, 16), options={"batch_dims": {"x": 7}})
    with pytest.warns(UserWarning, match="names 'X', which is no input of this graph.* are x"):
        explained(sums, torch.zeros(4, 16), options={"batch_dims": {"X": 1}})


def test_wrong_shapes_are_one_sentence_with_the_place():
    class Wrong(nn.Module):
        def forward(self, x):
            return x @ x.new_ones(3, 3)

    with pytest.raises(
        InspectionError, match=r"does not trace at .*test_explain.py:\d+: .*\[.*16\]"
    ):
        explained(Wrong(), torch.zeros(4, 16))


def test_an_unknown_device_lists_the_known_ones():
    with pytest.raises(UnsupportedDeviceError, match="cpu, cuda, mps, neuron"):
        explained(nn.Linear(16, 4), torch.zeros(4, 16), device="abacus")


def test_another_batch_size_keeps_shared_inputs():
    def model(ids, mask, table):
        return ids + mask

    given = (
        torch.zeros(3, 7, dtype=torch.long),
        torch.zeros(3, 7, dtype=torch.long),
        torch.ones(7),
    )
    args, _ = with_batch(model, given, {}, 5)
    assert [tuple(a.shape) for a in args] == [(5, 7), (5, 7), (7,)]
    full, _ = with_batch(model, given, {}, 5, empty=False)
    assert torch.equal(full[0], given[0][[0, 1, 2, 0, 1]])


def test_planning_thirty_layers_costs_seconds_beyond_the_trace(monkeypatch):
    from bi_inductor.inspection import capture, explain
    from tests.inspection.reports import Decoder

    spent = []

    def timed(function):
        def call(*args, **kwargs):
            start = time.process_time()
            result = function(*args, **kwargs)
            spent.append(time.process_time() - start)
            return result

        return call

    monkeypatch.setattr(capture, "make_plan", timed(capture.make_plan))
    monkeypatch.setattr(explain, "report_graph", timed(explain.report_graph))
    report = explained(Decoder(30), torch.zeros(2, 5, dtype=torch.long), dynamic=False)
    assert len(report.graphs[0].nodes) > 1000
    assert len(spent) == 2
    assert sum(spent) < 10
