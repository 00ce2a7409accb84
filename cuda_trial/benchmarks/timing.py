"""Interleaved timing: variants take turns round by round, so that a busy machine slows all of them alike."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 20,
    seconds: float = 2.0,
    repeat: int = 1,
) -> dict[str, float]:
    """Median wall time of one call of each variant, in seconds.

    At least five rounds, at most ``rounds``, and no new round once ``seconds`` have gone by.
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
            start = time.perf_counter()
            for _ in range(repeat):
                variants[name]()
            times[name].append((time.perf_counter() - start) / repeat)
    return {name: statistics.median(values) for name, values in times.items()}


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean of positive numbers."""
    return math.exp(statistics.fmean(math.log(v) for v in values))


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
