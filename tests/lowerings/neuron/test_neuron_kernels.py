"""Every kernel, executed by the emulator: a row's bits do not follow its batch under any order of addition."""

import nki_emulator
import pytest
import torch
from nki_emulator import machine

from lowerings.neuron import plans

SIZES = (1, 2, 63, 64, 65, 127, 128, 129, 257)
ROWS, DEPTH, COLUMNS = 300, 320, 96  # two K tiles and a tail


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def mm(kernels, x, w, hold_panel=False):
    return kernels.matmul(x.t()[None], w[None], None, 1.0, 1.0, hold_panel)[0]


def changed(function, x, sizes):
    """Batch sizes at which any of the first rows differs from the same row in the full batch."""
    full = function(x)
    return [m for m in sizes if not torch.equal(function(x[:m]), full[:m])]


def patched(name, value, *modules):
    """Kernels built with another tile: the negative controls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, name, value)
        return nki_emulator.load_kernels(*modules)


# ---- matmul


def test_matmul_rows_do_not_depend_on_the_batch(kernels, order, dtype):
    x, w = normal(ROWS, DEPTH, dtype=dtype), normal(DEPTH, COLUMNS, dtype=dtype, seed=1)
    assert changed(lambda x: mm(kernels, x, w), x, SIZES) == []


@pytest.mark.parametrize(
    ("order_name", "kind"),
    [("blas", torch.float32), ("blas", torch.bfloat16), ("adversarial", torch.float32)],
    ids=str,
)
def test_matmul_at_every_batch_size(kernels, order_name, kind):
    x, w = normal(ROWS, 192, dtype=kind), normal(192, COLUMNS, dtype=kind, seed=1)
    with machine(order=order_name):
        assert changed(lambda x: mm(kernels, x, w), x, range(1, ROWS + 1)) == []


def test_every_batch_size_issues_the_same_instructions_per_row_tile(kernels):
    x, w = normal(ROWS, 130), normal(130, 8, seed=1)

    def issued(m):
        with machine(order="blas", log=[]) as emulated:
            mm(kernels, x[:m], w)
            return [entry for entry in emulated.log if entry[0] != "memset"]

    one_tile = issued(1)
    assert len(one_tile) == 3  # two passes, one copy out
    for m in range(1, ROWS + 1):
        assert issued(m) == one_tile * -(-m // plans.ROW_TILE), m


def test_a_tile_that_follows_the_batch_is_caught(controls, order):
    x, w = normal(ROWS, DEPTH), normal(DEPTH, COLUMNS, seed=1)
    caught = changed(lambda x: controls.tile_by_batch(x.t(), w), x, SIZES)
    assert caught == [m for m in SIZES if m <= 64], "control too weak"


def test_a_short_last_row_tile_is_caught(controls):
    x, w = normal(ROWS, DEPTH), normal(DEPTH, COLUMNS, seed=1)
    with machine(order="adversarial"):
        caught = changed(lambda x: controls.short_last_row_tile(x.t(), w), x, SIZES)
    assert caught == [m for m in SIZES if m != 128], "control too weak"


def test_matmul_columns_do_not_depend_on_their_number(kernels, controls, order, dtype):
    """The batch is on this side when a model computes ``mm(w, x.t())``."""
    x, w = normal(40, DEPTH, dtype=dtype), normal(DEPTH, 600, dtype=dtype, seed=1)
    full = mm(kernels, x, w)
    for n in (1, 7, 128, 511, 512, 513):
        assert torch.equal(mm(kernels, x, w[:, :n]), full[:, :n]), n
    if order == "adversarial" and dtype == torch.float32:
        bad = controls.short_last_column_tile
        assert not torch.equal(bad(x.t(), w[:, :7]), bad(x.t(), w)[:, :7]), "control too weak"


def test_a_schedule_keeps_the_bits_of_its_plan(kernels, order, dtype):
    x, w = normal(200, DEPTH, dtype=dtype), normal(DEPTH, 600, dtype=dtype, seed=1)
    assert torch.equal(mm(kernels, x, w, hold_panel=True), mm(kernels, x, w))


def test_batched_matmul_equals_one_matmul_per_element(kernels, order, dtype):
    a, b = normal(3, 70, 130, dtype=dtype), normal(3, 130, 20, dtype=dtype, seed=1)
    bias = normal(3, 70, 20, dtype=dtype, seed=2)
    out = kernels.matmul(a.transpose(1, 2), b, bias, 0.5, 2.0, False)
    for i in range(3):
        one = kernels.matmul(
            a[i : i + 1].transpose(1, 2), b[i : i + 1], bias[i : i + 1], 0.5, 2.0, False
        )
        assert torch.equal(out[i], one[0])
    exact = 0.5 * (a.double() @ b.double()) + 2.0 * bias.double()
    stock = (torch.baddbmm(bias, a, b, beta=2.0, alpha=0.5) - exact).abs().max()
    assert (out - exact).abs().max() <= 2 * (stock + half_ulp(exact, dtype))


# ---- rows

ROW_OPS = {
    "sum": lambda k, x: k.row_reduce(x, "sum", 1.0),
    "mean": lambda k, x: k.row_reduce(x, "sum", 1.0 / x.shape[1]),
    "amax": lambda k, x: k.row_reduce(x, "amax", 1.0),
    "sum_squares": lambda k, x: k.row_reduce(x, "sum_squares", 1.0),
    "var": lambda k, x: k.var_mean(x, x.shape[1] - 1.0)[0],
    "rms_norm": lambda k, x: k.rms_norm(x, weight_of(x), 1e-6)[0],
    "layer_norm": lambda k, x: k.layer_norm(x, weight_of(x), weight_of(x), 1e-5)[0],
    "softmax": lambda k, x: k.softmax(x, False),
    "log_softmax": lambda k, x: k.softmax(x, True),
    "matmul": lambda k, x: mm(k, x, weight_of(x, 40).t()),
}

EXACT = {
    "sum": lambda x, w: x.sum(1, keepdim=True),
    "mean": lambda x, w: x.mean(1, keepdim=True),
    "amax": lambda x, w: x.amax(1, keepdim=True),
    "sum_squares": lambda x, w: (x * x).sum(1, keepdim=True),
    "var": lambda x, w: x.var(1, keepdim=True),
    "rms_norm": lambda x, w: torch.rms_norm(x, x.shape[1:], w[0], 1e-6),
    "layer_norm": lambda x, w: torch.layer_norm(x, x.shape[1:], w[0], w[0], 1e-5),
    "softmax": lambda x, w: x.softmax(1),
    "log_softmax": lambda x, w: x.log_softmax(1),
    "matmul": lambda x, w: x @ w.t(),
}


def weight_of(x, rows=1):
    return normal(rows, x.shape[1], dtype=x.dtype, seed=9)


def half_ulp(exact, dtype):
    return exact.abs().max() * torch.finfo(dtype).eps / 2


@pytest.mark.parametrize("name", ROW_OPS)
def test_rows_do_not_depend_on_the_batch_nor_on_their_place(kernels, order, dtype, name):
    x = normal(140, 700, dtype=dtype)

    def run(x):
        return ROW_OPS[name](kernels, x)

    assert changed(run, x, (1, 5, 64, 128, 129)) == []
    full, shuffled = run(x), torch.randperm(140, generator=torch.Generator().manual_seed(3))
    for count in (3, 77, 140):
        chosen = shuffled[:count]
        assert torch.equal(run(x[chosen]), full[chosen]), count


@pytest.mark.parametrize("name", ROW_OPS)
def test_the_error_stays_within_twice_that_of_torch(kernels, dtype, name):
    x = normal(50, 2500, dtype=dtype)
    w = weight_of(x, 40 if name == "matmul" else 1)
    exact = EXACT[name](x.double(), w.double())
    stock = (EXACT[name](x, w) - exact).abs().max()
    with machine(
        order="blas"
    ):  # the order of the hardware, hence its share of the error, is not known
        ours = (ROW_OPS[name](kernels, x) - exact).abs().max()
    assert ours <= 2 * (stock + half_ulp(exact, dtype))


def test_a_chunk_that_follows_the_batch_is_caught(kernels, order):
    x, small = normal(140, 700), patched("H_TILE", 64, "norm")

    def by_batch(x):
        return ROW_OPS["rms_norm"](small if len(x) <= 64 else kernels, x)

    caught = changed(by_batch, x, (63, 64, 65, 129))
    assert caught == [63, 64], "control too weak"


@pytest.mark.parametrize("name", ROW_OPS)
def test_bad_values_stay_in_their_row(kernels, name):
    x = normal(130, 300)
    clean = ROW_OPS[name](kernels, x)
    x[3, 7], x[129, 0] = float("nan"), float("inf")
    dirty = ROW_OPS[name](kernels, x)
    others = [i for i in range(130) if i not in (3, 129)]
    assert torch.equal(dirty[others], clean[others])
    assert not torch.equal(dirty[3], clean[3])


def test_a_large_vocabulary_streams_through_sbuf(kernels):
    x = normal(3, 50257)
    with machine(order="blas") as emulated:
        assert torch.equal(kernels.softmax(x, True)[1:2], kernels.softmax(x[1:2], True))
        peak_long = emulated.sbuf_peak
    with machine(order="blas") as emulated:
        kernels.softmax(x[:, :4096].contiguous(), True)
        assert emulated.sbuf_peak == peak_long < nki_emulator.SBUF_BYTES["gen2"] // 2


@pytest.mark.parametrize("depth", [4096, 16384])
def test_the_largest_weight_panel_that_a_schedule_holds_fits_sbuf(kernels, depth):
    from lowerings.neuron.schedules import matmul_schedule

    x, w = normal(129, depth), normal(depth, 16, seed=1)
    schedule = matmul_schedule(129, depth, 4)
    with machine(order="blas") as emulated:
        mm(kernels, x, w, schedule.hold_panel)
        assert emulated.sbuf_peak <= nki_emulator.SBUF_BYTES["gen2"]
    assert emulated.sbuf_bytes == emulated.psum_banks == 0


# ---- attention


def attend(kernels, q, k, v, mask=None, causal=False, q_pos0=0):
    scale = q.shape[-1] ** -0.5
    return kernels.attention(q.transpose(1, 2), k.transpose(1, 2), v, mask, scale, causal, q_pos0)[
        0
    ]


def qkv(tokens, dtype, heads=2, kv_heads=1, dim=32):
    return tuple(
        normal(h, tokens, dim, dtype=dtype, seed=i)
        for i, h in enumerate((heads, kv_heads, kv_heads))
    )


def decode(kernels, q, k, v, pos, blocks=None):
    """One query against the cache up to the end of its block, keys after it masked by values."""
    end = min(k.shape[1], (pos // plans.KV_TILE + 1) * plans.KV_TILE) if blocks is None else blocks
    mask = torch.where(torch.arange(end) <= pos, 0.0, plans.NEG).reshape(1, 1, end)
    return attend(kernels, q[:, pos : pos + 1], k[:, :end], v[:, :end], mask)


@pytest.mark.parametrize("exp_zero_is_off", [False, True])
def test_prefill_equals_chunks_equals_decode(kernels, order, dtype, exp_zero_is_off):
    length = 600
    q, k, v = qkv(length, dtype)
    with machine(exp_zero_is_off=exp_zero_is_off):
        full = attend(kernels, q, k, v, causal=True)
        for pos in (0, 127, 128, 511, 512, 599):
            assert torch.equal(decode(kernels, q, k, v, pos), full[:, pos : pos + 1]), pos
        for a, b in ((0, 100), (100, 333), (333, 600)):
            chunk = attend(kernels, q[:, a:b], k[:, :b], v[:, :b], causal=True, q_pos0=a)
            assert torch.equal(chunk, full[:, a:b]), (a, b)


def test_a_longer_static_cache_keeps_the_bits_while_exp_of_zero_is_one(kernels, order):
    q, k, v = qkv(1100, torch.float32)
    short = decode(kernels, q, k, v, 300)
    assert torch.equal(decode(kernels, q, k, v, 300, blocks=1100), short)
    with machine(exp_zero_is_off=True):
        short = decode(kernels, q, k, v, 300)
        assert not torch.equal(decode(kernels, q, k, v, 300, blocks=1100), short), (
            "control too weak"
        )


def test_heads_do_not_depend_on_the_batch(kernels, order, dtype):
    q, k, v = qkv(140, dtype, heads=6, kv_heads=3)
    full = attend(kernels, q, k, v, causal=True)
    assert torch.equal(attend(kernels, q[2:4], k[1:2], v[1:2], causal=True), full[2:4])


def test_a_block_that_follows_the_query_length_is_caught(kernels, order):
    small = patched("KV_TILE", 128, "attention")
    q, k, v = qkv(600, torch.float32)
    mask = torch.zeros(1, 1, 600)
    assert not torch.equal(
        attend(small, q[:, -1:], k, v, mask), attend(kernels, q[:, -1:], k, v, mask)
    ), "control too weak"


@pytest.mark.parametrize("causal", [False, True])
def test_attention_error_stays_within_twice_that_of_torch(kernels, dtype, causal):
    sdpa = torch.nn.functional.scaled_dot_product_attention
    q, k, v = qkv(300, dtype, heads=4, kv_heads=2, dim=64)
    wide = [t[None] for t in (q, k.repeat_interleave(2, 0), v.repeat_interleave(2, 0))]
    exact = sdpa(*(t.double() for t in wide), is_causal=causal)[0]
    stock = (sdpa(*wide, is_causal=causal)[0] - exact).abs().max()
    ours = (attend(kernels, q, k, v, causal=causal) - exact).abs().max()
    # p is rounded to the dtype of v before the second product, as the hardware's bf16 passes need it
    assert ours <= 2 * (stock + half_ulp(exact, dtype))
