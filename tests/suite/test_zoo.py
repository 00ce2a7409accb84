"""Every architecture of the zoo, compiled: a sample alone and in a batch, raw bits; stock torch is the control."""

import pytest
import torch

from bi_inductor.errors import VariantOpError
from bi_inductor.testing import run_negative_control
from tests.suite.engagement import templates_ran
from tests.zoo import PRETRAINED, REFUSED, ZOO
from tests.zoo.case import build, tokens

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: every axis that fits a model which is called with one batch of samples
AXES = ("batch", "position", "neighbours", "execution", "eager")
#: models whose own code for a dtype couples the samples: T5 clamps all of them if one holds an infinity
REFUSED_IN = {("t5", torch.float16): r"aten\.any\.default.* reduces over the batch"}


@pytest.mark.parametrize("name", ZOO)
def test_rows_do_not_depend_on_the_batch(name, batch_invariant):
    """Two graphs each: of one sample, and of five."""
    case = build(ZOO[name])
    batch_invariant(case, case.inputs, axes=("batch",), batch_sizes=(1, 5), dynamic=False, seed=1)
    templates_ran()


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_bfloat16_rows_do_not_depend_on_the_batch(name, batch_invariant):
    case = build(ZOO[name])
    batch_invariant(
        case, case.inputs, axes=("batch",), batch_sizes=(1, 2, 17), dynamic=True, seed=1,
        dtypes=(torch.bfloat16,),
    )  # fmt: skip
    templates_ran()


@pytest.mark.parametrize(
    "name",
    # SmolLM2's 30 layers compile for three minutes; `make demo` runs it block by block
    [pytest.param(n, marks=[pytest.mark.thorough] * (n == "smollm2_135m")) for n in PRETRAINED],
)
def test_trained_weights(name, batch_invariant):
    case = build(PRETRAINED[name])
    batch_invariant(case, case.inputs, axes=("batch",), batch_sizes=(1, 2, 7), dynamic=True, seed=1)
    templates_ran()


@pytest.mark.parametrize("name", REFUSED)
def test_what_couples_its_samples_is_refused_for_that_reason(name, batch_invariant):
    row = REFUSED[name]
    case = build(row)
    with pytest.raises(VariantOpError, match=row.refused):
        batch_invariant(case, case.inputs, axes=("batch",), batch_sizes=(1, 3), seed=1)


@pytest.mark.parametrize("name", ["llama", "bert", "resnet"])
def test_stock_torch_fails_on_the_same_data(name, device):
    case = build(ZOO[name])
    run_negative_control(case, case.inputs, batch_sizes=(2, 5, 17), seed=1, devices=(device,))


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "vit"])
def test_results_are_as_accurate_as_stock(name, device):
    case = build(ZOO[name])
    torch.manual_seed(1)
    samples = case.inputs(5)
    with torch.no_grad():
        exact = case.double()(*(x.double() if x.is_floating_point() else x for x in samples))
        case.float().to(device)
        x = [x.to(device) for x in samples]
        eager = case(*x).cpu()
        ours = torch.compile(case, backend="batch_invariant", dynamic=False)(*x).cpu()
    budget = 2 * (eager - exact).abs().max() + 1e-6
    assert (ours - exact).abs().max() <= budget


@pytest.mark.parametrize("name", ["llama", "resnet"])
def test_every_axis_of_a_whole_model(name, batch_invariant):
    case = build(ZOO[name])
    batch_invariant(case, case.inputs, axes=AXES, batch_sizes=(1, 2, 3, 5, 8), dynamic=True, seed=1)
    templates_ran()


def test_a_causal_model_gives_a_token_the_same_bits_at_every_length(batch_invariant):
    batch_invariant(build(ZOO["llama"]), _long, axes=("length",), batch_sizes=(1, 2), dynamic=True)
    templates_ran()


def _long(n):
    """More tokens than the longest query of the axis ``length``."""
    return tokens(n, 70)


# ---- make test-all: every architecture in every dtype along every axis


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("name", ZOO)
def test_every_axis(name, dtype, batch_invariant):
    if (name, dtype) in REFUSED_IN:
        with pytest.raises(VariantOpError, match=REFUSED_IN[name, dtype]):
            _every_axis(name, dtype, batch_invariant)
        return
    _every_axis(name, dtype, batch_invariant)
    templates_ran()


def _every_axis(name, dtype, batch_invariant):
    case, any_size = build(ZOO[name]), ZOO[name].any_size
    # the axis execution makes every size symbolic
    axes = AXES if any_size else tuple(axis for axis in AXES if axis != "execution")
    batch_invariant(
        case, case.inputs, axes=axes, batch_sizes=(1, 2, 3, 5, 8, 17, 33, 64),
        dynamic=True if any_size else None, seed=1, dtypes=(dtype,),
    )  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name, row in ZOO.items() if row.is_causal])
def test_every_length(name, batch_invariant):
    batch_invariant(build(ZOO[name]), _long, axes=("length",), batch_sizes=(1, 2), dynamic=True)
    templates_ran()
