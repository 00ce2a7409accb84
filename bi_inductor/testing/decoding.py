"""The axes of decoders: through a cache in pieces of any size, and behind padding.

They fit causal language models of transformers: called with ``input_ids``, ``position_ids``, ``attention_mask``
and ``past_key_values``, with logits [batch, length, vocabulary] as the first output.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bi_inductor.inspection.decoding import in_pieces, padded, parameters_of
from bi_inductor.testing.comparison import Comparison
from bi_inductor.testing.subject import Subject

#: (left, right) tokens of padding
_PADDINGS = ((1, 0), (5, 0), (16, 0), (0, 1), (0, 5), (0, 16), (3, 4))
_NEEDED = ("input_ids", "attention_mask", "past_key_values", "use_cache")


def cache(subject: Subject) -> Iterator[Comparison]:
    """Prefill in one piece against chunks and single tokens, and static caches of two capacities."""
    from transformers import DynamicCache, StaticCache

    ids, config = _ids(subject), subject.model.config  # type: ignore[attr-defined]
    length = ids.shape[1]

    def computed(ends: Sequence[int], empty: Any) -> Tensor:
        with torch.no_grad():
            return in_pieces(subject.compiled(), subject.model, ids, ends, empty)

    whole = computed((), DynamicCache(config=config))
    for ends in ((length // 2,), tuple(range(max(1, length - 4), length))):
        pieces = computed(ends, DynamicCache(config=config))
        yield from _rows(f"prefill cut at {', '.join(map(str, ends))}", whole, pieces)
    for capacity in (length + 1, length + 37):
        pieces = computed((length - 1,), StaticCache(config=config, max_cache_len=capacity))
        yield from _rows(f"static cache of {capacity}, one token decoded", whole, pieces)


def padding(subject: Subject) -> Iterator[Comparison]:
    """The tokens of a sample alone against the same tokens between padding."""
    inputs = {"input_ids": _ids(subject)[:1]}

    def computed(left: int, right: int) -> Tensor:
        with torch.no_grad():
            return padded(subject.compiled(), subject.model, inputs, left, right)

    alone = computed(0, 0)
    for left, right in _PADDINGS:
        place = f"{left} tokens of padding in front, {right} behind"
        yield from _rows(place, alone, computed(left, right))


def _ids(subject: Subject) -> Tensor:
    """Two samples of ``input_ids``; says what is missing of a decoder."""
    model = subject.model
    given = subject.names or ()
    lacks = [name for name in _NEEDED if name not in parameters_of(model)]
    if not isinstance(model, nn.Module) or not hasattr(model, "config") or lacks:
        raise ValueError(
            "the axes cache and padding want a decoder of transformers, and "
            f"{type(model).__name__} does not take {', '.join(lacks) or 'a config'}"
        )
    if "input_ids" not in given:
        raise ValueError(
            "the axes cache and padding want make_inputs to give a dict with 'input_ids'"
        )
    ids = subject.samples[given.index("input_ids")][:2]
    if ids.shape[1] < 2:
        raise ValueError("the axes cache and padding want input_ids of at least 2 tokens")
    return ids


def _rows(place: str, expected: Tensor, actual: Tensor) -> Iterator[Comparison]:
    for row in range(len(expected)):
        yield Comparison(place=place, row=row, expected=[expected[row]], actual=[actual[row]])
