"""The parts of the Mac owner's script that a CPU can run, on the shim."""

import subprocess
import sys
from pathlib import Path

import golden
import on_device
import torch


def test_kernels_compile_and_canaries_hold_on_the_shim():
    assert "gemv.bi_gemv_k" in on_device.compiled(), "every text compiles"
    assert all(on_device.canaries("cpu").values())


def test_a_changed_bit_is_reported(monkeypatch):
    monkeypatch.setattr(golden, "CASES", {"mm M=1 nn": lambda x: x(70, seed=9)})
    assert len(on_device.golden_differences("cpu")) == len(golden.DTYPES)


def test_without_a_mac_it_fails_and_says_why():
    assert not torch.backends.mps.is_available()
    command = [sys.executable, str(Path(on_device.__file__))]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "needs a Mac" in run.stderr
