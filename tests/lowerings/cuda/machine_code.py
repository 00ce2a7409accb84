"""What ptxas makes of a kernel for an H100, on a machine without one."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl

H100 = GPUTarget("cuda", 90, 32)
#: bytes that one program may take of a Hopper's multiprocessor
SHARED = 227 << 10


class MachineCode(NamedTuple):
    """Bytes that a kernel spills to memory, and the registers of a thread."""

    spilled: int
    registers: int


def machine_code(ptx: str, folder: Path) -> MachineCode:
    """Assemble ``ptx`` in ``folder``; fails if ptxas runs the tensor core's products one by one."""
    text = folder / "kernel.ptx"
    text.write_text(ptx)
    ptxas = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    command = [ptxas, "-v", "--gpu-name", "sm_90a", text, "-o", folder / "kernel.cubin"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "serialized" not in said
    found = (re.search(p, said) for p in (r"(\d+) bytes spill stores", r"Used (\d+) registers"))
    spilled, registers = (int(match[1]) for match in found)
    return MachineCode(spilled, registers)


def descriptor(element: str, block: list[int]) -> str:
    """The type of a tensor descriptor of ``block``, as a signature spells it."""
    dtype = gl.bfloat16 if element == "bf16" else gl.float16
    layout = gl.NVMMASharedLayout.get_default_for(block, dtype)
    return f"tensordesc<{element}{block},{layout!r}>"
