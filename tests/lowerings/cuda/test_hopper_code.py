"""The machine code of attention's specialised kernel, compiled for an H100 without one, and what its launcher takes."""

import re
from pathlib import Path

import pytest
import torch
import triton
from machine_code import H100, SHARED, descriptor, machine_code
from triton.experimental.gluon._runtime import GluonASTSource

from lowerings.cuda import attention_hopper
from lowerings.cuda.attention_hopper_kernels import attend_hopper
from lowerings.cuda.plans import KEY_BLOCK, KEY_SPLIT


def _compile(element: str, dim: int, *, is_causal: bool, masked: bool, group: int = 4):
    slots = triton.next_power_of_2(group)
    constants = {
        "GROUP": group,
        "SLOTS": slots,
        "IS_CAUSAL": is_causal,
        "MASK": masked,
        "BM": 128,
        "KEYS": KEY_BLOCK,
        "SPLIT": KEY_SPLIT,
        "STAGES": attention_hopper.STAGES,
        "BD": dim,
        "BDV": dim,
    }
    block = descriptor(element, [1, 1, KEY_BLOCK, dim])
    types = {
        "q_desc": descriptor(element, [1, 64 // slots, slots, dim]),
        "k_desc": block,
        "v_desc": block,
        "out_desc": descriptor(element, [1, 64 // slots, 1, slots, dim]),
        "lse_ptr": "*fp32",
        "scale2": "fp32",
        **dict.fromkeys(("start_ptr", "end_ptr", "solid_ptr", "note_ptr"), "*i32"),
        **dict.fromkeys(constants, "constexpr"),
    }
    names = attend_hopper.arg_names
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(names)
        if types.get(name, "i32")[0] in "*i" and "heads" not in name
    }
    source = GluonASTSource(
        fn=attend_hopper,
        signature={name: types.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs=aligned,
    )
    return triton.compile(source, target=H100, options={"num_warps": 4, "enable_fp_fusion": False})


@pytest.mark.parametrize(
    ("element", "dim", "is_causal", "masked", "group"),
    [
        ("bf16", 128, True, False, 4),
        ("bf16", 128, False, True, 3),
        ("fp16", 64, True, False, 1),
    ],
)
def test_products_run_beside_the_softmax(
    element: str, dim: int, is_causal: bool, masked: bool, group: int, tmp_path: Path
) -> None:
    compiled = _compile(element, dim, is_causal=is_causal, masked=masked, group=group)
    ptx = compiled.asm["ptx"]
    for columns in (KEY_BLOCK, dim, 16):
        assert f"wgmma.mma_async.sync.aligned.m64n{columns}k16" in ptx
    assert "cp.async.bulk.tensor.4d" in ptx
    assert compiled.metadata.shared <= SHARED
    # addresses of a tile, outside the loop over keys
    assert machine_code(ptx, tmp_path).spilled <= 128
    # the step: scores, then weighted values, a wait for the scores alone, exponentials, a wait for all. In PTX: at 128
    # dims ptxas moves most of them behind the second wait, which measured no slower than a kernel where it does not
    waits = [int(n) for n in re.findall(r"wgmma\.wait_group\.sync\.aligned (\d)", ptx)]
    assert 2 in waits
    after = ptx.split("wgmma.wait_group.sync.aligned 2")[1]
    assert after.split("wgmma.wait_group.sync.aligned 0")[0].count("ex2.approx") >= KEY_BLOCK // 2


def test_the_copy_engine_takes_whole_16_bytes() -> None:
    x = torch.empty(2, 8, 300, 96, dtype=torch.bfloat16)
    assert attention_hopper.copied(x)
    assert attention_hopper.copied(x[:, :, :100])
    assert attention_hopper.copied(x.transpose(1, 2))
    assert not attention_hopper.copied(x[..., 1:])
    assert not attention_hopper.copied(x.transpose(2, 3))
    assert not attention_hopper.copied(x[:, :, :1].expand(-1, -1, 300, -1))
    odd = torch.empty(2, 8, 300, 90, dtype=torch.bfloat16)
    assert not attention_hopper.copied(odd)


def test_other_devices_keep_the_triton_kernel() -> None:
    q = torch.empty(1, 8, 300, 64, dtype=torch.bfloat16)
    assert not attention_hopper.takes(q, q, q, q)


@pytest.mark.parametrize(
    ("dim", "dtype", "heads", "fits"),
    [
        (64, torch.bfloat16, 8, True),
        (96, torch.float16, 8, True),
        (128, torch.bfloat16, 64, True),
        (128, torch.bfloat16, 65, False),
        (32, torch.bfloat16, 8, False),
        (256, torch.bfloat16, 8, False),
        (64, torch.float32, 8, False),
    ],
)
def test_only_what_ran_on_a_gpu_is_taken(
    dim: int, dtype: torch.dtype, heads: int, fits: bool
) -> None:
    q = torch.empty(1, heads, 300, dim, dtype=dtype)
    k = q[:, :1]
    assert attention_hopper.fits(q, k, k, q) == fits


@pytest.mark.parametrize(
    ("heads", "kv_heads", "rows"), [(8, 8, 1), (8, 2, 4), (9, 3, 4), (28, 4, 8)]
)
def test_a_query_has_a_power_of_two_rows(heads: int, kv_heads: int, rows: int) -> None:
    q, k = torch.empty(1, heads, 2, 16), torch.empty(1, kv_heads, 2, 16)
    assert attention_hopper.slots(q, k) == rows
