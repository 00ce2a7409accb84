import math

import pytest
import torch
from msl_cpu import model
from properties import DTYPES, HALF_ULP, LANES, data, reference_rows, same
from torch.nn import functional as F

from bi_inductor.errors import LoweringError
from lowerings.mps import norm, reduction, scan, schedules, softmax


def reduce_last(kind, **kw):
    return lambda x: reduction.reduction(x, kind, [-1], lanes=LANES, **kw)


OPS = {
    "sum": reduce_last("sum"),
    "mean": reduce_last("mean"),
    "prod": reduce_last("prod"),
    "amax": reduce_last("amax"),
    "argmin": reduce_last("argmin"),
    "norm": reduce_last("norm", param=2.0),
    "var": lambda x: reduction.var_mean(x, [-1], 1, lanes=LANES)[0],
    "softmax": lambda x: softmax.softmax(x, -1, False, lanes=LANES),
    "log_softmax": lambda x: softmax.softmax(x, -1, True, lanes=LANES),
    "layer_norm": lambda x: norm.layer_norm(x, x.shape[-1:], None, None, 1e-5, lanes=LANES)[0],
    "rms_norm": lambda x: norm.rms_norm(x, x.shape[-1:], None, 1e-6, lanes=LANES)[0],
    "cumsum": lambda x: scan.scan(x, "cumsum", -1),
}
EXACT = {
    "sum": lambda x: x.sum(-1),
    "mean": lambda x: x.mean(-1),
    "prod": lambda x: x.prod(-1),
    "amax": lambda x: x.amax(-1),
    "argmin": lambda x: x.argmin(-1),
    "norm": lambda x: x.norm(dim=-1),
    "var": lambda x: x.var(-1),
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "rms_norm": lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-6),
    "cumsum": lambda x: x.cumsum(-1),
}


@pytest.fixture(params=[32, 256], ids="width{}".format)
def width(request, monkeypatch):
    monkeypatch.setattr(schedules, "row_width", lambda extent: request.param)
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_rows_do_not_depend_on_the_batch(op, dtype, width):
    x = data(130, 257, dtype=dtype)
    full = OPS[op](x)
    counts = range(1, 131) if dtype == torch.float32 and width == 32 else (1, 2, 7, 8, 9, 64, 129)
    for rows in counts:
        assert same(OPS[op](x[:rows]), full[:rows]), rows
    assert same(OPS[op](x[77:78]), full[77:78])


@pytest.mark.parametrize("length", [1, 5, 255, 256, 257, 1000, 4097])
@pytest.mark.parametrize("kind", ["sum", "mean", "mean_squares"])
def test_both_widths_give_the_bits_of_the_plan(kind, length, width):
    for dtype in DTYPES:
        x = data(3, length, dtype=dtype)
        assert same(reduce_last(kind)(x), reference_rows(x, kind))


