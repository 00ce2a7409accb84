"""The way of a graph: attention, AOTAutograd, plan, rewrite, Inductor with its choices pinned, certificate."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule

from bi_inductor import _torch, certificates, trace
from bi_inductor.attention import open_attention
from bi_inductor.batch import BatchSpec, infer_batch_spec, is_tangent, names_input
from bi_inductor.cache import clean_once, remove_unfinished_libraries, sources_digest, writable
from bi_inductor.composites import opened_alike
from bi_inductor.decompositions import decomposition_table
from bi_inductor.errors import OptionError, UnsupportedDeviceError
from bi_inductor.opening import settle_epsilons, share_heads
from bi_inductor.options import PLAN_PASS, Options, make_options
from bi_inductor.plan import make_plan
from bi_inductor.rewrite import rewrite


def compile_graph(
    gm: GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None,
    options: Mapping[str, Any] | None,
) -> Callable[..., Any]:
    """Compile one Dynamo graph; the arguments and errors of ``backend.batch_invariant``."""
    from lowerings import _inductor, table

    _torch.check_version()
    settle_epsilons(gm)
    pins = _inductor.pins()
    chosen = make_options(mode, options, pins)
    devices = graph_devices(gm, example_inputs)
    device = devices[0]
    with writable():
        for each in devices:
            table.load(each)
    _torch.keep_compiling()
    inputs = batch_of_inputs(gm, chosen)
    unite_batch_sizes(gm, inputs)
    with trace.op_diff("open_attention", gm.graph):
        gm = open_attention(gm)
    record = certificates.open_graph(gm, device=device, options=chosen, batch=inputs)
    plan = PlanPass(chosen.target(device), chosen, inputs, record, mixed=len(devices) > 1)
    compile_planned = table.compiler_of(device)
    if compile_planned is not None:
        _refuse_inductor_settings(chosen, device)
    patches = {
        **_inductor.schedule_settings(device),
        **pins,
        **dict(chosen.inductor),
        **({"triton.cudagraphs": True} if chosen.cudagraphs else {}),
        PLAN_PASS: plan,
    }

    def compiled() -> Callable[..., Any]:
        record.planned.clear()
        if compile_planned is not None:
            handed: Callable[..., Any] = compile_planned(gm, list(example_inputs), plan)
            return handed
        made: Callable[..., Any] = _torch.compile_fx(  # type: ignore[assignment]
            gm,
            list(example_inputs),
            inner_compile=_inductor.compile_pinned,
            config_patches=patches,
            decompositions=decomposition_table(),
        )
        return made

    with writable(), opened_alike():
        made = _on_clean_cache(compiled)
    record.close()
    return made


def _on_clean_cache(compiled: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """Compile; again if the first try failed on a library that a killed compiler had left unfinished."""
    clean_once()
    try:
        return compiled()
    except Exception:
        if not remove_unfinished_libraries():
            raise
        return compiled()


def _refuse_inductor_settings(options: Options, device: str) -> None:
    given = [name for name, _ in options.inductor] + ["mode"] * options.cudagraphs
    if given:
        raise OptionError(
            f"{', '.join(given)}: Inductor does not compile for {device}, so none of its settings apply"
        )


def graph_devices(gm: GraphModule, example_inputs: Sequence[Any]) -> tuple[str, ...]:
    """The device types of a graph: one, or a GPU and then the CPU, where models keep tables of positions.

    Raises:
        UnsupportedDeviceError: its tensors live on other types of device besides the CPU's scalars.
    """
    found = {e.device.type for e in example_inputs if isinstance(e, torch.Tensor) and e.dim()}
    for node in gm.graph.nodes:
        value = node.meta.get("example_value")
        if isinstance(value, torch.Tensor) and value.dim():
            found.add(value.device.type)
    if found == {"cuda", "cpu"}:
        return "cuda", "cpu"
    if len(found) > 1:
        raise UnsupportedDeviceError(
            f"one graph holds tensors on {' and '.join(sorted(found))}; move its inputs to one device"
        )
    return (found.pop() if found else "cpu",)


@dataclass(frozen=True, slots=True)
class InputBatch:
    """What the user and Dynamo say about a graph's inputs; the batch is looked up in AOTAutograd's graph.

    Not in Dynamo's: there two inputs of one batch may still have two symbols for it.
    """

    sources: tuple[_torch.InputSource, ...]
    option: tuple[tuple[str, int | None], ...]

    def sources_of(self, graph: Graph) -> list[_torch.InputSource]:
        """Where each placeholder of AOTAutograd's ``graph`` came from, tangents left out.

        Placeholders are not the Dynamo graph's inputs one by one: see ``_torch.input_index``.
        """
        placeholders = [n for n in graph.find_nodes(op="placeholder") if not is_tangent(n)]
        found = [(n, _torch.input_index(n)) for n in placeholders]
        return [
            _torch.InputSource(n.name, True, ()) if i is None else self.sources[i] for n, i in found
        ]

    def spec(self, graph: Graph) -> BatchSpec:
        """The batch dims of the placeholders of ``graph``; what AOTAutograd added has none."""
        values = [
            n.meta.get("val") for n in graph.find_nodes(op="placeholder") if not is_tangent(n)
        ]
        sources = self.sources_of(graph)
        return infer_batch_spec(
            values,
            is_param=[s.is_state for s in sources],
            marked={i: s.marked for i, s in enumerate(sources) if s.marked},
            named=[s.name for s in sources],
            option=dict(self.option),
        )


def batch_of_inputs(gm: GraphModule, options: Options) -> InputBatch:
    """What is known about the batch of a Dynamo graph's placeholders.

    Warns of a name in ``batch_dims`` that is no input: misspelled, unused, or an input of another graph.
    """
    sources = tuple(map(_torch.input_source, gm.graph.find_nodes(op="placeholder")))
    inputs = [s.name for s in sources if not s.is_state]
    for key, _ in options.batch_dims:
        if not any(names_input(key, name) for name in inputs):
            spelled = [name.removeprefix("L['").removesuffix("']") for name in inputs]
            warnings.warn(
                f"batch_dims names {key!r}, which is no input of this graph; its inputs are "
                f"{', '.join(spelled) or 'none'}. An input that it does not name has its batch where the "
                "default puts it",
                stacklevel=2,
            )
    return InputBatch(sources, options.batch_dims)


def unite_batch_sizes(gm: GraphModule, inputs: InputBatch) -> None:
    """Guard that inputs whose leading size grew alike go on growing alike.

    When a batch changes between two calls, Dynamo gives ids and their mask a symbol each; the guard makes it one.
    """
    sizes: dict[int, Any] = {}
    for node, source in zip(gm.graph.find_nodes(op="placeholder"), inputs.sources, strict=True):
        value = node.meta.get("example_value")
        if source.is_state or not isinstance(value, torch.Tensor):
            continue
        # a float table [S, D] of positions is as likely as a batch; ids, masks and hidden states are not
        if value.dim() < 2 or (value.dim() == 2 and value.is_floating_point()):
            continue
        size: Any = value.shape[0]
        hint = _torch.size_hint(size)
        if hint is not None:
            bool(size == sizes.setdefault(hint, size))


class PlanPass(_torch.CustomGraphPass):
    """Plan and rewrite, as Inductor's first pass over the joint or inference graph.

    First, because later passes turn attention and matmul into library calls; and a pass, because its
    ``uuid`` is then part of the keys of the FX graph cache and of AOTAutograd's cache.
    """

    def __init__(
        self,
        device: str,
        options: Options,
        inputs: InputBatch,
        record: certificates.GraphRecord,
        *,
        mixed: bool = False,
    ) -> None:
        self.device, self.options, self.inputs, self.record = device, options, inputs, record
        self.mixed = mixed

    def __call__(self, graph: Graph) -> None:
        """Rewrite ``graph`` in place.

        Raises:
            VariantOpError: an op mixes samples, or cannot be proved not to.
        """
        from lowerings import table

        gm = graph.owning_module
        assert gm is not None
        share_heads(graph)
        planned = make_plan(
            gm,
            device=self.device,
            batch=self.inputs.spec(graph),
            backward=_torch.is_backward,
            on_variant=self.options.on_variant,
            mixed=self.mixed,
        )
        self.record.add(planned)
        trace.show_plan(planned)
        with trace.op_diff("rewrite", graph):
            rewrite(gm, planned, uniform=self.options.tiling == "uniform")
        fuse = table.fuser_of(self.device.partition("/")[0])
        if fuse is not None:
            with trace.op_diff("fuse", graph):
                fuse(gm)
        trace.show_graph(gm)

    def uuid(self) -> Any:
        """What shapes the generated code and is no Inductor setting."""
        return (
            "bi_inductor",
            sources_digest(),
            repr(self.options),
            repr(self.inputs),
            self.device,
            self.mixed,
        )
