"""The only file of this package that imports private torch. One spelling for 2.11 to 2.14.

Where releases differ, the feature is asked for, not the version.
"""

import contextlib
import functools
import inspect
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._dynamo.eval_frame import get_eval_frame_callback as _running_callback
from torch._decomp import core_aten_decompositions
from torch._decomp.decompositions import _rnn_helper, gather_params, one_layer_lstm
from torch._dynamo import config as _dynamo_config
from torch._dynamo import eval_frame as _eval_frame
from torch._dynamo import lookup_backend, maybe_mark_dynamic
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.eval_frame import cached_backends as _cached_backends
from torch._dynamo.exc import TensorifyScalarRestartAnalysis
from torch._dynamo.guards import GuardBuilder, install_guard
from torch._dynamo.source import AttrSource
from torch._dynamo.symbolic_convert import TensorifyState
from torch._functorch._aot_autograd.descriptors import PlainAOTInput
from torch._guards import TracingContext
from torch._guards import tracing as tracing_context
from torch._higher_order_ops.flex_attention import flex_attention
from torch._inductor import config as _inductor_config
from torch._inductor.compile_fx import compile_fx
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.runtime.cache_dir_utils import cache_dir as inductor_cache_dir
from torch._logging._internal import trace_structured
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention.flex_attention import _vmap_for_bhqkv as vmap_for_bhqkv
from torch.utils._filelock import FileLock as file_lock
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves
from torch.utils._sympy.functions import FloorDiv

from bi_inductor.errors import BatchInvariantError, UnsupportedTorchError

__all__ = [
    "BATCH_MARK",
    "OWN_CALL",
    "TRACED",
    "CustomGraphPass",
    "FakeTensorMode",
    "FloorDiv",
    "InputSource",
    "TracingContext",
    "TransformGetItemToIndex",
    "aot_autograd",
    "ask_before_compiled_code",
    "boxed",
    "check_version",
    "compile_fx",
    "composites",
    "core_aten_decompositions",
    "describe_fused_layers",
    "dispatches",
    "fake_like",
    "fake_on",
    "fake_vector",
    "file_lock",
    "flex_attention",
    "graph_break_of",
    "has_fake",
    "in_backward",
    "inductor_cache_dir",
    "inductor_setting_names",
    "input_index",
    "input_source",
    "is_backward",
    "is_composite",
    "is_data_dependent",
    "keep_compiling",
    "lookup_backend",
    "maybe_mark_dynamic",
    "name_of",
    "open_composite",
    "open_lstm",
    "outside_of_modes",
    "reset_with_dynamo",
    "root_cause",
    "running_backend",
    "select_decomp_table",
    "size_hint",
    "top_dispatch_mode",
    "trace_again_with_constants",
    "trace_structured",
    "tracing",
    "user_line",
    "vmap_for_bhqkv",
    "with_state",
    "without_recompile_limit",
]

SUPPORTED = ((2, 11), (2, 14))
#: the reason given to ``torch.compiler.disable`` for code that calls our templates itself
OWN_CALL = "bi_inductor runs its own templates here"
#: tensors that a compiler traces with
TRACED = (FakeTensor, FunctionalTensor)
_NO_LIMIT = 1 << 30
_LIFTED = {
    "recompile_limit": _NO_LIMIT,
    "accumulated_recompile_limit": _NO_LIMIT,
    "allow_rnn": True,
}


def check_version() -> None:
    """Refuse a torch whose internals were never tried.

    Raises:
        UnsupportedTorchError: names the installed release and the supported ones.
    """
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    low, high = SUPPORTED
    if not low <= release <= high:
        raise UnsupportedTorchError(
            f"torch {torch.__version__} is installed; bi_inductor works with "
            f"{'.'.join(map(str, low))} to {'.'.join(map(str, high))}. "
            f"Install one of them, for example torch=={high[0]}.{high[1]}"
        )


def inductor_setting_names() -> frozenset[str]:
    """Every name that ``torch._inductor.config`` knows."""
    return frozenset(_inductor_config.get_config_copy())


def keep_compiling() -> None:
    """Lift Dynamo's recompile limits for this process, and let it trace LSTM, GRU and RNN.

    At the limit Dynamo runs a frame by stock eager kernels with no more than a log line: the ninth static batch
    size would change its bits, and so would the first of a frame that another backend has compiled eight times.
    There is no limit per backend. A frame that calls an LSTM it left to stock kernels with no line at all.
    """
    for name, least in _LIFTED.items():
        # a setting belongs to its thread (2.13); other threads start from the default
        entry = _dynamo_config._config[name]  # type: ignore[attr-defined]
        entry.default = max(least, entry.default)
        setattr(_dynamo_config, name, max(least, getattr(_dynamo_config, name)))


