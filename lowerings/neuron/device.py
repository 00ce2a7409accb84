"""Is there a NeuronCore, is its toolchain the vendor's, and may the environment change bits behind our back?"""

import functools
import importlib
import importlib.util
import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from bi_inductor.errors import UnsupportedDeviceError
from lowerings.neuron.ops import Toolchain, register

MIN_TORCH = (2, 13)  # the first release that TorchNeuron supports

_INSTALL = "install the AWS Neuron SDK (2.33 or later) on a Trn2 or Trn3 instance"

#: variable -> values that round stochastically or cast to a narrower type without being asked
_REFUSED_ENVIRONMENT = {
    "NEURON_RT_STOCHASTIC_ROUNDING_EN": ("1",),
    "XLA_USE_BF16": ("1",),
    "XLA_DOWNCAST_BF16": ("1",),
}


def neuron_kind(device: torch.device) -> str | None:
    """Return "native" for TorchNeuron, "xla" for a NeuronCore behind torch_xla, None for anything else."""
    if device.type == "neuron":
        return "native"
    if device.type == "privateuseone":
        return "native" if torch._C._get_privateuse1_backend_name() == "neuron" else None
    if device.type != "xla":
        return None
    try:
        runtime = importlib.import_module("torch_xla.runtime")
    except ImportError:
        return None
    return "xla" if runtime.device_type() == "NEURON" else None


def check_environment(environ: Mapping[str, str]) -> None:
    """Refuse settings that change results without the graph saying so.

    Raises:
        UnsupportedDeviceError: names the variable, its value and the remedy.
    """
    for name, values in _REFUSED_ENVIRONMENT.items():
        if environ.get(name) in values:
            raise UnsupportedDeviceError(
                f"{name}={environ[name]} rounds or casts tensors outside the plan, so a row's bits would "
                f"not be its own; unset {name}"
            )
    flags = environ.get("NEURON_CC_FLAGS", "")
    if (
        "--auto-cast" in flags
        and "--auto-cast=none" not in flags
        and "--auto-cast none" not in flags
    ):
        raise UnsupportedDeviceError(
            f"NEURON_CC_FLAGS={flags!r} lets the compiler cast matmuls; use --auto-cast=none"
        )
    if environ.get("TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION", "1") != "1":
        raise UnsupportedDeviceError(
            "TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION=0 lets ops run on the CPU without a word; set it to 1"
        )


def check_torch(version: str) -> None:
    """Refuse a torch that no TorchNeuron exists for (UnsupportedDeviceError)."""
    release = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    if release < MIN_TORCH:
        raise UnsupportedDeviceError(
            f"torch {version} has no TorchNeuron; install torch 2.13 or 2.14"
        )


def import_vendor(name: str) -> Any:
    """Import a vendor package; the packages of these names on the public index are placeholders.

    Raises:
        UnsupportedDeviceError: says whether nothing or a package that refuses to be imported was found.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        found = importlib.util.find_spec(name.split(".")[0]) is not None
        what = (
            f"a package {name} that cannot be imported (the one on the public index is a placeholder)"
            if found
            else f"no package {name}"
        )
        raise UnsupportedDeviceError(f"found {what}; {_INSTALL}") from error


def import_kernels() -> SimpleNamespace:
    """Import the kernel modules, which import ``nki``; return the kernels in one namespace."""
    modules = ("matmul", "reduction", "norm", "softmax", "attention")
    matmul, reduction, norm, softmax, attention = (
        importlib.import_module(f"lowerings.neuron.kernels.{name}") for name in modules
    )
    return SimpleNamespace(
        matmul=matmul.matmul,
        row_reduce=reduction.row_reduce,
        var_mean=reduction.var_mean,
        rms_norm=norm.rms_norm,
        layer_norm=norm.layer_norm,
        softmax=softmax.softmax,
        attention=attention.attention,
    )


@functools.cache
def load() -> None:
    """Register the Neuron ops with the vendor's toolchain, once per process.

    Raises:
        UnsupportedDeviceError: torch is too old, the toolchain is missing, or the environment changes bits.
    """
    check_torch(torch.__version__)
    check_environment(os.environ)
    os.environ["TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION"] = "1"
    import_vendor("nki")
    vendor = import_vendor("torch_neuronx")
    if not hasattr(vendor, "nki_op"):
        raise UnsupportedDeviceError(
            f"torch_neuronx {vendor.__version__} has no nki_op; {_INSTALL}"
        )

    def define(name: str, function: Any, fake: Any) -> None:
        # nki_op brings its own fake: AOTAutograd traces into the function
        vendor.nki_op(name, mutates_args={})(function)

    register(Toolchain(define=define, wrap=vendor.wrap_nki, kernels=import_kernels()))
