"""Two runs side by side: which nodes of a batch hold other bits than the same nodes of one sample alone."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.fx import Node

from bi_inductor.errors import Where
from bi_inductor.inspection.bits import Difference
from bi_inductor.inspection.diff_isolate import Runner, Scene, Suspect, isolate, signature
from bi_inductor.inspection.diff_layout import Match, Place, Unknown, match
from bi_inductor.inspection.diff_observe import ObservedGraph, Run
from bi_inductor.plan import where


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A node with other bits in a batch. ``own``: what is left of it on reference inputs (see ``isolate``)."""

    graph: int
    node: Node
    row: int
    found: Difference
    assumed: bool
    reason: str
    own: Difference | Unknown | None
    like: str = ""


@dataclass(slots=True, kw_only=True)
class Comparison:
    """All that one batch size showed, nodes in order of execution."""

    size: int
    changed: list[Changed] = field(default_factory=list)
    compared: set[tuple[int, str]] = field(default_factory=set)
    not_comparable: dict[tuple[int, str], tuple[Node, Unknown]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def compare(
    batched: Sequence[Run],
    alone: Mapping[int, Sequence[Run]],
    size: int,
    run: Runner,
    *,
    group: bool,
) -> Comparison:
    """Compare a batch with its samples, ``alone[row]``, in every graph, and isolate what changed.

    ``group``: isolate one of several nodes that become the same code; for compilers, where each costs seconds.
    """
    result = Comparison(size=size)
    for runs in alone.values():
        if len(runs) != len(batched):
            result.notes.append(
                f"one sample runs {len(runs)} graphs, a batch of {size} runs {len(batched)}: the code "
                "branches on the size of the batch, so nodes are not compared"
            )
            return result
    for index, graph_run in enumerate(batched):
        _compare_graph(
            result, index, graph_run, {r: runs[index] for r, runs in alone.items()}, run, group
        )
    return result


def pairs(alone: ObservedGraph, batched: ObservedGraph) -> tuple[dict[Node, Node], list[Node]]:
    """Return batched node -> alone node, and the batched nodes that exist in no graph of one sample."""
    mine, other = list(batched.observed), list(alone.observed)
    inputs = dict(zip(batched.inputs, alone.inputs, strict=False))
    if [_key(n) for n in mine] == [_key(n) for n in other]:
        return {**inputs, **dict(zip(mine, other, strict=True))}, []
    matcher = difflib.SequenceMatcher(
        None, [_key(n) for n in mine], [_key(n) for n in other], autojunk=False
    )
    found = {
        mine[block.a + k]: other[block.b + k]
        for block in matcher.get_matching_blocks()
        for k in range(block.size)
    }
    return {**inputs, **found}, [n for n in mine if n not in found]


def op_of(node: Node) -> str:
    """Return the name of a Dynamo node's function as the user's code spells it, e.g. ``layer_norm``."""
    target: Any = node.target
    if isinstance(target, str):
        return f"Tensor.{target}" if node.op == "call_method" else target
    module = str(getattr(target, "__module__", "") or "").replace(
        "torch._C._nn", "torch.nn.functional"
    )
    name = getattr(target, "__name__", str(target))
    if hasattr(target, "_schema") or hasattr(target, "_qualified_op_name"):
        return str(target)
    return f"{module}.{name}" if module.startswith("torch") else name


def place_of(node: Node) -> Where:
    """Return the user's line and module path of a Dynamo node."""
    found = where(node)
    module = re.sub(r"^L\['\w+'\]\.?", "", found.module)
    module = re.sub(r"\._?modules\['(\w+)'\]", r".\1", module)
    return Where(line=found.line, code=found.code, module=module)


def _compare_graph(
    result: Comparison, index: int, batched: Run, alone: dict[int, Run], run: Runner, group: bool
) -> None:
    first: dict[Node, tuple[int, Match]] = {}
    places: dict[Node, Place] = {}
    partner: dict[Node, Node] = {}
    for row, other in alone.items():
        partner, extra = pairs(other.graph, batched.graph)
        for node in extra:
            reason = Unknown("one sample alone does not run it")
            result.not_comparable[(index, node.name)] = (node, reason)
        for node in (*batched.graph.inputs, *batched.graph.observed):
            if node not in partner:
                continue
            mine, theirs = batched.values[node], other.values.get(partner[node])
            if not isinstance(mine, Tensor) or not isinstance(theirs, Tensor):
                continue
            found = match(theirs, mine, result.size, row, batched.graph.placements[node])
            if isinstance(found, Unknown):
                result.not_comparable.setdefault((index, node.name), (node, found))
                continue
            places[node] = found.place
            result.compared.add((index, node.name))
            if found.found is not None:
                first.setdefault(node, (row, found))
    ordered = [n for n in batched.graph.observed if n in first]
    own, alike = _isolated(ordered, first, partner, batched, alone, places, result.size, run, group)
    for node in ordered:
        row, found = first[node]
        assert found.found is not None
        result.changed.append(
            Changed(
                graph=index,
                node=node,
                row=row,
                found=found.found,
                assumed=found.assumed,
                reason=batched.graph.reasons.get(where(node).line or node.name, ""),
                own=own[node],
                like=alike.get(node, ""),
            )
        )


def _isolated(
    ordered: list[Node],
    first: dict[Node, tuple[int, Match]],
    partner: dict[Node, Node],
    batched: Run,
    alone: dict[int, Run],
    places: dict[Node, Place],
    size: int,
    run: Runner,
    group: bool,
) -> tuple[dict[Node, Difference | Unknown | None], dict[Node, str]]:
    """Isolate the nodes that changed; return their own differences, and which were judged by a twin."""
    own: dict[Node, Difference | Unknown | None] = {}
    twin: dict[Node, Node] = {}
    leaders: dict[str, Node] = {}
    by_row: dict[int, list[Suspect]] = {}
    for node in ordered:
        row = first[node][0]
        scene = Scene(batched=batched, alone=alone[row], size=size, places=places)
        leader = leaders.setdefault(signature(scene, node), node) if group else node
        if leader is not node:
            twin[node] = leader
            continue
        by_row.setdefault(row, []).append(Suspect(node=node, alone=partner[node], row=row))
    for row, suspects in by_row.items():
        scene = Scene(batched=batched, alone=alone[row], size=size, places=places)
        own.update(isolate(scene, suspects, run))
    for node, leader in twin.items():
        own[node] = own[leader]
    return own, {node: leader.name for node, leader in twin.items()}


def _key(node: Node) -> tuple[str, str, str]:
    return (node.op, str(node.target), where(node).line)
