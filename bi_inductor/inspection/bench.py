"""``bench``: stock ``torch.compile`` against ours on one target, taking turns, as medians."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from bi_inductor.inspection.capture import with_batch
from bi_inductor.inspection.targets import Target

if TYPE_CHECKING:
    from rich.table import Table

BACKENDS = ("inductor", "batch_invariant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Milliseconds of one batch size under both backends; ``speed`` above 1 means that ours is faster."""

    batch: int | None
    stock_ms: float
    ours_ms: float

    @property
    def speed(self) -> float:
        """Time of stock over time of ours."""
        return self.stock_ms / self.ours_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """All timings of a target, and what they were taken on."""

    target: str
    rounds: int
    threads: int
    timings: tuple[Timing, ...]

    def json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"kind": "bench", **asdict(self)}

    def table(self) -> "Table":
        """Return a rich table."""
        from rich.table import Table

        title = f"{self.target}: medians of {self.rounds} rounds, {self.threads} threads"
        table = Table(title=title, title_justify="left", box=None, header_style="dim")
        for name in ("batch", "stock ms", "ours ms", "stock / ours"):
            table.add_column(name, justify="right")
        for t in self.timings:
            batch = "as given" if t.batch is None else str(t.batch)
            table.add_row(batch, f"{t.stock_ms:.2f}", f"{t.ours_ms:.2f}", f"{t.speed:.2f}")
        return table


def bench(target: Target, *, batch_sizes: Sequence[int] = (), rounds: int = 20) -> BenchReport:
    """Compile the target under both backends and time them in turns.

    Raises:
        VariantOpError: ours refuses an op of the model.
    """
    torch.compiler.reset()
    compiled = [torch.compile(target.model, backend=backend) for backend in BACKENDS]
    timings = []
    for size in batch_sizes or (None,):
        args, kwargs = target.args, target.kwargs
        if size is not None:
            args, kwargs = with_batch(target.model, args, kwargs, size, empty=False)
        stock, ours = _medians(compiled, args, kwargs, rounds)
        timings.append(Timing(batch=size, stock_ms=stock, ours_ms=ours))
    torch.compiler.reset()
    return BenchReport(
        target=target.name,
        rounds=rounds,
        threads=torch.get_num_threads(),
        timings=tuple(timings),
    )


def _medians(
    calls: Sequence[Callable[..., Any]], args: Sequence[Any], kwargs: dict[str, Any], rounds: int
) -> list[float]:
    for call in calls:
        for _ in range(2):  # compiles, then touches every page once
            call(*args, **kwargs)
    times: list[list[float]] = [[] for _ in calls]
    for round_ in range(rounds):
        # who goes first changes, so that neither always finds the other's caches
        order = range(len(calls)) if round_ % 2 == 0 else reversed(range(len(calls)))
        for i in order:
            start = time.perf_counter()
            calls[i](*args, **kwargs)
            _wait()
            times[i].append((time.perf_counter() - start) * 1e3)
    return [statistics.median(t) for t in times]


def _wait() -> None:
    """Wait for an accelerator, which runs behind the host."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
