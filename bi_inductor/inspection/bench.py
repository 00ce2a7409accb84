"""``bench``: stock ``torch.compile`` against ours on one target, taking turns, as medians."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from bi_inductor.errors import InspectionError
from bi_inductor.inspection.capture import with_batch
from bi_inductor.inspection.targets import Target

if TYPE_CHECKING:
    from rich.table import Table

BACKENDS = ("inductor", "batch_invariant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One batch size under both backends; ``speed`` above 1 means that ours is faster.

    The first call of a size compiles, unless Dynamo or a cache on disk already has code for it.
    """

    batch: int | None
    stock_ms: float
    ours_ms: float
    stock_first_s: float
    ours_first_s: float

    @property
    def speed(self) -> float:
        """Time of stock over time of ours."""
        return self.stock_ms / self.ours_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """All timings of a target, and what they were taken on."""

    target: str
    device: str
    dtype: str
    rounds: int
    threads: int
    timings: tuple[Timing, ...]

    def json(self) -> dict[str, Any]:
        """Return plain data."""
        made = {"kind": "bench", **asdict(self)}
        made["timings"] = [{**asdict(t), "speed": t.speed} for t in self.timings]
        return made

    def table(self) -> "Table":
        """Return a rich table."""
        from rich.table import Table

        title = (
            f"{self.target} on {self.device} in {self.dtype}: "
            f"medians of {self.rounds} rounds, {self.threads} threads"
        )
        table = Table(title=title, title_justify="left", box=None, header_style="dim")
        for name in (
            "batch",
            "stock ms",
            "ours ms",
            "stock / ours",
            "first call: stock s",
            "ours s",
        ):
            table.add_column(name, justify="right")
        for t in self.timings:
            batch = "as given" if t.batch is None else str(t.batch)
            figures = (t.stock_ms, t.ours_ms, t.speed, t.stock_first_s, t.ours_first_s)
            table.add_row(batch, *(f"{value:.2f}" for value in figures))
        return table


def bench(
    target: Target,
    *,
    batch_sizes: Sequence[int] = (),
    rounds: int = 20,
    progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Compile the target under both backends and time them in turns.

    Args:
        target: a model with example inputs; their batch is used where ``batch_sizes`` is empty.
        batch_sizes: sizes to time, in this order; samples are dropped or repeated.
        rounds: timed calls of each backend and size.
        progress: called with a few words before each slow step.

    Raises:
        InspectionError: neither the model nor its inputs have a tensor.
        VariantOpError: ours refuses an op of the model.
    """
    device, dtype = _placed(target)
    tell = progress or (lambda _: None)
    torch.compiler.reset()
    compiled = [torch.compile(target.model, backend=backend) for backend in BACKENDS]
    timings = []
    for size in batch_sizes or (None,):
        args, kwargs = target.args, target.kwargs
        if size is not None:
            args, kwargs = with_batch(target.model, args, kwargs, size, empty=False)
        tell(f"compiling {target.name}" + ("" if size is None else f" at batch size {size}"))
        firsts = [_first_call(call, args, kwargs) for call in compiled]
        tell(f"timing {target.name}" + ("" if size is None else f" at batch size {size}"))
        stock, ours = _medians(compiled, args, kwargs, rounds)
        timings.append(
            Timing(
                batch=size,
                stock_ms=stock,
                ours_ms=ours,
                stock_first_s=firsts[0],
                ours_first_s=firsts[1],
            )
        )
    torch.compiler.reset()
    return BenchReport(
        target=target.name,
        device=device,
        dtype=dtype,
        rounds=rounds,
        threads=torch.get_num_threads(),
        timings=tuple(timings),
    )


def _medians(
    calls: Sequence[Callable[..., Any]], args: Sequence[Any], kwargs: dict[str, Any], rounds: int
) -> list[float]:
    for call in calls:
        call(*args, **kwargs)  # after the call that compiled, one that finds its pages touched
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


def _first_call(call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> float:
    start = time.perf_counter()
    call(*args, **kwargs)
    _wait()
    return time.perf_counter() - start


def _placed(target: Target) -> tuple[str, str]:
    """Device and floating dtype, of the parameters if there are any, or else of the inputs."""
    leaves = list(target.model.parameters()) if isinstance(target.model, torch.nn.Module) else []
    leaves += [x for x in pytree.tree_leaves((target.args, target.kwargs)) if _is_tensor(x)]
    if not leaves:
        raise InspectionError(
            f"{target.name} has no tensor in its model or inputs: nothing to time"
        )
    floating = next((x for x in leaves if x.is_floating_point()), leaves[0])
    return floating.device.type, str(floating.dtype).removeprefix("torch.")


def _is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


def _wait() -> None:
    """Wait for an accelerator, which runs behind the host."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
