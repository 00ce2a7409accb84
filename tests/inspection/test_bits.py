"""Raw bits: signed zeros differ, NaN do not, ulp are counted across zero and in every dtype."""

import math

import pytest
import torch

from bi_inductor.inspection.bits import difference, equal

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_step_is_one_ulp(dtype):
    x = torch.tensor([1.0, -3.0, 0.5, 100.0], dtype=dtype)
    raw = x.view({8: torch.int64, 4: torch.int32, 2: torch.int16}[x.element_size()]).clone()
    raw[2] += 1
    found = difference(x, raw.view(dtype))
    assert (found.changed, found.total, found.max_ulp) == (1, 4, 1)
    assert found.max_abs > 0


def test_zeros_have_signs_and_are_neighbours():
    found = difference(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert (found.changed, found.max_ulp, found.max_abs) == (1, 1, 0.0)
    tiny = torch.tensor([1e-45])
    assert difference(tiny, -tiny).max_ulp == 3


def test_all_nan_are_one_value_and_a_lone_nan_is_a_difference():
    quiet = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert equal(quiet[:1], quiet[1:])
    found = difference(torch.tensor([math.nan, 1.0]), torch.tensor([1.0, 1.0]))
    assert found.changed == 1
    assert math.isnan(found.max_abs)
    assert found.max_ulp is None


def test_integers_bools_and_complex():
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 5])).max_abs == 3
    assert difference(torch.tensor([True]), torch.tensor([False])).changed == 1
    assert difference(torch.tensor([1 + 2j]), torch.tensor([1 - 2j])).max_abs == 4


def test_extremes_do_not_overflow():
    huge = torch.tensor([torch.finfo(torch.float64).max], dtype=torch.float64)
    assert difference(huge, -huge).max_ulp == 2 * 0x7FEFFFFFFFFFFFFF + 1


def test_other_shapes_and_dtypes_are_refused():
    with pytest.raises(ValueError, match="float32\\[2\\] with float32\\[3\\]"):
        difference(torch.zeros(2), torch.zeros(3))
    assert not equal(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
