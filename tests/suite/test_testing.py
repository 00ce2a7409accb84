"""``bi_inductor.testing`` and its pytest plugin: what they find, what they say, what they leave alone."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, StaticCache

import bi_inductor
from bi_inductor import testing
from bi_inductor.testing.data import DATA

pytest_plugins = ["pytester"]


class Scaled(nn.Module):
    """Invariant in eager mode: every number comes from the number at its place."""

    def forward(self, x):
        return x * 2 + 1


def follows_the_batch(x):
    return x + (len(x) > 2) * 2.0**-20


def follows_its_position(x):
    return x + torch.arange(len(x)).view(-1, 1) * 2.0**-20


def follows_its_neighbours(x):
    return x + 0.0 * x.sum(0, keepdim=True)


def follows_the_length(x):
    return x + x.shape[1] * 2.0**-20


def samples(n):
    return torch.linspace(1.0, 2.0, n * 20).view(n, 20)


def check(fn, **kwargs):
    settings = {"backend": "eager", "batch_sizes": (1, 2, 3, 5), "explain": False, **kwargs}
    return testing.assert_batch_invariant(fn, samples, **settings)


def test_an_invariant_model_has_a_cell_per_axis_dtype_and_device():
    report = check(Scaled(), dtypes=(torch.float32, torch.bfloat16))
    assert [(c.axis, c.dtype) for c in report.cells] == [
        (axis, dtype)
        for dtype in ("float32", "bfloat16")
        for axis in ("batch", "position", "neighbours", "execution")
    ]
    assert report.passed
    assert all(cell.compared > 0 for cell in report.cells)


@pytest.mark.parametrize(
    ("fn", "axis", "text"),
    [
        (follows_the_batch, "batch", r"row 0 of output 0, batch size 3: .* ulp"),
        (follows_its_position, "position", r"row 1 of output 0, position 1 of 5: .* ulp"),
        (follows_its_neighbours, "neighbours", r"row 0 of output 0, neighbours NaN: 20 of 20 elements"),
        (follows_the_length, "length", r"row 0 of output 0, 1 of 20 tokens: .* ulp"),
    ],
)  # fmt: skip
def test_a_failure_names_axis_row_and_ulps(fn, axis, text):
    with pytest.raises(testing.BatchVariantError, match=f"axis {axis} .float32, cpu.") as caught:
        check(fn, axes=(axis,))
    assert caught.match(text)
    assert not caught.value.report.passed


def follows_the_mode(x):
    return x + bi_inductor.is_batch_invariant_mode_enabled() * 2.0**-20


def test_the_eager_axis_finds_what_differs_inside_the_mode():
    with pytest.raises(testing.BatchVariantError, match=r"axis eager .*\n.* eager, alone: .* ulp"):
        check(follows_the_mode, axes=("eager",), backend="batch_invariant")


def test_a_sample_alone_may_be_computed_inside_the_mode():
    given = {"axes": ("batch",), "batch_sizes": (5,), "backend": "batch_invariant"}
    cell = check(Scaled(), alone_in_mode=True, **given).cells[0]
    assert (cell.compared, cell.passed) == (5, True)
    with pytest.raises(testing.BatchVariantError, match=r"row 0 of output 0, batch size 5: .* ulp"):
        check(follows_the_mode, alone_in_mode=True, **given)


@torch.compiler.disable
def outside(x, weight):
    return x @ weight


def test_inside_the_mode_what_is_left_out_of_the_graphs_has_a_proof_as_well():
    weight = testing.wide(3001, 5)

    def model(x):
        return outside(x * 2, weight) + 1

    given = {"axes": ("batch",), "batch_sizes": (1, 17), "data": "wide", "explain": False}
    with pytest.raises(testing.BatchVariantError):
        testing.assert_batch_invariant(model, lambda n: torch.randn(n, 3001), **given)
    testing.assert_batch_invariant(model, lambda n: torch.randn(n, 3001), inside_mode=True, **given)


class Decoder(nn.Module):
    """What the axes of decoders call: sums over what came before, through transformers' own caches."""

    def __init__(self, fault):
        super().__init__()
        self.config = LlamaConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
        )
        self.fault = fault

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None):
        x = input_ids.float()[:, None, :, None].expand(-1, 1, -1, 8)
        if past_key_values is not None:
            past_key_values.update(x, x, 0)
        logits = x[:, 0] * 2
        if self.fault == "pieces" and past_key_values is not None and input_ids.shape[1] == 1:
            logits = logits + 2.0**-20
        if self.fault == "capacity" and isinstance(past_key_values, StaticCache):
            logits = logits + past_key_values.layers[0].max_cache_len * 2.0**-20
        if self.fault == "padding" and attention_mask is not None:
            logits = logits + attention_mask.shape[1] * 2.0**-20
        return {"logits": logits}


