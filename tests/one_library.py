"""The C++ kernels of a graph in one library: the same text and flags, a third of the time (llama: 98 s, 33 s).

Inductor runs g++ once for each kernel, and most of each run instantiates the templates of its headers.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import machinery, util
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

from torch._C._dynamo import guards
from torch._inductor.async_compile import AsyncCompile, get_compile_threads
from torch._inductor.codecache import CppPythonBindingsCodeCache, LambdaFuture

Kernel = tuple[tuple[str, ...], str]

_INCLUDE = re.compile(r"^[ \t]*#include.*$", re.MULTILINE)
#: names that C shares between namespaces
_SHARED = ("kernel", "PyInit_kernel")
#: what the bindings of a kernel include
_PYTHON = (
    "#define PY_SSIZE_T_CLEAN",
    *(f"#include <{name}>" for name in ("Python.h", "sstream", "cstdlib", "cerrno")),
)
#: kernels that this process has loaded
_LOADED: dict[Kernel, Callable[..., Any]] = {}


class _Libraries(CppPythonBindingsCodeCache):
    """Libraries of many kernels: loading gives a path, and sets what the bindings look up."""

    cache: ClassVar[dict[str, Any]] = {}

    @classmethod
    def _load_library_inner(cls, path: str, key: str) -> Any:
        os.environ["_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"] = str(
            guards._torchinductor_pyobject_tensor_data_ptr
        )
        return SimpleNamespace(path=path)


def _text(number: int, kernel: Kernel) -> str:
    argtypes, source = kernel
    cache = CppPythonBindingsCodeCache
    parsed = ", ".join(
        f"parse_arg<{kind.replace('const ', '')}>(args, {n})" for n, kind in enumerate(argtypes)
    )
    bindings = cache.suffix_template.format(
        arg_len=len(argtypes), call_entry_func=cache.call_entry_function.format(parsed),
        entry_func=cache.entry_function, extra_parse_arg="",
    )  # fmt: skip
    defined = "\n".join(f"#define {name} {name}_{number}" for name in _SHARED)
    undefined = "\n".join(f"#undef {name}" for name in _SHARED)
    body = _INCLUDE.sub("", source + bindings)
    return f"{defined}\nnamespace n{number} {{\n{body}\n}}\n{undefined}\n"


def _load(kernels: Sequence[Kernel]) -> None:
    """Compile the kernels that are new to this process, and load them."""
    wanted = [kernel for kernel in dict.fromkeys(kernels) if kernel not in _LOADED]
    if not wanted:
        return
    includes = sorted({line.strip() for _, source in wanted for line in _INCLUDE.findall(source)})
    texts = [_text(number, kernel) for number, kernel in enumerate(wanted)]
    path = _Libraries.load("\n".join([*includes, *_PYTHON, *texts])).path
    for number, kernel in enumerate(wanted):
        loader = machinery.ExtensionFileLoader(f"kernel_{number}", path)
        spec = util.spec_from_file_location(loader.name, loader=loader)
        assert spec is not None
        module = util.module_from_spec(spec)
        loader.exec_module(module)
        _LOADED[kernel] = module.kernel


def _collected(self: AsyncCompile, argtypes: Sequence[str], source: str) -> Any:
    """Instead of ``AsyncCompile.cpp_pybinding``: a kernel of one graph, compiled when the first is waited for."""
    kernel = (tuple(argtypes), source)
    graph: list[Kernel] = self.__dict__.setdefault("kernels", [])
    graph.append(kernel)

    def loaded() -> Callable[..., Any]:
        _load(graph)
        return _LOADED[kernel]

    return LambdaFuture(loaded)


@contextlib.contextmanager
def one_library() -> Iterator[None]:
    """Compile each graph's kernels together; on one core Inductor waits for nothing, and it stays as it is."""
    if get_compile_threads() <= 1:
        yield
        return
    with mock.patch.object(AsyncCompile, "cpp_pybinding", _collected):
        yield
