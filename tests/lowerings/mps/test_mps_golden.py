import json

import golden
import pytest
from msl_cpu import model

from lowerings.mps import plans

RECORDED = json.loads(golden.FILE.read_text())


def test_the_record_is_of_this_plan_and_complete():
    assert RECORDED["plan_version"] == plans.PLAN_VERSION
    assert set(RECORDED["digests"]) == {f"{c} {d}" for c in golden.CASES for d in golden.DTYPES}


@pytest.mark.parametrize("case", golden.CASES)
def test_bits_are_the_recorded_ones(case):
    for dtype in golden.DTYPES:
        found = golden.digest(case, dtype, "cpu")
        assert found == RECORDED["digests"][f"{case} {dtype}"], dtype


def test_flushing_subnormals_changes_no_recorded_bit():
    with model(flush=False):
        for case in ("mm M=3 nn", "softmax L=257", "attention Lq=11 mask=True"):
            found = golden.digest(case, "float32", "cpu")
            assert found == RECORDED["digests"][f"{case} float32"]