def ids(n):
    return {"input_ids": torch.randint(1, 9, (n, 12))}


def check_decoder(fault, axis):
    return testing.assert_batch_invariant(
        Decoder(fault), ids, axes=(axis,), batch_sizes=(1, 2), backend="eager", explain=False
    )


@pytest.mark.parametrize(
    ("fault", "axis", "text"),
    [
        ("pieces", "cache", "row 0 of output 0, prefill cut at 8, 9, 10, 11: .* ulp"),
        ("capacity", "cache", "row 0 of output 0, static cache of 13, one token decoded: .* ulp"),
        ("padding", "padding", "row 0 of output 0, 1 tokens of padding in front, 0 behind: .* ulp"),
    ],
)
def test_the_axes_of_decoders_find_a_fault_and_pass_without_it(fault, axis, text):
    assert check_decoder("", axis).cells[0].compared == {"cache": 8, "padding": 7}[axis]
    with pytest.raises(testing.BatchVariantError, match=text):
        check_decoder(fault, axis)


@pytest.mark.parametrize(
    ("model", "inputs", "text"),
    [
        (Scaled(), samples, "Scaled does not take input_ids, attention_mask"),
        (Decoder(""), lambda n: ids(n)["input_ids"], "want make_inputs to give a dict with 'input_ids'"),
        (Decoder(""), lambda n: {"input_ids": torch.ones(n, 1, dtype=torch.long)}, "at least 2 tokens"),
    ],
)  # fmt: skip
def test_the_axes_of_decoders_say_what_is_missing(model, inputs, text):
    with pytest.raises(ValueError, match=text):
        testing.assert_batch_invariant(model, inputs, axes=("cache",), backend="eager")


def test_a_failure_names_the_op():
    """Stock eager torch picks another kernel for a product of one row."""
    model = nn.Sequential(nn.Linear(700, 300), nn.Tanh())
    with pytest.raises(testing.BatchVariantError, match="first op whose bits change: .*linear"):
        testing.assert_batch_invariant(
            model, lambda n: torch.randn(n, 700), backend="eager", axes=("batch",)
        )


def test_a_control_that_agrees_with_itself_is_too_weak():
    with pytest.raises(testing.ControlTooWeakError, match="too tame"):
        testing.run_negative_control(Scaled(), samples, backend="eager", batch_sizes=(1, 2))
    failed = testing.run_negative_control(
        follows_the_batch, samples, backend="eager", batch_sizes=(1, 3)
    )
    assert not failed.passed


def test_named_inputs_and_data_strategies_reach_the_model():
    seen = []

    def fn(*, x, ids):
        seen.append(x.abs().max().item())
        return x + ids

    def made(n):
        return {"x": torch.zeros(n, 8), "ids": torch.ones(n, 1, dtype=torch.long)}

    testing.assert_batch_invariant(
        fn, made, axes=("batch",), batch_sizes=(1, 2), backend="eager", data="cancelling"
    )
    assert max(seen) == 2.0**60


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", DATA)
def test_the_order_of_a_sum_shows_in_the_data(name, dtype):
    x = DATA[name](16, 67, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert x.isfinite().all()
    assert testing.order_matters(x)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"axes": ("rows",)}, "unknown axis 'rows'; known are batch"),
        ({"devices": ("nosuch",)}, "no device 'nosuch'"),
        ({"data": "tame"}, "unknown data 'tame'"),
        ({"batch_sizes": (1,)}, "one of them 2 or more"),
        ({"axes": ("eager",)}, "wants backend='batch_invariant'; got 'eager'"),
        ({"alone_in_mode": True}, "wants backend='batch_invariant'; got 'eager'"),
    ],
)
def test_a_wrong_argument_is_named(kwargs, text):
    with pytest.raises(ValueError, match=text):
        check(Scaled(), **kwargs)


