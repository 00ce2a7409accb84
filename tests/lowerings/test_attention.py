"""Attention on the CPU: the bits of a row follow from the row's own query, kept keys and values."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent))
import attention_library as lib

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
HALVES_AND_FLOAT = (torch.float32, torch.bfloat16)
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@pytest.fixture(scope="module", autouse=True)
def _op():
    lib.load()
    torch.manual_seed(0)


def attend(q, k, v, mask=None, **options):
    return torch.ops.bi_inductor.attention(q, k, v, mask, split_size=512, **options)


def out_of(q, k, v, mask=None, **options):
    return attend(q, k, v, mask, **options)[0]


def qkv(
    queries, keys, *, batch=1, heads=2, kv_heads=None, dim=64, value_dim=None, dtype=torch.float32
):
    """Views [B, H, L, D] of [B, L, H, D], as models make them."""
    kv_heads, value_dim = kv_heads or heads, value_dim or dim
    shapes = ((queries, heads, dim), (keys, kv_heads, dim), (keys, kv_heads, value_dim))
    return tuple(torch.randn(batch, *s).to(dtype).transpose(1, 2) for s in shapes)


def same_bits(a, b):
    kind = BITS[a.element_size()]
    return torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))


def make_mask(kind, queries, keys):
    if kind is None:
        return None
    keep = torch.rand(queries, keys) < 0.7
    if kind == "bool":
        keep[0] = False
        return keep
    if kind == "window":
        distance = torch.arange(queries)[:, None] + keys - queries - torch.arange(keys)
        return (distance >= 0) & (distance < 600)
    return torch.randn(queries, keys).masked_fill(~keep, float("-inf")).to(kind)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "mask", [None, "bool", "window", torch.float32, torch.bfloat16, torch.float64]
)
@pytest.mark.parametrize(
    ("queries", "keys", "heads", "kv_heads", "dim", "value_dim"),
    [(1, 1100, 4, 1, 64, 64), (5, 77, 2, 2, 40, 33), (61, 700, 2, 1, 32, 80), (3, 5, 1, 1, 1, 1)],
)
def test_the_kernel_follows_the_plan(dtype, mask, queries, keys, heads, kv_heads, dim, value_dim):
    q, k, v = qkv(
        queries, keys, heads=heads, kv_heads=kv_heads, dim=dim, value_dim=value_dim, dtype=dtype
    )
    m = make_mask(mask, queries, keys)
    assert same_bits(out_of(q, k, v, m), lib.reference(q, k, v, m).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_mask_and_causality_combine(dtype):
    q, k, v = qkv(70, 90, dtype=dtype)
    for kind in ("bool", torch.float16):
        m = make_mask(kind, 70, 90)
        assert same_bits(
            out_of(q, k, v, m, is_causal=True), lib.reference(q, k, v, m, is_causal=True).to(dtype)
        )


@pytest.mark.parametrize("isa", lib.host_isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask", [None, "bool", "window", torch.float32])
def test_instruction_sets_give_the_same_bits(isa, dtype, mask):
    for queries, keys, dim, value_dim in ((1, 530, 64, 64), (4, 64, 24, 17), (70, 600, 32, 48)):
        q, k, v = qkv(queries, keys, heads=4, kv_heads=2, dim=dim, value_dim=value_dim, dtype=dtype)
        q[..., 0] *= 1e-3
        m = make_mask(mask, queries, keys)
        out, lse = attend(q, k, v, m, is_causal=mask is None and queries > 1)
        got = lib.attend_with(isa, q, k, v, m, is_causal=mask is None and queries > 1)
        assert same_bits(got[0], out)
        assert same_bits(got[1], lse)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("keys", [1, 16, 100, 511, 512, 513, 1023, 1024, 1025])
def test_prefill_chunks_and_decode_agree(dtype, keys):
    q, k, v = qkv(keys, keys, heads=4, kv_heads=2, dtype=dtype)
    whole = attend(q, k, v, is_causal=True)
    for t in sorted({0, 1, 15, 16, 17, keys // 2, 510, 511, 512, 513, keys - 2, keys - 1}):
        if 0 <= t < keys:
            step = attend(q[:, :, t : t + 1], k[:, :, : t + 1], v[:, :, : t + 1])
            assert same_bits(step[0], whole[0][:, :, t : t + 1])
            assert same_bits(step[1], whole[1][:, :, t : t + 1])
    keep = torch.ones(keys, keys, dtype=torch.bool).tril()
    for n in (2, 3, 6, 7, 13, 31, 64):
        chunk = out_of(q[:, :, -n:], k, v, keep[-n:])
        assert same_bits(chunk, whole[0][:, :, -n:])


def test_stock_attention_changes_with_the_query_count():
    q, k, v = qkv(300, 300, heads=4)
    stock = F.scaled_dot_product_attention(q, k, v)
    alone = torch.cat(
        [F.scaled_dot_product_attention(q[:, :, t : t + 1], k, v) for t in range(300)], 2
    )
    assert not torch.equal(stock, alone), "control too weak: stock torch agrees with itself here"
    ours = torch.cat([out_of(q[:, :, t : t + 1], k, v) for t in range(300)], 2)
    assert same_bits(out_of(q, k, v), ours)


@pytest.mark.parametrize("dtype", HALVES_AND_FLOAT, ids=str)
@pytest.mark.parametrize("additive", ["bool", "inf", "finfo", "bfloat16 min"])
@pytest.mark.parametrize("queries", [1, 8, 600])
def test_padding_moves_nothing(dtype, additive, queries):
    keys = 600
    q, k, v = qkv(queries, keys, heads=2, kv_heads=1, dtype=dtype)
    keep = torch.ones(keys, keys, dtype=torch.bool).tril()[-queries:]
    plain = attend(q, k, v, keep)
    for left, right in ((0, 1), (1, 0), (5, 9), (15, 0), (16, 16), (17, 40), (64, 3), (63, 424)):
        padded_k = torch.cat([torch.full_like(k[:, :, :1], float("nan")).expand(-1, -1, left, -1), k,
                              torch.randn_like(k[:, :, :1]).expand(-1, -1, right, -1)], 2)  # fmt: skip
        padded_v = torch.cat([torch.full_like(v[:, :, :1], float("inf")).expand(-1, -1, left, -1), v,
                              torch.full_like(v[:, :, :1], float("nan")).expand(-1, -1, right, -1)], 2)  # fmt: skip
        mask = F.pad(keep, (left, right))
        if additive != "bool":
            low = {"inf": float("-inf"), "finfo": torch.finfo(dtype).min}.get(
                additive, torch.finfo(torch.bfloat16).min
            )
            kind = torch.float32 if additive == "bfloat16 min" else dtype
            mask = torch.zeros(mask.shape, dtype=kind).masked_fill(~mask, low)
        padded = attend(q, padded_k, padded_v, mask)
        assert same_bits(padded[0], plain[0])
        assert same_bits(padded[1], plain[1])


@pytest.mark.parametrize("dtype", HALVES_AND_FLOAT, ids=str)
def test_rows_do_not_depend_on_batch_or_heads(dtype):
    q, k, v = qkv(40, 530, batch=3, heads=6, kv_heads=2, dtype=dtype)
    mask = torch.rand(3, 1, 40, 530) < 0.9
    mask[:, :, :20] = torch.arange(530) >= torch.tensor([0, 7, 100])[:, None, None, None]
    whole = out_of(q, k, v, mask)
    for b in range(3):
        alone = out_of(q[b : b + 1], k[b : b + 1], v[b : b + 1], mask[b : b + 1])
        assert same_bits(alone, whole[b : b + 1])
        for h in range(6):
            kv = (slice(b, b + 1), slice(h // 3, h // 3 + 1))
            one = out_of(q[b : b + 1, h : h + 1], k[kv], v[kv], mask[b : b + 1])
            assert same_bits(one, whole[b : b + 1, h : h + 1])


@pytest.mark.parametrize("dtype", HALVES_AND_FLOAT, ids=str)
@pytest.mark.parametrize("queries", [1, 8, 130])
def test_grouped_heads_equal_repeated_ones(dtype, queries):
    q, k, v = qkv(queries, 520, batch=2, heads=6, kv_heads=2, dtype=dtype)
    shared = out_of(q, k, v)
    expanded = [x[:, :, None].expand(-1, -1, 3, -1, -1).flatten(1, 2) for x in (k, v)]
    assert same_bits(out_of(q, *expanded), shared)
    stride_0 = [x[:, :1].expand(-1, 6, -1, -1) for x in (k, v)]
    assert same_bits(out_of(q, *stride_0), out_of(q, k[:, :1], v[:, :1]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [8, 16, 33, 80, 96, 128, 192, 256])
def test_strides_and_threads_change_nothing(dtype, dim):
    q, k, v = qkv(20, 90, batch=2, dim=dim, dtype=dtype)
    expected = out_of(q, k, v)
    assert expected.transpose(1, 2).is_contiguous()
    assert same_bits(out_of(*(x.contiguous() for x in (q, k, v))), expected)
    assert same_bits(out_of(*(x.mT.contiguous().mT for x in (q, k, v))), expected)
    for threads in (1, 2, 3):
        assert same_bits(lib.attend_with(lib.host_isas()[0], q, k, v, threads=threads)[0], expected)


@pytest.mark.parametrize("dtype", HALVES_AND_FLOAT, ids=str)
@pytest.mark.parametrize("queries", [1, 8])
@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (4, 1), (3, 3)])
def test_threads_change_nothing_in_decode(dtype, queries, heads, kv_heads):
    q, k, v = qkv(queries, 1500, heads=heads, kv_heads=kv_heads, value_dim=72, dtype=dtype)
    for mask in (None, make_mask("window", queries, 1500), make_mask("bool", queries, 1500)):
        expected = lib.reference(q, k, v, mask).to(dtype)
        for threads in (1, 2, 3, 5):
            got = lib.attend_with(lib.host_isas()[0], q, k, v, mask, threads=threads)[0]
            assert same_bits(got, expected)


@pytest.mark.parametrize("isa", lib.host_isas())
@pytest.mark.parametrize("queries", [1, 8, 100])
def test_nan_stays_in_the_rows_that_see_it(isa, queries):
    q, k, v = qkv(queries, 100)
    keep = torch.ones(queries, 100, dtype=torch.bool).tril(100 - queries)
    clean, _ = lib.attend_with(isa, q, k, v, keep)
    for tensor in (k, v):
        broken = tensor.clone()
        broken[:, :, 95] = float("nan")
        args = (q, broken, v) if tensor is k else (q, k, broken)
        out, _ = lib.attend_with(isa, *args, keep)
        sees = keep[:, 95]
        assert out[:, :, sees].isnan().all()
        assert same_bits(out[:, :, ~sees], clean[:, :, ~sees])
    q = q.clone()
    q[:, :, 0] = float("nan")
    out, lse = lib.attend_with(isa, q, k, v, keep)
    assert out[:, :, 0].isnan().all()
    assert lse[:, :, 0].isnan().all()
    assert same_bits(out[:, :, 1:], clean[:, :, 1:])


@pytest.mark.parametrize("mask", [False, float("-inf"), torch.finfo(torch.float32).min])
def test_rows_without_keys_are_zero(mask):
    q, k, v = qkv(9, 30)
    rows = torch.zeros(9, 30) if mask is not False else torch.ones(9, 30, dtype=torch.bool)
    rows[4] = mask
    out, lse = attend(q, k, v, rows)
    assert (out[:, :, 4] == 0).all()
    assert (lse[:, :, 4] == 0).all()
    others = [i for i in range(9) if i != 4]
    assert same_bits(out[:, :, others], out_of(q, k, v)[:, :, others])
    assert (attend(q, k[:, :, :0], v[:, :, :0])[0] == 0).all()
    assert attend(q[:0], k[:0], v[:0])[0].shape == (0, 2, 9, 64)
    assert attend(q[:, :, :0], k, v)[0].shape == (1, 2, 0, 64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
def test_errors_stay_within_twice_the_stock_ones(dtype, is_causal):
    for queries, keys, dim in ((1, 1000, 64), (300, 300, 128), (40, 1200, 80)):
        q, k, v = qkv(queries, keys, heads=4, dim=dim, dtype=dtype)
        exact = F.scaled_dot_product_attention(
            *(x.double() for x in (q, k, v)), is_causal=is_causal
        )
        stock = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal).double()
        half_ulp = exact.abs().max() * torch.finfo(dtype).eps / 2
        budget = 2 * (stock - exact).abs().max() + half_ulp
        if dtype == torch.float64:  # stock is the exact one here: allow it a few roundings
            budget = exact.abs().max() * 32 * torch.finfo(dtype).eps
        out, lse = attend(q, k, v, is_causal=is_causal)
        assert (out.double() - exact).abs().max() <= budget
        scores = (q.double() @ k.double().mT) * dim**-0.5
        if is_causal:
            scores = scores.masked_fill(
                ~torch.ones(queries, keys, dtype=torch.bool).tril(), -torch.inf
            )
        tolerance = {torch.float64: 1e-13}.get(dtype, 3e-6)
        torch.testing.assert_close(
            lse.double(), scores.logsumexp(-1), rtol=tolerance, atol=tolerance
        )


def test_three_dimensions_are_one_head():
    q, k, v = (x[:, 0] for x in qkv(7, 30, batch=3))
    mask = torch.rand(3, 7, 30) < 0.8
    out, lse = attend(q, k, v, mask)
    expected = attend(q[:, None], k[:, None], v[:, None], mask[:, None])
    assert torch.equal(out, expected[0][:, 0])
    assert torch.equal(lse, expected[1][:, 0])


def test_denormal_flushing_of_the_caller_changes_nothing():
    q, k, v = qkv(30, 64, batch=2)
    v = v * 1e-38
    expected = out_of(q, k, v)
    assert torch.set_flush_denormal(True)
    try:
        flushed = out_of(q, k, v)
    finally:
        torch.set_flush_denormal(False)
    assert same_bits(flushed, expected)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"split_size": 256}, "split_size=256"),
        ({"k": torch.zeros(1, 3, 5, 8)}, "4 query heads over 3 key"),
        ({"k": torch.zeros(1, 2, 5, 16)}, "8 features and k 16"),
        ({"v": torch.zeros(1, 2, 6, 8)}, "5 keys and 6 values"),
        ({"q": torch.zeros(1, 4, 3, 8, dtype=torch.int32)}, "one dtype"),
        ({"mask": torch.zeros(3, 5, dtype=torch.int64)}, "give a bool mask"),
    ],
)
def test_an_error_names_what_is_wrong(change, text):
    given = {
        "q": torch.zeros(1, 4, 3, 8),
        "k": torch.zeros(1, 2, 5, 8),
        "v": torch.zeros(1, 2, 5, 8),
    }
    options = {"mask": None, "split_size": 512} | given | change
    with pytest.raises(ValueError, match=text):
        torch.ops.bi_inductor.attention(**options)
