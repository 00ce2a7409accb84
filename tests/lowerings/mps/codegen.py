"""Metal that ``torch.compile`` would write for a Mac, generated from fake mps tensors where there is none."""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
import torch._functorch.config
from torch._dynamo.utils import detect_fake_mode
from torch._inductor import compile_fx, config
from torch._inductor.fx_passes import joint_graph, post_grad
from torch._inductor.graph import GraphLowering
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils import _pytree as pytree

from bi_inductor import pipeline
from bi_inductor._torch import root_cause
from lowerings import _inductor


class _StopAfterCodegen(Exception):
    pass


@functools.cache
def _patterns() -> None:
    """Inductor traces its pattern tables with real tensors, on first use; called as it calls them, so that
    a compilation for the CPU before or after these tests finds them made."""
    joint_graph.lazy_init(torch.device("cpu"))
    post_grad.lazy_init()


@contextlib.contextmanager
def fake_mps() -> Iterator[None]:
    """Inside, Inductor finds the mps device that it asks for."""
    _patterns()
    with contextlib.ExitStack() as stack:
        for module in (joint_graph, post_grad):
            stack.enter_context(mock.patch.object(module, "lazy_init", return_value=None))
        for name, value in {
            "torch._C._mps_get_core_count": 10,
            "torch._C._mps_get_name": "Apple M4",
            "torch.backends.mps.is_available": True,
        }.items():
            stack.enter_context(mock.patch(name, lambda *_, v=value: v, create=True))
        yield


def _on_mps(gm: torch.fx.GraphModule, inputs: Sequence[Any]) -> list[Any]:
    """Move a graph and its inputs, which were traced on the CPU: eager code cannot run on fake mps tensors."""
    mode = detect_fake_mode(inputs)

    def move(x: Any) -> Any:
        if isinstance(x, torch.device):
            return torch.device("mps")
        if not isinstance(x, torch.Tensor):
            return x
        with mode:
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="mps")

    for node in gm.graph.nodes:
        node.args, node.kwargs = pytree.tree_map_only(torch.device, move, (node.args, node.kwargs))
    gm.recompile()
    fakes = [move(x) for x in inputs]
    FakeTensorProp(gm, mode).propagate_dont_convert_inputs(*fakes)
    return fakes


def generated(
    function: Callable[..., Any],
    args: Sequence[Any],
    *,
    stock: bool = False,
    dynamic: bool = False,
    options: dict[str, Any] | None = None,
) -> str:
    """Wrapper module that Inductor writes, with the plans of mps unless it is ``stock`` Inductor."""
    codes: list[str] = []

    def stop(graph: GraphLowering) -> None:
        codes.append(graph.codegen()[0].value)
        raise _StopAfterCodegen

    def inner(compiler: Callable[..., Any]) -> Callable[..., Any]:
        def compile_moved(gm: torch.fx.GraphModule, inputs: Sequence[Any], **kwargs: Any) -> Any:
            return compiler(gm, _on_mps(gm, inputs), **kwargs)

        return compile_moved

    def stock_inductor(gm: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        return compile_fx.compile_fx(gm, inputs, inner_compile=inner(compile_fx.compile_fx_inner))

    torch._dynamo.reset()
    with (
        config.patch({"fx_graph_cache": False, "compile_threads": 1}),
        torch._functorch.config.patch(enable_autograd_cache=False),
        mock.patch.object(pipeline, "graph_devices", return_value=("mps",)),
        mock.patch.object(_inductor, "compile_fx_inner", inner(_inductor.compile_fx_inner)),
        mock.patch.object(GraphLowering, "_compile_to_module", stop),
        fake_mps(),
        torch.no_grad(),
    ):
        backend = stock_inductor if stock else "batch_invariant"
        compiled = torch.compile(function, backend=backend, dynamic=dynamic, options=options)
        try:
            compiled(*args)
        except Exception as error:
            # compilers wrap whatever is raised inside them
            if not isinstance(root_cause(error), _StopAfterCodegen):
                raise
    return codes[0]


def calls(code: str) -> list[str]:
    """Kernels that the wrapper calls by name, less Inductor's own Metal ones."""
    body = "\n".join(line for line in code.splitlines() if not line.strip().startswith("#"))
    names = re.findall(r"\b(extern_kernels\.\w+|torch\.ops\.[\w.]+|aten\.[\w.]+)\(", body)
    return sorted(set(names))


def kernels(code: str) -> list[str]:
    """Metal texts that Inductor wrote, extents and grid numbers left out."""
    texts = re.findall(r"async_compile\.metal\('\w+', '''(.*?)'''", code, re.S)
    return sorted(re.sub(r"\b\d+\b", "N", text) for text in texts)
