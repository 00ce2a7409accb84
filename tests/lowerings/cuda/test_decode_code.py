"""The machine code of attention for one query, compiled for an H100 without one, and what its launcher takes."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from machine_code import H100, SHARED, machine_code
from torch import Tensor
from triton.experimental.gluon._runtime import GluonASTSource

from lowerings.cuda import attention_decode, schedules
from lowerings.cuda import attention_decode_kernels as kernels
from lowerings.cuda.plans import KEY_BLOCK, KEY_SPLIT

_FEW = schedules.decode(8, 1, 128, sms=132)
_PIECES = schedules.decode(8, 4, 128, sms=132)
_MANY = schedules.decode(512, 4, 128, sms=132)


def _compile(
    kernel: Any, element: str, constants: dict[str, Any], **options: Any
) -> triton.compiler.CompiledKernel:
    """All strides but that of the mask's keys are multiples of 16, as they are in a model."""
    names = kernel.arg_names
    types = {
        **dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), f"*{element}"),
        **dict.fromkeys(("lse_ptr", "part_ptr", "stat_ptr"), "*fp32"),
        **dict.fromkeys(("start_ptr", "end_ptr", "solid_ptr", "count_ptr"), "*i32"),
        "mask_ptr": "*i1" if constants.get("MASK") == 1 else f"*{element}",
        "scale2": "fp32",
        **dict.fromkeys(constants, "constexpr"),
    }
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(names)
        if types.get(name, "i32")[0] == "*" or re.fullmatch(r"(q|k|v|out|mask)_(b|h|row)", name)
    }
    source = GluonASTSource(
        fn=kernel,
        signature={name: types.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs=aligned,
    )
    options = {"num_warps": 4, "enable_fp_fusion": False, **options}
    return triton.compile(source, target=H100, options=options)


@pytest.mark.parametrize(
    ("element", "dim", "mask", "schedule"),
    [
        ("bf16", 128, 1, _FEW),
        ("bf16", 128, 0, _PIECES),
        ("bf16", 128, 1, _MANY),
        ("fp16", 64, 2, _PIECES),
    ],
)
def test_keys_and_values_are_under_way_before_the_first_product(
    element: str, dim: int, mask: int, schedule: schedules.Decode, tmp_path: Path
) -> None:
    constants = {
        "mask_k": 1,
        "GROUP": 4,
        "MASK": mask,
        "THRESHOLD": -3e38,
        "FOLDED": True,
        "PARALLEL": schedule.parallel,
        "KEYS": KEY_BLOCK,
        "SPLIT": KEY_SPLIT,
        "BLOCKS": schedule.blocks,
        **dict.fromkeys(("D", "DV", "BD", "BDV"), dim),
        "OVERLAP": True,
    }
    limit = {"maxnreg": schedule.registers} if schedule.registers else {}
    compiled = _compile(kernels.decode, element, constants, **limit)
    ptx = compiled.asm["ptx"]
    code = machine_code(ptx, tmp_path)
    assert code.spilled == 0
    if schedule.registers:
        # four programs on a multiprocessor
        assert code.registers <= 128
        assert compiled.metadata.shared <= SHARED // 4
    body = ptx.split("griddepcontrol.wait")[1]
    before = body.split("mma.sync")[0]
    copied = schedule.blocks * KEY_BLOCK * dim * 2 // 16 // 128
    # blocks of the loop may stand before it
    assert before.count("cp.async.cg.shared.global") >= 2 * copied
    assert body.count("cp.async.cg.shared.global") == 4 * copied
    assert re.findall(r"wait_group\s+(\d)", ptx) == ["1", "1"]
    # scores of all blocks and their weights, then the sums block after block
    assert body.count("mma.sync.aligned.m16n8k16") == schedule.blocks * (
        KEY_BLOCK // 8 * dim // 16 // 4 + KEY_BLOCK // 16 * (1 + dim // 8 // 4)
    )


@pytest.mark.parametrize("many", [1, 16])
def test_pieces_are_loaded_together(many: int, tmp_path: Path) -> None:
    sizes = {"MANY": many, "DV": 128, "BDV": 128}
    constants = {"GROUP": 4, "COUNTED": True, **sizes, "OVERLAP": False}
    ptx = _compile(kernels.merge, "bf16", constants).asm["ptx"]
    assert machine_code(ptx, tmp_path).spilled == 0
    loop = ptx.split("ex2.approx")[0]
    assert loop.count("ld.global") == 1 + 3 * many
    # picked from registers, not from other threads
    assert "shfl" not in ptx
    assert "shared" not in ptx


def _operands(heads: int = 8, dim: int = 128, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    q = torch.empty(2, heads, 1, dim, dtype=dtype)
    return [q, *(torch.empty(2, 2, 300, dim, dtype=dtype) for _ in range(2))]


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((300,), True),
        ((1, 300), True),
        ((1, 1, 300), True),
        ((2, 1, 1, 300), True),
        ((1, 1, 1, 1), True),
        ((8, 1, 300), False),
        ((2, 8, 1, 300), False),
    ],
)
def test_heads_with_keys_of_their_own_are_left_to_the_triton_kernel(
    shape: tuple[int, ...], fits: bool
) -> None:
    q, k, v = _operands()
    mask = torch.ones(shape, dtype=torch.bool)
    assert attention_decode.fits(q, k, v, mask, q) == fits


def test_a_mask_that_is_expanded_over_the_heads_is_shared() -> None:
    q, k, v = _operands()
    mask = torch.ones(2, 1, 1, 300, dtype=torch.bool)
    assert attention_decode.fits(q, k, v, mask.expand(2, 8, 1, 300), q)


def test_only_what_ran_on_a_gpu_is_taken() -> None:
    q, k, v = _operands()
    assert attention_decode.fits(q, k, v, None, q)
    assert not attention_decode.takes(q, k, v, None, q)
    assert not attention_decode.fits(q.expand(2, 8, 2, 128), k, v, None, q)
    assert not attention_decode.fits(q, k.transpose(2, 3), v, None, q)
    for heads, dim, dtype, fits in (
        (32, 128, torch.float16, True),
        (34, 128, torch.float16, False),
        (8, 256, torch.bfloat16, True),
        (8, 32, torch.bfloat16, False),
        (8, 128, torch.float32, False),
    ):
        q, k, v = _operands(heads, dim, dtype)
        assert attention_decode.fits(q, k, v, None, q) == fits


def test_pieces_run_side_by_side_where_rows_are_few() -> None:
    for sequences in (1, 8, 98, 99, 512):
        for pieces in (1, 4, 128):
            chosen = schedules.decode(sequences, pieces, 128, sms=132)
            assert chosen.parallel == (sequences < 99)
            programs = sequences * (pieces if chosen.parallel else 1)
            assert (chosen.blocks == 1) == (programs > 198)
    assert schedules.decode(512, 1, 256, sms=132).registers == 0
