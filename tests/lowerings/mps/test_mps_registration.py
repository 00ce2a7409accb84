import subprocess
import sys

import pytest
import torch

import lowerings.mps
from bi_inductor import templates
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


def test_plans_cover_what_the_launchers_take():
    key = PlanKey(template=templates.Matmul, reduced=(64,), dtype=torch.half, device="mps")
    assert plans.plan_for(key).numbers() == {"split_size": 128}
    assert plans.plan_for(key, "simdgroup").numbers() == {"split_size": 16}
    with pytest.raises(ValueError, match="no plan for GroupedMatmul"):
        plans.plan_for(
            PlanKey(template=templates.GroupedMatmul, reduced=(), dtype=torch.half, device="mps")
        )
    with pytest.raises(ValueError, match="portable, simdgroup"):
        plans.plan_for(key, "fast")