def reset_with_dynamo(backend: Callable[..., Any]) -> None:
    """Have ``torch.compiler.reset()`` call ``backend.reset``, also where a user's function stands around it."""
    _cached_backends.setdefault(id(backend), backend)


@contextlib.contextmanager
def without_recompile_limit() -> Iterator[None]:
    """Inside, Dynamo compiles every batch size; at its limit it would run the rest by stock eager kernels."""
    with _dynamo_config.patch(recompile_limit=2**16, accumulated_recompile_limit=2**16):
        yield


_CALLBACK = "_callback_from_stance"
_NO_BACKEND = "of torch.compile"


def ask_before_compiled_code(may_run: Callable[[object], bool]) -> None:
    """Have every call of a compiled function ask ``may_run(backend)``; refused, it runs as plain Python.

    Each such call looks up what Dynamo shall do with its frames: compile them, run what it kept of them, or nothing.
    The lookup happens before Dynamo sees a frame, so the answer holds for code that was compiled earlier as well.

    Raises:
        UnsupportedTorchError: this torch looks it up elsewhere.
    """
    looked_up = getattr(_eval_frame, _CALLBACK, None)
    if looked_up is None:
        raise UnsupportedTorchError(
            f"torch {torch.__version__} has no torch._dynamo.eval_frame.{_CALLBACK}, by which batch_invariant_mode "
            "keeps the code of other compilers from running inside it; install one of the supported releases, "
            f"{'.'.join(map(str, SUPPORTED[0]))} to {'.'.join(map(str, SUPPORTED[1]))}"
        )
    if getattr(looked_up, "_bi_inductor_asks", False):
        return

    def ask(callback: Any) -> Any:
        wanted = looked_up(callback)
        if wanted is None or may_run(_backend_of(wanted)):
            return wanted
        # with fullgraph=True Dynamo counts the frames that ran compiled (2.13); -1 is "not counting"
        getattr(_eval_frame, "set_fullgraph_compiled_frame_count", int)(-1)
        return None

    ask._bi_inductor_asks = True  # type: ignore[attr-defined]
    setattr(_eval_frame, _CALLBACK, ask)


def running_backend() -> object:
    """The backend whose compiled code this thread is in the middle of, or None."""
    callback = _running_callback()
    return None if callback is None else _backend_of(callback)


def _backend_of(callback: Any) -> object:
    if callback is False:  # only what is compiled already may run, by whichever backend
        return _NO_BACKEND
    backend: Any = _eval_frame.innermost_backend(callback)
    return getattr(backend, "compiler_fn", backend)


def name_of(backend: object) -> str:
    """What the user calls a backend."""
    name = getattr(backend, "compiler_name", None) or getattr(backend, "__name__", None)
    return repr(name) if name else str(backend)


def graph_break_of(gm: GraphModule) -> str | None:
    """Why and where Dynamo ended this graph early, or None if it did not or ended it for a call of ours."""
    reason = getattr(gm, "compile_subgraph_reason", None)
    if (
        reason is None
        or not getattr(reason, "graph_break", False)
        or OWN_CALL in str(reason.reason)
    ):
        return None
    where = reason.user_stack[-1] if reason.user_stack else None
    text = str(reason.reason).splitlines()[0]
    return f"{where.filename}:{where.lineno} ({text})" if where else text


@dataclass(frozen=True, slots=True)
class InputSource:
    """Where a placeholder of a Dynamo graph came from."""

    name: str
    is_state: bool
    marked: tuple[int, ...]


def input_source(node: Node) -> InputSource:
    """Source of a placeholder: ``is_state`` for parameters, buffers, module attributes and globals."""
    source = getattr(node, "_dynamo_source", None)
    if source is None:
        return InputSource(node.name, False, ())
    name = source.name() if callable(source.name) else source.name
    origin = source.guard_source
    module = any(
        test() for test in (origin.is_specialized_nn_module, origin.is_unspecialized_nn_module)
    )
    # 2.13 tells modules of torch.nn from the user's; older releases have one spelling
    builtin = getattr(origin, "is_unspecialized_builtin_nn_module", None)
    state = module or bool(builtin and builtin()) or not origin.is_local()
    return InputSource(str(name), state, _marked_dims(node, source, is_state=state))


#: the attribute of a tensor by which ``bi_inductor.mark_batch`` says where its batch is
BATCH_MARK = "_bi_inductor_batch_dims"


