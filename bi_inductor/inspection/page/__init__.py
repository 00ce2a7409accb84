"""The page of an ``explain`` report: ``template.html`` with ``page.css``, ``page.js`` and the report inside."""

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from bi_inductor.inspection.nodes import VERDICTS, GraphReport, NodeReport, short_path
from bi_inductor.inspection.report import ExplainReport

#: node fields of the page, in the order of its rows; strings are numbers into one table of all strings
FIELDS = (
    "name", "op", "verdict", "template", "plan", "reason", "remedy", "file", "line", "code", "module",
    "dtype", "shape", "batch_dim", "reduces", "depends_on", "inputs", "before", "after", "backward",
)  # fmt: skip


def write_page(report: ExplainReport, path: Path) -> Path:
    """Write the page to ``path`` and return it; OSError if that is not possible."""
    path.write_text(page(report), encoding="utf-8")
    return path


def page(report: ExplainReport) -> str:
    """Return the page as one HTML text that loads nothing."""
    parts = {name: _text(name) for name in ("page.css", "page.js")}
    # inside <script> only "</" could end the data
    data = json.dumps(page_data(report), separators=(",", ":")).replace("</", "<\\/")
    html = _text("template.html")
    for mark, text in (
        ("/*STYLE*/", parts["page.css"]),
        ("/*SCRIPT*/", parts["page.js"]),
        ("/*DATA*/", data),
        ("<!--TITLE-->", _escaped(f"{report.name} on {report.device}")),
    ):
        before, _, behind = html.partition(mark)
        html = before + text + behind
    return html


def page_data(report: ExplainReport) -> dict[str, Any]:
    """Return what the page is drawn from; every string once."""
    strings = _Strings()
    return {
        "name": report.name,
        "device": report.device,
        "compiles": report.compiles,
        "ok": report.ok,
        "hash": report.hash,
        "torch": report.torch,
        "version": report.bi_inductor,
        "stopped": report.stopped,
        "verdicts": VERDICTS,
        "fields": FIELDS,
        "graphs": [_graph(graph, strings) for graph in report.graphs],
        "strings": strings.table,
    }


class _Strings:
    def __init__(self) -> None:
        self.table: list[str] = []
        self.index: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        if text not in self.index:
            self.index[text] = len(self.table)
            self.table.append(text)
        return self.index[text]

    def each(self, texts: Iterable[str]) -> list[int]:
        return [self(text) for text in texts]


def _graph(graph: GraphReport, strings: _Strings) -> dict[str, Any]:
    place = {node.name: i for i, node in enumerate(graph.nodes)}
    return {
        "traced_on": graph.traced_on,
        "graph_break": graph.graph_break,
        "symbols": [[s.name, s.example, s.is_batch, s.source] for s in graph.symbols],
        "inputs": [
            [i.name, i.dtype, i.shape, i.batch_dim] for i in graph.inputs if i.shape and not i.state
        ],
        "kernels": list(graph.kernels),
        "nodes": [_node(node, place, strings) for node in graph.nodes],
    }


def _node(node: NodeReport, place: dict[str, int], strings: _Strings) -> list[Any]:
    return [
        strings(node.name),
        strings(node.op),
        VERDICTS.index(node.verdict),
        strings(node.template or ""),
        strings(node.plan.text if node.plan else ""),
        strings(node.reason),
        strings(node.remedy),
        strings(short_path(node.file)),
        node.line,
        strings(node.code),
        strings(node.module),
        strings(node.dtype),
        strings(node.shape),
        node.batch_dim,
        strings.each(node.reduces),
        strings.each(node.depends_on),
        # nodes by number; inputs of the graph, which are no nodes of the report, by name
        [place.get(name, name) for name in node.inputs],
        strings(node.before),
        strings.each(node.after),
        int(node.backward),
    ]


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
