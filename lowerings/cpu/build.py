"""Builds the C++ kernels once per machine and loads them.

The library is cached under a key of the sources, the compiler, the instruction set and torch, and put in
place by one rename: a killed build leaves nothing that a later process could load.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import machinery, util
from pathlib import Path
from types import ModuleType

import torch
from torch.utils import cpp_extension

from bi_inductor.cache import cache_dir
from bi_inductor.errors import CompilerMissingError

SOURCES = Path(__file__).parent / "csrc"

#: the file that includes torch; nothing in it is worth more than -O1
WITH_TORCH = "bindings.cpp"

#: -ffp-contract=off: every fma is written out; signed zeros and NaN are part of the bits.
COMMON_FLAGS = (
    "-O3",
    "-std=c++20",
    "-fPIC",
    "-fopenmp",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fsigned-zeros",
    "-fvisibility=hidden",
    "-DNDEBUG",
)

ISA_FLAGS: dict[str, tuple[str, ...]] = {
    "avx512_bf16": ("-march=native", "-DBI_ISA_AVX512", "-DBI_HAS_BF16_DOT"),
    "avx512": (
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        *("-mavx2", "-mfma", "-mf16c", "-DBI_ISA_AVX512"),
    ),
    "avx2": ("-mavx2", "-mfma", "-mf16c", "-DBI_ISA_AVX2"),
    "portable": ("-DBI_ISA_PORTABLE",),
}


@functools.cache
def host_isa() -> str:
    """The best instruction set of this host that the kernels know; every one gives the same bits."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "portable"
    cpu = torch.cpu
    if cpu._is_avx512_supported():
        return "avx512_bf16" if cpu._is_avx512_bf16_supported() else "avx512"
    return "avx2" if cpu._is_avx2_supported() else "portable"


@functools.cache
def compiler() -> tuple[str, str]:
    """Path and version line of the C++ compiler.

    Raises:
        CompilerMissingError: neither ``$CXX`` nor g++ nor clang++ is there.
    """
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++")):
        path = shutil.which(name)
        if path:
            text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
            return path, text.stdout.splitlines()[0]
    raise CompilerMissingError(
        "no C++ compiler found: the CPU kernels are built on first use. Install g++ 11 or newer or "
        "clang++ 14 or newer (Debian: apt-get install g++), or name one in the environment variable CXX"
    )


def build(isa: str | None = None) -> Path:
    """Path of the kernel library for ``isa`` (default: this host's best), built if it is not cached."""
    isa = isa or host_isa()
    path, version = compiler()
    key = _key(isa, version)
    target = cache_dir() / f"kernels-{isa}-{key}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.with_suffix(".lock")):
        if not target.exists():
            _build_into(target, path, isa)
    return target


@functools.cache
def load(isa: str | None = None) -> Path:
    """Build if needed, and register the kernels of ``torch.ops.bi_inductor`` for the CPU."""
    import bi_inductor.ops  # noqa: F401  (defines the schemas that the library implements)

    library = build(isa)
    torch.ops.load_library(str(library))
    return library


@functools.cache
def python_calls() -> ModuleType:
    """The ops of ``torch.ops.bi_inductor`` as plain functions, for generated code: no schema, boxes or dispatch.

    ``bi_kernels.softmax(x, -1, False, lanes=64)`` takes what ``torch.ops.bi_inductor.softmax.default`` takes, tensors
    on the CPU only, and records no autograd history. ``index_put_add`` is not among them.

    Raises:
        CompilerMissingError: the library was built without the headers of Python.
    """
    loader = machinery.ExtensionFileLoader("bi_kernels", str(load()))
    spec = util.spec_from_file_location("bi_kernels", loader=loader)
    if not _python_headers().is_file() or spec is None:
        raise CompilerMissingError(
            f"{_python_headers()} not found: generated code calls the CPU kernels through it, and Inductor's own "
            "kernels need it as well. Install the headers of Python (Debian: apt-get install python3-dev)"
        )
    module = util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def source_files() -> list[Path]:
    """Every C++ file, in a fixed order."""
    return sorted(p for p in SOURCES.rglob("*") if p.suffix in (".cpp", ".h"))


@functools.cache
def sources_digest() -> str:
    """Hash of every C++ file: part of the library's key."""
    digest = hashlib.sha256()
    for file in source_files():
        digest.update(file.relative_to(SOURCES).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _key(isa: str, compiler_version: str) -> str:
    parts = (
        *(
            sources_digest(),
            compiler_version,
            isa,
            torch.__version__,
            sys.platform,
            platform.machine(),
        ),
        *(_cpu_model(), *COMMON_FLAGS, *ISA_FLAGS[isa]),
        *(str(sysconfig.get_config_var("SOABI")), str(_python_headers().is_file())),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _python_headers() -> Path:
    return Path(sysconfig.get_paths()["include"]) / "Python.h"


def _cpu_model() -> str:
    # -march=native: a cache folder on a shared disk must not hand one machine's code to another
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return hashlib.sha256(line.encode()).hexdigest()[:16]
    return platform.processor()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    # flock is released by the kernel when its holder dies, so a killed build blocks nobody
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_into(target: Path, cxx: str, isa: str) -> None:
    flags = [*COMMON_FLAGS, *ISA_FLAGS[isa], f"-I{SOURCES}"]
    torch_flags = [
        *(f"-I{p}" for p in (*cpp_extension.include_paths(), _python_headers().parent)),
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
    ]
    libs = [f"-L{p}" for p in cpp_extension.library_paths()]
    libs += ["-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
    # the slowest first: on two cores the last one to start decides when all are done
    slowest = (WITH_TORCH, "reduction.cpp")
    files = sorted(SOURCES.glob("*.cpp"), key=lambda p: (p.name not in slowest, -p.stat().st_size))
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder:

        def compile_one(file: Path) -> str:
            out = os.path.join(folder, file.stem + ".o")
            extra = [*torch_flags, "-O1"] if file.name == WITH_TORCH else []
            _run([cxx, *flags, *extra, "-c", str(file), "-o", out])
            return out

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            objects = list(pool.map(compile_one, files))
        built = os.path.join(folder, target.name)
        _run([cxx, *flags, "-shared", *objects, *libs, "-o", built])
        os.replace(built, target)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"building the CPU kernels failed (exit {done.returncode}):\n"
            f"  {' '.join(command)}\n{done.stderr.strip()[-4000:]}"
        )
