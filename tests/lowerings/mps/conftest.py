"""Puts the CPU shim in the place of Metal's compiler for every test of this folder."""

import msl_cpu
import pytest

from lowerings.mps import library


@pytest.fixture(autouse=True)
def _metal_on_the_cpu(monkeypatch):
    monkeypatch.setattr(library, "compile_text", msl_cpu.compile_shader)
