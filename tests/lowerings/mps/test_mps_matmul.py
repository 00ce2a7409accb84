import pytest
import torch
from msl_cpu import model
from properties import DTYPES, HALF_ULP, SPLIT, data, reference_matmul, same

from bi_inductor.errors import LoweringError
from lowerings.mps import library, matmul, schedules
from lowerings.mps.schedules import Gemv, Tile

DEPTH, COLUMNS = 300, 70  # no tile and no piece divides them
SCHEDULES = [use for _, use in schedules.MATMUL] + [
    Tile(block_m=16, block_n=16, block_k=8),
    Tile(block_m=8, block_n=32, block_k=32),
    Tile(block_m=16, block_n=64, block_k=64),
]


def operands(rows, dtype=torch.float32, layout="nn"):
    a, b = data(rows, DEPTH, dtype=dtype), data(DEPTH, COLUMNS, dtype=dtype, seed=1)
    if layout == "nt":
        b = b.t().contiguous().t()
    return a, b, data(COLUMNS, dtype=dtype, seed=2)


@pytest.mark.parametrize("layout", ["nn", "nt"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_do_not_depend_on_the_batch(dtype, layout):
    a, b, bias = operands(130, dtype, layout)
    full = matmul.mm(a, b, bias, split_size=SPLIT)
    assert same(full, reference_matmul(a, b, bias))
    for rows in range(1, 131):
        assert same(matmul.mm(a[:rows], b, bias, split_size=SPLIT), full[:rows]), rows
    for rows in (1, 5, 31):  # other places in the tile
        assert same(matmul.mm(a[60 : 60 + rows], b, bias, split_size=SPLIT), full[60 : 60 + rows])


@pytest.mark.parametrize("layout", ["nn", "nt"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_schedule_keeps_the_bits_of_the_plan(schedule, layout):
    a, b, bias = operands(37, layout=layout)
    out = matmul.bmm_with(schedule, a[None], b[None], bias, split_size=SPLIT)[0]
    assert same(out, reference_matmul(a, b, bias))


@pytest.mark.parametrize(
    "schedule", [Gemv(rows=1), Gemv(rows=4), Tile(block_m=32, block_n=32)], ids=str
)
def test_long_k_and_every_order_that_metal_leaves_open(schedule):
    a, b = data(5, 5000), data(5000, 9, seed=1)
    for weight in (b, b.t().contiguous().t()):
        for order, seed in (("forward", 1), ("reverse", 1), ("random", 1), ("random", 2)):
            with model(order=order, seed=seed, flush=bool(seed % 2)):
                out = matmul.bmm_with(schedule, a[None], weight[None], split_size=SPLIT)[0]
            assert same(out, reference_matmul(a, b)), (order, seed)


def test_accuracy_stays_in_the_budget_of_stock():
    for dtype in DTYPES:
        a, b, bias = operands(64, dtype)
        exact = a.double() @ b.double() + bias.double()
        ours = (matmul.mm(a, b, bias, split_size=SPLIT).double() - exact).abs().max()
        stock = (torch.addmm(bias, a, b).double() - exact).abs().max()
        assert ours <= 2 * stock + exact.abs().max() * HALF_ULP[dtype]


def test_the_batch_of_a_bmm_does_not_matter():
    a, b = data(9, 33, 65), data(9, 65, 40, seed=1)
    full = matmul.bmm(a, b, split_size=SPLIT)
    for n in range(1, 10):
        assert same(matmul.bmm(a[:n], b[:n], split_size=SPLIT), full[:n])
        assert same(full[n - 1], reference_matmul(a[n - 1], b[n - 1]))
    assert same(
        matmul.bmm(a.transpose(1, 2).contiguous().transpose(1, 2), b, split_size=SPLIT), full
    )


def test_alpha_beta_and_broadcast_bias():
    a, b, _ = operands(6)
    for shape in ((1,), (COLUMNS,), (6, 1), (6, COLUMNS)):
        bias = data(*shape, seed=3)
        out = matmul.mm(a, b, bias, alpha=0.5, beta=2, split_size=SPLIT)
        assert same(out, reference_matmul(a, b) * 0.5 + bias * 2)
    nan = torch.full((COLUMNS,), torch.nan)
    assert same(matmul.mm(a, b, nan, beta=0, split_size=SPLIT), reference_matmul(a, b))


def test_empty_extents():
    assert matmul.mm(data(0, 5), data(5, 3), split_size=SPLIT).shape == (0, 3)
    bias = data(3)
    out = matmul.mm(data(4, 0), data(0, 3), bias, split_size=SPLIT)
    assert same(out, bias.expand(4, 3).contiguous())


def test_a_row_of_nan_stays_alone():
    a, b, _ = operands(70)
    clean = matmul.mm(a, b, split_size=SPLIT)
    a[33] = torch.nan
    dirty = matmul.mm(a, b, split_size=SPLIT)
    assert dirty[33].isnan().all()
    assert same(dirty[:33], clean[:33])
    assert same(dirty[34:], clean[34:])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_simdgroup_tier_is_invariant_under_every_order_of_the_hardware(dtype):
    a, b, _ = operands(70, dtype)
    results = []
    for order in range(4):
        with model(mma_order=order):
            full = matmul.mm(a, b, split_size=16)
            for rows in (1, 2, 7, 8, 9, 31, 32, 33, 64):
                assert same(matmul.mm(a[:rows], b, split_size=16), full[:rows])
                assert same(matmul.mm(a[70 - rows :], b, split_size=16), full[70 - rows :])
        results.append(full)
    if dtype == torch.float32:  # the control: its bits are the device's, not portable
        assert not all(same(r, results[0]) for r in results)


def test_reads_and_writes_stay_inside():
    with model(guard=True):
        for rows in (1, 3, 9, 40, 70):
            for layout in ("nn", "nt"):
                a, b, bias = operands(rows, layout=layout)
                out = matmul.mm(a, b, bias, split_size=SPLIT)
                assert same(out, reference_matmul(a, b, bias))


def test_control_a_split_chosen_from_m_is_caught(monkeypatch):
    text = library.source(
        ["matmul"], T="float", M=32, N=32, K=16, SPLIT="(rows >= 64 ? 128 : rows >= 16 ? 64 : 32)"
    )
    text = text.replace("static_assert(BI_SPLIT", "static_assert(128")
    bad = library.compile_text(text)
    a, b, _ = operands(130)

    def run(x):
        out = x.new_empty(len(x), COLUMNS)
        p = [len(x), COLUMNS, DEPTH, DEPTH, 1, 0, COLUMNS, 1, 0, COLUMNS, 0, 0, 0, 0, 0]
        groups = [-(-COLUMNS // 32), -(-len(x) // 32), 1]
        library.launch(bad.bi_matmul_tile, x, b, out, x, p, [1.0, 1.0], groups=groups, size=64)
        return out

    full = run(a)
    assert [m for m in range(1, 131) if not same(run(a[:m]), full[:m])] == list(range(1, 64))


def test_refusals_name_the_value_and_the_way_out(monkeypatch):
    a, b, _ = operands(4)
    with pytest.raises(LoweringError, match=r"split_size=64.*built for 128 or 16"):
        matmul.mm(a, b, split_size=64)
    with pytest.raises(LoweringError, match=r"torch.float64 is not available.*float32"):
        matmul.mm(a.double(), b.double(), split_size=SPLIT)
    with pytest.raises(LoweringError, match="one floating dtype"):
        matmul.mm(a, b.half(), split_size=SPLIT)
    monkeypatch.setenv("PYTORCH_MPS_FAST_MATH", "1")
    with pytest.raises(LoweringError, match="unset it"):
        matmul.mm(a, b, split_size=SPLIT)
