"""Long rows of softmax: which wait in shared memory, and the machine code for an H100 without one."""

import re
from pathlib import Path

import pytest
import triton
from machine_code import H100, SHARED, machine_code
from triton.experimental.gluon._runtime import GluonASTSource

from lowerings.cuda import schedules
from lowerings.cuda.plans import LANES
from lowerings.cuda.softmax_shared_kernels import softmax_shared


def held(count: int, extent: int, element: int, shared: int = SHARED) -> int:
    return schedules.softmax_held(count, extent, LANES, element, sms=132, shared=shared)


@pytest.mark.parametrize(
    ("count", "extent", "element", "steps"),
    [
        (1024, 128256, 2, 27),
        (1024, 128256, 4, 12),
        (1024, 65536, 2, 0),
        (67, 70000, 2, 0),
        (1024, 128257, 2, 0),
    ],
    ids=["half", "float32", "the cache keeps 128 KiB", "few rows", "not whole 16 bytes"],
)
def test_rows_wait_where_the_cache_does_not_keep_them(
    count: int, extent: int, element: int, steps: int
) -> None:
    assert held(count, extent, element) == steps
    assert steps * LANES * element < SHARED


def test_less_shared_memory_holds_less() -> None:
    assert held(1024, 128256, 2, 99 << 10) == 9


@pytest.mark.parametrize(("element", "steps"), [("bf16", 27), ("fp32", 12)])
@pytest.mark.parametrize("log", [False, True])
def test_a_row_is_copied_while_another_is_written(
    element: str, steps: int, log: bool, tmp_path: Path
) -> None:
    constants = {
        "LOG_OUT": log, "OVERLAP": True, "LANES": LANES, "LOG": LANES.bit_length() - 1, "HELD": steps, "WAITS": 3,
    }  # fmt: skip
    names = softmax_shared.arg_names
    pointers = dict.fromkeys(("x_ptr", "out_ptr"), f"*{element}")
    types = {**pointers, **dict.fromkeys(constants, "constexpr")}
    source = GluonASTSource(
        fn=softmax_shared,
        signature={name: types.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in (*pointers, "extent")},
    )
    compiled = triton.compile(
        source, target=H100, options={"num_warps": 32, "enable_fp_fusion": False}
    )
    assert compiled.metadata.shared <= SHARED
    ptx = compiled.asm["ptx"]
    assert re.search(r"cp\.async\.c[ag]\.shared\.global \[[^\]]*\], \[[^\]]*\], 0x(8|10)", ptx)
    code = machine_code(ptx, tmp_path)
    # 32 warps have 64 registers a thread
    assert code.spilled == 0
    assert code.registers <= 64
