"""Every graph that Dynamo makes of a model, planned as the compiler would plan it. No kernel runs.

The inputs become fake tensors, so Dynamo traces as usual and the code between two graphs runs on shapes alone.
AOTAutograd's graph is planned in the same pass of ``compile_fx`` as a compilation does, and then left alone.
"""

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.fx import Graph, GraphModule
from torch.utils import _pytree as pytree

from bi_inductor import _torch
from bi_inductor.attention import open_attention
from bi_inductor.batch import BatchSpec, infer_batch_spec
from bi_inductor.composites import opened_alike
from bi_inductor.decompositions import decomposition_table
from bi_inductor.errors import BatchInvariantError, InspectionError
from bi_inductor.options import Options, make_options
from bi_inductor.pipeline import InputBatch, batch_of_inputs, graph_devices, unite_batch_sizes
from bi_inductor.plan import Planned, make_plan
from bi_inductor.rewrite import rewrite

Dynamic = Literal["batch"] | bool
#: node of the ATen graph -> the nodes that stand for it after the rewrite carry its name under this key
ORIGIN = "bi_inductor_origin"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedGraph:
    """One joint or inference graph of AOTAutograd with its plan, before the rewrite."""

    gm: GraphModule
    planned: Planned
    device: str
    traced_on: str
    inputs: tuple[str, ...]
    states: tuple[bool, ...]
    batch: BatchSpec
    graph_break: str | None


@dataclass(slots=True, kw_only=True)
class Capture:
    """What one call of a model gave, per device; ``stopped`` says why Dynamo saw no more of it, if so."""

    graphs: dict[str, list[Any]] = field(default_factory=dict)
    stopped: str | None = None


Visitor = Callable[[CapturedGraph, Callable[[], GraphModule] | None], Any]


def capture(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    visit: Visitor,
    *,
    devices: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    dynamic: Dynamic = "batch",
    generate: Callable[..., Any] | None = None,
) -> Capture:
    """Trace ``model(*args, **kwargs)`` and plan each of its graphs.

    Args:
        model: a module or function.
        args: its inputs; real, fake or meta tensors among them are only read for their shapes and dtypes.
        kwargs: the same by name.
        visit: called with each graph, once per device, and a function that rewrites it for the last of
            them (None for the others, since a graph can be rewritten once); what it returns is kept.
        devices: whose plans to use; default the device of the graph.
        options: as for ``torch.compile(..., backend="batch_invariant")``.
        dynamic: ``"batch"`` makes the batch sizes symbolic, True all sizes of inputs, False none.
        generate: an ``inner_compile`` that makes code of each rewritten graph; default none is made.

    Raises:
        InspectionError: the model does not trace with these inputs.
        OptionError: an option that the backend refuses.
    """
    from lowerings import _inductor

    _torch.check_version()
    _torch.describe_fused_layers()
    chosen = make_options(None, options, _inductor.pins())
    mode = _torch.FakeTensorMode(allow_non_fake_inputs=True)
    args, kwargs = _fake_inputs(mode, args, dict(kwargs))
    if dynamic == "batch":
        _mark_batch(model, args, kwargs, chosen)
    found = Capture()
    backend = _Backend(found, visit, tuple(devices), chosen, generate)
    torch.compiler.reset()
    compiled = torch.compile(
        model, backend=backend, dynamic=None if dynamic == "batch" else dynamic
    )
    with _without_data(model, mode):
        try:
            compiled(*args, **kwargs)
        except BatchInvariantError:
            raise
        except Exception as error:
            _explain_failure(error, found)
        finally:
            torch.compiler.reset()
    if not found.graphs and found.stopped is None:
        found.stopped = "Dynamo made no graph of this call, so nothing of it would be compiled"
    return found


