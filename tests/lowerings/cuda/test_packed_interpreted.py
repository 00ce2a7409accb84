"""Attention over packed requests: the bits of each request alone, and nothing read back from the device."""

import pytest
import torch

from bi_inductor.errors import LoweringError
from lowerings.cuda import schedules
from lowerings.cuda.attention import attention
from lowerings.cuda.attention_packed import packed_attention

HEADS, KV_HEADS, DIM = 4, 2, 16
#: (new tokens, keys) of each request: decode, chunk, prefill, nothing, across a split border
REQUESTS = ((1, 70), (9, 30), (17, 17), (0, 0), (3, 520), (1, 1))
#: of 16 rows: the interpreter's own products differ for 32
SCHEDULES = (
    schedules.Attention(m=16, warps=4, stages=2),
    schedules.Attention(m=16, warps=4, stages=2, parallel=True),
)


def _operands(spoilt=False):
    torch.manual_seed(0)
    tokens, keys = (sum(n) for n in zip(*REQUESTS, strict=True))
    # padding behind the last request, as a CUDA graph has it
    q = torch.randn(1, HEADS, tokens + 5, DIM, dtype=torch.float32)
    k, v = (torch.randn(1, KV_HEADS, keys + 40, DIM) * 2 for _ in range(2))
    if spoilt:
        v[..., 75, :], v[..., keys:, :], k[..., keys:, :] = float("nan"), float("nan"), float("inf")
    ends = [torch.tensor([0, *n]).cumsum(0).int() for n in zip(*REQUESTS, strict=True)]
    # the engine's plateau of requests that are not there
    return q, k, v, *(torch.cat([e, e[-1:], e[-1:]]) for e in ends)


def _alone(q, k, v, q_ends, k_ends, window):
    for a, b, c, d in zip(q_ends, q_ends[1:], k_ends, k_ends[1:], strict=False):
        queries, keys = int(b - a), int(d - c)
        if not queries:
            continue
        last = torch.arange(keys - queries, keys)[:, None]
        mask = torch.arange(keys) <= last
        if window is not None:
            mask &= torch.arange(keys) > last - window
        out, _ = attention(q[:, :, a:b], k[:, :, c:d], v[:, :, c:d], mask, split_size=512)
        yield slice(int(a), int(b)), out.transpose(1, 2)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("window", [None, 5, 512])
def test_a_request_has_its_own_bits_in_any_pack(schedule, window):
    operands = _operands()
    out = packed_attention(*operands, window=window, split_size=512, schedule=schedule)
    count = 0
    for span, alone in _alone(*operands, window):
        assert torch.equal(out[:, span], alone)
        count += 1
    assert count == 5
    assert not out[:, int(operands[3][-1]) :].any()


def test_a_nan_of_one_request_stays_in_it():
    operands = _operands(spoilt=True)
    out = packed_attention(*operands, split_size=512)
    hurt = [bool(out[:, span].isnan().any()) for span, _ in _alone(*operands, None)]
    # value 75 is the sixth key of the chunk of 9 tokens over 30
    assert hurt == [False, True, False, False, False]
    for span, alone in _alone(*operands, None):
        assert torch.equal(out[:, span].nan_to_num(7), alone.nan_to_num(7))


def test_fewer_pieces_for_a_shorter_longest_change_no_bit():
    operands = _operands()
    all_keys = packed_attention(*operands, split_size=512, schedule=SCHEDULES[1])
    longest = packed_attention(*operands, longest=520, split_size=512, schedule=SCHEDULES[1])
    assert torch.equal(all_keys, longest)


def test_no_number_is_read_from_the_device(monkeypatch):
    operands = _operands()

    def refuse(*_):
        raise AssertionError("the host waits for the device")

    for name in ("item", "tolist", "__bool__", "__int__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    monkeypatch.setattr("lowerings.cuda.attention_packed.launch", lambda *a, **k: None)
    packed_attention(*operands, split_size=512)


def test_a_wide_head_is_refused():
    q = torch.zeros(1, 1, 3, 300)
    ends = torch.tensor([0, 3], dtype=torch.int32)
    with pytest.raises(LoweringError, match="up to 256"):
        packed_attention(q, q, q, ends, ends, split_size=512)