def _marked_dims(node: Node, source: Any, *, is_state: bool) -> tuple[int, ...]:
    """Batch dims that the tensor behind a placeholder is marked with; the code is then for these marks only.

    Dynamo copies no attribute of ours into its graph and guards none. State is rarely marked and there is much of it,
    so its missing marks are not guarded.
    """
    tensor = getattr(node.meta.get("grapharg"), "example", None)
    if not isinstance(tensor, Tensor):
        return ()
    marks = tuple(getattr(tensor, BATCH_MARK, ()))
    if TracingContext.try_get() is not None and (marks or not is_state):
        own = AttrSource(source, BATCH_MARK)
        if "attr" in inspect.signature(GuardBuilder.HASATTR).parameters:
            present = source.make_guard(functools.partial(GuardBuilder.HASATTR, attr=BATCH_MARK))
        else:  # before 2.13
            present = own.make_guard(GuardBuilder.HASATTR)
        equal = [own.make_guard(GuardBuilder.EQUALS_MATCH)] if marks else []
        install_guard(present, *equal)
    return marks


def input_index(node: Node) -> int | None:
    """The input of the Dynamo graph that a placeholder of AOTAutograd's graph is, is a part of, or is the base of.

    A tensor subclass becomes a placeholder for each tensor inside it, and several views one for their base. None for
    what AOTAutograd adds by itself: lifted parameters, random states, tokens.
    """
    described = node.meta["desc"]
    while inner := getattr(described, "base", None) or getattr(described, "base_of", None):
        described = inner
    return described.idx if isinstance(described, PlainAOTInput) else None


def size_hint(size: object) -> int | None:
    """The size that a symbolic extent was traced with; None for a number or an unbacked symbol."""
    hint = size.node.hint if isinstance(size, torch.SymInt) else None
    return int(hint) if hint is not None else None


def is_backward(node: Node) -> bool:
    """Whether AOTAutograd traced this node of a joint graph while it ran the backward."""
    return node.meta.get("partitioner_tag") == "is_backward" or bool(
        node.meta.get("autograd_backward", False)
    )


