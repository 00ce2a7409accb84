"""Inductor's settings and passes that a pin holds, and what older releases lack."""

import pytest
import torch
from torch._inductor import config
from torch._inductor.codegen.cpp import CppKernel
from torch._inductor.fx_passes import joint_graph

from lowerings import _inductor


@pytest.fixture
def casts():
    """The joint pass that drops a cast to a half type and back; as it was found afterwards."""
    (entry,) = {
        id(e): e
        for entries in joint_graph.patterns.patterns.values()
        for e in entries
        if getattr(e, "handler", None) is joint_graph.pointless_convert
    }.values()
    before = entry.extra_check
    yield entry
    entry.extra_check = before


def test_the_pass_that_drops_roundings_heeds_the_pin_before_213(casts, monkeypatch):
    with config.patch(emulate_precision_casts=True):
        monkeypatch.delattr(joint_graph, "_is_lossless_fp_widening_cast", raising=False)
        _inductor._keep_roundings()
        assert not casts.extra_check(None)
    assert casts.extra_check(None), "ordinary Inductor is untouched"


def test_the_plan_is_a_joint_pass_so_these_must_run():
    assert _inductor.pins()["use_joint_graph_passes"] is True


def test_our_kernels_keep_no_unrounded_value_in_place_of_a_half_one():
    for kernel in (_inductor._ScalarKernel, _inductor._VecKernel, _inductor._Tile2DKernel):
        assert kernel.cache_dtype_convert is not CppKernel.cache_dtype_convert
        assert kernel.check_bounds is not CppKernel.check_bounds


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_to_a_half_type_and_back_rounds(dtype):
    x = torch.randn(64, 64)
    compiled = torch.compile(lambda x: x.to(dtype).float() * 3, backend="batch_invariant")
    assert torch.equal(compiled(x), x.to(dtype).float() * 3)
    stock = torch.compile(lambda x: x.to(dtype).float() * 3, backend="inductor")
    assert not torch.equal(stock(x), x.to(dtype).float() * 3), "control too weak"
