"""Interleaved timing: variants take turns round by round, so that a busy machine slows all of them alike."""

import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 20,
    seconds: float = 2.0,
    repeat: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median time of one call of each variant, in seconds by ``clock``; a sample is ``repeat`` calls.

    At least five rounds, at most ``rounds``, and no new round once ``seconds`` of wall time have gone by.
    """
    for fn in variants.values():
        fn()
    times: dict[str, list[float]] = {name: [] for name in variants}
    begin = time.perf_counter()
    for done in range(rounds):
        if done >= 5 and time.perf_counter() - begin > seconds:
            break
        names = list(variants)
        # each variant leads in turn: the first of a round finds colder caches
        for name in names[done % len(names) :] + names[: done % len(names)]:
            start = clock()
            for _ in range(repeat):
                variants[name]()
            times[name].append((clock() - start) / repeat)
    return {name: statistics.median(values) for name, values in times.items()}


def clock_for(threads: int) -> Callable[[], float]:
    """CPU time of the thread for one thread, which other load on the host moves little; wall time for more."""
    return time.thread_time if threads == 1 else time.perf_counter


def repeats_for(fn: Callable[[], object], sample: float) -> int:
    """Calls of ``fn`` that fill about ``sample`` seconds."""
    fn()
    start = time.perf_counter()
    fn()
    return max(1, round(sample / max(time.perf_counter() - start, 1e-6)))


def processor() -> str:
    """The CPU's own name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean of positive numbers."""
    return math.exp(statistics.fmean(math.log(v) for v in values))


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
