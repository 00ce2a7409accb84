"""Hashes of outputs that a second clone on a machine of the same kind must reproduce.

``python -m tests.suite.hashes [--device cuda]`` prints the table of this machine as JSON, and ``--write`` keeps it
under ``benchmarks/results``. The key of a machine is its device, its vector instructions and its versions.
"""

import argparse
import hashlib
import json
import platform
from pathlib import Path

import torch

from tests.rows import flat
from tests.zoo import ZOO
from tests.zoo.case import build

FILE = Path(__file__).parents[2] / "benchmarks" / "results" / "output_hashes.json"
NAMES = ("llama", "resnet")


def machine(device: str = "cpu") -> str:
    """What must be equal for bits to be comparable."""
    if device == "cpu":
        model = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    else:
        model = getattr(torch, device).get_device_name()
    return f"{model} torch {torch.__version__}"


def hashes(device: str = "cpu") -> dict[str, str]:
    """SHA-256 of the output of each model."""
    found = {}
    for name in NAMES:
        torch.compiler.reset()
        case = build(ZOO[name]).to(device)
        torch.manual_seed(1)
        fn = torch.compile(case, backend="batch_invariant", dynamic=False)
        with torch.no_grad():
            out = flat(fn(*(x.to(device) for x in case.inputs(5))))
        digest = hashlib.sha256()
        for tensor in out:
            digest.update(tensor.contiguous().cpu().numpy().tobytes())
        found[name] = digest.hexdigest()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    table = json.loads(FILE.read_text()) if FILE.exists() else {}
    table[machine(given.device)] = hashes(given.device)
    text = json.dumps(table, indent=1, sort_keys=True)
    print(text)
    if given.write:
        FILE.write_text(text + "\n")


if __name__ == "__main__":
    main()