def test_inputs_that_are_no_batch_are_refused():
    with pytest.raises(ValueError, match=r"must give tensors \[17, ...\], got \(3,\)"):
        testing.assert_batch_invariant(Scaled(), lambda n: torch.ones(3), backend="eager")


# ---- the plugin

_TEST = """
import torch
from torch import nn

def test_mine(batch_invariant):
    batch_invariant(lambda x: x * 2, lambda n: torch.randn(n, 4), backend="eager", batch_sizes=(1, 2))

def test_coupled(batch_invariant):
    batch_invariant(lambda x: x / x.abs().amax(), lambda n: torch.randn(n, 4), axes=("batch",), batch_sizes=(1, 3))

def test_bad(batch_invariant):
    batch_invariant(lambda x: x * len(x), lambda n: torch.randn(n, 4), backend="eager", batch_sizes=(1, 2), explain=False)
"""
_LOAD = ("-p", "bi_inductor.testing.plugin")


@pytest.fixture
def project(pytester):
    """A user's project, with the plugin loaded by name: installed or not."""
    pytester.makepyfile(_TEST)
    return lambda *args: pytester.runpytest_inprocess(*_LOAD, *args)


def test_the_plugin_prints_a_table(project):
    result = project("--bi-seed", "3")
    result.assert_outcomes(passed=1, failed=2)
    text = result.stdout.str()
    assert "batch invariance" in text
    assert any(line.startswith("test_mine") and "equal" in line for line in text.splitlines())
    assert any(line.startswith("test_bad") and "DIFFER" in line for line in text.splitlines())
    (line,) = [line for line in text.splitlines() if line.startswith("test_coupled ")]
    assert "0 rows  refused: aten.amax.default reduces over the batch" in line
    assert "seed 3" in text


def test_the_table_is_written_as_markdown(project, pytester):
    project("--bi-table", "table.md", "-k", "mine")
    text = (pytester.path / "table.md").read_text()
    assert "4 of 4 cells equal, 0 models refused" in text
    assert "| test_mine | float32 | cpu | equal (3) |" in text


def test_a_refused_model_is_no_equal_cell_of_the_markdown(project, pytester):
    project("--bi-table", "table.md", "-k", "coupled")
    text = (pytester.path / "table.md").read_text()
    assert "0 of 0 cells equal, 1 models refused" in text
    assert "refused: aten.amax.default reduces over the batch" in text


def test_axes_come_from_the_command_line(project):
    result = project("--bi-axes", "batch", "-k", "mine")
    text = result.stdout.str()
    assert "batch  " in text
    assert "neighbours" not in text


def test_a_device_that_is_absent_fails_and_does_not_skip(project):
    result = project("--bi-device", "nosuch")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*this machine has no device 'nosuch'*"])


def test_the_plugin_costs_other_projects_nothing(pytester):
    pytester.makepyfile(
        """
        import sys
        def test_nothing():
            assert "bi_inductor.testing.plugin" in sys.modules
            assert "torch" not in sys.modules
        """
    )
    result = pytester.runpytest_subprocess("-p", "bi_inductor.testing.plugin")
    result.assert_outcomes(passed=1)


def test_the_plugin_can_be_turned_off(pytester):
    pytester.makepyfile(
        "def test_nothing(pytestconfig): assert not hasattr(pytestconfig.option, 'bi_device')"
    )
    off = ("-p", "no:bi_inductor.testing.plugin")
    pytester.runpytest_subprocess(*off).assert_outcomes(passed=1)
