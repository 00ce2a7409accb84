"""Sampling whose choices belong to the request: seed and position decide, never the batch.

``uniform(seeds, positions)`` is the random stream, ``sample(logits, ...)`` draws tokens from it, and
``token_logprobs`` says how likely the model found them. ``SeededSampling`` plugs into ``model.generate`` and
``PerRequestSampling`` into continuous batching; they need transformers and are in ``bi_inductor.sampling.transformers``.
"""

from bi_inductor.sampling.logprobs import TokenLogprob, token_logprobs
from bi_inductor.sampling.philox import philox, uniform
from bi_inductor.sampling.tokens import Ranked, rank, sample

__all__ = ["Ranked", "TokenLogprob", "philox", "rank", "sample", "token_logprobs", "uniform"]
