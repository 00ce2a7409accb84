"""Builds the row kernels for another instruction set than the product's, and loads them under ``torch.ops.bi_inductor``."""

import functools
import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

import bi_inductor.ops  # noqa: F401  (defines the schemas)
from lowerings.cpu import build

CSRC = Path(__file__).parents[2] / "lowerings" / "cpu" / "csrc"
FAMILIES = ("reduction", "reduction_integers", "softmax", "norm", "scan", "scatter",
            "embedding_bag", "pool", "topk")  # fmt: skip
BINDINGS = ("reduction", "norm", "scan", "scatter", "pool")
# no level of optimisation changes a bit, and this one compiles fastest; the product's library has -O3
FLAGS = ["-O1", "-std=c++20", "-fPIC", "-fopenmp", "-ffp-contract=off", "-fno-math-errno",
         "-fsigned-zeros"]  # fmt: skip
ISAS = {
    "avx512": ["-march=native", "-DBI_ISA_AVX512"],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-DBI_ISA_AVX2"],
    "portable": ["-DBI_ISA_PORTABLE"],
}


def host_isas() -> list[str]:
    """The instruction sets that run here, the fastest first."""
    capability = torch.backends.cpu.get_cpu_capability()
    if platform.machine() not in ("x86_64", "AMD64"):
        return ["portable"]
    return {"AVX512": ["avx512", "avx2", "portable"], "AVX2": ["avx2", "portable"]}.get(
        capability, ["portable"]
    )


def _registration() -> str:
    includes = "".join(f'#include "bindings/{name}.h"\n' for name in BINDINGS)
    calls = "".join(f"  bi::torch_bindings::register_{name}(m);\n" for name in BINDINGS)
    return f"{includes}TORCH_LIBRARY_IMPL(bi_inductor, CPU, m) {{\n{calls}}}\n"


def _compile(folder: Path, isa: str) -> Iterator[Path]:
    torch_root = Path(torch.__file__).parent
    includes = [f"-isystem{torch_root}/include",
                f"-isystem{torch_root}/include/torch/csrc/api/include"]  # fmt: skip
    main = folder / "registration.cpp"
    main.write_text(_registration())
    for source in [*(CSRC / f"{name}.cpp" for name in FAMILIES), main]:
        target = folder / f"{source.stem}.o"
        extra = includes if source == main else []
        subprocess.run(
            ["g++", *FLAGS, *extra, *ISAS[isa], f"-I{CSRC}", "-c", source, "-o", target], check=True
        )
        yield target


@functools.cache
def library(isa: str) -> Path:
    """The shared library for ``isa``, built once per state of the sources."""
    key = hashlib.sha256(torch.__version__.encode())
    key.update(Path(__file__).read_bytes())
    for source in sorted(p for p in CSRC.rglob("*") if p.is_file()):
        key.update(source.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"bi_inductor_rows_{isa}_{key.hexdigest()[:16]}"
    path = folder / "rows.so"
    if path.exists():
        return path
    folder.mkdir(exist_ok=True)
    objects = list(_compile(folder, isa))
    torch_lib = Path(torch.__file__).parent / "lib"
    partial = folder / f"rows.{os.getpid()}.so"
    link = ["-shared", "-fopenmp", f"-L{torch_lib}", "-ltorch_cpu", "-lc10", "-ltorch"]
    subprocess.run(["g++", *objects, *link, "-o", partial], check=True)
    partial.rename(path)
    return path


def load(isa: str | None = None) -> None:
    """Registers the kernels of ``isa``, or the product's own library."""
    if isa is None:
        build.load()
    else:
        torch.ops.load_library(str(library(isa)))
