"""What ``diff`` found, as data, as JSON and as a table."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from bi_inductor.inspection.schema import COUNT, TEXT, list_of, object_of

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

SCHEMA = "bi_inductor.diff/1"
Status = Literal["invariant", "variant", "not comparable"]
Evidence = Literal["isolated", "twin", "in place", "inherited", "not isolated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDifference:
    """One output at one batch size. ``status`` is "not comparable" where its shape does not say whose it is."""

    output: str
    batch_size: int
    status: Status
    rows: tuple[int, ...] = ()
    changed: int = 0
    total: int = 0
    max_abs: float = 0.0
    max_ulp: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDifference:
    """A node whose bits change with the batch.

    ``batch_sizes``: all at which it does; the numbers are those of the first of them, ``batch_size``.
    ``changed``, ``total``, ``max_abs``, ``max_ulp``: in place, what it inherits included. ``own_ulp``: on
    reference inputs, None if that could not be measured. ``evidence``: how it is known to be a culprit:
    "isolated" on its own, "twin" by a node that becomes the same code, "in place" as the first that changes;
    "inherited" and "not isolated" are no culprits. ``layout``: "assumed" where the place of a sample was
    read off the shapes.
    """

    op: str
    name: str
    graph: int
    line: str
    code: str
    module: str
    batch_size: int
    batch_sizes: tuple[int, ...]
    row: int
    changed: int
    total: int
    max_abs: float
    max_ulp: int | None
    own_ulp: int | None
    evidence: Evidence
    layout: Literal["proved", "assumed"]
    reason: str = ""

    @property
    def is_culprit(self) -> bool:
        """Whether the node changes bits of its own, not only those it was given."""
        return self.evidence in ("isolated", "twin", "in place")


@dataclass(frozen=True, slots=True, kw_only=True)
class NotComparable:
    """A value of which nothing is said, and why. ``by_design``: proved to follow the batch, as counts do."""

    op: str
    name: str
    line: str
    module: str
    reason: str
    by_design: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffReport:
    """One model, one backend: the outputs, which are the truth, and the nodes, which say where.

    ``nodes``: all that changed, in order of execution, smallest batch size first seen.
    ``compared``: how many values were compared; ``notes``: what limits the result, a sentence each.
    """

    backend: str
    torch: str
    batch_sizes: tuple[int, ...]
    samples: int
    outputs: tuple[OutputDifference, ...]
    nodes: tuple[NodeDifference, ...]
    compared: int
    not_comparable: tuple[NotComparable, ...]
    notes: tuple[str, ...]

    @property
    def status(self) -> Status:
        """ "variant" if any output or node changed, else "not comparable" if any output could not be judged."""
        if self.nodes or any(o.status == "variant" for o in self.outputs):
            return "variant"
        judged = all(o.status == "invariant" for o in self.outputs)
        return "invariant" if judged else "not comparable"

    @property
    def ok(self) -> bool:
        """Whether every output was compared and no bit changed."""
        return self.status == "invariant"

    @property
    def first(self) -> NodeDifference | None:
        """The first node in order of execution whose bits change, at the smallest batch size that shows any."""
        if not self.nodes:
            return None
        size = min(n.batch_size for n in self.nodes)
        return next(n for n in self.nodes if n.batch_size == size)

    @property
    def culprits(self) -> tuple[NodeDifference, ...]:
        """The nodes that change bits by themselves, in order of execution."""
        return tuple(n for n in self.nodes if n.is_culprit)

    @property
    def inherited(self) -> tuple[NodeDifference, ...]:
        """The nodes that only pass on what they were given."""
        return tuple(n for n in self.nodes if n.evidence == "inherited")

    def json(self) -> dict[str, Any]:
        """Return the report as JSON types; ``bi_inductor.inspection.diff_report.JSON_SCHEMA`` describes it."""
        first = self.first
        return {
            "schema": SCHEMA,
            "status": self.status,
            "ok": self.ok,
            "first": _plain(asdict(first)) if first else None,
            **_plain(asdict(self)),
        }

    def table(self) -> "Table | Text":
        """Return the report for a terminal of 100 columns; plain text where no node is to be named."""
        from bi_inductor.inspection.diff_table import table

        return table(self)

    def text(self) -> str:
        """Return the result in one sentence."""
        sizes = ", ".join(map(str, self.batch_sizes))
        if self.ok:
            return f"{self.backend}: the same bits at batch sizes {sizes}"
        if self.status == "not comparable":
            names = ", ".join(sorted({o.output for o in self.outputs if o.status == self.status}))
            return (
                f"{self.backend}: not comparable, because nothing says whose numbers {names} holds"
            )
        if self.first is None:
            return f"{self.backend}: the outputs change with the batch; no node was found (see the notes)"
        at = " in ".join(p for p in (self.first.line, self.first.module) if p)
        return (
            f"{self.backend}: {self.first.op}{f' ({at})' if at else ''} is the first to change, at batch "
            f"size {self.first.batch_size}, row {self.first.row}"
        )


def _plain(value: Any) -> Any:
    """Return JSON types: no tuples, and no NaN or infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return str(value)
    return value


_NUMBER = {"type": ["number", "string"]}
_MAYBE_COUNT = {"type": ["integer", "null"], "minimum": 0}
_STATUS = {"enum": ["invariant", "variant", "not comparable"]}


_CHANGE = {"changed": COUNT, "total": COUNT, "max_abs": _NUMBER, "max_ulp": _MAYBE_COUNT}
_NODE = object_of(
    {
        **dict.fromkeys(("op", "name", "line", "code", "module", "reason"), TEXT),
        **dict.fromkeys(("graph", "batch_size", "row"), COUNT),
        "batch_sizes": list_of(COUNT),
        **_CHANGE,
        "own_ulp": _MAYBE_COUNT,
        "evidence": {"enum": ["isolated", "twin", "in place", "inherited", "not isolated"]},
        "layout": {"enum": ["proved", "assumed"]},
    }
)
_OUTPUT = object_of(
    {
        "output": TEXT,
        "batch_size": COUNT,
        "status": _STATUS,
        "rows": list_of(COUNT),
        **_CHANGE,
        "reason": TEXT,
    }
)
_BLIND = object_of(
    {
        **dict.fromkeys(("op", "name", "line", "module", "reason"), TEXT),
        "by_design": {"type": "boolean"},
    }
)

#: JSON Schema of ``DiffReport.json()``.
JSON_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": SCHEMA,
    **object_of(
        {
            "schema": {"const": SCHEMA},
            "status": _STATUS,
            "ok": {"type": "boolean"},
            "first": {"anyOf": [_NODE, {"type": "null"}]},
            "backend": TEXT,
            "torch": TEXT,
            "batch_sizes": list_of(COUNT),
            "samples": COUNT,
            "outputs": list_of(_OUTPUT),
            "nodes": list_of(_NODE),
            "compared": COUNT,
            "not_comparable": list_of(_BLIND),
            "notes": list_of(TEXT),
        }
    ),
}
