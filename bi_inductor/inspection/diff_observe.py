"""A backend around a backend: every value of a Dynamo graph becomes a further output of the compiled code."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from bi_inductor import _torch
from bi_inductor.attention import open_attention
from bi_inductor.batch import BatchSpec, infer_batch_spec
from bi_inductor.composites import opened_alike
from bi_inductor.decompositions import decomposition_table
from bi_inductor.flow.axes import Value, plain, shape_of
from bi_inductor.flow.engine import Flow
from bi_inductor.inspection.diff_layout import Placement, Unknown, layout_of
from bi_inductor.plan import output_nodes, where
from bi_inductor.rules import Verdict, judge

Compiler = Callable[[GraphModule, list[Any]], Callable[..., Any]]
_NOT_FOLLOWED = Unknown("the analysis does not follow the batch to it")


@dataclass(slots=True)
class ObservedGraph:
    """One Dynamo graph as it was captured, the nodes with tensor values, and where the batch is in them."""

    gm: GraphModule
    sources: tuple[_torch.InputSource, ...]
    inputs: tuple[Node, ...]
    observed: tuple[Node, ...]
    placements: dict[Node, Placement] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """What one call of one graph computed: the values of its inputs and observed nodes."""

    graph: ObservedGraph
    values: Mapping[Node, Any]


class Observer:
    """A backend for ``torch.compile``; ``runs`` lists the graphs of the last call in order."""

    def __init__(self, inner: Compiler) -> None:
        self.inner = inner
        self.runs: list[Run] = []
        self.batch_of: dict[int, int | None] = {}

    def __call__(self, gm: GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        """Compile ``gm`` with its values as further outputs."""
        graph = _observed(gm)
        count = len(output_nodes(gm))
        compiled = self.inner(_with_outputs(gm, graph.observed), example_inputs)

        def run(*inputs: Any) -> Any:
            if not graph.placements:
                _place(graph, inputs, self.batch_of)
            # weights are shared and large; everything else may be written to by the graph
            before = [
                x.clone() if isinstance(x, Tensor) and not source.is_state else x
                for x, source in zip(inputs, graph.sources, strict=True)
            ]
            out = compiled(*inputs)
            values = dict(zip(graph.inputs, before, strict=True))
            values.update(zip(graph.observed, out[count:], strict=True))
            self.runs.append(Run(graph, values))
            return tuple(out[:count])

        return run


def is_value(node: Node) -> bool:
    """Whether a node of a Dynamo graph computes one tensor."""
    return node.op.startswith("call_") and isinstance(node.meta.get("example_value"), Tensor)


def _observed(gm: GraphModule) -> ObservedGraph:
    kept = _copy(gm)
    inputs = tuple(kept.graph.find_nodes(op="placeholder"))
    sources = tuple(map(_torch.input_source, gm.graph.find_nodes(op="placeholder")))
    return ObservedGraph(kept, sources, inputs, tuple(n for n in kept.graph.nodes if is_value(n)))


def _copy(gm: GraphModule) -> GraphModule:
    graph = Graph()
    graph.output(graph.graph_copy(gm.graph, {}))
    return GraphModule(gm, graph)


def _with_outputs(gm: GraphModule, observed: Sequence[Node]) -> GraphModule:
    """Return every observed value too, cloned where it is made: a later write must not reach it."""
    named = {n.name: n for n in gm.graph.nodes}
    clones = []
    for node in observed:
        mine = named[node.name]
        with gm.graph.inserting_after(mine):
            clones.append(gm.graph.call_function(torch.clone, (mine,)))
    (output,) = gm.graph.find_nodes(op="output")
    returned = output.args[0]
    assert isinstance(returned, (tuple, list))
    output.args = ((*returned, *clones),)
    gm.recompile()
    return gm


def _place(graph: ObservedGraph, inputs: Sequence[Any], batch_of: Mapping[int, int | None]) -> None:
    """Say where the batch is in every value, by tracing the graph to ATen and judging its nodes."""
    dims = _input_dims(graph, inputs, batch_of)
    for node, x, dim in zip(graph.inputs, inputs, dims, strict=True):
        if isinstance(x, Tensor):
            graph.placements[node] = layout_of(_input_value(x, dim))
    gm = open_attention(_copy(graph.gm))
    gm = _with_outputs(gm, graph.observed)
    (output,) = gm.graph.find_nodes(op="output")
    output.args = (tuple(output.args[0][len(output.args[0]) - len(graph.observed) :]),)  # type: ignore[index, arg-type]
    gm.recompile()
    traced = _aten(gm, inputs)
    if traced is None:
        graph.placements.update(dict.fromkeys(graph.observed, _NOT_FOLLOWED))
        return
    values, unknown = _follow(traced, dims, graph.reasons)
    outputs = output_nodes(traced)
    for node, out in zip(
        graph.observed, outputs[len(outputs) - len(graph.observed) :], strict=True
    ):
        value = values.get(out)  # type: ignore[call-overload]
        if isinstance(value, Value) and out not in unknown:
            graph.placements[node] = layout_of(value)
        else:
            graph.placements[node] = _NOT_FOLLOWED


def _input_dims(
    graph: ObservedGraph, inputs: Sequence[Any], batch_of: Mapping[int, int | None]
) -> tuple[int | None, ...]:
    """The user's inputs are known by identity; what comes from an earlier graph is inferred beside them."""
    known = {i: batch_of[id(x)] for i, x in enumerate(inputs) if id(x) in batch_of}
    return infer_batch_spec(
        [x.detach() if isinstance(x, Tensor) else x for x in inputs],
        is_param=[s.is_state or known.get(i, 0) is None for i, s in enumerate(graph.sources)],
        marked={i: (dim,) for i, dim in known.items() if dim is not None},
    ).dims


