"""``compile_shader`` for a CPU: the same Metal text and the same call as ``torch.mps.compile_shader``.

The text is kept as it is, but for two mechanical changes: a ``threadgroup`` variable becomes a reference
into a poisoned arena of limited size, and every kernel gets a C entry that binds its arguments. The
argument rules are those of torch 2.13 (``torch/csrc/mps/Module.cpp``), so a wrong integer width, element
size or group size fails here too.
"""

import ctypes
import hashlib
import math
import mmap
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import torch

SHIM = Path(__file__).parent / "shim"
ORDERS = ("forward", "reverse", "random")
_POSITIONS = {
    "thread_position_in_grid": "msl::self->in_grid",
    "thread_position_in_threadgroup": "msl::self->in_group",
    "threadgroup_position_in_grid": "msl::group->position",
    "thread_index_in_simdgroup": "&msl::self->lane",
    "simdgroup_index_in_threadgroup": "&msl::self->simdgroup",
    "thread_index_in_threadgroup": "&msl::self->index",
}
THREADGROUP = re.compile(
    r"^(?P<indent>[ \t]*)threadgroup\s+(?P<type>\w+)\s+(?P<name>\w+)\s*(?P<dims>(?:\[[^;]*?\]\s*)*);",
    re.M,
)
KERNEL = re.compile(r"\bkernel\s+void\s+(\w+)\s*\(([^{]*)\)\s*\{")


@dataclass(frozen=True, kw_only=True)
class Model:
    """What Metal leaves open; sweeps go over these. ``flush`` is on because Apple GPUs flush fp32 subnormals."""

    order: str = "forward"
    seed: int = 1
    sum_order: int = 0
    mma_order: int = 0
    flush: bool = True
    memory: int = 32768
    guard: bool = False


_model = Model()


@contextmanager
def model(**changes: object) -> Iterator[None]:
    """Run the body under another model of the hardware."""
    global _model
    before = _model
    _model = replace(before, **changes)
    try:
        yield
    finally:
        _model = before


class _Options(ctypes.Structure):
    _fields_ = (
        ("order", ctypes.c_int32),
        ("seed", ctypes.c_uint32),
        ("sum_order", ctypes.c_int32),
        ("mma_order", ctypes.c_int32),
        ("flush", ctypes.c_int32),
        ("memory", ctypes.c_int64),
    )


@dataclass(frozen=True)
class _Parameter:
    type: str
    position: str | None
    buffer: int


