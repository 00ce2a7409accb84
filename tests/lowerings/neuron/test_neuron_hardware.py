"""For owners of the vendor's wheel (``-m nki_simulator``) or of a NeuronCore (``-m neuron_device``); never run here.

Both markers are deselected by default. Selected without the toolchain they fail, they do not skip.
"""

import pytest
import torch

from lowerings.neuron import load, plans

SIZES = (1, 2, 63, 64, 65, 127, 128, 129, 257, 300)


def operands(dtype):
    draw = torch.Generator().manual_seed(0)
    x, w = torch.randn(300, 320, generator=draw), torch.randn(320, 96, generator=draw)
    return x.to(dtype), w.to(dtype)


@pytest.mark.nki_simulator
def test_the_vendors_simulator_keeps_rows():
    """A smoke test: the simulator only approximates the hardware and checks no capacity."""
    import nki

    from lowerings.neuron.kernels.matmul import matmul

    x, w = (t.numpy() for t in operands(torch.float32))
    run = nki.simulate(matmul)
    full = run(x.T[None].copy(), w[None], None, 1.0, 1.0, False)[0]
    for m in SIZES:
        part = run(x[:m].T[None].copy(), w[None], None, 1.0, 1.0, False)[0]
        assert (part.view("u4") == full[:m].view("u4")).all(), m


@pytest.mark.neuron_device
@pytest.mark.parametrize("dtype", plans.DTYPES, ids=str)
def test_rows_of_a_matmul_on_a_neuroncore(dtype):
    load()
    x, w = (t.to("neuron") for t in operands(dtype))
    mm = torch.ops.bi_inductor.neuron_mm
    full = mm(x, w, None, 1.0, 1.0).cpu()
    for m in SIZES:
        assert torch.equal(mm(x[:m], w, None, 1.0, 1.0).cpu(), full[:m]), m
    shuffled = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    assert torch.equal(mm(x[shuffled], w, None, 1.0, 1.0).cpu(), full[shuffled])


@pytest.mark.neuron_device
def test_the_canaries_of_the_scalar_engine():
    """A longer static cache keeps bits only while exp(0) is 1 and exp(NEG) is 0: softmax of [0, NEG] shows both."""
    load()
    x = torch.tensor([[0.0, plans.NEG]]).to("neuron")
    assert torch.ops.bi_inductor.neuron_softmax(x, -1, False, None).cpu().tolist() == [[1.0, 0.0]]
