"""What was compiled: verdicts and plans per graph, versions, and a hash to compare two processes by.

AOTAutograd's cache skips the planner on a hit, so each graph's plan is also kept beside the kernels, under the
graph's own digest.
"""

import hashlib
import json
import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule

from bi_inductor import _torch
from bi_inductor.cache import cache_dir, sources_digest
from bi_inductor.options import Options

if TYPE_CHECKING:
    from bi_inductor.plan import Planned

log = logging.getLogger("bi_inductor")


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphCertificate:
    """One compiled graph: its plan as text, and what was tolerated or left out."""

    plan: str
    variants: tuple[str, ...]
    backward_batch_sums: tuple[str, ...]
    graph_break: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Every graph compiled since the last ``torch.compiler.reset()``, in order of compilation."""

    torch: str
    bi_inductor: str
    device: tuple[str, ...]
    graphs: tuple[GraphCertificate, ...]

    @property
    def graph_breaks(self) -> int:
        """Graphs that Dynamo ended early: the code behind each runs stock eager kernels."""
        return sum(g.graph_break is not None for g in self.graphs)

    @property
    def is_invariant(self) -> bool:
        """Whether every op of every graph has a proof and nothing was left to eager."""
        return not self.graph_breaks and not any(g.variants for g in self.graphs)

    @property
    def hash(self) -> str:
        """SHA-256 over everything else: equal in two processes that compiled the same plans."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(slots=True)
class GraphRecord:
    """Collects one graph's plan while it is compiled."""

    digest: str
    graph_break: str | None
    planned: list["Planned"] = field(default_factory=list)

    def add(self, planned: "Planned") -> None:
        """Called by the plan pass: once per graph, none on a hit of AOTAutograd's cache."""
        self.planned.append(planned)

    def close(self) -> None:
        """Publish the graph's certificate, from the plan or, after a cache hit, from its stored copy."""
        if self.planned:
            graph = GraphCertificate(
                plan="\n".join(p.text() for p in self.planned),
                variants=tuple(step.text() for p in self.planned for step in p.variants),
                backward_batch_sums=tuple(
                    step.text() for p in self.planned for step in p.allowed_backward
                ),
                graph_break=self.graph_break,
            )
            _store(self.digest, graph)
        else:
            graph = _stored(self.digest, self.graph_break)
        for line in graph.variants:
            warnings.warn(
                f"bi_inductor goes on with a result that follows its batch: {line}", stacklevel=2
            )
        with _LOCK:
            _GRAPHS.append(graph)


_LOCK = threading.Lock()
_GRAPHS: list[GraphCertificate] = []
_DEVICES: set[str] = set()


def open_graph(gm: GraphModule, *, device: str, options: Options, batch: Any) -> GraphRecord:
    """Begin a graph's record; warns if Dynamo ended the graph early."""
    graph_break = _torch.graph_break_of(gm)
    if graph_break:
        warnings.warn(
            f"graph break at {graph_break}: the code behind it runs stock eager kernels. Call the model "
            "inside bi_inductor.batch_invariant_mode(), which runs that code through the same templates, or "
            "compile with fullgraph=True to make it an error",
            stacklevel=2,
        )
    with _LOCK:
        _DEVICES.add(device)
    return GraphRecord(_digest(gm, device, options, batch), graph_break)


def certificate() -> Certificate:
    """The certificate of everything compiled by this backend since the last reset."""
    from bi_inductor import __version__

    with _LOCK:
        return Certificate(
            torch=str(torch.__version__),
            bi_inductor=__version__,
            device=tuple(sorted(_DEVICES)),
            graphs=tuple(_GRAPHS),
        )


def clear() -> None:
    """Forget all graphs; called by ``torch.compiler.reset()``."""
    with _LOCK:
        _GRAPHS.clear()
        _DEVICES.clear()


def _digest(gm: GraphModule, device: str, options: Options, batch: Any) -> str:
    inputs: Sequence[Any] = [
        n.meta.get("example_value") for n in gm.graph.nodes if n.op == "placeholder"
    ]
    shapes = [
        (str(v.dtype), str(tuple(v.shape)), str(v.stride()), v.requires_grad)
        if isinstance(v, torch.Tensor)
        else str(v)
        for v in inputs
    ]
    # the bodies of a mask function or of a branch are graphs of their own
    code = "\0".join(part.code for part in gm.modules() if isinstance(part, GraphModule))
    parts = (code, repr(shapes), device, repr(options), repr(batch), sources_digest())
    grad = str(torch.is_grad_enabled())
    return hashlib.sha256("\0".join((*parts, grad, str(torch.__version__))).encode()).hexdigest()


def _path(digest: str) -> str:
    return str(cache_dir() / "plans" / f"{digest}.json")


def _store(digest: str, graph: GraphCertificate) -> None:
    path = _path(digest)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), delete=False) as file:
            json.dump(asdict(graph), file)
        os.replace(file.name, path)
    except OSError as error:
        # a read-only or full cache folder costs the stored copy, not the compilation
        log.warning("the plan of a graph could not be stored in %s: %s", path, error)


def _stored(digest: str, graph_break: str | None) -> GraphCertificate:
    try:
        with open(_path(digest)) as file:
            fields = json.load(file)
    except OSError:
        plan = f"unknown: taken from AOTAutograd's cache, and {digest[:16]} has no stored plan"
        return GraphCertificate(
            plan=plan, variants=(plan,), backward_batch_sums=(), graph_break=graph_break
        )
    for name in ("variants", "backward_batch_sums"):
        fields[name] = tuple(fields[name])
    fields["graph_break"] = graph_break
    return GraphCertificate(**fields)
