"""The axes of sequences: query length, padding, capacity of a cache. What a model lacks is not applicable."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bi_inductor.errors import BatchInvariantError
from bi_inductor.inspection import bits
from bi_inductor.inspection.certify_axes import Bench, check, not_applicable
from bi_inductor.inspection.certify_report import Check
from bi_inductor.inspection.decoding import forward_of, in_pieces, padded, parameters_of
from bi_inductor.inspection.diff_samples import Call, Outputs, outputs_of

#: (left, right) tokens of padding
PADDINGS = ((1, 0), (5, 0), (0, 1), (0, 6), (3, 2))


def sequences(bench: Bench) -> Iterator[Check]:
    """Axis 3, query length; axis 4, padding and two capacities of a static cache."""
    bench.tell("query length")
    reason = _no_cache(bench) or _not_causal(bench)
    yield _query_length(bench, reason)
    bench.tell("padding")
    yield _padding(bench)
    name = "capacity of a static cache"
    if reason is not None:
        yield not_applicable(4, name, reason)
        return
    bench.tell(name)
    yield check(4, name, lambda: _capacity(bench))


def _query_length(bench: Bench, reason: str | None) -> Check:
    """A decoder with a cache in chunks and token by token; any causal model by its prefixes."""
    if reason is None:
        return check(3, "prefill, chunks, one token at a time", lambda: _chunks(bench))
    name = "prefixes of a sequence"
    length = _length(bench)
    if length is None:
        return not_applicable(3, name, f"{reason}, and no input has a sequence dimension")
    cuts = sorted({1, length // 2, length - 1} - {0, length})
    try:
        eager = outputs_of(bench.model, *bench.samples.take([0]))
        parts = [outputs_of(bench.model, *_prefix(bench, length, k)) for k in cuts]
    except BatchInvariantError as error:
        return not_applicable(3, name, f"{reason}, and a prefix alone does not run: {error}")
    if not all(_close(eager, part, length, k) for part, k in zip(parts, cuts, strict=True)):
        return not_applicable(
            3, name, f"{reason}, and earlier results follow later inputs: not causal"
        )
    whole = bench.alone(0)
    return check(
        3,
        name,
        lambda: (_cut(whole, bench.run(_prefix(bench, length, k)), length, k) for k in cuts),
    )


def _padding(bench: Bench) -> Check:
    name = "padding left and right"
    accepted = parameters_of(bench.model)
    if "attention_mask" not in accepted or "input_ids" not in bench.samples.names:
        return not_applicable(4, name, "the model has no input_ids with an attention_mask")
    try:
        stock = [_padded(bench, bench.model, left, right) for left, right in ((0, 0), PADDINGS[-1])]
    except BatchInvariantError as error:
        return not_applicable(4, name, f"stock eager torch does not run on padded input: {error}")
    if not torch.allclose(stock[0], stock[1], rtol=1e-2, atol=1e-3):
        return not_applicable(4, name, "stock eager torch gives other results on padded input too")

    def measure() -> Iterator[str | None]:
        alone = _padded(bench, bench.compiled, 0, 0)
        for left, right in PADDINGS:
            yield _tell(
                alone, _padded(bench, bench.compiled, left, right), f"padded {left}, {right}"
            )

    return check(4, name, measure)


def _padded(bench: Bench, model: Any, left: int, right: int) -> Tensor:
    """The first sample with padding, and its own part of the first output."""
    args, kwargs = bench.samples.take([0])
    given = dict(inspect.signature(forward_of(bench.model)).bind(*args, **kwargs).arguments)
    extra = given.pop("kwargs", {})
    return padded(model, bench.model, {**given, **extra}, left, right)


def _chunks(bench: Bench) -> Iterator[str | None]:
    from transformers import DynamicCache

    ids, config = _ids(bench), bench.model.config  # type: ignore[attr-defined]
    length = ids.shape[1]
    fn = bench.compile(dynamic=True, anew=False)
    whole = in_pieces(fn, bench.model, ids, (), DynamicCache(config=config))
    for cuts in ((length // 2,), tuple(range(max(length - 3, 1), length))):
        part = in_pieces(fn, bench.model, ids, cuts, DynamicCache(config=config))
        yield _tell(whole, part, f"cut at {cuts}")


def _capacity(bench: Bench) -> Iterator[str | None]:
    from transformers import StaticCache

    ids, config = _ids(bench), bench.model.config  # type: ignore[attr-defined]
    length = ids.shape[1]
    fn = bench.compile(dynamic=True, anew=False)
    small, large = (
        in_pieces(
            fn, bench.model, ids, (length - 1,), StaticCache(config=config, max_cache_len=capacity)
        )
        for capacity in (length + 1, length + 21)
    )
    yield _tell(small, large, f"capacities {length + 1} and {length + 21}")


def _no_cache(bench: Bench) -> str | None:
    """Say why a model cannot decode with a cache, or None."""
    model = bench.model
    config = getattr(model, "config", None)
    if (
        not isinstance(model, nn.Module)
        or config is None
        or "past_key_values" not in parameters_of(model)
    ):
        return "the model takes no cache of keys and values"
    if getattr(config, "is_encoder_decoder", False):
        return "an encoder-decoder is not decoded here"
    if "input_ids" not in bench.samples.names or _ids(bench).shape[1] < 2:
        return "no sequence of input_ids is given"
    return None


def _not_causal(bench: Bench) -> str | None:
    """An encoder may take a cache as well: stock torch's own chunks tell whether that decodes."""
    from transformers import DynamicCache

    ids, config = _ids(bench), bench.model.config  # type: ignore[attr-defined]
    try:
        whole, part = (
            in_pieces(bench.model, bench.model, ids, cuts, DynamicCache(config=config))
            for cuts in ((), (ids.shape[1] // 2,))
        )
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        return f"stock eager torch does not run with a cache: {said[0]}"
    # a decoder's chunks differ by rounding only; an untrained encoder's differ by little more
    rounding = 1024 * torch.finfo(whole.dtype).eps
    if whole.shape == part.shape and torch.allclose(whole, part, rtol=rounding, atol=rounding):
        return None
    return "in chunks stock eager torch gives other results too"


def _ids(bench: Bench) -> Tensor:
    at = bench.samples.names.index("input_ids")
    ids: Tensor = bench.samples.leaves_of([0])[at]
    return ids


def _length(bench: Bench) -> int | None:
    """The extent of dimension 1 of the inputs [batch, length] of integers or [batch, length, ...]."""
    found = {
        leaf.shape[1]
        for leaf, dim in zip(bench.samples.leaves, bench.samples.dims, strict=True)
        if dim == 0
        and leaf.dim() > (2 if leaf.is_floating_point() else 1)
        and leaf.shape[1] > 1
        and leaf.dim() < 4
    }
    return found.pop() if len(found) == 1 else None


def _prefix(bench: Bench, length: int, k: int) -> Call:
    leaves = [
        leaf[:, :k] if dim == 0 and leaf.shape[1:2] == (length,) else leaf
        for leaf, dim in zip(bench.samples.leaves_of([0]), bench.samples.dims, strict=True)
    ]
    return bench.samples.call(leaves)


def _close(whole: Outputs, part: Outputs, length: int, k: int) -> bool:
    pairs = list(_pairs(whole, part, length, k))
    return bool(pairs) and all(torch.allclose(a, b, rtol=1e-2, atol=1e-3) for a, b in pairs)


def _cut(whole: Outputs, part: Outputs, length: int, k: int) -> str | None:
    for a, b in _pairs(whole, part, length, k):
        if (said := _tell(a, b, f"prefix of {k}")) is not None:
            return said
    return None


def _pairs(whole: Outputs, part: Outputs, length: int, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    for (_, a), (_, b) in zip(whole, part, strict=False):
        if a.shape[1:2] == (length,) and b.shape[1:2] == (k,):
            yield a[:, :k], b


def _tell(a: Tensor, b: Tensor, when: str) -> str | None:
    if a.shape != b.shape:
        return f"{when}: shape {list(b.shape)} instead of {list(a.shape)}"
    found = bits.difference(a, b)
    return None if found is None else f"{when}: {found.text()}"
