"""A run in parts: it ends in time, keeps what it has, goes on where it ended, and one table shows all of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.suite import record

ROOT = Path(__file__).parents[2]
#: run below as a file of its own: a test that passes, one that fails, one that outlives its run
_TESTS = """
import time

import pytest
import torch

from bi_inductor.errors import VariantOpError


def test_equal(batch_invariant):
    batch_invariant(lambda x: x * 2, lambda n: torch.randn(n, 3), axes=("batch",), backend="eager", batch_sizes=(1, 2))


def test_different(batch_invariant):
    batch_invariant(lambda x: x - x[:1], lambda n: torch.randn(n, 3), axes=("batch",), backend="eager",
                    batch_sizes=(1, 2), explain=False)


def test_refused(batch_invariant):
    with pytest.raises(VariantOpError):
        batch_invariant(lambda x: x / x.sum(), lambda n: torch.randn(n, 3), axes=("batch",), batch_sizes=(1, 2))


@pytest.mark.parametrize("number", range(3))
def test_long(number):
    time.sleep(600)
"""


def run(file, *options):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)


@pytest.mark.parametrize(
    "workers",
    [(), pytest.param(("-n", "2"), marks=pytest.mark.thorough)],
    ids=["alone", "xdist"],
)
def test_a_run_ends_in_time_and_goes_on_where_it_ended(tmp_path, workers):
    file, kept = tmp_path / "test_parts.py", tmp_path / "kept.jsonl"
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    file.write_text(_TESTS)
    first = run(file, "--record", str(kept), "--seconds", "45", *workers)
    lines = record.read([kept])
    found = {name.split("::")[1]: line.outcome for name, line in lines.items()}
    assert found == {
        "test_equal": "passed", "test_different": "failed", "test_refused": "passed",
        **{f"test_long[{n}]": "stopped" for n in range(3)},
    }, first.stdout[-2000:]  # fmt: skip
    table = record.table(lines)
    assert "2 tests passed, 1 failed, 3 without a result" in table
    assert "| test_equal | float32 | cpu | 3 |" in table
    assert "differ**" in table
    assert "reduces over the batch" in table
    again = run(file, "--record", str(kept), "--seconds", "1", "--collect-only", *workers)
    assert "2 deselected" in again.stdout, again.stdout[-2000:]
    assert all(
        set(json.loads(text)) == set(record.Line.__slots__)
        for text in kept.read_text().splitlines()
    )
