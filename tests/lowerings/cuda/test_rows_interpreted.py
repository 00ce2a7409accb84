"""The row kernels in Triton's interpreter: layouts, tails and the order of the plan, in a process of its own."""

import os

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import pytest
import torch
from torch import Tensor

from lowerings.cuda import norm, reduction, schedules, softmax
from lowerings.cuda.plans import LANES


def _in_plan_order(row: Tensor) -> Tensor:
    """Lanes in ascending order, then pairs, in float32."""
    padded = torch.nn.functional.pad(row.float(), (0, -row.numel() % LANES)).view(-1, LANES)
    total = torch.zeros(LANES)
    for step in padded:
        total = total + step
    while total.numel() > 1:
        total = total[0::2] + total[1::2]
    return total[0]


@pytest.mark.parametrize("extent", [1, 7, 100, 1024, 1025, 9000])
def test_sum_follows_the_plan_bitwise(extent: int) -> None:
    x = torch.randn(3, extent)
    out = reduction.reduction(x, "sum", [1], lanes=LANES)
    assert torch.equal(out, torch.stack([_in_plan_order(row) for row in x]))
    assert torch.equal(reduction.reduction(x.t(), "sum", [0], lanes=LANES), out)
    assert torch.equal(
        reduction.reduction(torch.nn.functional.pad(x, (0, 300)), "sum", [1], lanes=LANES), out
    )


@pytest.mark.parametrize("dims", [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]])
@pytest.mark.parametrize("kind", ["sum", "mean", "mean_squares"])
def test_any_dims(dims: list[int], kind: str) -> None:
    x = torch.randn(5, 6, 7).transpose(0, 1)
    value = x.double() ** 2 if kind == "mean_squares" else x.double()
    exact = value.sum(dims, keepdim=True) if kind == "sum" else value.mean(dims, keepdim=True)
    out = reduction.reduction(x, kind, dims, True, lanes=LANES)
    assert (out - exact).abs().max() < 1e-5
    var, mean = reduction.var_mean(x, dims, 1.0, lanes=LANES)
    assert (var - x.double().var(dims)).abs().max() < 1e-5
    assert (mean - x.double().mean(dims)).abs().max() < 1e-5


@pytest.mark.parametrize("extent", [64, 1000, 5000])
def test_norms(extent: int) -> None:
    x, w, b = torch.randn(4, 3, extent), torch.randn(extent), torch.randn(extent)
    out, _, _ = norm.layer_norm(x, [extent], w, b, 1e-5, lanes=LANES)
    assert (out - torch.nn.functional.layer_norm(x, [extent], w, b)).abs().max() < 1e-4
    out, _ = norm.rms_norm(x, [extent], w, 1e-6, lanes=LANES)
    assert (out - torch.nn.functional.rms_norm(x, [extent], w, 1e-6)).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])  # bfloat16 is cut off here
@pytest.mark.parametrize("extent", [64, 1000, 5000])
def test_the_fused_norm_rounds_as_its_parts_do(extent: int, dtype: torch.dtype) -> None:
    x, residual = (torch.randn(4, 3, extent).to(dtype) for _ in range(2))
    weight = torch.randn(extent).to(dtype)
    out, total = norm.add_rms_norm(x, residual, weight, 1e-6, fma=False, rounded=True, lanes=LANES)
    assert torch.equal(total, x + residual)
    wide = total.float()
    mean = reduction.reduction(wide.pow(2), "mean", [-1], True, lanes=LANES)
    parts = weight * (wide * torch.rsqrt(mean + 1e-6)).to(dtype)
    # numpy's root may differ by one unit from torch's, and a rounding may double it
    torch.testing.assert_close(out, parts, rtol=2 * torch.finfo(dtype).eps, atol=0)
    alone, empty = norm.add_rms_norm(
        total[1:2], None, weight, 1e-6, fma=False, rounded=True, lanes=LANES
    )
    assert torch.equal(alone, out[1:2])
    assert not empty.numel()
    bare, _ = norm.add_rms_norm(
        total.transpose(0, 1), None, None, 1e-6, fma=False, rounded=True, lanes=LANES
    )
    assert torch.equal(weight * bare.transpose(0, 1), out)
    whole, _ = norm.add_rms_norm(x, residual, weight, 1e-6, fma=True, rounded=False, lanes=LANES)
    assert torch.equal(whole, norm.rms_norm(total, [extent], weight, 1e-6, lanes=LANES)[0])


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("log", [False, True])
def test_softmax(dim: int, log: bool) -> None:
    x = torch.randn(2, 3, 4100)
    out = softmax.softmax(x, dim, log, lanes=LANES)
    stock = torch.log_softmax(x, dim) if log else torch.softmax(x, dim)
    assert (out - stock).abs().max() < 1e-5


@pytest.mark.parametrize("log", [False, True])
def test_parts_of_a_long_row_are_the_row(log: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 33000)
    assert schedules.softmax_parts(*x.shape) > 1
    parts = softmax.softmax(x, -1, log, lanes=LANES)
    monkeypatch.setattr(schedules, "softmax_parts", lambda count, extent: 1)
    assert torch.equal(softmax.softmax(x, -1, log, lanes=LANES), parts)
    assert (parts - (torch.log_softmax if log else torch.softmax)(x, -1)).abs().max() < 1e-5
