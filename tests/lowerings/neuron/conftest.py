"""The kernels bound to the emulator, and the Neuron ops registered with it in the place of the vendor's toolchain."""

import nki_emulator
import pytest
import torch

from bi_inductor import pipeline
from lowerings import table
from lowerings.neuron import graph
from lowerings.neuron.ops import Toolchain, register

MODULES = ("matmul", "reduction", "norm", "softmax", "attention")


@pytest.fixture(scope="session")
def kernels():
    return nki_emulator.load_kernels(*MODULES)


@pytest.fixture(scope="session")
def controls():
    return nki_emulator.load_kernels("nki_controls", package="")


@pytest.fixture(scope="session")
def neuron_ops(kernels):
    """Register ``neuron_*`` as custom ops whose kernels run in the emulator."""

    def define(name, function, fake):
        op = torch.library.custom_op(name, function, mutates_args=())
        op.register_fake(fake)

    register(Toolchain(define=define, wrap=lambda kernel: kernel, kernels=kernels))
    return torch.ops.bi_inductor


@pytest.fixture
def as_on_a_neuron_core(neuron_ops, monkeypatch):
    """CPU tensors stand in for those of a NeuronCore, the emulator for nki, aot_eager for the vendor's backend."""
    monkeypatch.setattr(pipeline, "graph_devices", lambda gm, example_inputs: ("neuron",))
    monkeypatch.setattr(table, "load", lambda device: None)
    monkeypatch.setattr(graph, "_kind_of", lambda example_inputs: "native")
    monkeypatch.setattr(graph, "load", lambda: None)
    monkeypatch.setattr(graph, "INNER", {"native": "aot_eager"})
    torch.compiler.reset()


@pytest.fixture(autouse=True)
def _one_thread():
    """Products of one tile are too small to share."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def order(request):
    """Run the test under one order of addition inside an instruction."""
    with nki_emulator.machine(order=request.param):
        yield request.param


def pytest_generate_tests(metafunc):
    """All orders with float32 and bfloat16; float16, which rounds in the same places, with the worst order."""
    names = [name for name in ("order", "dtype") if name in metafunc.fixturenames]
    if not names or any(
        mark.args[0] == "dtype" for mark in metafunc.definition.iter_markers("parametrize")
    ):
        return
    pairs = [(o, d) for o in nki_emulator.ORDERS for d in (torch.float32, torch.bfloat16)]
    pairs.append(("adversarial", torch.float16))
    if len(names) == 1:
        at = ("order", "dtype").index(names[0])
        values = list(dict.fromkeys(pair[at] for pair in pairs))
    else:
        values = pairs
    ids = [
        str(v) if len(names) == 1 else f"{v[0]}-{str(v[1]).removeprefix('torch.')}" for v in values
    ]
    metafunc.parametrize(
        names if len(names) > 1 else names[0],
        values,
        ids=ids,
        indirect=["order"] if "order" in names else False,
    )
