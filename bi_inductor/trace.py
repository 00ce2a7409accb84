"""What a developer can see of a compilation: ``TORCH_LOGS="+bi_inductor"`` and the artifacts of ``TORCH_TRACE``.

torch gives the level in ``TORCH_LOGS`` to any importable package, so standard logging is enough. INFO tells what
each pass changed, DEBUG the plan and the rewritten graph; tlparse shows the same as ``bi_inductor_*`` artifacts.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from torch.fx import Graph, GraphModule

from bi_inductor import _torch

if TYPE_CHECKING:
    from bi_inductor.plan import Planned

log = logging.getLogger("bi_inductor")


@contextlib.contextmanager
def op_diff(name: str, graph: Graph) -> Iterator[None]:
    """Tell which ops the pass inside took out of ``graph`` and put in; the pass changes it in place."""
    before = _ops(graph)
    yield
    after = _ops(graph)
    lines = [f"-{count} {op}" for op, count in sorted((before - after).items())]
    lines += [f"+{count} {op}" for op, count in sorted((after - before).items())]
    log.info("%s: %s", name, ", ".join(lines) or "no change")
    _artifact(f"{name}_diff", lambda: "\n".join(lines))


def show_plan(planned: "Planned") -> None:
    """Tell the plan of a graph."""
    log.debug("plan:\n%s", _Lazy(planned.text))
    _artifact("plan", planned.text)


def show_graph(gm: GraphModule) -> None:
    """Tell the rewritten graph as Python."""

    def text() -> str:
        return gm.print_readable(print_output=False)

    log.debug("rewritten graph:\n%s", _Lazy(text))
    _artifact("rewritten_graph", text)


class _Lazy:
    """Text that is made only if a log record is really written."""

    def __init__(self, make: Callable[[], str]) -> None:
        self.make = make

    def __str__(self) -> str:
        return self.make()


def _ops(graph: Graph) -> Counter[str]:
    return Counter(
        str(node.target)
        if hasattr(node.target, "_schema")
        else getattr(node.target, "__name__", str(node.target))
        for node in graph.nodes
        if node.op == "call_function"
    )


def _artifact(name: str, payload: Callable[[], str]) -> None:
    _torch.trace_structured(
        "artifact",
        metadata_fn=lambda: {"name": f"bi_inductor_{name}", "encoding": "string"},
        payload_fn=payload,
    )
