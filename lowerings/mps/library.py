"""Metal text: assembled from ``kernels/``, specialised by ``#define`` lines, compiled once for each text."""

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bi_inductor.errors import LoweringError

KERNELS = Path(__file__).parent / "kernels"
#: dtype -> (Metal type, accumulator)
TYPES = {
    torch.float32: ("float", "float"),
    torch.float16: ("half", "float"),
    torch.bfloat16: ("bfloat", "float"),
    torch.int64: ("long", "long"),
    torch.int32: ("int", "long"),
    torch.int16: ("short", "long"),
    torch.int8: ("char", "long"),
    torch.uint8: ("uchar", "long"),
    torch.bool: ("bool", "long"),
}
THREADGROUP_MEMORY = 32768


def compile_text(text: str) -> Any:
    """Compile on the device. Tests put their own compiler here."""
    return torch.mps.compile_shader(text)


def metal_type(dtype: torch.dtype, where: str) -> str:
    """Return the Metal spelling; LoweringError for a dtype that Apple GPUs or our kernels lack."""
    if dtype not in TYPES:
        raise LoweringError(
            f"{where}: {dtype} is not available on mps; move the tensor to float32, or the model to "
            "the CPU, or compile with options={'mps_fallback': 'cpu_float64'}"
        )
    return TYPES[dtype][0]


def source(files: Sequence[str], **defines: object) -> str:
    """Return the text of a library: defines, ``common.metal``, then ``files`` in order."""
    head = "".join(f"#define BI_{name} {value}\n" for name, value in sorted(defines.items()))
    parts = [(KERNELS / f"{name}.metal").read_text("ascii") for name in ("common", *files)]
    return head + "\n".join(parts)


def load(*files: str, **defines: object) -> Any:
    """Return the compiled library of ``files`` with ``BI_<name>`` defined; refuses fast-math mode."""
    if os.environ.get("PYTORCH_MPS_FAST_MATH", "0") not in ("", "0"):
        raise LoweringError(
            "PYTORCH_MPS_FAST_MATH is set and changes floating-point results: unset it"
        )
    return _compiled(compile_text, files, tuple(sorted(defines.items())))


@cache
def _compiled(
    compiler: Callable[[str], Any],
    files: tuple[str, ...],
    defines: tuple[tuple[str, object], ...],
) -> Any:
    try:
        return compiler(source(files, **dict(defines)))
    except SyntaxError as error:
        raise LoweringError(
            f"Metal refused {'+'.join(files)} with {dict(defines)} (torch {torch.__version__}):\n{error}"
        ) from error


def launch(kernel: Any, *args: object, groups: Sequence[int], size: int) -> None:
    """Run ``groups`` whole threadgroups of ``size`` threads; LoweringError where the pipeline cannot."""
    if kernel.max_threads_per_threadgroup < size:
        raise LoweringError(
            f"{kernel}: this GPU runs {kernel.max_threads_per_threadgroup} threads in a threadgroup, "
            f"{size} are needed; report the device and the macOS version"
        )
    threads = [groups[0] * size, *groups[1:]]
    if max(threads) >= 2**31:
        raise LoweringError(f"a grid of {threads} threads has 2^31 or more in one dimension")
    kernel(*args, threads=threads, group_size=[size, *[1] * (len(groups) - 1)])


def check_number(op: str, name: str, value: int, *built_for: int) -> None:
    """Raise LoweringError unless the plan number of a call is one the kernels were built for."""
    if value not in built_for:
        known = " or ".join(map(str, built_for))
        raise LoweringError(f"{op}: {name}={value}, but the mps kernels were built for {known}")


def check_size(op: str, *tensors: torch.Tensor) -> None:
    """Raise LoweringError for tensors that 32-bit element counts cannot describe."""
    for tensor in tensors:
        if tensor.numel() >= 2**31:
            raise LoweringError(f"{op}: {tuple(tensor.shape)} has 2^31 or more elements; split it")
