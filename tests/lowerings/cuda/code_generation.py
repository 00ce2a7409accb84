"""Inductor's CUDA code for a model on a machine without a GPU: torch is told that an H100 is there.

Generates and never runs: compilation stops where the generated module would be loaded.
"""

import contextlib
import copy
import re
import types
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from bi_inductor._torch import root_cause

H100 = types.SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 << 30,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    shared_memory_per_block=48 << 10,
    shared_memory_per_block_optin=227 << 10,
    shared_memory_per_multiprocessor=228 << 10,
    L2_cache_size=50 << 20,
    is_integrated=0,
    clock_rate=1980000,
    gcnArchName="",
)


class _GeneratedError(Exception):
    """Thrown in the place of loading the module."""


def _answer(value: object) -> Callable[..., object]:
    return lambda *args, **kwargs: value


def _rng_state(*_: object) -> torch.Tensor:
    return torch.get_rng_state()


@contextlib.contextmanager
def h100() -> Iterator[None]:
    """Inside, torch and Inductor believe in one initialised H100."""
    from torch._dynamo import device_interface
    from torch.utils import _triton

    cuda = device_interface.CudaInterface
    answers = {
        "torch._subclasses.fake_tensor.init_gpu_context": None,
        "torch.cuda.is_available": True,
        "torch.cuda.device_count": 1,
        "torch.cuda.current_device": 0,
        "torch.cuda.is_initialized": True,
        "torch.cuda._lazy_init": None,
        "torch.cuda.get_device_properties": H100,
        "torch.cuda.get_device_capability": (9, 0),
        "torch.cuda.get_device_name": H100.name,
        "torch.cuda.set_rng_state": None,
        "torch.cuda.random.current_device": 0,
        "torch.cuda._exchange_device": 0,
        "torch.cuda._maybe_exchange_device": 0,
        "torch.cuda.set_device": None,
        "torch.cuda.synchronize": None,
        "torch.cuda.current_stream": types.SimpleNamespace(cuda_stream=0),
        "torch._inductor.utils.get_max_num_sms": H100.multi_processor_count,
    }
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        for target, value in answers.items():
            enter(mock.patch(target, _answer(value), create=True))
        enter(mock.patch("torch.cuda.get_rng_state", _rng_state, create=True))
        enter(mock.patch("torch.version.cuda", "13.0"))
        for name, value in (
            ("get_device_properties", H100),
            ("get_compute_capability", 90),
            ("is_available", True),
        ):
            enter(mock.patch.object(cuda, name, staticmethod(_answer(value))))
        enter(mock.patch.object(cuda.Worker, "get_device_properties", staticmethod(_answer(H100))))
        enter(mock.patch.object(_triton, "has_triton", _answer(True)))
        enter(mock.patch.object(_triton, "triton_hash_with_backend", _answer("no-device")))
        yield


def generate(
    fn: Callable[..., object],
    inputs: Sequence[object],
    *,
    backend: str | Callable[..., object] = "batch_invariant",
    dynamic: bool | None = False,
    **settings: object,
) -> str:
    """The wrapper module, with its Triton kernels, that ``torch.compile(fn)(*inputs)`` would load on CUDA.

    ``fn`` and ``inputs`` live on the CPU; only their shapes are used. ``settings``: of Inductor's config.
    """
    from torch._inductor import config
    from torch._inductor.fx_passes import joint_graph, post_grad
    from torch._inductor.graph import GraphLowering

    found: list[str] = []

    def stop(graph: GraphLowering) -> None:
        code, _ = graph.codegen()
        found.append(code.value if hasattr(code, "value") else code[0])  # type: ignore[attr-defined,index]
        raise _GeneratedError

    torch._dynamo.reset()
    spare = copy.deepcopy(fn).requires_grad_(False) if isinstance(fn, torch.nn.Module) else fn
    # the pattern tables are traced with real tensors when first used: on the CPU, before the pretence
    joint_graph.lazy_init(torch.device("cpu"))
    post_grad.lazy_init()
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        for module in (joint_graph, post_grad):
            enter(mock.patch.object(module, "lazy_init", _answer(None)))
        enter(h100())
        enter(config.patch({"fx_graph_cache": False, "compile_threads": 1, **settings}))
        enter(torch._functorch.config.patch(enable_autograd_cache=False))
        enter(mock.patch.object(GraphLowering, "_compile_to_module", stop))
        enter(FakeTensorMode(allow_non_fake_inputs=True))
        enter(torch.no_grad())
        if isinstance(fn, torch.nn.Module):
            fn = _on_cuda(spare)
        args = pytree.tree_map(lambda x: torch.empty_like(x, device="cuda"), tuple(inputs))
        try:
            torch.compile(fn, backend=backend, dynamic=dynamic, fullgraph=True)(*args)
        except Exception as error:
            # compilers wrap whatever is raised inside them
            if not isinstance(root_cause(error), _GeneratedError):
                raise
    return found[0]


def _on_cuda(model: torch.nn.Module) -> torch.nn.Module:
    """A copy whose parameters and buffers are fake CUDA tensors."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        return model._apply(lambda t: torch.empty_like(t, device="cuda"))
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def kernels(code: str) -> dict[str, str]:
    """Name -> source of the Triton kernels in a generated module."""
    return dict(re.findall(r"async_compile\.triton\('(\w+)', '''(.*?)'''", code, re.S))


def library_calls(code: str) -> list[str]:
    """Names of the library kernels and ops that a generated module calls, ours with or without ``torch.ops``."""
    lines = "\n".join(line for line in code.split("\n") if not line.strip().startswith("#"))
    lines = re.sub(r"\bbi_launchers\.(\w+)\(", r"torch.ops.bi_inductor.\1.default(", lines)
    found = re.findall(r"extern_kernels\.(\w+)\(|torch\.ops\.([\w.]+)\(", lines)
    return [a or b for a, b in found]
