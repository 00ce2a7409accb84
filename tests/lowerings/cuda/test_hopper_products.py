"""The machine code of products on specialised warps, compiled for an H100 without one, and the choice of their tiles."""

import re
import weakref
from pathlib import Path

import pytest
import torch
import triton
from machine_code import H100, SHARED, descriptor, machine_code
from triton.experimental.gluon._runtime import GluonASTSource

from lowerings.cuda import matmul, matmul_hopper, schedules_hopper
from lowerings.cuda.matmul_hopper_kernels import product_hopper
from lowerings.cuda.schedules import Float32, Gemm
from lowerings.cuda.schedules_hopper import Hopper

TILES = [tile for tile, _ in schedules_hopper.TILES]
BF16 = torch.bfloat16


def _compile(tile: Hopper, element: str, *, by_k: bool = False, bias: bool = False):
    constants = {**matmul_hopper.constants(tile, by_k), "HAS_BIAS": bias, "SCALED": bias}
    types = {"bias_ptr": f"*{element}", "alpha": "fp32", "beta": "fp32"}
    copied = ("a_desc", "b_desc", "c_desc", "out_desc", "more_desc")
    for name, block in zip(copied, tile.blocks(by_k), strict=True):
        if block is None:
            constants[name] = None
        else:
            types[name] = descriptor(element, list(block))
    types |= dict.fromkeys(constants, "constexpr")
    names = product_hopper.arg_names
    source = GluonASTSource(
        fn=product_hopper,
        signature={name: types.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index("bias_ptr"),): [["tt.divisibility", 16]]},
    )
    return triton.compile(source, target=H100, options={"num_warps": 4})


@pytest.mark.parametrize(
    ("tile", "element", "by_k", "bias"),
    [
        (Hopper(groups=1, rows=64, first=64, second=16, swap=True, k=128), "bf16", False, True),
        (Hopper(groups=2, rows=64, first=256), "bf16", True, False),
        (Hopper(groups=3, rows=64, first=128, second=64, swap=True), "fp16", True, False),
        (Hopper(groups=2, rows=128, first=128, second=64, swap=True, early=True), "bf16", False, False),
    ],
    ids=lambda x: x.text() if isinstance(x, Hopper) else str(x),
)  # fmt: skip
def test_a_slice_is_multiplied_while_the_next_is_copied(
    tile: Hopper, element: str, by_k: bool, bias: bool, tmp_path: Path
) -> None:
    assert tile.early or tile in TILES
    compiled = _compile(tile, element, by_k=by_k, bias=bias)
    ptx = compiled.asm["ptx"]
    for columns in filter(None, (tile.first, tile.second)):
        assert f"wgmma.mma_async.sync.aligned.m64n{columns}k16" in ptx
    assert "cp.async.bulk.tensor.2d.shared" in ptx
    assert "cp.async.bulk.tensor.2d.global" in ptx
    assert ("griddepcontrol.wait" in ptx) == tile.early
    assert compiled.metadata.shared <= SHARED
    assert machine_code(ptx, tmp_path).spilled == 0
    # the last slice is still multiplied when the one before is given back
    outstanding = 2 if tile.second else 1
    assert re.findall(rf"wgmma\.wait_group\.sync\.aligned {outstanding}\b", ptx)


@pytest.mark.parametrize("tile", TILES, ids=Hopper.text)
def test_a_tile_fits_a_multiprocessor(tile: Hopper) -> None:
    slices = tile.stages * (tile.side + tile.width) * tile.k * 2
    rest = tile.second if tile.second % tile.chunk else 0
    stored = tile.groups * tile.rows * (tile.chunk * tile.buffers + rest) * 2
    assert slices + stored + 1536 <= SHARED
    assert tile.stages >= 3
    # sums, addresses and what the compiler wants of a thread's registers
    assert tile.rows * tile.width // 128 + 40 <= {1: 256, 2: 232, 3: 160}[tile.groups]


@pytest.mark.parametrize(
    ("rows", "columns", "depth"),
    [(33, 4096, 4096), (77, 6144, 4096), (1500, 3072, 2048), (8192, 24576, 4096), (500, 64, 64)],
)
def test_no_tile_is_predicted_to_be_faster_than_the_chosen(
    rows: int, columns: int, depth: int
) -> None:
    chosen = schedules_hopper.choose(rows, columns, depth, sms=132)
    times = {
        tile: schedules_hopper.micros(tile, rate, rows, columns, depth, sms=132)
        for tile, rate in schedules_hopper.TILES
    }
    best = min(times, key=times.__getitem__)
    assert (chosen.text().removesuffix(" early"), chosen.early) == (best.text(), depth <= 2048)


def test_many_rows_take_wide_tiles_and_few_rows_narrow_ones() -> None:
    few = schedules_hopper.choose(40, 4096, 4096, sms=132)
    many = schedules_hopper.choose(8192, 4096, 4096, sms=132)
    assert few.m <= 48
    assert few.area < many.area
    assert many.area >= 128 * 192


@pytest.mark.parametrize(
    ("major", "rows", "dtype", "stride", "kind"),
    [
        (9, 33, BF16, 4096, Hopper),
        (9, 33, torch.float16, 4096, Hopper),
        (9, 32, BF16, 4096, Gemm),
        (10, 33, BF16, 4096, Gemm),
        (8, 33, BF16, 4096, Gemm),
        (9, 33, torch.float32, 4096, Float32),
        (8, 33, torch.float32, 4096, Float32),
        # rows that do not begin at 16 bytes
        (9, 33, BF16, 4097, Gemm),
    ],
)
def test_the_family_of_kernels_follows_device_and_operands(
    monkeypatch: pytest.MonkeyPatch, major: int, rows: int, dtype: torch.dtype, stride: int, kind: type
) -> None:  # fmt: skip
    monkeypatch.setattr(matmul, "_device", lambda index: (132, major >= 9, 227 << 10))
    monkeypatch.setattr(matmul_hopper, "is_hopper", lambda index: major == 9)
    matmul._chosen.cache_clear()
    chosen = matmul._chosen(dtype, (rows, 4096), (stride, 1), (1, 4096), 6144, 1 << 20, True, 0)
    matmul._chosen.cache_clear()
    assert type(chosen) is kind


def test_the_same_launch_takes_other_tensors_and_keeps_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launched: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        matmul_hopper,
        "launch",
        lambda kernel, grid, tensors, numbers, **rest: lambda *x: launched.append(x),
    )
    tile = Hopper(groups=1, rows=64, first=64, second=16, swap=True)
    (first, second) = (
        [torch.zeros(size, dtype=BF16) for size in ((80, 64), (64, 128), (80, 128))]
        for _ in range(2)
    )
    again = matmul_hopper.run(*first, None, 1.0, 1.0, tile, 132)
    assert again is not None
    alive = [weakref.ref(x) for x in first]
    del first
    assert [x() for x in alive] == [None] * 3
    a, b, out = second
    again(a, b, out, out)
    ((*descriptors, bias),) = launched
    bases = [x.base for x in descriptors]
    assert [*map(id, bases), id(bias)] == [*map(id, (b, a, a, out, out)), id(out)]
    assert [tuple(x.block_shape) for x in descriptors] == list(tile.blocks(by_k=True))
    assert [x.shape for x in descriptors[:4]] == [[64, 128], [80, 64], [80, 64], [80, 128]]
