"""The plans of twelve architectures on four devices as text: the same at every batch size, static or symbolic.

``make accept`` writes the files anew after a change of plans that was meant.
"""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from bi_inductor.inspection.explain import explain_devices
from tests.zoo import CHOSEN, ZOO
from tests.zoo.case import build

DEVICES = ("cpu", "cuda", "mps", "neuron")
GOLDENS = Path(__file__).parent / "goldens"


def texts(name, batch, dynamic):
    case = build(ZOO[name])
    with torch.no_grad():
        reports = explain_devices(case, *case.inputs(batch), devices=DEVICES, dynamic=dynamic)
    return "\n\n".join(reports[device].text() for device in DEVICES) + "\n"


@pytest.mark.parametrize("name", CHOSEN)
def test_plans_are_the_golden_ones_at_every_batch_size(name):
    file = GOLDENS / f"{name}.txt"
    found = texts(name, 2, "batch")
    if os.environ.get("EXPECTTEST_ACCEPT"):
        file.write_text(found)
    assert found == file.read_text(), f"{file.name}: if this is meant, run `make accept`"
    for batch in (1, 64):
        assert texts(name, batch, False) == found, f"batch {batch}, static"


def test_plans_do_not_see_whether_all_sizes_are_symbolic():
    assert texts("gpt2", 3, True) == (GOLDENS / "gpt2.txt").read_text()


def test_a_golden_can_fail():
    """The negative control: one layer more, and the text is another."""
    case = build(ZOO["gpt2"])
    longer = nn.Sequential(case, nn.Linear(128, 3))
    with torch.no_grad():
        reports = explain_devices(longer, *case.inputs(2), devices=("cpu",))
    assert reports["cpu"].text() not in (GOLDENS / "gpt2.txt").read_text()
