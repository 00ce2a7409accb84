"""The axes that need nothing but samples: batch size, position and neighbours, way of execution."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bi_inductor.errors import BatchInvariantError
from bi_inductor.inspection.certify_report import Check
from bi_inductor.inspection.diff_layout import BY_SHAPE, Unknown, match
from bi_inductor.inspection.diff_samples import Call, Outputs, Samples, outputs_of, rows_of

Model = Callable[..., Any]


@dataclass(slots=True, kw_only=True)
class Bench:
    """A model, its samples, and the results of one sample alone, which everything is compared with."""

    model: Model
    samples: Samples
    options: Mapping[str, Any]
    tell: Callable[[str], None]
    compiled: Model = field(init=False)
    known: dict[int, Outputs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.compiled = self.compile(dynamic=None)

    def compile(self, *, dynamic: bool | None, anew: bool = True) -> Model:
        """Compile the model with our backend; ``anew`` forgets what was compiled before."""
        if anew:
            torch.compiler.reset()
        made: Model = torch.compile(
            self.model,
            backend="batch_invariant",
            options=dict(self.options) or None,
            dynamic=dynamic,
        )
        return made

    def run(self, call: Call) -> Outputs:
        """Run the compiled model."""
        return outputs_of(self.compiled, *call)

    def alone(self, row: int) -> Outputs:
        """Return the outputs of one sample alone."""
        at = row % self.samples.size
        if at not in self.known:
            self.known[at] = self.run(self.samples.take([at]))
        return self.known[at]


def check(axis: int, name: str, changes: Callable[[], Iterable[str | None]]) -> Check:
    """Run a measurement: each item is None where bits agree, or a sentence. A refusal of the compiler fails it."""
    try:
        found = list(changes())
    except BatchInvariantError as error:
        text = str(error).splitlines()[0]
        return Check(axis=axis, name=name, status="failed", detail=f"it does not run: {text}")
    bad = [c for c in found if c is not None]
    detail = f"{len(bad)} of {len(found)} changed: {bad[0]}" if bad else ""
    if not found:
        return Check(axis=axis, name=name, status="not measured", detail="nothing was compared")
    return Check(
        axis=axis,
        name=name,
        status="failed" if bad else "passed",
        compared=len(found),
        detail=detail,
    )


def not_applicable(axis: int, name: str, reason: str) -> Check:
    """Return the record of a check that this model has no use for."""
    return Check(axis=axis, name=name, status="not applicable", detail=reason)


def change(alone: Outputs, batched: Outputs, size: int, row: int) -> str | None:
    """Compare one row with the sample alone: None, or what changed."""
    if len(alone) != len(batched):
        return f"{len(alone)} outputs alone, {len(batched)} in a batch of {size}"
    for (name, a), (_, b) in zip(alone, batched, strict=True):
        found = match(a, b, size, row, BY_SHAPE)
        if isinstance(found, Unknown):
            return f"{name} is not comparable: {found.reason}"
        if found.found is not None:
            return f"{name}, row {row} of {size}: {found.found.text()}"
    return None


def same(a: Outputs, b: Outputs) -> str | None:
    """Compare two results of the same inputs."""
    return change(a, b, 1, 0)


def batch_sizes(bench: Bench, sizes: Sequence[int]) -> Check:
    """Axis 1: every row of every size against the sample alone."""

    def measure() -> Iterator[str | None]:
        for size in sizes:
            bench.tell(f"batch size {size}")
            out = bench.run(bench.samples.take(range(size)))
            for row in range(size):
                yield change(bench.alone(row), out, size, row)

    return check(1, "every row of every size", measure)


def neighbours(bench: Bench, size: int) -> Iterator[Check]:
    """Axis 2: the sample at every position, and beside noise and values that are no numbers."""

    def positions() -> Iterator[str | None]:
        for row in range(size):
            rows = [r + 1 for r in range(size - 1)]
            rows.insert(row, 0)
            out = bench.run(bench.samples.take(rows))
            yield change(bench.alone(0), out, size, row)

    def beside(leaves: list[Any]) -> Iterator[str | None]:
        for row in rows_of(size):
            mixed = _with_sample(bench.samples, leaves, row)
            yield change(bench.alone(0), bench.run(bench.samples.call(mixed)), size, row)

    bench.tell("positions and neighbours")
    yield check(2, "every position", positions)
    batch = bench.samples.leaves_of(range(size))
    noise = [_noise(x, dim) for x, dim in zip(batch, bench.samples.dims, strict=True)]
    yield check(2, "noise beside it", lambda: beside(noise))
    if not any(
        _is_float(x) and d is not None for x, d in zip(batch, bench.samples.dims, strict=True)
    ):
        yield not_applicable(2, "NaN and infinity beside it", "no input is floating point")
        return
    wild = [
        _wild(x) if d is not None else x for x, d in zip(batch, bench.samples.dims, strict=True)
    ]
    yield check(2, "NaN and infinity beside it", lambda: beside(wild))


def execution(bench: Bench, size: int) -> Iterator[Check]:
    """Axis 5: static, dynamic, recompiled, other thread counts, eager mode, another process."""

    def call() -> Call:
        return bench.samples.take(range(size))

    reference = bench.run(call())

    def again(dynamic: bool | None) -> Iterator[str | None]:
        fn = bench.compile(dynamic=dynamic)
        yield same(reference, outputs_of(fn, *call()))
        yield same(bench.alone(0), outputs_of(fn, *bench.samples.take([0])))

    def with_threads(count: int) -> Iterator[str | None]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield same(reference, outputs_of(bench.compile(dynamic=False), *call()))
        finally:
            torch.set_num_threads(before)

    for name, dynamic in (("recompiled", None), ("static shapes", False), ("dynamic shapes", True)):
        bench.tell(name)
        yield check(5, name, lambda dynamic=dynamic: again(dynamic))  # type: ignore[misc]
    count = 1 if torch.get_num_threads() > 1 else 2
    name = "one thread" if count == 1 else f"{count} threads"
    bench.tell(name)
    yield check(5, name, lambda: with_threads(count))
    yield _eager(bench, reference, call())
    bench.tell("another process")
    yield _process(bench, reference, call())


def control(bench: Bench, size: int) -> str:
    """Say whether stock eager torch changes bits on the data that the axes are measured with."""
    batched = outputs_of(bench.model, *bench.samples.take(range(size)))
    rows = 0
    for row in range(size):
        alone = outputs_of(bench.model, *bench.samples.take([row]))
        rows += change(alone, batched, size, row) is not None
    if not rows:
        return "stock eager torch changes no bit on this data, so it can show little"
    return f"stock eager torch changes {rows} of {size} rows of this data"


def _eager(bench: Bench, reference: Outputs, call: Call) -> Check:
    from bi_inductor.eager import batch_invariant_mode

    def measure() -> Iterator[str | None]:
        with batch_invariant_mode():
            yield same(reference, outputs_of(bench.model, *call))

    bench.tell("eager mode")
    return check(5, "eager mode", measure)


_CHILD = """
import sys, torch
from bi_inductor.inspection.diff_samples import outputs_of
model, args, kwargs, options = torch.load(sys.argv[1], weights_only=False)
fn = torch.compile(model, backend="batch_invariant", options=options or None)
with torch.no_grad():
    torch.save(outputs_of(fn, args, kwargs), sys.argv[2])