class _Backend:
    """A backend of ``torch.compile`` that plans, and runs the Dynamo graph as it is on the fake inputs."""

    def __init__(
        self,
        found: Capture,
        visit: Visitor,
        devices: tuple[str, ...],
        options: Options,
        generate: Callable[..., Any] | None,
    ) -> None:
        self.found, self.visit, self.devices = found, visit, devices
        self.options, self.generate = options, generate

    def __call__(self, gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        traced_on = graph_devices(gm, example_inputs)
        inputs = batch_of_inputs(gm, self.options)
        unite_batch_sizes(gm, inputs)
        run = copy.copy(gm)
        plan = _PlanOnly(self, inputs, traced_on, _torch.graph_break_of(gm))
        from lowerings import _inductor

        with contextlib.suppress(_Seen), opened_alike():
            _torch.compile_fx(
                open_attention(gm),
                list(example_inputs),
                inner_compile=self.generate or _no_code,  # type: ignore[arg-type]
                config_patches={
                    **_inductor.pins(),
                    "joint_custom_pre_pass": plan,
                    # a hit of a cache would skip the pass
                    "force_disable_caches": True,
                    **({} if self.generate else {"pattern_matcher": False}),
                },
                decompositions=decomposition_table(),
            )
        return run.forward


class _Seen(Exception):
    """The graph is planned and no code is wanted: what torch does behind the plan takes as long as the tracing."""


class _PlanOnly(_torch.CustomGraphPass):
    """The plan pass of ``pipeline.py``, collecting every problem instead of raising at the first."""

    def __init__(
        self,
        backend: _Backend,
        inputs: InputBatch,
        traced_on: tuple[str, ...],
        graph_break: str | None,
    ) -> None:
        self.backend, self.inputs = backend, inputs
        self.traced_on, self.mixed, self.graph_break = traced_on[0], len(traced_on) > 1, graph_break

    def __call__(self, graph: Graph) -> None:
        gm = graph.owning_module
        assert gm is not None
        batch = self.inputs.spec(graph)
        sources = self.inputs.sources_of(graph)
        for node in graph.nodes:
            node.meta[ORIGIN] = node.name
        devices = self.backend.devices or (self.traced_on,)
        for device in devices:
            planned = make_plan(
                gm,
                device=device,
                batch=batch,
                backward=_torch.is_backward,
                on_variant="warn",
                mixed=self.mixed,
            )
            captured = CapturedGraph(
                gm=gm,
                planned=planned,
                device=device,
                traced_on=self.traced_on,
                inputs=tuple(source.name for source in sources),
                states=tuple(source.is_state for source in sources),
                batch=batch,
                graph_break=self.graph_break,
            )
            last = device == devices[-1]
            write = functools.partial(rewrite, gm, planned) if last else None
            self.backend.found.graphs.setdefault(device, []).append(
                self.backend.visit(captured, write)
            )
        if self.backend.generate is None:
            raise _Seen

    def uuid(self) -> Any:
        return None


def _no_code(gm: GraphModule, example_inputs: Sequence[Any], **_: Any) -> Callable[..., Any]:
    return _torch.boxed(gm.forward)


def _fake_inputs(
    mode: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def fake(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        made = _torch.fake_on(mode, x, torch.device("cpu"))
        marked = getattr(x, _torch.BATCH_MARK, None)
        if marked is not None:
            setattr(made, _torch.BATCH_MARK, marked)
        return made

    return pytree.tree_map(fake, tuple(args)), pytree.tree_map(fake, kwargs)


def _mark_batch(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: Options
) -> None:
    """Mark the batch dims of the inputs as dynamic; a batch of one has no symbol, as in a compilation."""
    named = _names(model, args, kwargs)
    spec = _spec(named, dict(options.batch_dims))
    for (_, x), at in zip(named, spec.dims, strict=True):
        if at is not None:
            _torch.maybe_mark_dynamic(x, at)


def _spec(named: Sequence[tuple[str, torch.Tensor]], option: Mapping[str, int | None]) -> BatchSpec:
    tensors = [x for _, x in named]
    return infer_batch_spec(
        tensors,
        is_param=[False] * len(tensors),
        marked={
            i: getattr(x, _torch.BATCH_MARK)
            for i, x in enumerate(tensors)
            if getattr(x, _torch.BATCH_MARK, None)
        },
        named=[name for name, _ in named],
        option=option,
    )


def with_batch(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    size: int,
    *,
    options: Mapping[str, int | None] | None = None,
    empty: bool = True,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the inputs of a call with another batch size, found as ``infer_batch_spec`` finds it.

    ``empty``: meta tensors without data, for tracing; otherwise samples are dropped or repeated.

    Raises:
        InspectionError: no input has a batch.
    """
    named = _names(model, args, kwargs)
    spec = _spec(named, options or {})
    dims = {id(x): at for (_, x), at in zip(named, spec.dims, strict=True) if at is not None}
    if not dims:
        raise InspectionError("no input has a batch dimension, so its size cannot be changed")

    def resize(x: Any) -> Any:
        if id(x) not in dims or not isinstance(x, torch.Tensor):
            return x
        at = dims[id(x)]
        shape = [size if d == at else s for d, s in enumerate(x.shape)]
        if empty:
            return torch.empty(shape, dtype=x.dtype, device="meta")
        return x.index_select(at, torch.arange(size, device=x.device) % x.shape[at])

    return pytree.tree_map(resize, tuple(args)), pytree.tree_map(resize, dict(kwargs))


def _names(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[tuple[str, torch.Tensor]]:
    """Return every tensor of a call by the name of the parameter that it is given to."""
    forward = model.forward if isinstance(model, torch.nn.Module) else model
    try:
        given: Mapping[str, Any] = inspect.signature(forward).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        given = {**{str(i): x for i, x in enumerate(args)}, **kwargs}
    return [
        (name, leaf)
        for name, value in given.items()
        for leaf in pytree.tree_leaves(value)
        if isinstance(leaf, torch.Tensor)
    ]


@contextlib.contextmanager
def _without_data(model: Callable[..., Any], mode: Any) -> Iterator[None]:
    """Inside, the parameters of a model on the meta device are fake ones on the CPU."""
    state = {}
    if isinstance(model, torch.nn.Module):
        state = dict([*model.named_parameters(), *model.named_buffers()])
    if not any(x.device.type == "meta" for x in state.values()):
        yield
        return
    fakes = {name: _torch.fake_on(mode, x, torch.device("cpu")) for name, x in state.items()}
    assert isinstance(model, torch.nn.Module)
    with _torch.with_state(model, fakes):
        yield


def _explain_failure(error: Exception, found: Capture) -> None:
    """Turn an exception of the trace into a sentence; what was captured before it is kept.

    Raises:
        InspectionError: nothing was captured.
    """
    cause = _torch.root_cause(error)
    if isinstance(cause, BatchInvariantError):
        raise cause
    where = _torch.user_line(error)
    if _torch.is_data_dependent(cause):
        found.stopped = (
            f"the code reads the value of a tensor{where}, and there are only shapes here"
        )
        return
    raise InspectionError(
        f"the model does not trace{where}: {_torch.first_sentence(cause)}"
    ) from error
