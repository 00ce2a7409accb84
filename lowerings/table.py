"""Which devices have lowerings, and how to load one. Importing this file loads no toolchain."""

import functools
import importlib
from types import ModuleType

from bi_inductor.errors import UnsupportedDeviceError

#: device type -> module with ``load()`` and ``plans.plan_for``
LOWERINGS: dict[str, str] = {
    "cpu": "lowerings.cpu",
    "cuda": "lowerings.cuda",
}


def plans_of(device: str) -> ModuleType:
    """The plans of a device: plain data, no toolchain.

    Raises:
        UnsupportedDeviceError: there are no lowerings for ``device``.
    """
    return importlib.import_module(_module_of(device) + ".plans")


@functools.cache
def load(device: str) -> None:
    """Build or import the kernels of a device and register them.

    Raises:
        UnsupportedDeviceError: there are no lowerings for ``device``.
        CompilerMissingError: the device's toolchain is not installed.
    """
    importlib.import_module(_module_of(device)).load()


def _module_of(device: str) -> str:
    try:
        return LOWERINGS[device]
    except KeyError:
        raise UnsupportedDeviceError(
            f"no lowerings for device {device!r}; there are lowerings for {', '.join(sorted(LOWERINGS))}. "
            "Move the model there, or compile it with another backend"
        ) from None
