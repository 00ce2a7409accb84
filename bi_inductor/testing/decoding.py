"""The axes of decoders: through a cache in pieces of any size, and behind padding.

They fit causal language models of transformers: called with ``input_ids``, ``position_ids``, ``attention_mask``
and ``past_key_values``, and giving ``logits`` [batch, length, vocabulary].
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bi_inductor.testing.comparison import Comparison
from bi_inductor.testing.subject import Subject, unwrapped

#: (left, right) tokens of padding
_PADDINGS = ((1, 0), (5, 0), (16, 0), (0, 1), (0, 5), (0, 16), (3, 4))
_NEEDED = ("input_ids", "attention_mask", "past_key_values", "use_cache")


def cache(subject: Subject) -> Iterator[Comparison]:
    """Prefill in one piece against chunks and single tokens, and static caches of two capacities."""
    from transformers import DynamicCache, StaticCache

    ids, config = _ids(subject), subject.model.config  # type: ignore[attr-defined]
    length = ids.shape[1]
    whole = _in_pieces(subject, ids, (), DynamicCache(config=config))
    for ends in ((length // 2,), tuple(range(max(1, length - 4), length))):
        pieces = _in_pieces(subject, ids, ends, DynamicCache(config=config))
        yield from _rows(f"prefill cut at {', '.join(map(str, ends))}", whole, pieces)
    for capacity in (length + 1, length + 37):
        static = StaticCache(config=config, max_cache_len=capacity)
        pieces = _in_pieces(subject, ids, (length - 1,), static)
        yield from _rows(f"static cache of {capacity}, one token decoded", whole, pieces)


def padding(subject: Subject) -> Iterator[Comparison]:
    """The tokens of a sample alone against the same tokens between padding."""
    ids = _ids(subject)[:1]
    alone = _padded(subject, ids, 0, 0)
    for left, right in _PADDINGS:
        padded = _padded(subject, ids, left, right)
        yield Comparison(
            place=f"{left} tokens of padding in front, {right} behind", row=0, expected=[alone], actual=[padded]
        )  # fmt: skip


def _ids(subject: Subject) -> Tensor:
    """Two samples of ``input_ids``; says what is missing of a decoder."""
    model = subject.model
    given = subject.names or ()
    lacks = [name for name in _NEEDED if name not in _parameters(model)]
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


def _parameters(model: Any) -> frozenset[str]:
    forward = model.forward if isinstance(model, nn.Module) else model
    return frozenset(inspect.signature(forward).parameters)


def _in_pieces(subject: Subject, ids: Tensor, ends: Sequence[int], cache: Any) -> Tensor:
    """Logits of all tokens, computed in pieces that end at ``ends``."""
    parts, start = [], 0
    for end in (*ends, ids.shape[1]):
        given = {"input_ids": ids[:, start:end], "past_key_values": cache, "use_cache": True}
        parts.append(_logits(subject, given, torch.arange(start, end)[None]))
        start = end
    return torch.cat(parts, 1)


def _padded(subject: Subject, ids: Tensor, left: int, right: int) -> Tensor:
    def pad(x: Tensor) -> Tensor:
        return nn.functional.pad(x, (left, right))

    given = {
        "input_ids": pad(ids),
        "attention_mask": pad(torch.ones_like(ids)),
        "use_cache": False,
    }
    # positions belong to the tokens, not to the places that padding moves them to
    out = _logits(subject, given, pad(torch.arange(ids.shape[1])[None]))
    return out[:, left : left + ids.shape[1]]


def _logits(subject: Subject, given: dict[str, Any], positions: Tensor) -> Tensor:
    if "position_ids" in _parameters(subject.model):
        given["position_ids"] = positions.to(given["input_ids"].device)
    with torch.no_grad(), unwrapped():
        logits: Tensor = subject.compiled()(**given).logits
    # a clone: CUDA graphs reuse the memory of their outputs
    return logits.clone()


def _rows(place: str, expected: Tensor, actual: Tensor) -> Iterator[Comparison]:
    for row in range(len(expected)):
        yield Comparison(place=place, row=row, expected=[expected[row]], actual=[actual[row]])
