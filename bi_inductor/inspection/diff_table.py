"""The report of ``diff`` for a terminal: the sentence, the culprits, what was not compared."""

import os
from collections import Counter

from rich.table import Table
from rich.text import Text

from bi_inductor.inspection.diff_report import DiffReport, NodeDifference

_STYLE = {"invariant": "green", "variant": "red", "not comparable": "yellow"}


def table(report: DiffReport) -> Table | Text:
    """Return the first node, then the further culprits, one line per op and source line; without any, text alone."""
    title = Text(report.text(), style=_STYLE[report.status])
    caption = Text("\n".join(_caption(report)))
    if not report.nodes:
        return Text("\n").join((title, caption))
    made = Table(
        title=title,
        caption=caption,
        caption_justify="left",
        width=100,
    )
    made.add_column("op", overflow="fold", ratio=2)
    made.add_column("where", overflow="fold", ratio=5)
    for name in ("batch", "ulp", "own ulp", "max diff", "known"):
        made.add_column(name, justify="right", no_wrap=name != "known")
    first = report.first
    shown = ([first] if first else []) + [n for n in report.culprits if n is not first]
    places = Counter(map(_kind, shown))
    done = set()
    for node in shown:
        if _kind(node) in done:
            continue
        done.add(_kind(node))
        count = places[_kind(node)]
        made.add_row(
            Text(
                f"{_short(node.op)} x{count}" if count > 1 else _short(node.op),
                "bold red" if node is first else "",
            ),
            Text("\n".join(p for p in (_line(node.line), node.module, node.reason) if p)),
            str(node.batch_size),
            _number(node.max_ulp),
            _number(node.own_ulp),
            f"{node.max_abs:.2g}",
            node.evidence if node.layout == "proved" else f"{node.evidence}, layout assumed",
        )
    return made


def _line(line: str) -> str:
    """Cut what is the same in every line of an installed package or of the current folder."""
    return line.rpartition("site-packages/")[2].removeprefix(f"{os.getcwd()}/")


def _short(op: str) -> str:
    return op.removeprefix("torch.nn.functional.").removeprefix("torch.")


def _kind(node: NodeDifference) -> tuple[str, str, str]:
    return node.op, node.line, node.evidence


def _number(value: int | None) -> str:
    return "" if value is None else str(value) if value < 10**6 else f"{value:.1e}"


def _caption(report: DiffReport) -> list[str]:
    lines = []
    for size in report.batch_sizes:
        at = [o for o in report.outputs if o.batch_size == size]
        bad = [o for o in at if o.status != "invariant"]
        rows = len({r for o in bad for r in o.rows})
        said = (
            f"{len(bad)} of {len(at)} outputs change, in {rows} of {size} rows"
            if bad
            else "same bits"
        )
        lines.append(f"batch {size}: {said}")
    if report.compared:
        lines.append(
            f"{report.compared} values compared, {len(report.nodes)} changed, {len(report.culprits)} of them "
            f"by themselves, {len(report.inherited)} by inheritance"
        )
    blind = [n for n in report.not_comparable if not n.by_design]
    lines += [
        f"not comparable: {_short(n.op)} {_line(n.line)} {n.module}: {n.reason}" for n in blind[:5]
    ]
    if len(blind) > 5:
        lines.append(f"and {len(blind) - 5} more values that are not comparable")
    return lines + [f"note: {note}" for note in report.notes]
