"""What a certificate says of the model and of the machine, and the hash that signs it."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


def signed_hash(content: Mapping[str, Any]) -> str:
    """Return SHA-256 over the canonical JSON of everything but the hash itself."""
    body = {k: v for k, v in content.items() if k != "hash"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def subject_of(model: Callable[..., Any]) -> dict[str, str]:
    """Return the model's name and a hash of its structure: modules, settings, shapes, dtypes; no weights."""
    if isinstance(model, nn.Module):
        state = [*model.named_parameters(), *model.named_buffers()]
        lines = [f"{name} {tuple(x.shape)} {x.dtype}" for name, x in state]
        text = "\n".join([repr(model), f"training={model.training}", *lines])
        return {"name": type(model).__name__, "structure": _sha(text)}
    name = str(getattr(model, "__qualname__", type(model).__name__))
    code = getattr(model, "__code__", None)
    # constants that print an address would be others in the next process
    parts = [] if code is None else [c for c in code.co_consts if " at 0x" not in repr(c)]
    text = repr((name, getattr(code, "co_code", b""), getattr(code, "co_names", ()), parts))
    return {"name": name, "structure": _sha(text)}


def environment(device: str) -> dict[str, str]:
    """Return the versions and the machine that the bits belong to."""
    from bi_inductor import __version__

    found = {
        "torch": str(torch.__version__),
        "bi_inductor": __version__,
        "python": platform.python_version(),
        "device": device,
        "device_model": device_model(device),
        "isa": torch.backends.cpu.get_cpu_capability(),
    }
    try:
        found["transformers"] = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        found["transformers"] = "not installed"
    return found


def device_model(device: str) -> str:
    """Return the marketing name of the device."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
