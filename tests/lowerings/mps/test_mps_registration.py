import subprocess
import sys

import pytest
import torch

import lowerings.mps
from bi_inductor import templates as t
from bi_inductor.templates import PlanKey
from lowerings.mps import plans


def test_load_registers_every_launcher_for_mps_and_importing_does_not():
    code = (
        "import torch, bi_inductor.ops, lowerings.mps\n"
        "has = lambda: [torch._C._dispatch_has_kernel_for_dispatch_key('bi_inductor::' + n, 'MPS')"
        " for n in lowerings.mps.implementations()]\n"
        "assert not any(has())\n"
        "lowerings.mps.load(); lowerings.mps.load()\n"
        "assert all(has())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_launchers_have_the_parameters_of_their_schemas():
    import inspect

    import bi_inductor.ops  # noqa: F401

    for name, launcher in lowerings.mps.implementations().items():
        schema = getattr(torch.ops.bi_inductor, name).default._schema
        assert [a.name for a in schema.arguments] == list(inspect.signature(launcher).parameters), (
            name
        )


def key(template, dtype=torch.half, device="mps"):
    return PlanKey(template=template, reduced=(64,), dtype=dtype, device=device)


def test_each_tier_has_its_plan():
    assert plans.plan_for(key(t.Matmul)).numbers() == {"split_size": 128}
    assert plans.plan_for(key(t.Matmul, device="mps/simdgroup")).numbers() == {"split_size": 16}
    assert plans.plan_for(key(t.RmsNorm, device="mps/simdgroup")) == plans.plan_for(key(t.RmsNorm))
    fallback = plans.plan_for(key(t.Matmul, device="mps/cpu_float64"))
    assert fallback.accumulator is torch.float64
    assert fallback.text() == "split_size=1024 acc=float64 order=cpu-pieces-in-order"


def test_what_has_no_plan_is_refused():
    with pytest.raises(ValueError, match=r"no plan for Matmul of torch.float64"):
        plans.plan_for(key(t.Matmul, torch.float64))
    with pytest.raises(ValueError, match="portable, simdgroup"):
        plans.plan_for(key(t.Matmul, device="mps/fast"))
