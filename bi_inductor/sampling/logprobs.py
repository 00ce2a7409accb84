"""Log-probabilities of chosen tokens from the model's own logits: what a server reports and a scorer compares."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from bi_inductor.direct import softmax


class TokenLogprob(NamedTuple):
    """A chosen token, and the likeliest ones of its step in order; a tie goes to the lower token."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprobs(logits: Tensor, tokens: Tensor, top: Sequence[int]) -> list[TokenLogprob]:
    """Return the log-probability of each row's token, and of its likeliest ones.

    Args:
        logits: ``[rows, vocab]`` as the model gave them, any float dtype; computed in float32.
        tokens: int64 ``[rows]``.
        top: how many of the likeliest tokens to list, for each row; 0 for none.

    Raises:
        ValueError: the lengths differ, or a row asks for fewer than 0 or more than all tokens.
    """
    rows, vocab = logits.shape
    if len(tokens) != rows or len(top) != rows:
        raise ValueError(f"{rows} rows of logits, {len(tokens)} tokens and {len(top)} counts")
    if not all(0 <= k <= vocab for k in top):
        raise ValueError(f"top must be between 0 and {vocab} in each row, got {list(top)}")
    logprobs = softmax(logits.float(), log=True)
    chosen = logprobs.gather(1, tokens[:, None]).flatten().tolist()
    most = max(top, default=0)
    order = logprobs.sort(dim=1, descending=True, stable=True).indices[:, :most] if most else None
    likeliest: list[list[tuple[int, float]]] = [[] for _ in top]
    if order is not None:
        values = logprobs.gather(1, order).tolist()
        likeliest = [
            list(zip(*row, strict=True)) for row in zip(order.tolist(), values, strict=True)
        ]
    return [
        TokenLogprob(token, logprob, tuple(row[:k]))
        for token, logprob, row, k in zip(tokens.tolist(), chosen, likeliest, top, strict=True)
    ]
