"""``ExplainReport``: what ``explain`` found, as text, table, JSON, DOT or a page."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bi_inductor.inspection.nodes import PROBLEMS, VERDICTS, GraphReport, NodeReport

if TYPE_CHECKING:
    from rich.console import Group

#: raised when the layout of ``json()`` changes; ``explain.schema.json`` describes it
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainReport:
    """Every node of every graph that Dynamo made of one call.

    ``device``: whose plans are shown; ``compiles``: whether the backend can make code for it.
    ``stopped``: why Dynamo saw no more of the call, if it did not see all of it.
    """

    name: str
    device: str
    compiles: bool
    torch: str
    bi_inductor: str
    graphs: tuple[GraphReport, ...]
    stopped: str | None = None

    @property
    def problems(self) -> tuple[NodeReport, ...]:
        """The nodes whose bits are not promised, in order."""
        return tuple(n for graph in self.graphs for n in graph.nodes if n.is_problem)

    @property
    def graph_breaks(self) -> tuple[str, ...]:
        """Why Dynamo ended graphs early: the code behind each runs stock eager kernels."""
        return tuple(g.graph_break for g in self.graphs if g.graph_break)

    @property
    def ok(self) -> bool:
        """Whether all of the call is in a graph, and every node of it has a proof."""
        return not (self.problems or self.graph_breaks or self.stopped)

    @property
    def hash(self) -> str:
        """SHA-256 of ``text()``: equal for two reports with the same plans, at any batch size."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def counts(self) -> dict[str, int]:
        """Return how many nodes have each verdict, zeros included."""
        each = [graph.counts() for graph in self.graphs]
        return {verdict: sum(c[verdict] for c in each) for verdict in VERDICTS}

    def rows(self) -> list["Row"]:
        """Return the nodes with a plan or a problem, repeated layers as one row."""
        return [row for index, graph in enumerate(self.graphs) for row in _rows(index, graph)]

    def text(self) -> str:
        """Return plain text without anything that a batch size could change: what goldens hold."""
        lines = [f"{self.name} on {self.device}: {'invariant' if self.ok else 'variant'}"]
        index = -1
        for row in self.rows():
            if row.graph != index:
                index = row.graph
                lines.append(f"graph {index}")
            parts = (row.module or "(top)", row.op, f"x{row.count}", row.verdict, row.what)
            lines.append("  " + "  ".join(part for part in parts if part))
        lines += [f"graph break: {reason}" for reason in self.graph_breaks]
        if self.stopped:
            lines.append(f"stopped: {self.stopped}")
        return "\n".join(lines)

    def table(self) -> "Group":
        """Return a rich renderable of at most 100 columns; print it with ``rich.print``."""
        from bi_inductor.inspection.table import explain_table

        return explain_table(self)

    def json(self) -> dict[str, Any]:
        """Return plain data, as ``explain.schema.json`` of this package describes it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "explain",
            "ok": self.ok,
            "hash": self.hash,
            "counts": self.counts(),
            **json.loads(json.dumps(dataclasses.asdict(self))),
        }

    def dot(self) -> str:
        """Return the graphs in Graphviz's language: a cluster per module, coloured by verdict."""
        from bi_inductor.inspection.dot import explain_dot

        return explain_dot(self)

    def html(self, path: str | Path) -> Path:
        """Write one self-contained page, for any browser and without network; return its path.

        Raises:
            OSError: the file cannot be written.
        """
        from bi_inductor.inspection.page import write_page

        return write_page(self, Path(path))

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=100, no_color=True, force_terminal=False)
        with console.capture() as captured:
            console.print(self.table())
        return captured.get()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Equal nodes of repeated layers: ``module`` is a pattern such as ``layers.{0-29}.mlp``."""

    graph: int
    module: str
    op: str
    verdict: str
    what: str
    count: int
    first: NodeReport


_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)")


def _rows(index: int, graph: GraphReport) -> Iterator[Row]:
    groups: dict[tuple[str, ...], list[NodeReport]] = {}
    for node in graph.nodes:
        if node.plan is None and not node.is_problem and not node.reason:
            continue
        key = (_NUMBER.sub("*", node.module), node.op, node.verdict, what(node))
        groups.setdefault(key, []).append(node)
    for (pattern, op, verdict, said), nodes in groups.items():
        yield Row(
            graph=index,
            module=_with_ranges(pattern, [node.module for node in nodes]),
            op=op,
            verdict=verdict,
            what=said,
            count=len(nodes),
            first=nodes[0],
        )


def what(node: NodeReport) -> str:
    """Return the template and plan of a node, or what is wrong with it."""
    parts = [node.template or "", node.plan.text if node.plan else ""]
    if node.is_problem:
        parts = [node.reason]
    elif node.reason:
        parts.append(f"# {node.reason}")
    return "  ".join(part for part in parts if part)


def _with_ranges(pattern: str, modules: list[str]) -> str:
    """Fill the stars of a pattern with the numbers that occur: ``layers.{0-29}``, or the number if only one."""
    numbers = [[int(n) for n in _NUMBER.findall(module)] for module in modules]
    parts = pattern.split("*")
    filled = parts[0]
    for place, rest in enumerate(parts[1:]):
        filled += _range(sorted({n[place] for n in numbers})) + rest
    return filled


def _range(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return "{" + ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) + "}"


def problem_sentence(node: NodeReport) -> str:
    """Return one sentence: the op, its place, what is wrong, what to do."""
    place = ", ".join(part for part in (node.code, node.place) if part)
    where = f" ({place})" if place else ""
    remedy = f"; {node.remedy}" if node.remedy else ""
    return f"{node.op}{where} {node.reason}{remedy}"


__all__ = ["PROBLEMS", "SCHEMA_VERSION", "ExplainReport", "Row", "problem_sentence", "what"]
