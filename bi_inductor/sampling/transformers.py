"""Seeded sampling where transformers asks for it: ``model.generate`` and continuous batching.

Both leave exactly one token possible in each row, so the caller decodes greedily (``do_sample=False``).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)

from bi_inductor.sampling.logprobs import token_logprobs
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
    """The same for continuous batching: ``manager.add_request(ids, seed=7, temperature=0.8, logprobs=3)``.

    Args:
        temperature: of requests that name none; 0 takes the likeliest token. Requests without a seed use seed 0.
        settings: ``top_k``, ``top_p``, ``min_p`` of every request of the manager.

    A request with ``logprobs=k`` gets a ``TokenLogprob`` for each token in ``GenerationOutput.logprobs``: of the
    model's own logits in float32, before temperature and filters, with the k likeliest tokens of the step.
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
        manager.logit_processor = _Chain(
            [_Temperature(self.temperature), self], manager.continuous_batching_config
        )


class _Temperature(ContinuousBatchingLogitsProcessor):
    """A temperature per request; transformers' own divides by it, and so has no 0."""

    supported_kwargs: dict[str, type] = {"temperature": float}  # noqa: RUF012
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, default: float) -> None:
        self.default = default

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.fill_(_bits([self.default]).item())

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        asked = [r.state.logit_processor_kwargs for r in requests_with_new_token]
        return _bits([kwargs.get("temperature", self.default) for kwargs in asked])

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        heat = tensor_arg[: len(scores)].view(torch.float32)[:, None]
        return torch.where(heat > 0, scores / heat, _only(scores.argmax(-1), scores))


class _Chain(ContinuousBatchingLogitsProcessorList):
    """The processors of one manager; the one place that sees both the model's logits and the chosen tokens."""

    def __init__(self, processors: list[ContinuousBatchingLogitsProcessor], config: Any) -> None:
        super().__init__(LogitsProcessorList(processors))
        # the list counts only the processors that it converted itself
        self.tensors_required = len(processors)
        self.supported_keys["logprobs"] = int
        # a step ahead, or a replayed graph, would note a token that its request never gets
        self._notes = not (config.use_async_batching or any(config.cuda_graph_booleans))
        self._states: list[Any] = []

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        super().check_kwargs(kwargs)
        if "logprobs" in kwargs and not self._notes:
            raise ValueError(
                "logprobs need a manager with use_async_batching=False and use_cuda_graph=False"
            )
        for name in ("temperature", "logprobs"):
            if not kwargs.get(name, 0) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {kwargs[name]}")

    def prepare_tensor_args(self, requests_in_batch: list[Any], arg_storage: Tensor) -> Tensor:
        self._states = [request.state for request in requests_in_batch if request.has_new_token]
        stored: Tensor = super().prepare_tensor_args(requests_in_batch, arg_storage)
        return stored

    def __call__(self, input_ids: Any, scores: Tensor, logits_processor_args: Tensor) -> Tensor:
        only: Tensor = super().__call__(input_ids, scores, logits_processor_args)
        asked = {
            row: state
            for row, state in enumerate(self._states)
            if "logprobs" in state.logit_processor_kwargs
        }
        if asked:
            rows = torch.tensor(list(asked), device=scores.device)
            top = [state.logit_processor_kwargs["logprobs"] for state in asked.values()]
            notes = token_logprobs(scores[rows], only[rows].argmax(-1), top)
            for state, note in zip(asked.values(), notes, strict=True):
                # the engine hands this list on, also when it starts a request anew
                state.logprobs.append(note)
        return only


def _bits(values: list[float]) -> Tensor:
    """The int32 storage of float32 numbers, which the engine's tensors want."""
    return torch.tensor(values, dtype=torch.float32).view(torch.int32)


def _only(tokens: Tensor, scores: Tensor) -> Tensor:
    return torch.full_like(scores, float("-inf")).scatter_(1, tokens[:, None], 0.0)
