"""``model.generate`` of transformers for requests of unequal length: inputs checked, padding moved to the left.

The compiled forward is exact for any padding; ``generate`` itself is not: it reads the first new token at the last
column, so a prompt padded on the right would continue its padding. ``left_pad`` moves the tokens, and the rest is
transformers' own loop.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_SAMPLING = ("temperature", "top_k", "top_p", "min_p")


def left_pad(input_ids: Tensor, attention_mask: Tensor, pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Move the tokens of each row to its right end, in order, whatever padding or holes were between them.

    Args:
        input_ids: int64 ``[rows, length]``.
        attention_mask: ``[rows, length]``, nonzero on real tokens.
        pad_token_id: fills the left.

    Returns:
        ids and mask ``[rows, longest row]``, both int64.

    Raises:
        ValueError: no rows, shapes that differ, or a row without a token.
    """
    if input_ids.dim() != 2 or attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"input_ids {tuple(input_ids.shape)} and attention_mask {tuple(attention_mask.shape)} must both be "
            "[rows, length]"
        )
    if input_ids.numel() == 0:
        raise ValueError(
            f"input_ids {tuple(input_ids.shape)} holds no token; give at least one prompt"
        )
    real = attention_mask != 0
    lengths = real.sum(1)
    if not bool(lengths.all()):
        rows = (lengths == 0).nonzero().flatten().tolist()
        raise ValueError(f"rows {rows} are all padding; give every prompt at least one token")
    # a stable sort of 0 (padding) and 1 (token) keeps the tokens in order
    order = real.long().sort(dim=1, stable=True).indices[:, -int(lengths.max()) :]
    mask = real.gather(1, order)
    return input_ids.gather(1, order).masked_fill(~mask, pad_token_id), mask.long()


def generate(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    seeds: Sequence[int] | None = None,
    **kwargs: Any,
) -> Any:
    """Run ``model.generate`` so that each row gives what it gives alone, in tokens and logits.

    Args:
        model: a transformers model whose ``forward`` was compiled with ``backend="batch_invariant"``.
        input_ids: int64 ``[rows, length]``, padded on any side.
        attention_mask: ``[rows, length]``; needed when rows are padded. Without it every token is real.
        seeds: one per row to sample; None decodes greedily.
        kwargs: as for ``model.generate``; ``temperature``, ``top_k``, ``top_p`` and ``min_p`` want ``seeds``.

    Returns:
        What ``model.generate`` returns; the prompt part of a row is padded on the left.

    Raises:
        ValueError: a row without tokens, no pad token for rows of unequal length, beam or contrastive search, a
            cache shorter than prompt and answer, or sampling without seeds.
    """
    _refuse_search(model, kwargs)
    settings = {name: kwargs.pop(name) for name in _SAMPLING if name in kwargs}
    if seeds is None and (settings or kwargs.get("do_sample")):
        raise ValueError(
            f"sampling ({', '.join(settings) or 'do_sample'}) without seeds draws from one stream for the batch; "
            "give seeds, one per row, or leave sampling out"
        )
    config = kwargs.get("generation_config") or model.generation_config
    pad = kwargs.get("pad_token_id", config.pad_token_id)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if pad is None and (not bool(mask.all()) or len(input_ids) > 1):
        raise ValueError(
            "the model has no pad token, and rows end at different steps; give pad_token_id=..., for instance "
            "the end-of-sequence token"
        )
    ids, mask = left_pad(input_ids, mask, 0 if pad is None else pad)
    _check_capacity(ids.shape[1], config, kwargs)
    if seeds is not None:
        from bi_inductor.sampling.transformers import SeededSampling

        processors = list(kwargs.pop("logits_processor", None) or [])
        kwargs["logits_processor"] = [*processors, SeededSampling(seeds, mask, **settings)]
    kwargs["do_sample"] = False
    return model.generate(input_ids=ids, attention_mask=mask, **kwargs)


def _refuse_search(model: Any, kwargs: dict[str, Any]) -> None:
    config = kwargs.get("generation_config") or model.generation_config
    for name, plain in (("num_beams", 1), ("penalty_alpha", 0), ("num_return_sequences", 1)):
        value = kwargs.get(name, getattr(config, name, None))
        if value is not None and value != plain:
            raise ValueError(
                f"{name}={value}: beam and contrastive search and several returned sequences compare rows with "
                "each other; repeat the prompt with a seed for each answer instead"
            )


def _check_capacity(prompt: int, config: Any, kwargs: dict[str, Any]) -> None:
    cache = kwargs.get("past_key_values")
    new = kwargs.get("max_new_tokens") or config.max_new_tokens or 0
    for layer in getattr(cache, "layers", ()):
        # -1 grows without end; a sliding layer forgets what it has to
        limit = layer.get_max_length()
        if not getattr(layer, "is_sliding", False) and 0 <= limit < prompt + new:
            raise ValueError(
                f"the prompt of {prompt} tokens and {new} new ones do not fit the cache of {limit}; make it longer"
            )
