"""Nodes one at a time: each is fed the batch's own values, and slices of them, so nothing is inherited."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Graph, GraphModule, Node

from bi_inductor.inspection.bits import Difference
from bi_inductor.inspection.diff_layout import Place, Placement, Unknown, like, match
from bi_inductor.inspection.diff_observe import Run, is_value

Runner = Callable[[GraphModule], Callable[..., Any]]
_AUTOCAST = "_enter_autocast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A node whose bits changed: ``node`` in the graph of the batch, ``alone`` in the graph of one sample."""

    node: Node
    alone: Node
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One graph in two runs, a batch and one sample alone, and the places of samples in the batch's values."""

    batched: Run
    alone: Run
    size: int
    places: Mapping[Node, Place]

    def placement(self, node: Node) -> Placement:
        """Return what the analysis says of a node."""
        return self.batched.graph.placements.get(node, Unknown("it was not observed"))


def isolate(
    scene: Scene, suspects: Sequence[Suspect], run: Runner
) -> dict[Node, Difference | Unknown | None]:
    """Run each suspect on reference inputs, in a batch and for one row alone, through ``run``.

    Reference inputs are the values of the batched run: the batch gets them whole, the single sample its slice
    with the strides that it has alone. One graph holds all suspects, and no value passes between them.

    Returns: for each suspect its own difference, None if all of it is inherited, Unknown if it cannot be cut out.
    """
    found: dict[Node, Difference | Unknown | None] = {}
    if any(_AUTOCAST in str(n.target) for n in scene.batched.graph.gm.graph.nodes):
        reason = Unknown("under autocast an op cannot be cut out of its graph")
        return dict.fromkeys((s.node for s in suspects), reason)
    cut: list[tuple[Suspect, list[tuple[Node, Node]]]] = []
    for suspect in suspects:
        edges = _edges(scene, suspect)
        if isinstance(edges, Unknown):
            found[suspect.node] = edges
        else:
            cut.append((suspect, edges))
    if not cut:
        return found
    batch_values = [scene.batched.values[b].clone() for _, edges in cut for b, _ in edges]
    batched = _run(
        scene.batched,
        [s.node for s, _ in cut],
        [[b for b, _ in e] for _, e in cut],
        batch_values,
        run,
    )
    alone = _run(
        scene.alone,
        [s.alone for s, _ in cut],
        [[a for _, a in e] for _, e in cut],
        [_slice(scene, b, a, s.row) for s, edges in cut for b, a in edges],
        run,
    )
    for (suspect, _), mine, other in zip(cut, batched, alone, strict=True):
        result = match(other, mine, scene.size, suspect.row, scene.placement(suspect.node))
        found[suspect.node] = result if isinstance(result, Unknown) else result.found
    return found


def signature(scene: Scene, node: Node) -> str:
    """Return what two nodes must share to become the same code: op, numbers, shapes, dtypes, strides."""

    def show(arg: Node) -> str:
        value = scene.batched.values.get(arg)
        if isinstance(value, Tensor):
            return f"{value.dtype}{list(value.shape)}{value.stride()}"
        return signature(scene, arg) if arg.op.startswith("call_") else str(arg.target)

    args = fx.map_arg((node.args, node.kwargs), show)
    return f"{node.target}{args}"


def _edges(scene: Scene, suspect: Suspect) -> list[tuple[Node, Node]] | Unknown:
    """Pair the values that flow into both versions of a node."""
    theirs, ours = list(_inputs(suspect.alone)), list(_inputs(suspect.node))
    if len(theirs) != len(ours):
        return Unknown("alone it has other inputs than in a batch")
    for b in ours:
        if not _is_state(scene.batched, b) and b not in scene.places:
            return Unknown(f"its input {b.name} is not comparable")
    return list(zip(ours, theirs, strict=True))


def _inputs(node: Node) -> Iterator[Node]:
    """Yield the tensors that a node reads; tuples in between stay with it."""
    for arg in node.all_input_nodes:
        if arg.op == "placeholder" or is_value(arg):
            yield arg
        elif arg.op.startswith("call_"):
            yield from _inputs(arg)


def _is_state(run: Run, node: Node) -> bool:
    if node.op != "placeholder":
        return False
    return run.graph.sources[run.graph.inputs.index(node)].is_state


def _slice(scene: Scene, batched: Node, alone: Node, row: int) -> Tensor:
    value: Tensor = scene.batched.values[batched]
    model: Tensor = scene.alone.values[alone]
    if _is_state(scene.batched, batched):
        return value
    return like(scene.places[batched].take(value, row), model)


def _run(
    run: Run,
    nodes: Sequence[Node],
    inputs: Sequence[Sequence[Node]],
    values: Sequence[Tensor],
    runner: Runner,
) -> list[Tensor]:
    """Run ``nodes``, each with placeholders of its own; parameters become buffers, so that they stay state."""
    source = run.graph.gm
    root = torch.nn.Module()
    for name in {str(n.target) for n in source.graph.find_nodes(op="get_attr")}:
        _attach(root, name, _fetch(source, name))
    graph, passed, pending = Graph(), [], iter(values)
    envs: list[dict[Node, Node]] = []
    for index, reads in enumerate(inputs):
        env: dict[Node, Node] = {}
        for arg, value in zip(reads, pending, strict=False):
            name = f"value_{index}_{len(env)}"
            if arg in env:
                continue
            if _is_state(run, arg):
                root.register_buffer(name, value, persistent=False)
                env[arg] = graph.get_attr(name)
            else:
                env[arg] = graph.placeholder(name)
                passed.append(value)
        envs.append(env)
    _placeholders_first(graph)
    made = [_emit(node, graph, env) for node, env in zip(nodes, envs, strict=True)]
    graph.output(tuple(graph.call_function(torch.clone, (node,)) for node in made))
    with torch.no_grad():
        return list(runner(GraphModule(root, graph))(*passed))


def _emit(node: Node, graph: Graph, env: dict[Node, Node]) -> Node:
    def arg(n: Node) -> Node:
        if n not in env:
            env[n] = graph.get_attr(str(n.target)) if n.op == "get_attr" else _emit(n, graph, env)
        return env[n]

    for needed in node.all_input_nodes:
        arg(needed)
    return graph.node_copy(node, arg)


def _placeholders_first(graph: Graph) -> None:
    nodes = list(graph.nodes)
    first = next((n for n in nodes if n.op != "placeholder"), None)
    for node in nodes:
        if first is not None and node.op == "placeholder":
            first.prepend(node)


def _fetch(root: torch.nn.Module, name: str) -> Any:
    value: Any = root
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _attach(root: torch.nn.Module, name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            setattr(root, part, torch.nn.Module())
        root = getattr(root, part)
    setattr(root, last, value)