def strip_comments(text: str) -> str:
    """Comments become blank; line numbers stay."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", lambda m: "\n" * m.group(0).count("\n"), text, flags=re.S)


def _parameters(text: str) -> Iterator[_Parameter]:
    buffers = 0
    for part in text.split(","):
        attribute = re.search(r"\[\[\s*(\w+)\s*(?:\(\s*(\d+)\s*\))?\s*\]\]", part)
        type_ = re.sub(r"\w+\s*$", "", re.sub(r"\[\[.*?\]\]", "", part).strip()).strip()
        if attribute is None:
            raise SyntaxError(f"kernel parameter without an attribute: {part.strip()}")
        if attribute[1] == "buffer":
            if int(attribute[2]) != buffers:
                raise SyntaxError(f"buffer {buffers} expected, got {part.strip()}")
            buffers += 1
            yield _Parameter(type_, None, buffers - 1)
        else:
            yield _Parameter(type_, _POSITIONS[attribute[1]], -1)


def _arena_variable(match: re.Match[str]) -> str:
    name, dims = match["name"], match["dims"].strip()
    return (
        f"{match['indent']}static const char {name}_key = 0; using {name}_type = {match['type']}{dims}; "
        f"auto& {name} = msl::variable<{name}_type>(&{name}_key);"
    )


def translate(source: str) -> tuple[str, dict[str, list[_Parameter]]]:
    """C++ text and the parameters of each kernel."""
    body = strip_comments(source)
    kernels = {m[1]: list(_parameters(m[2])) for m in KERNEL.finditer(body)}
    out = ['#include "msl.h"', "#line 1", THREADGROUP.sub(_arena_variable, body)]
    for name, parameters in kernels.items():
        bind = ", ".join(
            f"msl::position<{p.type}>::get({p.position})"
            if p.position
            else f"msl::argument<{p.type}>::get(b[{p.buffer}])"
            for p in parameters
        )
        sizes = "".join(
            f"case {p.buffer}: return msl::argument<{p.type}>::size | msl::argument<{p.type}>::reference << 24; "
            for p in parameters
            if not p.position
        )
        export = 'extern "C" __attribute__((visibility("default")))'
        out += [
            f"static void run_{name}(void** b) {{ {name}({bind}); }}",
            f"{export} void* entry_{name}() {{ return (void*)run_{name}; }}",
            f"{export} int size_{name}(int i) {{ switch (i) {{ {sizes}default: return -1; }} }}",
        ]
    return "\n".join([*out, '#include "fibers.cpp"', ""]), kernels


def _compiler() -> str:
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and shutil.which(name):
            return name
    raise RuntimeError("the Metal shim needs a C++ compiler: install g++ or clang++, or set CXX")


def _build(cpp: str) -> Path:
    # -O1: these libraries run for milliseconds, compiling them is most of the suite's time
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-w"]
    flags += ["-ffp-contract=off", "-fno-fast-math", "-fno-math-errno", "-fno-strict-aliasing"]
    if platform.machine() == "x86_64":
        flags += ["-mfma", "-mavx2"]
    shim = "".join(p.read_text() for p in sorted(SHIM.glob("*.*")))
    key = hashlib.sha256("\0".join([cpp, _compiler(), *flags, shim]).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"bi_inductor_msl_{os.getuid()}"
    folder.mkdir(exist_ok=True)
    library = folder / f"{key}.so"
    if not library.exists():
        text = folder / f"{key}.{os.getpid()}.cpp"
        text.write_text(cpp)
        made = text.with_suffix(".so")
        command = [_compiler(), *flags, f"-I{SHIM}", str(text), "-o", str(made)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise SyntaxError(run.stderr[:6000])
        made.replace(library)
        text.unlink()
    return library


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class _Guarded:
    """A copy of a tensor that ends at an unreadable page: one element past it is a fault."""

    def __init__(self, tensor: torch.Tensor) -> None:
        last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        self.tensor, self.bytes = (
            tensor,
            (last + 1) * tensor.element_size() if tensor.numel() else 0,
        )
        page = mmap.PAGESIZE
        self.room = max(math.ceil(self.bytes / page), 1) * page
        self.base = _libc.mmap(None, self.room + page, 3, 0x22, -1, 0)
        _libc.mprotect(self.base + self.room, page, 0)
        self.address = self.base + self.room - self.bytes
        ctypes.memmove(self.address, tensor.data_ptr(), self.bytes)

    def close(self) -> None:
        ctypes.memmove(self.tensor.data_ptr(), self.address, self.bytes)
        _libc.munmap(self.base, self.room + mmap.PAGESIZE)


class Kernel:
    """One kernel; ``static_thread_group_memory_length`` is known after its first launch."""

    thread_execution_width = 32
    max_threads_per_threadgroup = 1024
    static_thread_group_memory_length = 0

    def __init__(self, dll: ctypes.CDLL, name: str, parameters: list[_Parameter]) -> None:
        self.dll, self.name = dll, name
        self.buffers = sum(p.position is None for p in parameters)
        entry = getattr(dll, f"entry_{name}")
        entry.restype = ctypes.c_void_p
        self.entry, self.size = entry(), getattr(dll, f"size_{name}")

    def _bind(self, index: int, value: object) -> ctypes.Array:
        reference, size = self.size(index) >> 24, self.size(index) & 0xFFFFFF
        where = f"{self.name}: argument {index}"
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        kind = ctypes.c_float if isinstance(values[0], float) else ctypes.c_int64
        if any(isinstance(v, float) != (kind is ctypes.c_float) for v in values):
            raise TypeError(f"{where} mixes int and float: {value}")
        if ctypes.sizeof(kind) != size and not reference:
            raise TypeError(f"{where}: {ctypes.sizeof(kind)}-byte numbers for a {size}-byte type")
        return (kind * len(values))(*values)

    def __call__(
        self, *args: object, threads: list[int], group_size: list[int], arg_casts: None = None
    ) -> None:
        if len(args) != self.buffers:
            raise TypeError(f"{self.name}: {len(args)} arguments for {self.buffers} buffers")
        if len(threads) != len(group_size) or math.prod(group_size) > 1024 or min(threads) <= 0:
            raise ValueError(f"{self.name}: threads {threads}, group_size {group_size}")
        keep: list[object] = []
        guarded: dict[int, _Guarded] = {}
        buffers = (ctypes.c_void_p * 32)()
        for i, arg in enumerate(args):
            if not isinstance(arg, torch.Tensor):
                keep.append(self._bind(i, arg))
                buffers[i] = ctypes.addressof(keep[-1])
                continue
            if arg.element_size() != self.size(i) & 0xFFFFFF:
                raise TypeError(f"{self.name}: argument {i} is {arg.dtype}, the kernel's differs")
            buffers[i] = address = arg.data_ptr()
            if _model.guard:
                if address not in guarded:
                    guarded[address] = _Guarded(arg)
                buffers[i] = guarded[address].address
        self._launch(buffers, threads, group_size)
        for copy in guarded.values():
            copy.close()

    def _launch(self, buffers: ctypes.Array, threads: list[int], group_size: list[int]) -> None:
        triple = ctypes.c_uint64 * 3
        options = _Options(
            **{
                f.name: getattr(_model, f.name)
                for f in fields(Model)
                if f.name not in ("order", "guard")
            },
            order=ORDERS.index(_model.order),
        )
        memory, error = ctypes.c_uint64(), ctypes.create_string_buffer(512)
        failed = self.dll.msl_launch(
            ctypes.c_void_p(self.entry),
            buffers,
            triple(*threads, *[1] * (3 - len(threads))),
            triple(*group_size, *[1] * (3 - len(group_size))),
            ctypes.byref(options),
            ctypes.byref(memory),
            error,
            512,
        )
        self.static_thread_group_memory_length = memory.value
        if failed:
            raise RuntimeError(f"{self.name}: {error.value.decode()}")


class Library:
    """A compiled text; kernels are its attributes."""

    def __init__(self, source: str) -> None:
        cpp, self._kernels = translate(source)
        self._dll = ctypes.CDLL(str(_build(cpp)))

    @cached_property
    def _made(self) -> dict[str, Kernel]:
        return {n: Kernel(self._dll, n, p) for n, p in self._kernels.items()}

    def __getattr__(self, name: str) -> Kernel:
        if name.startswith("_") or name not in self._kernels:
            raise AttributeError(name)
        return self._made[name]

    def __dir__(self) -> list[str]:
        return list(self._kernels)


def compile_shader(source: str) -> Library:
    """Stands in for ``torch.mps.compile_shader``; a compile error is a ``SyntaxError`` there too."""
    source.encode("ascii")
    return Library(source)
