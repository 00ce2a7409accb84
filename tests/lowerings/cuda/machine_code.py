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


_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


class MachineCode(NamedTuple):
    """Bytes that a kernel spills to memory, the registers of a thread, and the assembled file."""

    spilled: int
    registers: int
    file: Path

    def in_innermost_loops(self, mnemonic: str) -> int:
        """Count the instructions of one name, e.g. ``LDL``, in blocks that branch back to their own beginning."""
        command = [_TOOLS / "nvdisasm", "-c", self.file]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = 0
        for block in re.split(r"^(?=\.L_x_\d+:)", text, flags=re.MULTILINE)[1:]:
            label = block.partition(":")[0]
            body, again, _ = block.partition(f"BRA `({label})")
            if again:
                found += len(re.findall(rf"\b{mnemonic}\b", body))
        return found


def machine_code(ptx: str, folder: Path) -> MachineCode:
    """Assemble ``ptx`` in ``folder``; fails if ptxas runs the tensor core's products one by one."""
    text, made = folder / "kernel.ptx", folder / "kernel.cubin"
    text.write_text(ptx)
    command = [_TOOLS / "ptxas", "-v", "--gpu-name", "sm_90a", text, "-o", made]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "serialized" not in said
    found = (re.search(p, said) for p in (r"(\d+) bytes spill stores", r"Used (\d+) registers"))
    spilled, registers = (int(match[1]) for match in found)
    return MachineCode(spilled, registers, made)


def descriptor(element: str, block: list[int]) -> str:
    """The type of a tensor descriptor of ``block``, as a signature spells it."""
    dtype = gl.bfloat16 if element == "bf16" else gl.float16
    layout = gl.NVMMASharedLayout.get_default_for(block, dtype)
    return f"tensordesc<{element}{block},{layout!r}>"
