"""Plans and rewritten graphs of the zoo for devices that are not here. ``EXPECTTEST_ACCEPT=1`` rewrites the golden."""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "graph"))

from harness import plans_of

from bi_inductor.rewrite import rewrite
from lowerings.neuron.graph import ADDS_UP
from tests import models

DEVICES = ("mps", "neuron")
GOLDEN = Path(__file__).with_name("zoo_plans.json")


def summary(planned):
    """What is planned, how often, and what the device refuses."""
    steps = [step for step in planned.steps if step.plan is not None]
    refused = {f"{type(s.template).__name__}: {s.reason}" for s in planned.variants}
    made = Counter(f"{type(s.template).__name__} {s.plan.text()}" for s in steps)
    return {"planned": dict(sorted(made.items())), "refused": sorted(refused)}


@pytest.mark.parametrize("name", models.MODELS)
@torch.no_grad()
def test_the_plans_of_a_model_for_absent_devices(name):
    case, kept = models.make(name), []

    def capture(*x):
        return case.call(case.model, x)

    def keep(gm, planned):
        kept.append((gm, planned))

    plans_of(capture, *case.inputs(3), devices=DEVICES, on_variant="warn", then=keep)
    found = {d: summary(planned) for d, (_, planned) in zip(DEVICES, kept, strict=True)}
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("EXPECTTEST_ACCEPT"):
        GOLDEN.write_text(
            json.dumps(dict(sorted({**golden, name: found}.items())), indent=1) + "\n"
        )
        golden[name] = found
    assert found == golden[name], "EXPECTTEST_ACCEPT=1 rewrites zoo_plans.json"
    if not found["mps"]["refused"]:
        gm = rewrite(*kept[0])
        called = [n.target for n in gm.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
        left = [op for op in called if op.namespace == "aten" and op._opname in ADDS_UP]
        assert left == [], "stock ops that add up are left after the rewrite"
