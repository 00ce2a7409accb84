"""Seeded sampling where transformers asks for it: ``model.generate`` and continuous batching.

Both leave exactly one token possible in each row, so the caller decodes greedily (``do_sample=False``).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
    ContinuousBatchingTemperatureLogitsWarper,
)

from bi_inductor.sampling.philox import uniform
from bi_inductor.sampling.tokens import draw, rank, sample


class SeededSampling(LogitsProcessor):
    """Choose each row's token by its request's own random stream; for ``generate(..., do_sample=False)``.

    Args:
        seeds: one per row of the batch that ``generate`` decodes.
        attention_mask: ``[rows, length]`` of the prompts, 0 on padding. Positions count real tokens, so padding
            moves nothing.
        settings: ``temperature``, ``top_k``, ``top_p``, ``min_p`` as in ``bi_inductor.sampling.sample``.

    Raises:
        ValueError: the number of seeds is not the number of rows.
    """

    def __init__(self, seeds: Sequence[int], attention_mask: Tensor, **settings: Any) -> None:
        if len(seeds) != len(attention_mask):
            raise ValueError(
                f"{len(seeds)} seeds for {len(attention_mask)} prompts; give one per row"
            )
        self.seeds = torch.tensor(seeds, dtype=torch.int64, device=attention_mask.device)
        self.lengths = attention_mask.long().sum(1)
        self.width = attention_mask.shape[1]
        self.settings = settings

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return 0 for the chosen token of each row and -inf elsewhere; ``scores [rows, vocab]``."""
        if len(scores) != len(self.seeds):
            raise ValueError(
                f"{len(self.seeds)} seeds for {len(scores)} rows; beams and returned sequences need a seed each"
            )
        positions = self.lengths + (input_ids.shape[1] - self.width)
        return _only(sample(scores, self.seeds, positions, **self.settings), scores)


class PerRequestSampling(ContinuousBatchingLogitsProcessor):
    """The same for continuous batching: ``manager.add_request(ids, seed=7, temperature=0.8)``.

    Args:
        temperature: of requests that name none; above 0. Requests without a seed use seed 0.
        settings: ``top_k``, ``top_p``, ``min_p`` of every request of the manager.
    """

    supported_kwargs: dict[str, type] = {"seed": int}  # noqa: RUF012  (transformers' own declaration)
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, temperature: float = 1.0, **settings: Any) -> None:
        self.temperature, self.settings = temperature, settings

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """Rows without a request draw at 0."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        """Return the random number of each request's next token, as the int32 storage of the batch."""
        states = [request.state for request in requests_with_new_token]
        seeds = torch.tensor(
            [s.logit_processor_kwargs.get("seed", 0) for s in states], dtype=torch.int64
        )
        positions = torch.tensor([s.position_offset for s in states], dtype=torch.int64)
        return uniform(seeds, positions).view(torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """Return 0 for the chosen token of each row and -inf elsewhere; ``scores [rows, vocab]``."""
        numbers = tensor_arg[: len(scores)].view(torch.float32)
        return _only(draw(rank(scores, **self.settings), numbers), scores)

    def install(self, manager: Any) -> None:
        """Make temperature and this the processors of a ``ContinuousBatchingManager`` that has not started yet.

        Raises:
            RuntimeError: the manager already runs.
        """
        if manager.batch_processor is not None or manager.is_running():
            raise RuntimeError(
                "the manager has started; install the sampling before manager.start()"
            )
        temperature = TemperatureLogitsWarper(self.temperature)
        chain = ContinuousBatchingLogitsProcessorList(
            LogitsProcessorList([ContinuousBatchingTemperatureLogitsWarper(temperature), self])
        )
        # the list counts only the processors that it converted itself
        chain.tensors_required = len(chain.logits_processor)
        manager.logit_processor = chain


def _only(tokens: Tensor, scores: Tensor) -> Tensor:
    return torch.full_like(scores, float("-inf")).scatter_(1, tokens[:, None], 0.0)
