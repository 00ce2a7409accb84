"""Every model of the zoo becomes a graph for mps in which no op of ATen adds anything up. Plans: tests/inspection."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "graph"))

from harness import plans_of

from bi_inductor.rewrite import rewrite
from lowerings.neuron.graph import ADDS_UP
from tests.zoo import CHOSEN, ZOO
from tests.zoo.case import build


def stock_sums(gm):
    called = [n.target for n in gm.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    return [str(op) for op in called if op.namespace == "aten" and op._opname in ADDS_UP]


@pytest.mark.parametrize("name", CHOSEN)
@torch.no_grad()
def test_a_model_for_mps_leaves_no_sum_to_stock_kernels(name):
    case, left = build(ZOO[name]), []

    def keep(gm, planned):
        left.extend((stock_sums(gm), stock_sums(rewrite(gm, planned))))

    plans_of(case, *case.inputs(3), device="mps", then=keep)
    before, after = left
    assert before, "control: there were sums to replace"
    assert after == []
