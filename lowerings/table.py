"""Which devices have lowerings, and how to load one. Importing this file loads no toolchain."""

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from bi_inductor.errors import UnsupportedDeviceError

#: device type -> module with ``load()`` and ``plans.plan_for``
LOWERINGS: dict[str, str] = {
    "cpu": "lowerings.cpu",
    "cuda": "lowerings.cuda",
    "mps": "lowerings.mps",
    "neuron": "lowerings.neuron",
}

#: devices whose plans can be made, printed and compared on any machine; only those of LOWERINGS compile
PLANNED: tuple[str, ...] = ("cpu", "cuda", "mps", "neuron")


def plans_of(device: str) -> ModuleType:
    """The plans of a device: plain data, no toolchain.

    ``"mps/simdgroup"`` is a device with one of its tiers: the plans of ``mps``, which read it in the key.

    ``plan_for(key)`` gives the plan, or raises ValueError or LoweringError. A device whose kernels lack a kind
    of a template also has ``refusal(template)``: a sentence, or None.

    Raises:
        UnsupportedDeviceError: there are no plans for ``device``.
    """
    name = device.partition("/")[0]
    if name not in PLANNED:
        raise UnsupportedDeviceError(
            f"there are no plans for device {device!r}; use one of {', '.join(PLANNED)}"
        )
    return importlib.import_module(f"lowerings.{name}.plans")


@functools.cache
def load(device: str) -> None:
    """Build or import the kernels of a device and register them.

    Raises:
        UnsupportedDeviceError: there are no lowerings for ``device``.
        CompilerMissingError: the device's toolchain is not installed.
    """
    importlib.import_module(_module_of(device)).load()


def compiler_of(device: str) -> Callable[..., Any] | None:
    """A device's own ``compile_planned(gm, example_inputs, plan)``, or None where Inductor compiles for it."""
    return getattr(importlib.import_module(_module_of(device)), "compile_planned", None)


def fuser_of(device: str) -> Callable[[GraphModule], None] | None:
    """A device's own ``fuse(gm)`` over the rewritten graph, which changes no bit, or None."""
    return getattr(importlib.import_module(_module_of(device)), "fuse", None)


def packed_attention_of(device: str) -> Callable[..., Tensor] | None:
    """A device's own attention over packed requests, borders read on the device, or None."""
    return getattr(importlib.import_module(_module_of(device)), "packed_attention", None)


def _module_of(device: str) -> str:
    try:
        return LOWERINGS[device]
    except KeyError:
        raise UnsupportedDeviceError(
            f"no lowerings for device {device!r}; there are lowerings for {', '.join(sorted(LOWERINGS))}. "
            "Move the model there, or compile it with another backend"
        ) from None
