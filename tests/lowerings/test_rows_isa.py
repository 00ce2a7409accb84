"""The same plan gives the same bits on every instruction set that runs here."""

import subprocess
import sys
from pathlib import Path

import pytest
from rows_library import host_isas, library


def bits_of(*isa):
    script = Path(__file__).parent / "rows_bits.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, *isa], check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("isa", host_isas()[1:] or host_isas())
def test_instruction_sets_agree(isa):
    """Against the product's own library, which is built for the fastest."""
    library(isa)
    ours, fastest = bits_of(isa), bits_of()
    assert len(ours) > 50
    assert ours == fastest