@pytest.mark.parametrize("op", OPS)
def test_widths_and_open_orders_agree(op, monkeypatch):
    x = data(9, 1000)
    results = []
    for threads in (32, 256):
        monkeypatch.setattr(schedules, "row_width", lambda extent, n=threads: n)
        for order, seed in (("forward", 1), ("reverse", 1), ("random", 1), ("random", 2)):
            with model(order=order, seed=seed, sum_order=seed, guard=seed == 2):
                results.append(OPS[op](x))
    assert all(same(r, results[0]) for r in results)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy_stays_in_the_budget_of_stock(op, dtype):
    x = torch.randn(20, 257, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = EXACT[op](x.double())
    ours = (OPS[op](x).double() - exact).abs().max()
    stock = (EXACT[op](x).double() - exact).abs().max()
    assert ours <= 2 * stock + exact.abs().max() * HALF_ULP[dtype]


def test_any_dims_any_strides():
    x = data(3, 4, 5, 6)
    for y in (x, x.transpose(0, 2), x[:, ::2], x[..., 1:4].permute(3, 1, 0, 2)):
        for dims in ([0], [1, 2], [0, 3], [0, 1, 2, 3], [-1], [2]):
            for keepdim in (False, True):
                out = reduction.reduction(y, "sum", dims, keepdim, lanes=LANES)
                same_data = reduction.reduction(y.contiguous(), "sum", dims, keepdim, lanes=LANES)
                assert same(out, same_data)
                torch.testing.assert_close(out, y.sum(dims, keepdim), rtol=1e-4, atol=1e-4)
        for dim in range(4):
            assert same(
                softmax.softmax(y, dim, False, lanes=LANES),
                softmax.softmax(y.movedim(dim, -1), -1, False, lanes=LANES).movedim(-1, dim),
            )
            torch.testing.assert_close(
                scan.scan(y, "cumsum", dim), y.cumsum(dim), rtol=1e-4, atol=1e-4
            )


def test_integers_and_bool_are_exact():
    for dtype in (torch.int64, torch.int32, torch.int16, torch.uint8):
        x = torch.randint(0, 100, (4, 300), generator=torch.Generator().manual_seed(0)).to(dtype)
        assert same(OPS["sum"](x), x.sum(-1))
        assert same(OPS["amax"](x), x.amax(-1))
        assert same(reduce_last("argmax")(x), x.argmax(-1))
        assert same(OPS["cumsum"](x), x.cumsum(-1))
    mask = data(4, 300) > 2
    assert same(reduce_last("any")(mask), mask.any(-1))
    assert same(reduce_last("all")(~mask), (~mask).all(-1))
    assert same(OPS["sum"](mask), mask.sum(-1))


def test_nan_wins_and_the_lowest_index_wins():
    x = torch.zeros(3, 300)
    x[1, [17, 200]] = torch.nan
    x[2, [40, 41, 290]] = 5.0
    assert reduce_last("argmax")(x).tolist() == x.argmax(-1).tolist() == [0, 17, 40]
    assert OPS["amax"](x).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, math.inf, -math.inf])
def test_norms(p):
    x = data(4, 300)
    torch.testing.assert_close(
        reduction.reduction(x, "norm", [1], param=p, lanes=LANES), x.norm(p, dim=1)
    )


def test_logcumsumexp_and_cumprod():
    x = data(4, 100)
    x[1, :3] = -torch.inf
    torch.testing.assert_close(scan.scan(x, "logcumsumexp", 1), x.logcumsumexp(1))
    torch.testing.assert_close(scan.scan(x, "cumprod", 1), x.cumprod(1))


def test_affine_norms_and_mixed_dtypes():
    x, w, b = data(5, 7, 40), data(40, seed=1), data(40, seed=2)
    out, mean, rstd = norm.layer_norm(x, [40], w, b, 1e-5, lanes=LANES)
    torch.testing.assert_close(out, F.layer_norm(x, [40], w, b), rtol=1e-4, atol=1e-4)
    assert mean.shape == rstd.shape == (5, 7, 1)
    half, _ = norm.rms_norm(x.half(), [40], w, 1e-6, lanes=LANES)
    exact = F.rms_norm(x.half().double(), [40], w.double(), 1e-6)
    torch.testing.assert_close(half, exact.half(), rtol=2e-3, atol=1e-3)


def test_empty_extents():
    assert OPS["sum"](data(0, 5)).shape == (0,)
    assert OPS["sum"](data(3, 0)).tolist() == [0, 0, 0]
    assert OPS["mean"](data(2, 0)).isnan().all()
    assert OPS["softmax"](data(2, 0)).shape == (2, 0)
    with pytest.raises(LoweringError, match="amax over no elements"):
        OPS["amax"](data(2, 0))


def test_control_threads_chosen_from_the_rows_would_show():
    x = data(130, 4097)
    tree = x.view(130, 4097)[:, :4096].reshape(130, 4, 1024).sum(1).sum(1)
    assert not same(tree, OPS["sum"](x[:, :4096].contiguous()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_exp_and_log_within_two_ulp(dtype):
    x = torch.linspace(-87, 0, 20001).to(dtype).float()
    pairs = torch.stack([torch.zeros_like(x), x], 1)
    out = softmax.softmax(pairs, 1, False, lanes=LANES)[:, 1].double()
    exact = pairs.double().softmax(1)[:, 1]
    assert ((out - exact).abs() / exact).max() < 4 * 2.0**-24
