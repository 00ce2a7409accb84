"""The plans of twelve architectures on four devices as text: the same at every batch size, static or symbolic.

``make accept`` writes the files anew after a change of plans that was meant.
"""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from bi_inductor.inspection.explain import explain_devices
from tests.models import MODELS, make

DEVICES = ("cpu", "cuda", "mps", "neuron")
GOLDENS = Path(__file__).parent / "goldens"


class Call(nn.Module):
    """A case of ``tests.models`` as one module."""

    def __init__(self, case):
        super().__init__()
        self.model, self.case = case.model, case

    def forward(self, *inputs):
        return self.case.call(self.model, inputs)


def texts(name, batch, dynamic):
    case = make(name)
    with torch.no_grad():
        reports = explain_devices(Call(case), *case.inputs(batch), devices=DEVICES, dynamic=dynamic)
    return "\n\n".join(reports[device].text() for device in DEVICES) + "\n"


@pytest.mark.parametrize("name", MODELS)
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
    case = make("gpt2")
    longer = nn.Sequential(Call(case), nn.Linear(128, 3))
    with torch.no_grad():
        reports = explain_devices(longer, *case.inputs(2), devices=("cpu",))
    assert reports["cpu"].text() not in (GOLDENS / "gpt2.txt").read_text()