"""


def _process(bench: Bench, reference: Outputs, call: Call) -> Check:
    name = "another process"
    with tempfile.TemporaryDirectory() as folder:
        given, made = os.path.join(folder, "given"), os.path.join(folder, "made")
        try:
            torch.save((bench.model, *call, dict(bench.options)), given)
        except Exception as error:
            reason = f"the model cannot be pickled: {str(error).splitlines()[0]}"
            return Check(axis=5, name=name, status="not measured", detail=reason)
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _CHILD, given, made],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=False,
        )
        if child.returncode:
            reason = (child.stderr.strip().splitlines() or ["no message"])[-1]
            return Check(axis=5, name=name, status="not measured", detail=f"it ended with {reason}")
        theirs = torch.load(made, weights_only=True)
    return check(5, name, lambda: [same(reference, theirs)])


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _with_sample(samples: Samples, leaves: Sequence[Any], row: int) -> list[Any]:
    """Put sample 0 into ``row`` of these leaves."""
    single = samples.leaves_of([0])
    mixed = []
    for leaf, mine, dim in zip(leaves, single, samples.dims, strict=True):
        if isinstance(leaf, Tensor) and dim is not None:
            leaf = leaf.clone()
            leaf.select(dim, row).copy_(mine.select(dim, 0))
        mixed.append(leaf)
    return mixed


def _noise(x: Any, dim: int | None) -> Any:
    """Floats of many sizes; integers shuffled, so that they stay valid; masks as they are."""
    if not isinstance(x, Tensor) or dim is None or x.dtype == torch.bool or not x.numel():
        return x
    random = torch.Generator().manual_seed(0)
    if x.is_floating_point():
        wide = torch.randn(x.shape, generator=random) * 10 ** torch.randint(
            -3, 4, x.shape, generator=random
        )
        return wide.to(x)
    if int(x.min()) >= 0 and int(x.max()) <= 1:
        return x
    return x.flatten()[torch.randperm(x.numel(), generator=random).to(x.device)].view(x.shape)


def _wild(x: Any) -> Any:
    if not _is_float(x):
        return x
    wild = torch.full_like(x, float("nan"))
    wild.view(-1)[::3] = float("inf") if torch.finfo(x.dtype).max > 1e4 else 1.0
    return wild
