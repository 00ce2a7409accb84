"""An ``explain`` report as Graphviz text: a cluster per module, a box per node, coloured by verdict."""

from collections import defaultdict
from collections.abc import Iterator

from bi_inductor.inspection.nodes import GraphReport, NodeReport, short_op
from bi_inductor.inspection.report import ExplainReport

COLOURS = {
    "invariant": "#d9f2e3",
    "planned": "#cfe6fb",
    "unsupported": "#fbe7b2",
    "unknown": "#ecd3f5",
    "coupled": "#f8c9c4",
}


def explain_dot(report: ExplainReport) -> str:
    """Return ``digraph`` text for ``dot -Tsvg``."""
    lines = [
        "digraph explain {",
        '  rankdir=TB; fontname="sans-serif"; node [shape=box, style="rounded,filled", fontname="sans-serif"];',
        f"  label={_quoted(f'{report.name} on {report.device}')};",
    ]
    for index, graph in enumerate(report.graphs):
        lines += [f"  {line}" for line in _graph(index, graph)]
    return "\n".join([*lines, "}"])


def _graph(index: int, graph: GraphReport) -> Iterator[str]:
    tree: dict[tuple[str, ...], list[NodeReport]] = defaultdict(list)
    for node in graph.nodes:
        path = tuple(node.module.split(".")) if node.module else ()
        for depth in range(len(path) + 1):
            tree[path[:depth]]  # every parent has a cluster
        tree[path].append(node)
    yield from _cluster(f"g{index}", (), tree)
    known = {node.name for node in graph.nodes}
    for node in graph.nodes:
        for source in node.inputs:
            if source in known:
                yield f"{_id(index, source)} -> {_id(index, node.name)};"


def _cluster(
    prefix: str, path: tuple[str, ...], tree: dict[tuple[str, ...], list[NodeReport]]
) -> Iterator[str]:
    index = int(prefix[1:])
    yield f"subgraph {_quoted('cluster_' + '.'.join((prefix, *path)))} {{"
    yield f"  label={_quoted('.'.join(path) or f'graph {index}')};"
    for node in tree[path]:
        label = short_op(node.op) + (f"\n{node.plan.text}" if node.plan else "")
        tooltip = _quoted(f"{node.place} {node.reason}".strip())
        yield (
            f"  {_id(index, node.name)} [label={_quoted(label)}, tooltip={tooltip}, "
            f'fillcolor="{COLOURS[node.verdict]}"];'
        )
    for child in tree:
        if len(child) == len(path) + 1 and child[: len(path)] == path:
            yield from (f"  {line}" for line in _cluster(prefix, child, tree))
    yield "}"


def _id(index: int, name: str) -> str:
    return _quoted(f"{index}.{name}")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
