"""The comparison behind every invariance test: one sample alone against the same sample in a batch, raw bits."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

#: sizes that cross vector widths, register tiles and thread counts
BATCHES = (1, 2, 3, 5, 8, 17, 33)


def bits_equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits; all NaN count as one value."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.is_floating_point():
        return bool(((a == b) | (a.isnan() & b.isnan())).all()) and torch.equal(
            a.signbit() & (a == 0), b.signbit() & (b == 0)
        )
    return torch.equal(a, b)


def flat(out: object) -> list[Tensor]:
    """The tensors of a model's output, in order."""
    if isinstance(out, Tensor):
        return [out]
    if isinstance(out, dict):
        return [t for v in out.values() for t in flat(v)]
    if isinstance(out, (tuple, list)):
        return [t for v in out for t in flat(v)]
    return []


def rows_that_change(
    fn: Callable[..., object],
    inputs: Sequence[Tensor],
    batches: Iterable[int] = BATCHES,
    positions: Callable[[int], Iterable[int]] = lambda b: sorted({0, b // 2, b - 1}),
) -> list[str]:
    """Rows whose bits differ from the same sample computed alone.

    Args:
        fn: maps a batch of samples (dimension 0 of each tensor) to tensors with the same dimension 0.
        inputs: tensors with at least ``max(batches)`` samples.
        batches: sizes to compute with.
        positions: batch -> places of the sample in it.
    """
    sample = 0
    alone = flat(fn(*(x[sample : sample + 1].clone() for x in inputs)))
    assert alone, "the function returned no tensor"
    changed = []
    for batch in batches:
        for place in positions(batch):
            order = torch.arange(1, batch).tolist()
            order.insert(place, sample)
            out = flat(fn(*(x[order].clone() for x in inputs)))
            for index, (ours, reference) in enumerate(zip(out, alone, strict=True)):
                if (
                    ours.dim()
                    and ours.shape[0] == batch
                    and not bits_equal(ours[place], reference[0])
                ):
                    changed.append(f"output {index}, batch {batch}, position {place}")
    return changed
