"""``compile_shader`` for an NVIDIA GPU: the same Metal text, compiled by NVRTC through ``shim/msl_cuda.h``.

Adds what the fibers of ``msl_cpu`` cannot show: threads that really run at once. Needs a torch built for CUDA, whose
wheels bring NVRTC; no nvcc. Tensors may lie on the CPU: their storages travel to the GPU and back at each launch.
"""

import ctypes
import math
import re
import sysconfig
from functools import cache, cached_property
from pathlib import Path

import torch
from msl_cpu import KERNEL, SHIM, THREADGROUP, strip_comments

FLAGS = (
    "--std=c++17",
    "--device-as-default-execution-space",
    "--fmad=false",
    "--ftz=true",  # as Apple GPUs do
    "--prec-div=true",
    "--prec-sqrt=true",
    "--disable-warnings",
    f"--include-path={SHIM}",
)
_POSITIONS = {
    "thread_position_in_grid": "{i} = blockIdx.{x} * blockDim.{x} + threadIdx.{x}",
    "threadgroup_position_in_grid": "{i} = blockIdx.{x}",
    "thread_index_in_threadgroup": "{i} = threadIdx.{x}",
    "simdgroup_index_in_threadgroup": "{i} = threadIdx.{x} / 32",
}
_PARAMETER = re.compile(r"\s*(.*?)(\w+)\s*\[\[\s*(\w+)\s*(?:\(\s*\d+\s*\))?\s*\]\]\s*", re.S)
_BOUND = re.compile(r"\[\[max_total_threads_per_threadgroup\((.*)\)\]\]\s*")


def _signature(match: re.Match[str]) -> str:
    """Buffers stay parameters, positions become variables of the body."""
    buffers, body = [], []
    for part in match[2].split(","):
        found = _PARAMETER.fullmatch(part)
        if found is None:
            raise SyntaxError(f"kernel parameter without an attribute: {part.strip()}")
        kind, name, attribute = found.groups()
        if attribute == "buffer":
            buffers.append(kind + name)
            continue
        numbers = [
            _POSITIONS[attribute].format(i=f"{name}_at[{i}]", x=x) + ";"
            for i, x in enumerate("xyz")
        ]
        body.append(f"uint32_t {name}_at[3]; {' '.join(numbers)}")
        body.append(f"const {kind}{name} = msl::position<{kind}>::get({name}_at);")
    head = f'extern "C" __global__ void {match[1]}({", ".join(buffers)})'
    return f"{head} {{ {' '.join(body)}"


def translate(source: str) -> str:
    """CUDA text of a Metal text; line numbers stay."""
    text = THREADGROUP.sub(
        r"\g<indent>__shared__ \g<type> \g<name>\g<dims>;", strip_comments(source)
    )
    text = KERNEL.sub(_signature, _BOUND.sub("", text))
    text = re.sub(r"#include <metal_\w+>", "", text)
    return f'#include "msl_cuda.h"\n#line 1\n{text}\n'


@cache
def _nvrtc() -> ctypes.CDLL:
    folder = Path(sysconfig.get_paths()["platlib"], "nvidia")
    found = sorted(folder.glob("**/libnvrtc.so.*"))
    return ctypes.CDLL(str(found[0]) if found else "libnvrtc.so")


def compile_text(text: str, architecture: str) -> bytes:
    """Machine code for ``architecture``, such as ``sm_90``, with or without a GPU; SyntaxError with NVRTC's log."""
    nvrtc, program, size = _nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"metal.cu", 0, None, None)
    flags = [flag.encode() for flag in (*FLAGS, f"--gpu-architecture={architecture}")]
    failed = nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
    what = "ProgramLog" if failed else "CUBIN"
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    made = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, made)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise SyntaxError(made.value.decode()[:6000])
    return made.raw


@cache
def _driver() -> ctypes.CDLL:
    torch.cuda.init()
    torch.zeros(1, device="cuda")  # makes the context of this thread
    return ctypes.CDLL("libcuda.so.1")


def _call(name: str, *args: object) -> None:
    code = getattr(_driver(), name)(*args)
    if code:
        raise RuntimeError(f"{name} returned CUDA error {code}")


class Kernel:
    """One kernel, called as ``torch.mps.compile_shader``'s are."""

    thread_execution_width = 32
    max_threads_per_threadgroup = 1024

    def __init__(self, module: ctypes.c_void_p, name: str) -> None:
        self.name, self.function = name, ctypes.c_void_p()
        _call("cuModuleGetFunction", ctypes.byref(self.function), module, name.encode())

    @cached_property
    def static_thread_group_memory_length(self) -> int:
        found = ctypes.c_int()
        _call("cuFuncGetAttribute", ctypes.byref(found), 1, self.function)
        return found.value

    def __call__(self, *args: object, threads: list[int], group_size: list[int]) -> None:
        if any(n % size for n, size in zip(threads, group_size, strict=True)):
            raise ValueError(f"{self.name}: {threads} threads are no whole groups of {group_size}")
        if math.prod(group_size) > 1024:
            raise ValueError(f"{self.name}: {group_size} threads in a threadgroup")
        storages = {
            arg.untyped_storage().data_ptr(): arg.untyped_storage()
            for arg in args
            if isinstance(arg, torch.Tensor)
        }
        there = {at: storage.cuda() for at, storage in storages.items()}
        lists = [
            None if isinstance(arg, torch.Tensor) else torch.tensor(arg, device="cuda")
            for arg in args
        ]
        pointers = [
            there[arg.untyped_storage().data_ptr()].data_ptr()
            + arg.storage_offset() * arg.element_size()
            if isinstance(arg, torch.Tensor)
            else made.data_ptr()
            for arg, made in zip(args, lists, strict=True)
        ]
        values = [ctypes.c_void_p(pointer) for pointer in pointers]
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        groups = [n // size for n, size in zip(threads, group_size, strict=True)]
        grid, block = ([*n, *[1] * (3 - len(n))] for n in (groups, group_size))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        _call("cuLaunchKernel", self.function, *grid, *block, 0, stream, addresses, None)
        torch.cuda.synchronize()
        for at, storage in storages.items():
            if not storage.is_cuda:
                storage.copy_(there[at])


class Library:
    """A compiled text; kernels are its attributes."""

    def __init__(self, source: str) -> None:
        major, minor = torch.cuda.get_device_capability()
        code = compile_text(translate(source), f"sm_{major}{minor}")
        self._module, self._made = ctypes.c_void_p(), {}
        self._names = [match[1] for match in KERNEL.finditer(strip_comments(source))]
        _call("cuModuleLoadData", ctypes.byref(self._module), code)

    def __getattr__(self, name: str) -> Kernel:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(name)
        if name not in self._made:
            self._made[name] = Kernel(self._module, name)
        return self._made[name]

    def __dir__(self) -> list[str]:
        return self._names


def compile_shader(source: str) -> Library:
    """Stands in for ``torch.mps.compile_shader`` on a machine with an NVIDIA GPU."""
    return Library(source)
