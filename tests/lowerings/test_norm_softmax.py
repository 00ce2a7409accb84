"""softmax, layer_norm and rms_norm against the order of their plans."""

import math

import pytest
import rows_reference as reference
import torch
from rows_data import (
    EXTENTS,
    FLOATS,
    HALVES,
    cancelling,
    normals,
    rows_that_change,
    strided,
    threads,  # noqa: F401  (fixture)
)
from rows_library import load

load()
OPS = torch.ops.bi_inductor
SINGLE_OR_HALF = (torch.float32, *HALVES)


def softmax(x, dim=-1, log=False, dtype=None):
    return OPS.softmax(x, dim, log, dtype=dtype, lanes=64)


def layer_norm(x, weight=None, bias=None, shape=None):
    return OPS.layer_norm(x, shape or [x.shape[-1]], weight, bias, 1e-5, lanes=64)


def rms_norm(x, weight=None, shape=None):
    return OPS.rms_norm(x, shape or [x.shape[-1]], weight, 1e-6, lanes=64)


@pytest.mark.parametrize("log", [False, True], ids=["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", SINGLE_OR_HALF, ids=str)
@pytest.mark.parametrize("n", EXTENTS)
def test_softmax_follows_the_plan(n, dtype, log):
    torch.manual_seed(n)
    x = normals(3, n, dtype=dtype) * 8
    expected = reference.softmax(x, log)
    assert torch.equal(softmax(x, log=log), expected.to(dtype))
    assert torch.equal(softmax(x, log=log, dtype=torch.float32), expected)


@pytest.mark.parametrize("log", [False, True], ids=["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_softmax_has_one_result_for_all_strides(dtype, log):
    torch.manual_seed(0)
    x = normals(5, 70, 37, dtype=dtype) * 4
    for dim in range(3):
        last = x.movedim(dim, -1).contiguous()
        expected = softmax(last, log=log).movedim(-1, dim)
        for name, view in strided(x).items():
            assert torch.equal(softmax(view, dim, log), expected), f"{name}, dim {dim}"
            if dtype in HALVES:
                wide = softmax(view, dim, log, dtype=torch.float32)
                assert torch.equal(wide.to(dtype), expected), f"{name}, dim {dim}"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("n", EXTENTS)
def test_rows_do_not_depend_on_the_batch(n, dtype, threads):  # noqa: F811
    torch.manual_seed(n)
    weight, bias = normals(n, dtype=dtype), normals(n, dtype=dtype)
    for x in (normals(5, n, dtype=dtype), cancelling(5, n, dtype=dtype)):
        for op in (
            softmax,
            lambda t: softmax(t, log=True),
            lambda t: layer_norm(t, weight, bias)[0],
            lambda t: rms_norm(t, weight)[0],
        ):
            assert rows_that_change(op, x) == []


@pytest.mark.parametrize("op", ["mean of squares", "logsumexp"])
def test_stock_depends_on_the_batch(op):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    stock = {
        "mean of squares": lambda t: t.square().mean(-1),
        "logsumexp": lambda t: t.logsumexp(-1),
    }[op]
    changed = rows_that_change(stock, normals(16, 50257) * 8)
    torch.set_num_threads(before)
    assert changed, "control too weak: stock torch agrees with itself on this data"


def test_trailing_masked_elements_change_no_bit():
    torch.manual_seed(0)
    x = normals(4, 100) * 5
    for log in (False, True):
        for extra in (1, 28, 64, 999):
            longer = torch.cat([x, torch.full((4, extra), -math.inf)], -1)
            assert torch.equal(softmax(longer, log=log)[:, :100], softmax(x, log=log))
            outer = softmax(longer.t().contiguous(), 0, log).t()[:, :100]
            assert torch.equal(outer, softmax(x, log=log))


@pytest.mark.parametrize("log", [False, True], ids=["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_softmax_of_special_rows_is_as_stock(dtype, log):
    inf, nan = math.inf, math.nan
    x = torch.tensor(
        [[-inf] * 3, [0, inf, 1], [nan, 0, 1], [-inf, 0, 1], [3, 3, 3], [-inf, -inf, 5]],
        dtype=dtype,
    )
    stock = (torch.log_softmax if log else torch.softmax)(x.double(), -1)
    for ours in (softmax(x, log=log), softmax(x.t().contiguous(), 0, log).t()):
        assert torch.equal(ours.isnan(), stock.isnan())
        assert torch.equal(ours.isinf(), stock.isinf())
        torch.testing.assert_close(ours, stock.to(dtype), equal_nan=True)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("n", [100, 2048, 50257])
def test_softmax_error_is_within_twice_the_error_of_stock(n, dtype):
    torch.manual_seed(0)
    x = normals(8, n, dtype=dtype) * 4
    for log, stock_op in ((False, torch.softmax), (True, torch.log_softmax)):
        exact = stock_op(x.double(), -1)
        half_ulp = exact.abs().max() * torch.finfo(dtype).eps / 2
        ours, stock = ((t.double() - exact).abs() for t in (softmax(x, log=log), stock_op(x, -1)))
        if dtype == torch.float64:  # no wider type here: agree to a few ulp of the largest value
            assert ours.max() <= 32 * half_ulp
        else:
            assert ours.max() <= 2 * (stock.max() + half_ulp)


@pytest.mark.parametrize("dtype", SINGLE_OR_HALF, ids=str)
@pytest.mark.parametrize("n", EXTENTS)
def test_norms_follow_the_plan(n, dtype):
    torch.manual_seed(n)
    x = normals(4, n, dtype=dtype) * 3 + 1
    for parameter_dtype in {dtype, torch.float32}:
        weight, bias = (normals(n, dtype=parameter_dtype) for _ in range(2))
        expected = reference.layer_norm(x, weight, bias, 1e-5)
        for actual, wanted in zip(layer_norm(x, weight, bias), expected, strict=True):
            assert torch.equal(actual, wanted.to(actual.dtype))
        expected = reference.rms_norm(x, weight, 1e-6)
        for actual, wanted in zip(rms_norm(x, weight), expected, strict=True):
            assert torch.equal(actual, wanted)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_norms_have_one_result_for_all_strides(dtype):
    torch.manual_seed(0)
    x = normals(3, 70, 37, dtype=dtype)
    for shape in ([37], [70, 37], [3, 70, 37]):
        weight, bias = (normals(*shape, dtype=dtype) for _ in range(2))
        expected = (*layer_norm(x, weight, bias, shape), *rms_norm(x, weight, shape))
        for name, view in strided(x).items():
            actual = (*layer_norm(view, weight, bias, shape), *rms_norm(view, weight, shape))
            for a, e in zip(actual, expected, strict=True):
                assert torch.equal(a, e), f"{name}, {shape}"
        turned = weight.mT.contiguous().mT if len(shape) > 1 else weight
        assert torch.equal(layer_norm(x, turned, bias, shape)[0], expected[0])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_norm_shapes_and_dtypes_are_those_of_stock(dtype):
    x = normals(2, 3, 8, dtype=dtype)
    for parameters in {dtype, torch.float32 if dtype in HALVES else dtype}:
        weight, bias = normals(8, dtype=parameters), normals(8, dtype=parameters)
        for w, b in ((None, None), (weight, None), (weight, bias)):
            stock = torch.ops.aten.native_layer_norm(x, [8], w, b, 1e-5)
            for ours, theirs in zip(layer_norm(x, w, b), stock, strict=True):
                assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
                torch.testing.assert_close(ours, theirs)
            stock = torch.ops.aten._fused_rms_norm(x, [8], w, 1e-6)
            for ours, theirs in zip(rms_norm(x, w), stock, strict=True):
                assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
                torch.testing.assert_close(ours, theirs)


def test_a_nan_stays_in_its_row():
    torch.manual_seed(0)
    x = normals(6, 200)
    for op in (softmax, lambda t: layer_norm(t)[0], lambda t: rms_norm(t)[0]):
        clean = op(x)
        for value in (math.nan, math.inf):
            spoiled = x.clone()
            spoiled[2, 70] = value
            keep = [0, 1, 3, 4, 5]
            assert torch.equal(op(spoiled)[keep], clean[keep])


def test_empty_and_scalar_inputs():
    assert softmax(torch.empty(0, 5)).shape == (0, 5)
    assert softmax(torch.empty(5, 0)).shape == (5, 0)
    assert softmax(torch.tensor(2.0), 0) == 1
    assert layer_norm(torch.empty(0, 5))[1].shape == (0, 1)
    assert rms_norm(torch.empty(0, 5))[1].shape == (0, 1)


def test_bad_calls_name_the_bad_value():
    x = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match=r"does not end in normalized_shape \[4\]"):
        layer_norm(x, shape=[4])
    with pytest.raises(RuntimeError, match=r"parameters of shape \[3\], got \[2\]"):
        rms_norm(x, torch.ones(2))
    with pytest.raises(RuntimeError, match=r"input's dtype"):
        rms_norm(x, torch.ones(3, dtype=torch.bfloat16))
    with pytest.raises(RuntimeError, match="expected a floating input"):
        softmax(torch.ones(2, 3, dtype=torch.int64))
