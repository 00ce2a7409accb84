"""The data of a report: plain, frozen, free of graphs and tensors, so that it can be kept, sent and compared."""

import os
import sysconfig
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

#: verdicts from good to bad, as ``bi_inductor.rules.Verdict`` spells them
VERDICTS = ("invariant", "planned", "unsupported", "unknown", "coupled")
PROBLEMS = ("unsupported", "unknown", "coupled")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """What decides the bits of a node; None where a plan has no such number."""

    order: str
    accumulator: str | None
    split_size: int | None
    lanes: int | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """One node of a graph with its verdict.

    ``shape`` spells the batch ``B``. ``reduces``: the extents that the node adds up. ``depends_on``: the
    symbolic sizes that its numbers may follow. ``before`` and ``after``: its line of FX code, and the lines
    that the rewrite put in its place.
    """

    name: str
    op: str
    verdict: str
    template: str | None
    plan: PlanReport | None
    reason: str
    remedy: str
    file: str
    line: int
    code: str
    module: str
    dtype: str
    shape: str
    batch_dim: int | None
    reduces: tuple[str, ...]
    depends_on: tuple[str, ...]
    inputs: tuple[str, ...]
    before: str
    after: tuple[str, ...]
    backward: bool

    @property
    def is_problem(self) -> bool:
        """Whether the bits of this node are not promised."""
        return self.verdict in PROBLEMS

    @property
    def place(self) -> str:
        """``file:line``, short enough to print; empty where the graph does not say."""
        return f"{short_path(self.file)}:{self.line}" if self.file else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputReport:
    """One input of a graph. ``state``: a parameter or buffer, shared by all samples."""

    name: str
    dtype: str
    shape: str
    batch_dim: int | None
    state: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolReport:
    """One symbolic size: how the report spells it, its value in this call, and whether it is the batch's."""

    name: str
    example: int | None
    is_batch: bool
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphReport:
    """One graph of Dynamo; ``graph_break`` says why it ended early, ``kernels`` is the code made of it."""

    traced_on: str
    graph_break: str | None
    inputs: tuple[InputReport, ...]
    symbols: tuple[SymbolReport, ...]
    nodes: tuple[NodeReport, ...]
    kernels: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Return how many nodes have each verdict, zeros included."""
        found = Counter(node.verdict for node in self.nodes)
        return {verdict: found[verdict] for verdict in VERDICTS}


@lru_cache(maxsize=1024)
def short_path(path: str) -> str:
    """Return ``path`` without site-packages or the current folder in front."""
    roots = [sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], os.getcwd()]
    for root in roots:
        if path.startswith(root + os.sep):
            return path[len(root) + 1 :]
    return path


def short_op(op: str) -> str:
    """Return ``mm`` for ``aten.mm.default``."""
    return op.removeprefix("aten.").removesuffix(".default")
