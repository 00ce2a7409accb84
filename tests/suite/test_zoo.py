"""Every architecture of the zoo, compiled: a sample alone and in a batch, raw bits; stock torch is the control."""

import contextlib

import pytest
import torch

from bi_inductor.errors import VariantOpError
from bi_inductor.testing import run_negative_control
from tests.one_library import one_library
from tests.suite.engagement import templates_ran
from tests.zoo import PRETRAINED, REFUSED, ZOO
from tests.zoo.case import build, tokens

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: axes for which what ``batch`` compiled is enough
ROWS = ("batch", "position", "neighbours")
#: recompiled, in threads, and in eager mode as well; all others by `make test-all`
EVERY_WAY = ("llama", "gemma3", "bert", "resnet")
#: models that scan by another algorithm when they are compiled (transformers' `is_torchdynamo_compiling`)
OTHERWISE_COMPILED = ("mamba", "falcon_mamba", "jamba")
IN_HALF = (("llama", torch.bfloat16), ("mixtral", torch.bfloat16))
#: models whose own code for a dtype couples the samples: T5 clamps all of them if one holds an infinity
REFUSED_IN = {("t5", torch.float16): r"aten\.any\.default.* reduces over the batch"}


@pytest.mark.parametrize("name", ZOO)
def test_rows_do_not_depend_on_the_batch(name, batch_invariant):
    """A batch of five compiled; a sample alone in eager mode, compiled too for the models of ``EVERY_WAY``."""
    case = build(ZOO[name])
    every_way = name in EVERY_WAY
    alone_compiled = every_way or name in OTHERWISE_COMPILED
    axes = (*ROWS, "execution", "eager") if every_way else ROWS
    # a library for each kernel, as users have it
    with contextlib.nullcontext() if every_way else one_library():
        batch_invariant(
            case, case.inputs, axes=axes, batch_sizes=(1, 5) if alone_compiled else (5,), dynamic=False, seed=1,
            inside_mode=bool(ZOO[name].outside), alone_in_mode=not alone_compiled,
        )  # fmt: skip
    templates_ran(every_graph=not ZOO[name].outside)


@pytest.mark.parametrize(("name", "dtype"), IN_HALF)
def test_rows_in_half_precision(name, dtype, batch_invariant):
    case = build(ZOO[name])
    batch_invariant(
        case, case.inputs, axes=ROWS, batch_sizes=(1, 2, 17), dynamic=True, seed=1, dtypes=(dtype,)
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
    capture = torch._dynamo.config.patch(
        capture_dynamic_output_shape_ops=row.captured, capture_scalar_outputs=row.captured
    )
    with capture, pytest.raises(VariantOpError, match=row.refused):
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


# Mamba's scan with symbolic lengths compiles for minutes
@pytest.mark.parametrize("name", ["llama", pytest.param("mamba", marks=pytest.mark.thorough)])
def test_a_causal_model_gives_a_token_the_same_bits_at_every_length(name, batch_invariant):
    batch_invariant(build(ZOO[name]), _long, axes=("length",), batch_sizes=(1, 2), dynamic=True)
    templates_ran()


def _long(n):
    """More tokens than the longest query of the axis ``length``."""
    return tokens(n, 70)


# ---- make test-all: every architecture in every dtype along every axis

#: three tests a model, so that a slow one is spread over processes; they share compiled graphs through the cache
GROUPS = {
    "rows": ROWS,
    "ways": ("execution",),
    "mode": ("eager",),
}


def cells():
    for name, row in ZOO.items():
        for dtype in DTYPES:
            for group in GROUPS:
                # the axis execution makes every size symbolic
                if group != "ways" or row.any_size:
                    kind = str(dtype).removeprefix("torch.")
                    yield pytest.param(name, dtype, group, id=f"{name}-{kind}-{group}")


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "dtype", "group"), cells())
def test_every_axis(name, dtype, group, batch_invariant):
    row = ZOO[name]
    case = build(row)
    dynamic = True if row.any_size else None

    def compared():
        batch_invariant(
            case, case.inputs, axes=GROUPS[group], batch_sizes=(1, 2, 3, 5, 8, 17, 33, 64),
            dynamic=dynamic, seed=1, dtypes=(dtype,), inside_mode=bool(row.outside),
        )  # fmt: skip

    if (name, dtype) in REFUSED_IN:
        with pytest.raises(VariantOpError, match=REFUSED_IN[name, dtype]):
            compared()
        return
    compared()
    templates_ran(every_graph=not row.outside)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name, row in ZOO.items() if row.is_causal])
def test_every_length(name, batch_invariant):
    batch_invariant(build(ZOO[name]), _long, axes=("length",), batch_sizes=(1, 2), dynamic=True)
    templates_ran()
