"""Metal that ``torch.compile`` would write for a Mac, generated from fake mps tensors where there is none."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
import torch._functorch.config
from torch import nn
from torch._inductor import config
from torch._inductor.fx_passes import joint_graph, post_grad
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode


class _StopAfterCodegen(Exception):
    pass


@contextlib.contextmanager
def fake_mps() -> Iterator[None]:
    """Inside, tensors are fake, and made on an mps device that torch believes in."""
    # the pattern tables are traced with real tensors on first use
    joint_graph.lazy_init(torch.device("cpu"))
    post_grad.lazy_init(torch.device("cpu"))
    with contextlib.ExitStack() as stack:
        for module in (joint_graph, post_grad):
            stack.enter_context(mock.patch.object(module, "lazy_init", return_value=None))
        for name, value in {
            "torch._C._mps_get_core_count": 10,
            "torch._C._mps_get_name": "Apple M4",
            "torch.backends.mps.is_available": True,
            "torch.mps.manual_seed": None,
        }.items():
            stack.enter_context(mock.patch(name, lambda *_, v=value: v, create=True))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def _moved(x: Any) -> Any:
    """The fake mps tensor of a tensor; the module itself, with fake state."""
    if isinstance(x, nn.Module):
        for part in x.modules():
            for name, value in part._parameters.items():
                if value is not None:
                    part._parameters[name] = nn.Parameter(_moved(value), requires_grad=False)
            for name, value in part._buffers.items():
                part._buffers[name] = _moved(value)
    elif isinstance(x, torch.Tensor):
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="mps")
    return x


def generated(
    function: Callable[..., Any],
    args: Sequence[Any],
    *,
    state: nn.Module | None = None,
    backend: str = "batch_invariant",
    dynamic: bool = False,
    options: dict[str, Any] | None = None,
) -> str:
    """Wrapper module that Inductor writes; ``function`` or ``state`` is the module whose weights move."""
    codes: list[str] = []

    def stop(graph: GraphLowering) -> None:
        codes.append(graph.codegen()[0].value)
        raise _StopAfterCodegen

    torch._dynamo.reset()
    with (
        fake_mps(),
        config.patch({"fx_graph_cache": False, "compile_threads": 1}),
        torch._functorch.config.patch(enable_autograd_cache=False),
        mock.patch.object(GraphLowering, "_compile_to_module", stop),
        torch.no_grad(),
    ):
        _moved(function if state is None else state)
        compiled = torch.compile(function, backend=backend, dynamic=dynamic, options=options)
        try:
            compiled(*map(_moved, args))
        except Exception:
            if not codes:
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
