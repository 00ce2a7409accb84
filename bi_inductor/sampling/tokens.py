"""Temperature, top-k, top-p, min-p and one draw per row, in sums whose order is a plan of the device."""

from typing import NamedTuple

import torch
from torch import Tensor

from bi_inductor.direct import cumsum, softmax
from bi_inductor.sampling.philox import uniform

#: a number for every row, or one per row
Setting = float | Tensor


class Ranked(NamedTuple):
    """The distribution of each row, most likely token first; a tie goes to the lower token."""

    tokens: Tensor  # int64 [rows, vocab]
    cumulative: Tensor  # float32 [rows, vocab]: running sum of the kept probabilities
    kept: Tensor  # int64 [rows]: how many lead the ranking


def sample(
    logits: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    temperature: Setting = 1.0,
    top_k: int | Tensor | None = None,
    top_p: Setting | None = None,
    min_p: Setting | None = None,
) -> Tensor:
    """Draw one token per row; the same seed, position and logits give the same token in any batch.

    Args:
        logits: ``[rows, vocab]``, any float dtype; computed in float32.
        seeds: int64 ``[rows]``.
        positions: int64 ``[rows]``, the place of the new token in its own request.
        temperature: 0 takes the most likely token.
        top_k: keep the k most likely tokens, ties in favour of the lower token.
        top_p: keep the smallest leading set with at least this mass.
        min_p: keep tokens with at least this fraction of the likeliest token's probability.

    Returns:
        int64 ``[rows]``.

    Raises:
        ValueError: a shape or a setting outside its range, or a row without a finite logit.
    """
    ranked = rank(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return draw(ranked, uniform(seeds, positions))


def draw(ranked: Ranked, numbers: Tensor) -> Tensor:
    """Return the token at the fraction ``numbers`` (float32 ``[rows]`` in [0, 1)) of each row's mass."""
    if numbers.shape != ranked.kept.shape:
        raise ValueError(
            f"{tuple(numbers.shape)} random numbers for {len(ranked.kept)} rows of logits"
        )
    last = (ranked.kept - 1)[:, None]
    target = numbers[:, None] * ranked.cumulative.gather(1, last)
    # counting is exact; the bound catches a product that rounds up to the whole mass
    place = (ranked.cumulative <= target).sum(1, keepdim=True).minimum(last)
    return ranked.tokens.gather(1, place).squeeze(1)


def rank(
    logits: Tensor,
    *,
    temperature: Setting = 1.0,
    top_k: int | Tensor | None = None,
    top_p: Setting | None = None,
    min_p: Setting | None = None,
) -> Ranked:
    """Sort each row of logits ``[rows, vocab]`` and apply the filters; arguments as in ``sample``."""
    if logits.dim() != 2 or not logits.is_floating_point():
        raise ValueError(
            f"logits must be float [rows, vocab], got {logits.dtype} {tuple(logits.shape)}"
        )
    heat = _setting("temperature", temperature, logits, low=0.0)
    ordered, tokens = torch.sort(logits.float(), dim=-1, descending=True, stable=True)
    _require(
        ordered[:, :1].isfinite(),
        "a row of logits has NaN or infinity as its largest value; nothing can be drawn",
    )
    # the maximum is subtracted first, so that a tiny temperature cannot overflow
    scaled = (ordered - ordered[:, :1]) / torch.where(heat > 0, heat, 1.0)
    p = softmax(scaled)
    keep = (p > 0) & ((heat > 0) | (torch.arange(p.shape[1], device=p.device) == 0))
    if top_k is not None:
        keep &= torch.arange(p.shape[1], device=p.device) < _setting("top_k", top_k, logits, low=1)
    if min_p is not None:
        keep &= p >= _setting("min_p", min_p, logits, low=0.0, high=1.0) * p[:, :1]
    if top_p is not None:
        kept_p = torch.where(keep, p, 0.0)
        running = cumsum(kept_p)
        mass = _setting("top_p", top_p, logits, low=0.0, high=1.0) * running[:, -1:]
        # a token stays while the mass of those before it is too small
        keep[:, 1:] &= running[:, :-1] < mass
    return Ranked(tokens, cumsum(torch.where(keep, p, 0.0)), keep.sum(1))


def _setting(
    name: str, value: Setting, logits: Tensor, low: float, high: float = float("inf")
) -> Tensor:
    if not isinstance(value, Tensor):
        if not low <= value <= high:
            raise ValueError(f"{name} must be between {low} and {high}, got {value}")
        # filled on the device: a copy from the host could not be captured
        x = torch.full((1, 1), value, device=logits.device)
        return x.float() if x.is_floating_point() else x
    x = value.to(logits.device)
    if x.dim() > 1 or (x.dim() == 1 and x.shape[0] != logits.shape[0]):
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; give a number or one per row ({len(logits)})"
        )
    _require((x >= low) & (x <= high), f"{name} must be between {low} and {high}")
    return (x.float() if x.is_floating_point() else x).reshape(-1, 1)


def _require(kept: Tensor, message: str) -> None:
    """Raise unless all of ``kept`` hold; in a CUDA graph, which the host does not read, the device stops instead."""
    if kept.is_cuda and torch.cuda.is_current_stream_capturing():
        torch._assert_async(kept.all(), message)
    elif not bool(kept.all()):
        raise ValueError(message)
