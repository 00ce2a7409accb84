"""``DeterministicInferenceEngine``: a language model behind the mode, with the interface of the deterministic-llm library."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bi_inductor.eager import batch_invariant_mode


class DeterministicInferenceEngine:
    """Run a causal language model so that each row's bits do not depend on its batch; safe to share by threads.

    Nothing of the model is changed, and no switch of the process: each call runs in a mode of its own thread.

    Args:
        model: maps ids ``[B, S]`` to logits ``[B, S, V]``, an object with ``.logits``, or a tuple that begins so.
        patch_model: False runs torch's own kernels, as a control; rows then follow their batch.
        device: where to move the model; default: where it is.
    """

    def __init__(
        self, model: nn.Module, patch_model: bool = True, device: str | torch.device | None = None
    ) -> None:
        self.model = model.eval() if device is None else model.to(device).eval()
        self.patch_model = patch_model
        first = next(model.parameters(), None)
        self.device = first.device if first is not None else torch.device(device or "cpu")

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        """Return the model's output for ids ``[B, S]``.

        Raises:
            VariantOpError: the model holds an op that mixes samples, or one without a rule.
        """
        with torch.no_grad(), batch_invariant_mode(self.patch_model):
            return self.model(input_ids.to(self.device), **kwargs)

    __call__ = forward

    def generate(
        self,
        input_ids: Tensor | str,
        tokenizer: Any = None,
        max_length: int = 50,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        eos_token_id: int | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        min_p: float | None = None,
        **kwargs: Any,
    ) -> Tensor | str:
        """Continue each prompt up to ``max_length`` tokens, greedily, or by draws that follow ``seed`` alone.

        Args:
            input_ids: ids ``[B, S]``, or a text if there is a ``tokenizer``.
            max_length: length of prompt and continuation together.
            temperature: 0 for the likeliest token; above 0 needs a ``seed``.
            seed: one for all rows, or one for each: a row's tokens depend on its prompt and its seed.
            kwargs: ``do_sample``, and what is passed to the model at each step.

        Returns:
            Ids ``[B, <= max_length]``; the text of the first row if a text was given. A row that has ended is filled
            with its end token.

        Raises:
            ValueError: a sampling argument without a seed, a text without a tokenizer, or an ``attention_mask``.
        """
        _check_sampling(kwargs, seed, temperature, top_k, top_p, min_p)
        kwargs.pop("do_sample", None)
        if kwargs.get("attention_mask") is not None:
            raise ValueError(
                "attention_mask: the engine continues rows of one length; bi_inductor.generation.generate takes "
                "padded rows, on any side and with holes"
            )
        if isinstance(input_ids, str):
            return self._generate_text(
                input_ids, tokenizer, max_length, temperature, top_k, top_p, eos_token_id,
                seed=seed, min_p=min_p, **kwargs,
            )  # fmt: skip
        if eos_token_id is None:
            eos_token_id = getattr(tokenizer, "eos_token_id", None)
        ids = input_ids.to(self.device)
        seeds = _seeds(seed, ids)
        ended = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)
        while ids.shape[1] < max_length and not bool(ended.all()):
            logits = _logits(self.forward(ids, **kwargs))[:, -1]
            token = self._choose(logits, seeds, ids.shape[1], temperature, top_k, top_p, min_p)
            if eos_token_id is not None:
                token = torch.where(ended, eos_token_id, token)
                ended |= token == eos_token_id
            ids = torch.cat([ids, token[:, None]], dim=1)
        return ids

    def _generate_text(self, text: str, tokenizer: Any, *args: Any, **kwargs: Any) -> str:
        if tokenizer is None:
            raise ValueError(
                "a text was given without a tokenizer; pass tokenizer=... or ids [B, S]"
            )
        ids = self.generate(tokenizer.encode(text, return_tensors="pt"), tokenizer, *args, **kwargs)
        return str(tokenizer.decode(ids[0], skip_special_tokens=True))

    def _choose(
        self,
        logits: Tensor,
        seeds: Tensor | None,
        position: int,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        min_p: float | None,
    ) -> Tensor:
        if seeds is None or temperature == 0:
            return logits.argmax(-1)
        from bi_inductor.sampling import sample

        with torch.no_grad(), batch_invariant_mode(self.patch_model):
            return sample(
                logits, seeds, torch.full_like(seeds, position), temperature=temperature,
                top_k=top_k, top_p=top_p, min_p=min_p,
            )  # fmt: skip

    def verify_determinism(
        self, input_ids: Tensor, num_runs: int = 10, **kwargs: Any
    ) -> dict[str, Any]:
        """Run the same input ``num_runs`` times and count the results that differ in a bit.

        Returns:
            ``is_deterministic``, ``unique_outputs``, ``total_runs`` and ``outputs``, the logits of each run.
        """
        outputs = [_logits(self.forward(input_ids, **kwargs)) for _ in range(num_runs)]
        distinct: list[Tensor] = []
        for made in outputs:
            if not any(torch.equal(made, other) for other in distinct):
                distinct.append(made)
        return {
            "is_deterministic": len(distinct) <= 1,
            "unique_outputs": len(distinct),
            "total_runs": num_runs,
            "outputs": outputs,
        }


def _logits(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    made: Tensor = output.logits if hasattr(output, "logits") else output[0]
    return made


def _seeds(seed: int | Sequence[int] | None, ids: Tensor) -> Tensor | None:
    if seed is None:
        return None
    given = [seed] * ids.shape[0] if isinstance(seed, int) else list(seed)
    if len(given) != ids.shape[0]:
        raise ValueError(
            f"{len(given)} seeds were given for {ids.shape[0]} rows; give one for each"
        )
    return torch.tensor(given, dtype=torch.int64, device=ids.device)


def _check_sampling(
    kwargs: Mapping[str, Any], seed: object, temperature: float, *filters: float | None
) -> None:
    sampled = temperature != 0 or any(f is not None for f in filters) or kwargs.get("do_sample")
    if sampled and seed is None:
        raise ValueError(
            f"sampling (temperature={temperature}, top_k, top_p, min_p, do_sample) draws random numbers; "
            "pass seed=... for draws that depend on the row alone, or temperature=0.0 for the likeliest token"
        )
    if kwargs.get("do_sample") and temperature == 0:
        raise ValueError("do_sample=True needs a temperature above 0")
    if temperature < 0:
        raise ValueError(f"temperature must be 0 or more, got {temperature}")
