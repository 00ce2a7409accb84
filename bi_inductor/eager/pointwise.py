"""Elementwise ops through kernels of the compiler: what they compute does not depend on where they run.

torch's eager kernels use other polynomials, and another library in a tail of a vector than in its body. An
elementwise function does not see shapes, so one kernel over a flat vector of any length serves every call.
"""

import operator
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule

from bi_inductor import _torch
from bi_inductor.cache import sources_digest
from bi_inductor.decompositions import decomposition_table
from bi_inductor.eager.recipes import signature, tensors_of


@dataclass(frozen=True, slots=True)
class _Operand:
    """What a kernel may know of a tensor."""

    dtype: torch.dtype
    is_vector: bool
    device: str


_KERNELS: dict[object, Callable[..., Any]] = {}
_COMPILING = threading.RLock()


def run(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Compute an elementwise op with the bits of compiled code.

    Results are laid out as the inputs are if these agree, and contiguous otherwise.
    """
    tensors = tensors_of((args, kwargs))
    if not any(t.is_floating_point() or t.is_complex() for t in tensors) and _stays_integral(
        func, args, kwargs
    ):
        return func(*args, **kwargs)
    layout = _Layout(tensors)
    if layout.count == 0:
        return func(*args, **kwargs)  # nothing to compute, and torch knows shape and dtype
    kernel = _kernel(func, args, kwargs, layout)
    flat = kernel(*map(layout.flat, tensors))
    made = tuple(map(layout.shaped, flat))
    return made if len(func._schema.returns) > 1 else made[0]


class _Layout:
    """How tensors of a call become vectors of one length; 0-dim ones stay, since their dtype counts for less."""

    def __init__(self, tensors: list[Tensor]) -> None:
        wide = [t for t in tensors if t.dim()] or tensors
        first = wide[0]
        self.keep_zero_dim = any(t.dim() for t in tensors)
        # a 0-dim tensor of the CPU may meet any device
        self.device = next((t.device for t in tensors if t.device.type != "cpu"), first.device)
        self.shape = first.shape
        alike = all(t.shape == first.shape and t.stride() == first.stride() for t in wide)
        self.strides = first.stride() if alike and _is_dense(first) else None
        if not alike:
            self.shape = torch.broadcast_shapes(*(t.shape for t in wide))
        self.count = self.shape.numel()

    def is_vector(self, x: Tensor) -> bool:
        return bool(x.dim()) or not self.keep_zero_dim

    def flat(self, x: Tensor) -> Tensor:
        if x.dim() == 0:
            x = x.to(self.device)
        if not self.is_vector(x):
            return x.detach()
        if self.strides is None:
            x = x.expand(self.shape).contiguous().view(-1)
        else:
            x = x.as_strided((self.count,), (1,))
        # a length of one would be compiled once more
        return x.detach() if self.count > 1 else x.detach().expand(2).contiguous()

    def shaped(self, x: Tensor) -> Tensor:
        if self.count == 1:
            x = x[:1]
        if self.strides is None:
            return x.view(self.shape)
        return x.as_strided(self.shape, self.strides)


def _is_dense(x: Tensor) -> bool:
    return (
        x.is_contiguous()
        or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
        or _dense_in_some_order(x)
    )


def _dense_in_some_order(x: Tensor) -> bool:
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def _stays_integral(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    numbers = pytree.tree_leaves((args, kwargs))
    if any(isinstance(n, float) for n in numbers):
        return False
    meta = pytree.tree_map_only(
        Tensor,
        lambda t: torch.empty((1,) * t.dim(), dtype=t.dtype, device="meta"),
        (args, dict(kwargs)),
    )
    made = func(*meta[0], **meta[1])
    return not any(t.is_floating_point() for t in tensors_of(made))


def _kernel(
    func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any], layout: _Layout
) -> Callable[..., Any]:
    def described(x: Any) -> Any:
        return _Operand(x.dtype, layout.is_vector(x), layout.device.type)

    template = pytree.tree_map_only(Tensor, described, (args, dict(kwargs)))
    key = (func, signature(template))
    kernel = _KERNELS.get(key)
    if kernel is None:
        with _COMPILING:
            kernel = _KERNELS.get(key) or _compile(func, *template)
            _KERNELS[key] = kernel
    return kernel


def _compile(
    func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Callable[..., Any]:
    """Compile one op over vectors of symbolic length, by the path and with the pins of a compiled graph."""
    from lowerings import _inductor

    first = next(x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, _Operand))
    with _torch.outside_of_modes():
        vector = _torch.fake_vector(first.dtype, first.device)
        gm, inputs = _graph(func, args, kwargs, vector)
        with _torch.tracing(vector):
            compiled: Callable[..., Any] = _torch.compile_fx(  # type: ignore[assignment]
                gm,
                inputs,
                inner_compile=_inductor.compile_pinned,
                config_patches={**_inductor.pins(), "joint_custom_pre_pass": _Digest()},
                decompositions=decomposition_table(),
            )
    return compiled


def _graph(
    func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any], vector: Tensor
) -> tuple[GraphModule, list[Tensor]]:
    graph = Graph()
    inputs: list[Tensor] = []

    def placeholder(x: _Operand) -> Any:
        node = graph.placeholder(f"x{len(inputs)}")
        inputs.append(_torch.fake_like(vector, x.dtype, is_vector=x.is_vector))
        return node

    node_args, node_kwargs = pytree.tree_map_only(_Operand, placeholder, (args, dict(kwargs)))
    call = graph.call_function(func, node_args, node_kwargs)
    count = len(func._schema.returns)
    graph.output(
        (call,)
        if count == 1
        else tuple(graph.call_function(operator.getitem, (call, i)) for i in range(count))
    )
    return GraphModule(torch.nn.Module(), graph), inputs


class _Digest(_torch.CustomGraphPass):
    """Changes nothing; puts this package's sources into the key of Inductor's caches."""

    def __call__(self, graph: Graph) -> None:
        """Leave the graph as it is: an elementwise op has no plan."""

    def uuid(self) -> Any:
        """What shapes the generated code and is no Inductor setting."""
        return ("bi_inductor.eager", sources_digest())