def boxed(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``fn`` the calling convention of compiled code: one list of inputs."""

    def call(inputs: list[Any]) -> Any:
        return fn(*inputs)

    call._boxed_call = True  # type: ignore[attr-defined]
    return call


def fake_on(mode: FakeTensorMode, x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a fake tensor like ``x`` that says it is on ``device``; a meta tensor has no device of its own."""
    if x.device.type != "meta":
        return mode.from_tensor(x)
    fake = FakeTensor(mode, x.detach(), device)
    if not isinstance(x, torch.nn.Parameter):
        return fake.requires_grad_(x.requires_grad)
    return torch.nn.Parameter(fake, requires_grad=x.requires_grad)


@contextlib.contextmanager
def with_state(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> Iterator[None]:
    """Inside, ``model`` has these parameters and buffers; tied ones stay tied."""
    from torch.nn.utils.stateless import _reparametrize_module

    with _reparametrize_module(model, state, tie_weights=True):
        yield


def root_cause(error: BaseException) -> BaseException:
    """Return what a compiler's exception was raised for."""
    seen = {id(error)}
    while True:
        inner = getattr(error, "inner_exception", None) or error.__cause__
        if inner is None or id(inner) in seen:
            return error
        seen.add(id(inner))
        error = inner


def first_sentence(error: BaseException) -> str:
    """Return the first line of an error's message that says something."""
    # Dynamo quotes what an op said of its fake inputs far below its own headline
    quoted = re.search(r"got \w+\((['\"])(.*?)\1\)", str(error))
    if quoted:
        return quoted.group(2)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """Raise our own errors as they are, out of what Dynamo wraps around an error of a backend."""
    try:
        yield
    except Exception as error:
        inner = getattr(error, "inner_exception", None)
        if isinstance(inner, BatchInvariantError):
            raise inner from None
        raise


def user_line(error: BaseException) -> str:
    """Return `` at file:line`` of the last line of the user's code that an error went through, or nothing."""
    ours = (os.path.dirname(torch.__file__), os.path.dirname(__file__), "<")
    traced = getattr(error, "real_stack", None)
    # without a traced stack, the first frame outside is the caller of the tool
    frames = list(traced) if traced else traceback.extract_tb(error.__traceback__)[1:]
    outside = [f for f in frames if not f.filename.startswith(ours)]
    return f" at {outside[-1].filename}:{outside[-1].lineno}" if outside else ""


def is_data_dependent(error: BaseException) -> bool:
    """Whether a fake tensor was asked for its numbers."""
    return isinstance(error, (DataDependentOutputException, DynamicOutputShapeException))


def has_fake(*args: Any) -> bool:
    """Whether a tensor among nested arguments is a fake one: some compiler is tracing."""
    return any(isinstance(x, FakeTensor) for x in tree_leaves(args))


def top_dispatch_mode() -> object:
    """The mode that meets an op of this thread first, or None."""
    return _get_current_dispatch_mode()


def dispatches(kind: type) -> bool:
    """Whether a tensor subclass says itself what an op on it is; ``nn.Parameter`` does not."""
    own = getattr(kind, "__torch_dispatch__", None)
    return own is not None and own is not torch._C._disabled_torch_dispatch_impl


def in_backward() -> bool:
    """Whether autograd's engine is running on this thread."""
    return torch._C._current_graph_task_id() != -1


_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


def open_composite(func: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """What torch's C++ opens a composite op into."""
    return func._op_dk(_COMPOSITE, *args, **kwargs)


def open_lstm(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """``aten.lstm.input`` as products and gates of every step: torch would call oneDNN's LSTM on a CPU."""
    outputs, finals = _rnn_helper(
        x,
        list(zip(*states, strict=True)),
        gather_params(weights, has_biases, states[0].shape[2] != states[1].shape[2]),
        *(has_biases, num_layers, dropout, train, bidirectional, batch_first, one_layer_lstm),
    )
    hidden, cells = (torch.stack(every, 0) for every in zip(*finals, strict=True))
    return outputs, hidden, cells


@contextlib.contextmanager
def composites(opened: Mapping[OpOverload, Callable[..., Any]]) -> Iterator[None]:
    """Let tracing open composite ops by functions of ours inside the block; eager code does not look there.

    Compilations take turns (Dynamo's lock), so none of another backend runs beside it.
    """
    before = {op: op.py_kernels.get(_COMPOSITE) for op in opened}
    try:
        _set_composites(opened)
        yield
    finally:
        _set_composites(before)


def _set_composites(opened: Mapping[OpOverload, Callable[..., Any] | None]) -> None:
    for op, kernel in opened.items():
        if kernel is None:
            op.py_kernels.pop(_COMPOSITE, None)
        else:
            op.py_kernels[_COMPOSITE] = kernel
        op._dispatch_cache.clear()


def is_composite(func: OpOverload) -> bool:
    """Whether torch opens this op into others by itself."""
    return func._can_decompose()


def trace_again_with_constants(items: Iterable[Node]) -> None:
    """Make constants of the float inputs that these ``item`` nodes of a Dynamo graph read, with a guard on each.

    Dynamo starts again and does not come back here for them.
    """
    again = False
    for node in items:
        value = node.meta.get("example_value")
        symbol = value.node._expr if isinstance(value, torch.SymFloat) else None
        name = getattr(symbol, "name", None)
        if name is not None and not TensorifyState.should_specialize(name):
            TensorifyState.specialize(name)
            again = True
    if again:
        raise TensorifyScalarRestartAnalysis


def fake_vector(dtype: torch.dtype, device: str) -> torch.Tensor:
    """A fake vector of symbolic length in a mode of its own, to compile an elementwise kernel with."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    context: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
    example = torch.empty(96, dtype=dtype, device=device)
    return mode.from_tensor(example, symbolic_context=context)


def fake_like(vector: torch.Tensor, dtype: torch.dtype, *, is_vector: bool) -> torch.Tensor:
    """A fake tensor as long as ``vector``, or one number, in its mode."""
    assert isinstance(vector, FakeTensor)
    with vector.fake_mode:
        shape = vector.shape if is_vector else ()
        return torch.empty(shape, dtype=dtype, device=vector.device)


@contextlib.contextmanager
def tracing(vector: torch.Tensor) -> Iterator[None]:
    """Let AOTAutograd find the mode and the symbols of ``vector`` inside the block."""
    assert isinstance(vector, FakeTensor)
    with tracing_context(TracingContext(vector.fake_mode)):
        yield


@contextlib.contextmanager
def outside_of_modes() -> Iterator[None]:
    """Compile inside the block as if nothing were switched on around it: grad, autocast, dispatch modes."""
    with (
        _disable_current_modes(),
        torch.inference_mode(False),
        torch.no_grad(),
        torch._C._DisableFuncTorch(),
    ):
        yield


@functools.cache
def describe_fused_layers() -> torch.library.Library:
    """Give the kernels behind ``nn.TransformerEncoderLayer`` and ``nn.MultiheadAttention`` shapes, as 2.13 has them.

    Without them Dynamo leaves these modules to eager code in eval mode.
    """
    library = torch.library.Library("aten", "IMPL", "Meta")
    described = {
        "_transformer_encoder_layer_fwd": _like_the_input,
        "_native_multi_head_attention": _attention_and_weights,
    }
    for name, fake in described.items():
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "Meta"):
            library.impl(name, fake)
    return library


def _like_the_input(src: Tensor, *_: object, **__: object) -> Tensor:
    return torch.empty_like(src)


def _attention_and_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Tensor, Tensor]:
    heads = () if average_attn_weights else (num_head,)
    shape = (query.shape[0], *heads, query.shape[1], key.shape[1]) if need_weights else (0,)
    return torch.empty_like(query), query.new_empty(shape)
