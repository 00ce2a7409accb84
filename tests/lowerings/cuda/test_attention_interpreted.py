"""The attention kernels in Triton's interpreter: masks, packing, splits, in a process of its own."""

import os

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import pytest
import torch
from torch import Tensor

from lowerings.cuda import schedules
from lowerings.cuda.attention import attention, side_by_side
from lowerings.cuda.plans import KEY_SPLIT

_SERIAL = schedules.Attention(m=16, warps=4, stages=2)
_PARALLEL = schedules.Attention(m=32, warps=4, stages=2, parallel=True)
_WIDE = schedules.Attention(m=64, warps=4, stages=2)


def _inputs(queries: int, keys: int, dim: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(2, 4, queries, dim),
        torch.randn(2, 2, keys, dim),
        torch.randn(2, 2, keys, dim),
    )


def _exact(q: Tensor, k: Tensor, v: Tensor, **kwargs: object) -> Tensor:
    k, v = (x.double().repeat_interleave(2, 1) for x in (k, v))
    return torch.nn.functional.scaled_dot_product_attention(q.double(), k, v, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", [_SERIAL, _PARALLEL])
@pytest.mark.parametrize("causal", [False, True])
def test_close_to_float64(schedule: schedules.Attention, causal: bool) -> None:
    q, k, v = _inputs(5, 530)
    out, _ = attention(q, k, v, is_causal=causal, split_size=KEY_SPLIT, schedule=schedule)
    assert (out - _exact(q, k, v, is_causal=causal)).abs().max() < 1e-5


@pytest.mark.parametrize("schedule", [_SERIAL, _PARALLEL])
def test_left_padding_and_capacity_change_no_bit(schedule: schedules.Attention) -> None:
    q, k, v = _inputs(1, 520)
    alone, lse = attention(q, k, v, split_size=KEY_SPLIT, schedule=_SERIAL)
    wide_k, wide_v = (torch.nn.functional.pad(x, (0, 0, 37, 70)) for x in (k, v))
    keep = torch.zeros(2, 1, 1, 627, dtype=torch.bool)
    keep[..., 37:557] = True
    added = torch.zeros(627).masked_fill(~keep[0, 0, 0], torch.finfo(torch.float32).min)
    for mask in (keep, added):
        out, lse_padded = attention(
            q, wide_k, wide_v, mask, split_size=KEY_SPLIT, schedule=schedule
        )
        assert torch.equal(out, alone)
        assert torch.equal(lse_padded, lse)


def test_window_rows_start_at_their_own_key() -> None:
    q, k, v = _inputs(20, 20)
    i, j = torch.arange(20)[:, None], torch.arange(20)[None]
    mask = (j <= i) & (j > i - 5)
    whole, _ = attention(q, k, v, mask, split_size=KEY_SPLIT)
    assert (whole - _exact(q, k, v, attn_mask=mask)).abs().max() < 1e-5
    chunk, _ = attention(q[:, :, 13:], k, v, mask[13:], split_size=KEY_SPLIT)
    assert torch.equal(chunk, whole[:, :, 13:])


def test_row_without_keys_is_zero() -> None:
    q, k, v = _inputs(2, 8)
    mask = torch.tensor([[False] * 8, [True] * 8])
    out, lse = attention(q, k, v, mask, split_size=KEY_SPLIT)
    assert not out[:, :, 0].any()
    assert not lse[:, :, 0].any()
    assert out[:, :, 1].any()


@pytest.mark.parametrize("schedule", [_SERIAL, _PARALLEL, _WIDE])
def test_a_hidden_value_that_is_not_finite_reaches_no_row(schedule: schedules.Attention) -> None:
    q, k, v = _inputs(6, 6)
    keep = torch.ones(6, 6, dtype=torch.bool).tril()
    clean, _ = attention(q, k, v, keep, split_size=KEY_SPLIT, schedule=schedule)
    v[:, :, 3, 1], v[:, :, 4, 2], v[:, :, 5] = float("nan"), float("inf"), float("-inf")
    for mask, causal in ((keep, False), (None, True)):
        out, _ = attention(q, k, v, mask, is_causal=causal, split_size=KEY_SPLIT, schedule=schedule)
        assert torch.equal(out[:, :, :3], clean[:, :, :3])
        assert out[:, :, 3:, 1].isnan().all()
        assert (out[:, :, 4, 2] == float("inf")).all()
        assert out[:, :, 5, 2].isnan().all()
        assert (out[:, :, 5, 3] == float("-inf")).all()


def test_scales_of_any_sign() -> None:
    q, k, v = _inputs(2, 9)
    for scale in (-0.5, 0.0):
        out, _ = attention(q, k, v, scale=scale, split_size=KEY_SPLIT)
        assert (out - _exact(q, k, v, scale=scale)).abs().max() < 1e-5


def test_the_kernel_sees_every_mask_with_its_keys_side_by_side() -> None:
    bias = torch.randn(1, 4, 17, 17)
    assert side_by_side(bias, 17) is bias
    assert side_by_side(bias[..., :16], 16).stride() == bias.stride()
    strided = bias.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert strided.stride(-1) == 4
    for mask in (strided, bias[..., :1]):
        found = side_by_side(mask, 17)
        assert found.stride(-1) == 1
        assert torch.equal(found, mask.expand(1, 4, 17, 17))
    q, k, v = (torch.randn(3, 4, 17, 16) for _ in "qkv")
    outs = [attention(q, k, v, mask, split_size=KEY_SPLIT)[0] for mask in (bias, strided)]
    assert torch.equal(*outs)
