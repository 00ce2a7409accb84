"""A decoder of transformers, called in pieces through a cache, or with padding around its tokens."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bi_inductor.inspection.diff_samples import outputs_of

Model = Callable[..., Any]


def forward_of(model: Any) -> Any:
    """Return what has the signature of a model."""
    return model.forward if isinstance(model, nn.Module) else model


def parameters_of(model: Any) -> frozenset[str]:
    """Return the names of the inputs of a model; nothing where it has no signature."""
    try:
        return frozenset(inspect.signature(forward_of(model)).parameters)
    except (TypeError, ValueError):
        return frozenset()


def in_pieces(fn: Model, model: Any, ids: Tensor, ends: Sequence[int], cache: Any) -> Tensor:
    """Return the first output, ``[batch, length, ...]``, of tokens computed in pieces that end at ``ends``.

    Args:
        fn: ``model``, compiled or as it is.
        ids: ``[batch, length]``.
        cache: an empty cache of transformers.
    """
    parts, start = [], 0
    for end in (*ends, ids.shape[1]):
        given = {"input_ids": ids[:, start:end], "past_key_values": cache, "use_cache": True}
        if "position_ids" in parameters_of(model):
            given["position_ids"] = torch.arange(start, end, device=ids.device)[None]
        (_, out), *_rest = outputs_of(fn, (), given)
        parts.append(out)
        start = end
    return torch.cat(parts, 1)


def padded(fn: Model, model: Any, inputs: Mapping[str, Any], left: int, right: int) -> Tensor:
    """Return the first output of padded tokens: the part that belongs to the tokens, if it has one for each.

    Args:
        fn: ``model``, compiled or as it is.
        inputs: ``input_ids`` [batch, length], maybe ``attention_mask``, and what else the model takes.
        left: tokens of padding in front.
        right: tokens of padding behind.
    """
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    given = {
        **inputs,
        "input_ids": _pad(ids, left, right),
        "attention_mask": _pad(torch.ones_like(ids) if mask is None else mask, left, right),
    }
    if "position_ids" in parameters_of(model):
        # absolute positions belong to the tokens, not to the places that padding moves them to
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        given["position_ids"] = _pad(positions, left, right)
    if "use_cache" in parameters_of(model):
        given["use_cache"] = False
    (_, out), *_rest = outputs_of(fn, (), given)
    if out.shape[1:2] != (left + ids.shape[1] + right,):
        return out
    return out[:, left : left + ids.shape[1]]


def _pad(x: Tensor, left: int, right: int) -> Tensor:
    return nn.functional.pad(x, (left, right))
