"""The axes along which a sample's bits must not move: each is a generator of comparisons.

``batch``, ``position``, ``neighbours`` and ``execution`` fit every model and are the default; so does ``eager``,
which takes longer. ``length`` fits causal models: the first ``q`` tokens alone against the same tokens in front of
others. ``cache`` and ``padding`` fit decoders and are in ``decoding.py``.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bi_inductor.testing import decoding
from bi_inductor.testing.comparison import Comparison
from bi_inductor.testing.subject import Subject


def batch(subject: Subject) -> Iterator[Comparison]:
    """Every row of batches of several sizes, against the sample alone."""
    for size in subject.batch_sizes:
        yield from rows_against_alone(subject, range(size), f"batch size {size}")


def position(subject: Subject) -> Iterator[Comparison]:
    """One sample at every position, and all samples in reverse and repeated."""
    size = max(subject.batch_sizes)
    for place in range(size):
        order = list(range(1, size))
        order.insert(place, 0)
        out = subject.call(subject.take(order))
        yield Comparison(
            place=f"position {place} of {size}", row=place, expected=subject.alone(0),
            actual=row_of(out, place, size),
        )  # fmt: skip
    yield from rows_against_alone(subject, list(reversed(range(size))), "batch in reverse")
    yield from rows_against_alone(subject, [0] * size, "one sample repeated")


def neighbours(subject: Subject) -> Iterator[Comparison]:
    """First, middle and last row while the others become noise, zeros, NaN, infinities and huge numbers."""
    size = max(subject.batch_sizes)
    kept = sorted({0, size // 2, size - 1})
    floating = any(x.is_floating_point() for x in subject.samples)
    # whatever the fill, integers become those of other samples
    fills = _FILLS if floating else {"of other ids": None}
    for name, fill in fills.items():
        for row in kept:
            inputs = tuple(_around(x, row, fill, subject) for x in subject.take(range(size)))
            out = subject.call(inputs)
            yield Comparison(
                place=f"neighbours {name}", row=row, expected=subject.alone(row),
                actual=row_of(out, row, size),
            )  # fmt: skip


def execution(subject: Subject) -> Iterator[Comparison]:
    """Static and dynamic shapes, a recompilation, one thread and three: the whole batch, all rows."""
    size = max(subject.batch_sizes)
    expected = [subject.alone(row) for row in range(size)]
    threads = torch.get_num_threads()

    def compared(place: str) -> Iterator[Comparison]:
        out = subject.call(subject.take(range(size)))
        for row in range(size):
            yield Comparison(
                place=place, row=row, expected=expected[row], actual=row_of(out, row, size)
            )

    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            yield from compared(f"{count} threads")
    finally:
        torch.set_num_threads(threads)
    for dynamic in (False, True):
        subject.recompiled(dynamic)
        yield from compared(f"recompiled with dynamic={dynamic}")


def eager(subject: Subject) -> Iterator[Comparison]:
    """The model as it is inside ``batch_invariant_mode``: every row of the batch, and a sample alone."""
    from bi_inductor import batch_invariant_mode

    size = max(subject.batch_sizes)
    with batch_invariant_mode():
        single = subject.call(subject.take([0]), subject.model)
        out = subject.call(subject.take(range(size)), subject.model)
    yield Comparison(place="eager, alone", row=0, expected=subject.alone(0), actual=single)
    for row in range(size):
        yield Comparison(
            place=f"eager, batch of {size}", row=row, expected=subject.alone(row),
            actual=row_of(out, row, size),
        )  # fmt: skip


def length(subject: Subject) -> Iterator[Comparison]:
    """For causal models: the first tokens alone, against the same tokens of the whole sequence (dimension 1)."""
    whole = subject.call(subject.take([0]))
    total = subject.samples[0].shape[1]
    for count in _LENGTHS:
        if count >= total:
            break
        short = subject.call(tuple(x[:, :count] for x in subject.take([0])))
        yield Comparison(
            place=f"{count} of {total} tokens", row=0, expected=short,
            actual=[t[:, : s.shape[1]] if t.dim() > 1 else t for t, s in zip(whole, short, strict=True)],
        )  # fmt: skip


AXES: dict[str, Callable[[Subject], Iterator[Comparison]]] = {
    "batch": batch,
    "position": position,
    "neighbours": neighbours,
    "execution": execution,
    "eager": eager,
    "length": length,
    "cache": decoding.cache,
    "padding": decoding.padding,
}
DEFAULT_AXES = ("batch", "position", "neighbours", "execution")
_LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 64)


def rows_against_alone(
    subject: Subject, rows: list[int] | range, place: str
) -> Iterator[Comparison]:
    """Compare every row of one batch with its sample alone."""
    out = subject.call(subject.take(rows))
    for at, row in enumerate(rows):
        yield Comparison(
            place=place, row=at, expected=subject.alone(row), actual=row_of(out, at, len(rows))
        )


def row_of(out: list[Tensor], row: int, size: int) -> list[Tensor]:
    """Return the outputs of one row; what has no batch on dimension 0 is compared whole."""
    return [t[row : row + 1] if t.dim() and t.shape[0] == size else t for t in out]


_FILLS: dict[str, float | None] = {
    "noise": None,
    "zeros": 0.0,
    "NaN": float("nan"),
    "infinite": float("inf"),
    "huge": 2.0**60,
}


def _around(x: Tensor, row: int, fill: float | None, subject: Subject) -> Tensor:
    """Keep one row and fill the others; integers (ids, masks) become those of other samples."""
    if not x.is_floating_point():
        made = x.roll(1, 0)
    elif fill is None:
        made = torch.randn(x.shape, generator=subject.generator).to(x)
    else:
        # float16 ends at 65504
        most = torch.finfo(x.dtype).max
        made = torch.full_like(x, min(fill, most) if math.isfinite(fill) else fill)
    made[row] = x[row]
    return made
