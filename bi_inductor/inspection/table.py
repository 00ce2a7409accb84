"""An ``explain`` report for a terminal of 100 columns: summary, problems, then the plans by module."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bi_inductor.inspection.nodes import PROBLEMS, NodeReport, short_op
from bi_inductor.inspection.report import ExplainReport, Row

STYLES = {
    "invariant": "green",
    "planned": "cyan",
    "unsupported": "yellow",
    "unknown": "magenta",
    "coupled": "red",
}


def explain_table(report: ExplainReport) -> Group:
    """Return the report as one renderable."""
    parts: list[RenderableType] = [_summary(report)]
    parts += [Text.assemble(("graph break  ", "yellow"), reason) for reason in report.graph_breaks]
    if report.stopped:
        parts.append(Text.assemble(("not captured  ", "yellow"), report.stopped))
    parts += [_problem(row) for row in report.rows() if row.verdict in PROBLEMS]
    planned = [row for row in report.rows() if row.verdict not in PROBLEMS]
    if planned:
        parts.append(_plans(planned, several=len(report.graphs) > 1))
    return Group(*parts)


def _summary(report: ExplainReport) -> Text:
    total = sum(len(graph.nodes) for graph in report.graphs)
    graphs = f"{len(report.graphs)} graph{'s' if len(report.graphs) != 1 else ''}"
    word = ("invariant", "bold green") if report.ok else ("variant", "bold red")
    text = Text.assemble(
        (report.name, "bold"),
        " on ",
        (report.device, "bold"),
        ": ",
        word,
        f"  {graphs}, {total} nodes:",
    )
    for verdict, count in report.counts().items():
        if count:
            text.append(f"  {count} {verdict}", STYLES[verdict])
    if not report.compiles:
        text.append(
            f"\nplans only: the backend does not compile for {report.device} yet", style="yellow"
        )
    return text


def _problem(row: Row) -> RenderableType:
    node = row.first
    head = Text.assemble(
        (f"{row.verdict}  ", STYLES[row.verdict]),
        (row.op, "bold"),
        f" {node.reason}",
        (f"  x{row.count}" if row.count > 1 else "", "dim"),
    )
    details = [Text(f"at {part}", style="dim") for part in (_place(row, node),) if part]
    if node.code:
        details.append(Text(f"   {node.code}"))
    if node.remedy:
        details.append(Text(f"   {node.remedy}", style="italic"))
    return Group(Text(), head, *(Padding(d, (0, 0, 0, 2)) for d in details))


def _place(row: Row, node: NodeReport) -> str:
    return " in ".join(part for part in (node.place, row.module) if part)


def _plans(rows: list[Row], *, several: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
    if several:
        table.add_column("graph", justify="right")
    table.add_column("module", max_width=40, overflow="fold")
    table.add_column("op", max_width=22, overflow="fold")
    table.add_column("nodes", justify="right", min_width=5)
    table.add_column("plan", overflow="fold")
    seen = ""
    for row in rows:
        module = row.module or "(top)"
        shown = [str(row.graph)] if several else []
        shown += [module if module != seen else "", short_op(row.op), str(row.count)]
        table.add_row(*shown, Text(_plan(row), style=STYLES[row.verdict]))
        seen = module
    return table


_DTYPES = {"float32": "f32", "float64": "f64", "int64": "i64"}


def _plan(row: Row) -> str:
    plan = row.first.plan
    if plan is None:
        return row.what
    parts = [
        f"split {plan.split_size}" if plan.split_size else "",
        f"{plan.lanes} lanes" if plan.lanes else "",
        plan.order,
        _DTYPES.get(plan.accumulator, plan.accumulator) if plan.accumulator else "",
        f"({row.first.reason})" if row.first.reason else "",
    ]
    return " ".join(part for part in parts if part)
