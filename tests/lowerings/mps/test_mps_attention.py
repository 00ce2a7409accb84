import pytest
import torch
from msl_cpu import model
from properties import DTYPES, HALF_ULP, KEYS, same
from torch.nn import functional as F

from bi_inductor.errors import LoweringError
from lowerings.mps import attention as mps
from lowerings.mps.schedules import AttentionSchedule

DIM, HEADS, KV_HEADS, LENGTH = 16, 4, 2, 330  # more than one piece of 256 keys, no whole block
ONE = AttentionSchedule(queries=1, by_piece=False, threads=64)
BY_PIECE = AttentionSchedule(queries=1, by_piece=True, threads=64)
TILE = AttentionSchedule(queries=8, by_piece=False, threads=64)


def qkv(batch=2, queries=11, keys=LENGTH, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, HEADS, queries, DIM), *[(batch, KV_HEADS, keys, DIM)] * 2)
    return [(torch.randn(s, generator=generator) * 2).to(dtype) for s in shapes]


def run(q, k, v, mask=None, **kw):
    return mps.attention(q, k, v, mask, split_size=KEYS, **kw)[0]


def causal_mask(queries, keys, offset):
    return torch.arange(keys) <= torch.arange(queries)[:, None] + offset


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy_and_batch(dtype):
    q, k, v = qkv(3, dtype=dtype)
    full = run(q, k, v)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), enable_gqa=True)
    stock = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    budget = 2 * (stock.double() - exact).abs().max() + exact.abs().max() * HALF_ULP[dtype]
    assert (full.double() - exact).abs().max() <= budget
    for n in range(3):
        assert same(run(q[n : n + 1], k[n : n + 1], v[n : n + 1]), full[n : n + 1])


@pytest.mark.parametrize("kind", ["none", "bool", "additive"])
def test_schedules_and_open_orders_give_the_bits_of_the_plan(kind):
    q, k, v = qkv()
    mask = None if kind == "none" else torch.rand(2, 1, 11, LENGTH) > 0.3
    if kind == "additive":
        mask = torch.where(mask, 0.5, -torch.inf)
    results = []
    for schedule in (ONE, BY_PIECE, TILE):
        for order, seed in (("forward", 1), ("reverse", 1), ("random", 1), ("random", 2)):
            with model(order=order, seed=seed, guard=seed == 2):
                results.append(mps.attention_with(schedule, q, k, v, mask, split_size=KEYS))
    for out, lse in results:
        assert same(out, results[0][0])
        assert same(lse, results[0][1])


def test_prefill_chunks_and_decode_agree():
    q, k, v = qkv(queries=LENGTH)
    q = q[:1]
    k, v = k[:1], v[:1]
    prefill = run(q, k, v, is_causal=True)
    for at in (
        0,
        1,
        31,
        32,
        255,
        256,
        257,
        LENGTH - 1,
    ):  # one token at a time, the cache as long as it is
        step = run(q[:, :, at : at + 1], k[:, :, : at + 1], v[:, :, : at + 1])
        assert same(step, prefill[:, :, at : at + 1]), at
    for first, count in ((0, 7), (250, 16), (300, 30)):  # a chunk, with the mask of its place
        mask = causal_mask(count, LENGTH, first)
        chunk = run(q[:, :, first : first + count], k, v, mask)
        assert same(chunk, prefill[:, :, first : first + count])
    additive = torch.where(causal_mask(LENGTH, LENGTH, 0), 0.0, -torch.inf)
    assert same(run(q[:, :, 200:230], k, v, additive[200:230]), prefill[:, :, 200:230])


def test_right_padding_and_a_static_cache_of_garbage_change_nothing():
    q, k, v = qkv(queries=3)
    alone = run(q, k, v)
    tail = torch.full((2, KV_HEADS, 90, DIM), torch.nan)
    keep = (torch.arange(LENGTH + 90) < LENGTH)[None, None, None]
    longer = [torch.cat([x, tail], 2) for x in (k, v)]
    assert same(run(q, *longer, keep), alone)
    assert same(run(q, *longer, torch.where(keep, 0.0, -torch.inf)), alone)
    assert same(run(q, *longer, torch.where(keep, 0.0, torch.finfo(torch.float32).min)), alone)


@pytest.mark.parametrize("pad", [1, 31, 37, 256])
def test_left_padding_moves_nothing(pad):
    q, k, v = qkv(queries=9)
    mask = causal_mask(9, LENGTH, LENGTH - 9)
    alone = run(q, k, v, mask)
    head = torch.full((2, KV_HEADS, pad, DIM), torch.inf)
    padded = [torch.cat([head, x], 2) for x in (k, v)]
    wide = torch.cat([torch.zeros(9, pad, dtype=torch.bool), mask], 1)
    assert same(run(q, *padded, wide), alone)
    lowest = torch.finfo(torch.float32).min
    assert same(run(q, *padded, torch.where(wide, 0.0, lowest)), alone)


def test_a_query_that_sees_nothing_gives_zero():
    q, k, v = qkv(queries=9)
    mask = torch.ones(2, 1, 9, LENGTH, dtype=torch.bool)
    mask[:, :, 4] = False
    out, lse = mps.attention(q, k, v, mask, split_size=KEYS)
    assert (out[:, :, 4] == 0).all()
    assert (lse[:, :, 4] == -torch.inf).all()
    assert same(out[:, :, :4], run(q[:, :, :4], k, v))
    assert run(q, k[:, :, :0], v[:, :, :0]).eq(0).all()


def test_log_sum_exp_and_another_value_dim():
    q, k, v = qkv(queries=9)
    v = torch.cat([v, v, v, v, v], 3)
    out, lse = mps.attention(q, k, v, scale=0.3, split_size=KEYS)
    scores = 0.3 * q.double() @ k.double().repeat_interleave(2, 1).transpose(-1, -2)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), rtol=1e-6, atol=1e-5)
    assert same(out[..., :DIM], run(q, k, v[..., :DIM], scale=0.3))


def test_strided_inputs_and_expanded_masks():
    q, k, v = qkv(queries=9)
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert same(run(*strided), run(q, k, v))
    mask = torch.rand(2, 1, 1, LENGTH) > 0.5
    assert same(run(q, k, v, mask), run(q, k, v, mask.expand(2, HEADS, 9, LENGTH).contiguous()))


def test_control_pieces_counted_from_the_buffer_would_show():
    q, k, v = qkv(queries=1)
    shifted = run(q, k[:, :, 37:], v[:, :, 37:])
    mask = torch.where(
        torch.arange(LENGTH) >= 37, 0.0, -1e30
    )  # a finite mask: the grid starts at key 0
    assert not same(run(q, k, v, mask[None]), shifted)


def test_refusals():
    q, k, v = qkv()
    with pytest.raises(LoweringError, match="4 query heads over 3"):
        run(q, k[:, :1].expand(2, 3, -1, -1), v[:, :1].expand(2, 3, -1, -1))
    with pytest.raises(LoweringError, match=r"split_size=512.*built for 256"):
        mps.attention(q, k, v, split_size=512)