def _input_value(x: Tensor, dim: int | None) -> Value:
    return BatchSpec((dim,)).value(0, x)


def _aten(gm: GraphModule, inputs: Sequence[Any]) -> GraphModule | None:
    found: list[GraphModule] = []

    def keep(traced: GraphModule, _: Any) -> Callable[..., Any]:
        found.append(traced)
        return _torch.boxed(traced.forward)

    with torch.no_grad(), opened_alike():
        _torch.aot_autograd(
            fw_compiler=keep, inference_compiler=keep, decompositions=decomposition_table()
        )(gm, [x.detach() if isinstance(x, Tensor) else x for x in inputs])
    return found[0] if found else None


def _follow(
    traced: GraphModule, dims: Sequence[int | None], reasons: dict[str, str]
) -> tuple[dict[Any, Any], set[Any]]:
    """Return the abstract value of every ATen node, and the nodes behind an op that has no rule."""
    flow, unknown = Flow(), set[Any]()
    placeholders = traced.graph.find_nodes(op="placeholder")
    lifted = len(placeholders) - len(dims)
    for node, dim in zip(placeholders, (None,) * max(lifted, 0) + tuple(dims), strict=True):
        fake = node.meta.get("val")
        if isinstance(fake, Tensor):
            flow.values[node] = _input_value(fake, dim)
    for node in traced.graph.nodes:
        fake = node.meta.get("val")
        if node.op == "get_attr" and isinstance(fake, Tensor):
            flow.values[node] = plain(shape_of(fake))
        if node.op != "call_function":
            continue
        found = judge(node, flow)
        flow.values[node] = found.result
        if found.verdict is Verdict.UNKNOWN or any(n in unknown for n in node.all_input_nodes):
            unknown.add(node)
        if found.verdict is Verdict.BATCH_COUPLED:
            unknown.add(node)
            reasons.setdefault(where(found.blame or node).line or node.name, found.reason)
    return flow.values, unknown


def leaf_dims(samples_dims: Sequence[int | None], call: Any) -> dict[int, int | None]:
    """Return id -> batch dim for the tensors of one call."""
    leaves = pytree.tree_leaves(call)
    return {
        id(leaf): dim
        for leaf, dim in zip(leaves, samples_dims, strict=True)
        if isinstance(leaf, Tensor)
    }
