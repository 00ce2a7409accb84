"""``diff``: where does a model, under any backend, lose its bits when the batch changes?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.fx import GraphModule

from bi_inductor import _torch
from bi_inductor.errors import InspectionError
from bi_inductor.inspection import bits
from bi_inductor.inspection.diff_isolate import Runner
from bi_inductor.inspection.diff_layout import BY_SHAPE, Match, Unknown, match
from bi_inductor.inspection.diff_nodes import Changed, Comparison, compare, op_of, place_of
from bi_inductor.inspection.diff_observe import Compiler, Observer, Run, leaf_dims
from bi_inductor.inspection.diff_report import (
    DiffReport,
    Evidence,
    NodeDifference,
    NotComparable,
    OutputDifference,
)
from bi_inductor.inspection.diff_samples import Outputs, Samples, checked_sizes, outputs_of, rows_of

Model = Callable[..., Any]


def diff(
    model: Model,
    *args: Any,
    backend: str = "inductor",
    batch_sizes: Sequence[int] = (1, 2, 3, 8, 17),
    batch_dims: Mapping[str, int | None] | None = None,
    options: Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
    nodes: bool = True,
    progress: Callable[[str], None] | None = None,
    **kwargs: Any,
) -> DiffReport:
    """Run a model alone and in batches, and name the first node whose bits change with the batch.

    Args:
        model: a module or function; it runs under ``no_grad``. It should be deterministic: ``model.eval()``.
        args: its inputs, a batch of samples. Samples are repeated for batches larger than that.
        backend: ``"eager"``, ``"inductor"``, ``"batch_invariant"``, or any name that ``torch.compile`` knows.
        batch_sizes: sizes to compare with one sample alone; 1 checks that two runs agree.
        batch_dims: input name -> batch dimension, or None for an input that all samples share; by default
            dimension 0 of the inputs that agree on its extent, or what ``mark_batch`` said.
        options: passed to ``torch.compile``.
        dynamic: passed to ``torch.compile`` for the outputs; nodes are looked at with static shapes.
        nodes: False compares the outputs only.
        progress: called with a sentence before each slow step.
        kwargs: the model's inputs by name.

    What it sees. *Outputs* are compared first, every row, with the model run as a user runs it: they are the
    truth. Then the graphs that Dynamo captures run again with the value of every node as a further output, and
    each value is compared at the rows that changed. A node that changed is *isolated*: it runs by itself, in a
    batch and for one row, on equal inputs, so that a difference it only inherits is not blamed on it.

    What it cannot see. Under a compiler, further outputs and isolation change what is fused: a difference that
    a fusion makes may move or vanish, and ``notes`` says so when the outputs differ and no node does. Nodes are
    those of the Dynamo graph (``layer_norm``, ``linear``), so what happens inside one is not told apart, and
    code behind a graph break runs unobserved. Of several nodes that become the same code, a compiler gets one
    to isolate ("twin"). A value whose batch dimension is not known is listed as not comparable.

    Compiled models of this process are compiled again afterwards: Dynamo is reset.

    Raises:
        InspectionError: no input has a batch, the model is not deterministic, or it does not run.
        OptionError: ``options`` that backend="batch_invariant" refuses.
        VariantOpError: backend="batch_invariant" refuses the model.
    """
    sizes = checked_sizes(batch_sizes)
    samples = Samples.of(model, args, kwargs, batch_dims)
    inner = _compiler(backend, options, batch_dims)
    tell = progress or (lambda _: None)
    with torch.no_grad(), _torch.without_recompile_limit():
        try:
            tell(f"{backend}: outputs")
            whole = _Whole(_compiled(model, backend, options, batch_dims, dynamic), samples)
            outputs = [o for n in sizes for o in whole.at(n)]
            found: list[Comparison] = []
            notes = list(whole.notes)
            if nodes and _worth_looking(backend, outputs):
                looked_at = _sizes_to_look_at(backend, outputs, sizes)
                found, more = _look(model, inner, backend, samples, looked_at, outputs, tell)
                notes += more
        finally:
            torch.compiler.reset()
    return _report(backend, samples, sizes, outputs, found, notes)


class _Whole:
    """The model as a user runs it."""

    def __init__(self, fn: Model, samples: Samples) -> None:
        self.fn, self.samples = fn, samples
        self.known: dict[int, Outputs] = {}
        self.notes: list[str] = []
        if samples.size == 1:
            self.notes.append("the input holds one sample, so the batches repeat it")
        first = self.alone(0)
        if not first:
            raise InspectionError("the model returned no tensor, so there is nothing to compare")
        again = self.run([0])
        for (name, a), (_, b) in zip(first, again, strict=True):
            if not bits.equal(a, b):
                raise InspectionError(
                    f"{name} changes when the same sample runs twice (dropout? call model.eval()), so "
                    "a comparison of batches says nothing"
                )

    def run(self, rows: Sequence[int]) -> Outputs:
        args, kwargs = self.samples.take(rows)
        return outputs_of(self.fn, args, kwargs)

    def alone(self, row: int) -> Outputs:
        at = row % self.samples.size
        if at not in self.known:
            self.known[at] = self.run([at])
        return self.known[at]

    def at(self, size: int) -> list[OutputDifference]:
        """Compare every row of every output at one batch size."""
        batched = self.run(range(size))
        found = []
        for index, (_, value) in enumerate(batched):
            rows = [(row, self.alone(row)) for row in range(size)]
            if any(len(out) != len(batched) for _, out in rows):
                raise InspectionError(
                    f"one sample gives {len(rows[0][1])} tensors and a batch of {size} gives "
                    f"{len(batched)}, so they cannot be compared"
                )
            seen = [(row, match(out[index][1], value, size, row, BY_SHAPE)) for row, out in rows]
            found.append(self._judge(index, size, batched[index], seen))
        return found

    def _judge(
        self,
        index: int,
        size: int,
        output: tuple[str, torch.Tensor],
        seen: Sequence[tuple[int, Match | Unknown]],
    ) -> OutputDifference:
        name, value = output
        blind = next((m for _, m in seen if isinstance(m, Unknown)), None)
        if blind is not None:
            return OutputDifference(
                output=name, batch_size=size, status="not comparable", reason=blind.reason
            )
        worse = [(row, m.found) for row, m in seen if isinstance(m, Match) and m.found is not None]
        shared = size > 1 and value.shape == self.alone(0)[index][1].shape
        if shared and (worse or self.samples.size == 1):
            return OutputDifference(
                output=name,
                batch_size=size,
                status="not comparable",
                rows=tuple(row for row, _ in worse),
                reason="its shape does not follow the batch"
                + (", and its values do" if worse else ", and all samples are one"),
            )
        ulps = [d.max_ulp for _, d in worse if d.max_ulp is not None]
        return OutputDifference(
            output=name,
            batch_size=size,
            status="variant" if worse else "invariant",
            rows=tuple(row for row, _ in worse),
            changed=sum(d.changed for _, d in worse),
            total=value.numel(),
            max_abs=max((d.max_abs for _, d in worse), default=0.0),
            max_ulp=max(ulps) if ulps else None,
        )


def _compiled(
    model: Model,
    backend: str,
    options: Mapping[str, Any] | None,
    batch_dims: Mapping[str, int | None] | None,
    dynamic: bool | None,
) -> Model:
    torch.compiler.reset()
    if backend == "eager":
        return model
    given = _options(backend, options, batch_dims)
    try:
        made: Model = torch.compile(model, backend=backend, options=given, dynamic=dynamic)
    except RuntimeError as error:
        text = str(error).partition(", known options")[0].splitlines()[0]
        raise InspectionError(f"backend {backend!r} refuses the options: {text}") from error
    return made


def _options(
    backend: str, options: Mapping[str, Any] | None, batch_dims: Mapping[str, int | None] | None
) -> dict[str, Any] | None:
    given = dict(options or {})
    if backend == "batch_invariant" and batch_dims:
        given["batch_dims"] = dict(batch_dims)
    return given or None


def _compiler(
    backend: str, options: Mapping[str, Any] | None, batch_dims: Mapping[str, int | None] | None
) -> Compiler:
    """Return the backend as a function of a graph.

    Raises:
        InspectionError: torch knows no backend of that name.
    """
    try:
        found: Any = _torch.lookup_backend(backend)
    except Exception as error:
        known = ", ".join(["eager", *torch.compiler.list_backends()])
        raise InspectionError(f"torch knows no backend {backend!r}; it knows {known}") from error
    given = _options(backend, options, batch_dims)
    if not given:
        return found  # type: ignore[no-any-return]
    if backend == "inductor":
        # as torch.compile does: its options are settings, not arguments of the backend
        return lambda gm, inputs: found(gm, inputs, config_patches=given)
    return lambda gm, inputs: found(gm, inputs, options=given)


def _worth_looking(backend: str, outputs: Sequence[OutputDifference]) -> bool:
    """Nodes of an eager model cost nothing; a compiler is asked again only if its outputs change."""
    return backend == "eager" or any(o.status != "invariant" for o in outputs)


def _sizes_to_look_at(
    backend: str, outputs: Sequence[OutputDifference], sizes: Sequence[int]
) -> list[int]:
    bad = sorted({o.batch_size for o in outputs if o.status != "invariant" and o.batch_size > 1})
    if backend == "eager":
        return [n for n in sizes if n > 1]
    return bad if len(bad) < 3 else [bad[0], bad[-1]]


def _look(
    model: Model,
    inner: Compiler,
    backend: str,
    samples: Samples,
    sizes: Sequence[int],
    outputs: Sequence[OutputDifference],
    tell: Callable[[str], None],
) -> tuple[list[Comparison], list[str]]:
    observer = Observer(inner)
    torch.compiler.reset()
    fn = torch.compile(model, backend=observer, dynamic=False)
    alone: dict[int, list[Run]] = {}

    def runs(rows: Sequence[int]) -> list[Run]:
        args, kwargs = samples.take(rows)
        observer.runs, observer.batch_of = [], leaf_dims(samples.dims, (args, kwargs))
        outputs_of(fn, args, kwargs)
        return observer.runs

    found = []
    try:
        for size in sizes:
            tell(f"{backend}: nodes at batch size {size}")
            changed = sorted({r for o in outputs if o.batch_size == size for r in o.rows})
            rows = [changed[i] for i in rows_of(len(changed))] if changed else list(rows_of(size))
            for row in rows:
                at = row % samples.size
                if at not in alone:
                    alone[at] = runs([at])
            batched = runs(range(size))
            singles = {row: alone[row % samples.size] for row in rows}
            found.append(
                compare(batched, singles, size, _runner(backend, inner), group=backend != "eager")
            )
    except InspectionError as error:
        return found, [f"nodes could not be looked at: {error}"]
    return found, _doubts(found, outputs)


def _runner(backend: str, inner: Compiler) -> Runner:
    if backend == "eager":
        return lambda gm: gm

    def run(gm: GraphModule) -> Callable[..., Any]:
        made: Callable[..., Any] = torch.compile(gm, backend=inner, dynamic=False, fullgraph=True)
        return made

    return run


def _doubts(found: Sequence[Comparison], outputs: Sequence[OutputDifference]) -> list[str]:
    notes = [note for comparison in found for note in comparison.notes]
    for comparison in found:
        varies = any(o.batch_size == comparison.size and o.status == "variant" for o in outputs)
        if varies and not comparison.changed and not comparison.notes:
            notes.append(
                f"at batch size {comparison.size} the outputs change and no observed node does: the "
                "difference is made by a fusion that observation undoes, or in code that Dynamo does not "
                "capture"
            )
    return notes


def _report(
    backend: str,
    samples: Samples,
    sizes: tuple[int, ...],
    outputs: Sequence[OutputDifference],
    found: Sequence[Comparison],
    notes: Sequence[str],
) -> DiffReport:
    nodes: dict[tuple[int, str], NodeDifference] = {}
    blind: dict[tuple[int, str], NotComparable] = {}
    compared: set[tuple[int, str]] = set()
    for comparison in found:
        compared |= comparison.compared
        for at, changed in enumerate(comparison.changed):
            made = _node(changed, comparison.size, is_first=at == 0)
            _merge(nodes, (changed.graph, changed.node.name), made)
        for key, (node, reason) in comparison.not_comparable.items():
            place = place_of(node)
            blind[key] = NotComparable(
                op=op_of(node),
                name=node.name,
                line=place.line,
                module=place.module,
                reason=reason.reason,
                by_design=reason.by_design,
            )
    return DiffReport(
        backend=backend,
        torch=str(torch.__version__),
        batch_sizes=sizes,
        samples=samples.size,
        outputs=tuple(outputs),
        nodes=tuple(nodes.values()),
        compared=len(compared),
        not_comparable=tuple(b for key, b in blind.items() if key not in nodes),
        notes=tuple(dict.fromkeys(notes)),
    )


def _merge(
    nodes: dict[tuple[int, str], NodeDifference], key: tuple[int, str], made: NodeDifference
) -> None:
    """Keep the first batch size's numbers, and the strongest evidence of all sizes."""
    if key not in nodes:
        nodes[key] = made
        return
    before = nodes[key]
    sizes = (*before.batch_sizes, made.batch_size)
    better = made if made.is_culprit and not before.is_culprit else before
    nodes[key] = replace(
        before, batch_sizes=sizes, evidence=better.evidence, own_ulp=better.own_ulp
    )


def _node(changed: Changed, size: int, *, is_first: bool) -> NodeDifference:
    place = place_of(changed.node)
    own = changed.own if isinstance(changed.own, bits.Difference) else None
    evidence: Evidence
    if own is not None:
        evidence = "twin" if changed.like else "isolated"
    elif is_first:
        evidence = "in place"
    else:
        evidence = "not isolated" if isinstance(changed.own, Unknown) else "inherited"
    blamed = changed.own.reason if isinstance(changed.own, Unknown) and not is_first else ""
    return NodeDifference(
        op=op_of(changed.node),
        name=changed.node.name,
        graph=changed.graph,
        line=place.line,
        code=place.code,
        module=place.module,
        batch_size=size,
        batch_sizes=(size,),
        row=changed.row,
        changed=changed.found.changed,
        total=changed.found.total,
        max_abs=changed.found.max_abs,
        max_ulp=changed.found.max_ulp,
        own_ulp=own.max_ulp if own else None,
        evidence=evidence,
        layout="assumed" if changed.assumed else "proved",
        reason=changed.reason or blamed,
    )
