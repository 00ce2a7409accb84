"""The Gluon kernel of float32 products: its order in NumPy, its machine code for an H100 without one, and its choice."""

import itertools
import re
from pathlib import Path

import gluon_emulator
import numpy as np
import pytest
import torch
import triton
from machine_code import H100, SHARED, machine_code
from triton.experimental.gluon._runtime import GluonASTSource

from lowerings.cuda import matmul_float32, schedules
from lowerings.cuda.matmul_float32_kernels import product_float32
from lowerings.cuda.plans import FLOAT32_CHAIN, FLOAT32_RUN, FLOAT32_SPLIT
from lowerings.cuda.schedules import Float32

_IDS = {"ids": lambda tile: tile.text() if isinstance(tile, Float32) else str(tile)}


def _chain(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The plan: multiply-adds of a chain, chains of a piece, pieces of a run, runs: each from zero and in order."""
    levels = [np.zeros((a.shape[0], b.shape[1]), np.float32) for _ in range(4)]
    lengths = (FLOAT32_CHAIN, FLOAT32_SPLIT, FLOAT32_SPLIT * FLOAT32_RUN)
    for k in range(a.shape[1]):
        levels[0] = gluon_emulator.fma(a[:, k : k + 1], b[k : k + 1], levels[0])
        for level, length in enumerate(lengths):
            if (k + 1) % length == 0 or k + 1 == a.shape[1]:
                levels[level + 1] += levels[level]
                levels[level] = np.zeros_like(levels[level])
    return levels[3]


def _emulated(
    a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None, tile: Float32, monkeypatch
) -> np.ndarray:
    """What the launcher launches, with alpha 0.5 and beta 2 where there is a bias."""

    def launch(kernel, grid, tensors, numbers, num_warps, maxnreg, **constants):
        flat = [
            x.as_strided((x.untyped_storage().nbytes() // 4,), (1,), 0).numpy() for x in tensors
        ]
        assert all(x.storage_offset() == 0 for x in tensors)
        gluon_emulator.run(kernel, grid, flat, numbers, num_warps, **constants)

    monkeypatch.setattr(matmul_float32, "launch", launch)
    out = torch.full((*a.shape[:-1], b.shape[-1]), torch.nan)
    if bias is not None:
        bias = bias.expand(out.shape)
    scaled = bias is not None
    alpha, beta = (0.5, 2.0) if scaled else (1.0, 1.0)
    matmul_float32.run(a, b, out, bias, alpha, beta, scaled, tile, FLOAT32_SPLIT)
    return out.numpy()


@pytest.mark.parametrize("tile", schedules.ALL_FLOAT32, **_IDS)
def test_every_tile_keeps_the_order_of_the_plan(tile: Float32, monkeypatch) -> None:
    for rows, columns, depth in ((3, 37, 1200), (tile.m + 1, tile.n + 1, 64), (1, 5, 1)):
        a, w = torch.randn(rows, depth), torch.randn(columns, depth)
        wanted = _chain(a.numpy(), w.t().numpy())
        assert np.array_equal(_emulated(a, w.t(), None, tile, monkeypatch), wanted)


@pytest.mark.parametrize("tile", schedules.ALL_FLOAT32[::4], **_IDS)
def test_strides_batches_scales_and_empty_sums(tile: Float32, monkeypatch) -> None:
    depth = FLOAT32_SPLIT * tile.pieces + 70
    a, b = torch.randn(2, depth, 9).transpose(1, 2), torch.randn(2, depth, 11)
    bias = torch.randn(9, 1)
    out = _emulated(a, b, bias, tile, monkeypatch)
    for i in range(2):
        product = _chain(a[i].numpy(), b[i].numpy()) * np.float32(0.5)
        wanted = gluon_emulator.fma(bias.numpy(), np.float32(2), product)
        assert np.array_equal(out[i], wanted)
    apart = torch.randn(40, 21)[::2, ::3]
    got = _emulated(apart, torch.randn(14, 11)[::2], None, tile, monkeypatch)
    assert got.shape == (20, 11)
    assert not np.isnan(got).any()
    empty = _emulated(torch.randn(3, 0), torch.randn(0, 4), None, tile, monkeypatch)
    assert np.array_equal(empty, np.zeros((3, 4), np.float32))


def _compile(tile: Float32, **given):
    """``a_unit``, ``b_unit``: which stride is 1; ``aligned``: whole 16 bytes everywhere."""
    a_unit, b_unit = given.get("a_unit", "a_col"), given.get("b_unit", "b_row")
    epilogue = given.get("epilogue", False)
    names = product_float32.arg_names
    constants = {
        **matmul_float32.constants(tile, FLOAT32_SPLIT),
        "A_BY_K": a_unit != "a_row",
        "B_BY_K": b_unit != "b_col",
        "HAS_BIAS": epilogue,
        "SCALED": epilogue,
        "OVERLAP": True,
        **{name: 1 for name in (a_unit, b_unit, "out_col") if name in names},
    }
    pointers = {name: "*fp32" for name in names if name.endswith("_ptr")}
    types = {**pointers, "alpha": "fp32", "beta": "fp32", **dict.fromkeys(constants, "constexpr")}
    kinds = [types.get(name, "i32") for name in names]
    aligned = [at for at, kind in enumerate(kinds) if kind in ("i32", "*fp32") and names[at] != "M"]
    source = GluonASTSource(
        fn=product_float32,
        signature=dict(zip(names, kinds, strict=True)),
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(at,): [["tt.divisibility", 16]] for at in aligned if given.get("aligned", True)},
    )
    options = {"num_warps": tile.warps, "maxnreg": matmul_float32.REGISTERS, "launch_pdl": True}
    return triton.compile(source, target=H100, options=options)


@pytest.mark.parametrize("tile", schedules.ALL_FLOAT32, **_IDS)
def test_weights_by_k_are_copied_and_read_16_bytes_at_a_time(tile: Float32, tmp_path: Path) -> None:
    compiled = _compile(tile)
    ptx = compiled.asm["ptx"]
    assert set(re.findall(r"ld\.global\S*?(v\d)?\.b32", ptx)) == {"v4"}
    reads = re.findall(r"ld\.shared\.(v4)?", ptx)
    assert reads.count("v4") >= tile.k * (tile.tall + tile.wide)
    assert compiled.metadata.shared <= tile.shared_bytes() <= SHARED
    before, _, after = ptx.partition("griddepcontrol.wait")
    assert not re.search(r"(ld|st)\.global", before)
    assert "griddepcontrol.launch_dependents" in after
    # what waits for the end of a piece may be spilled, nothing that every k works on
    code = machine_code(ptx, tmp_path)
    deep = max(tile.k, FLOAT32_CHAIN)
    steps = deep * 16 * tile.tall * tile.wide
    assert code.in_innermost_loops("FFMA") == steps
    assert code.in_innermost_loops("FADD") == steps // FLOAT32_CHAIN
    assert code.in_innermost_loops("LDL") + code.in_innermost_loops("STL") < steps / 200
    assert code.spilled <= 512


@pytest.mark.parametrize(
    "tile", [schedules.FLOAT32_TILES[0], schedules.FLOAT32_FEW[0][1][0]], **_IDS
)
@pytest.mark.parametrize("options", [
    {"b_unit": "b_col", "epilogue": True}, {"a_unit": "a_row"}, {"aligned": False}, {"a_unit": "", "b_unit": ""},
], ids=str)  # fmt: skip
def test_other_strides_fit_the_registers_too(tile: Float32, options: dict, tmp_path: Path) -> None:
    code = machine_code(_compile(tile, **options).asm["ptx"], tmp_path)
    steps = max(tile.k, FLOAT32_CHAIN) * 16 * tile.tall * tile.wide
    assert code.in_innermost_loops("FFMA") == steps
    # 8 bytes of address for each element where no 16 bytes lie together
    spilt = code.in_innermost_loops("LDL") + code.in_innermost_loops("STL")
    assert spilt < steps / (20 if "" in options.values() else 100)


def _choose(rows: int, columns: int, depth: int, **given: int) -> Float32:
    kinds = {"batch": 1, "sms": 132, "shared": SHARED} | given
    return schedules.float32(rows, columns, depth, FLOAT32_SPLIT, **kinds)


def test_few_rows_have_many_pieces_and_many_rows_large_tiles() -> None:
    assert _choose(1, 4096, 4096).m == 4
    assert _choose(8, 4096, 4096).m == 8
    assert _choose(16, 4096, 4096).m == 16
    assert _choose(64, 4096, 4096).pieces > 1
    assert _choose(4096, 4096, 4096).pieces == 1
    assert _choose(64, 768, 3072).n <= 32
    assert _choose(64, 333, 777).m == 16
    many = _choose(64, 64, 64, batch=4096)
    assert many.m <= 64
    assert many.n <= 64


def test_a_smaller_chip_has_a_tile_for_everything() -> None:
    sizes = (1, 7, 16, 40, 300, 5000)
    for rows, columns in itertools.product(sizes, sizes):
        tile = _choose(rows, columns, 1000, sms=20, shared=99 << 10)
        assert tile.shared_bytes() <= 99 << 10
