"""Continuous batching of transformers with our attention: ``model.generate_batch`` and its manager.

The engine packs the tokens of all requests into one row and keeps their keys in pages. ``prepare`` compiles what
works token by token and gives attention to ``paged_attention``: the pages of a request are gathered into keys
counted from its own first one, so the split borders are those of the request alone.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import flash_attention_mask

from bi_inductor import templates as t
from bi_inductor._torch import OWN_CALL
from bi_inductor.direct import plan_numbers

#: "flash" in the name tells the engine to hand over sequence borders instead of a mask over all pages
ATTENTION = "batch_invariant_flash"


def prepare(model: PreTrainedModel, backend: str | None = "batch_invariant") -> PreTrainedModel:
    """Make a decoder ready for continuous batching; changes the model and returns it.

    Args:
        model: a causal language model of the Llama shape: ``model.model.layers``, ``.norm``, ``.rotary_emb`` and
            ``model.lm_head``.
        backend: compiles each of these; None leaves them as they are (the attention is ours all the same).

    Raises:
        ValueError: a part is missing.

    On a GPU the engine records CUDA graphs by itself, and they may: no part of a step waits for the device.
    """
    layers, others = _parts(model)
    compiled = [*layers, *others]
    AttentionInterface.register(ATTENTION, paged_attention)
    AttentionMaskInterface.register(ATTENTION, flash_attention_mask)
    # set_attn_implementation would look for a kernel package of this name
    model.config._attn_implementation = ATTENTION
    if backend is not None:
        for module in compiled:
            # forward, not the module: Dynamo skips the frame of a bare torch.nn module
            module.forward = torch.compile(module.forward, backend=backend, dynamic=True)
    for layer in layers:
        layer.forward = _aside(layer.forward)
    model.train(False)
    return model


#: what the engine says about the step, by thread
_STEP = threading.local()


def _aside(block: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Hand the engine's borders and indices past the compiled block: it would recompile for their sizes."""

    def forward(hidden: Tensor, position_embeddings: Any = None, **engine: Any) -> Tensor:
        _STEP.engine = engine
        return block(hidden, position_embeddings=position_embeddings)

    return forward


def _parts(model: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    decoder = getattr(model, "model", None)
    found = {name: getattr(decoder, name, None) for name in ("layers", "norm", "rotary_emb")}
    found["lm_head"] = getattr(model, "lm_head", None)
    missing = [name for name, module in found.items() if module is None]
    if missing:
        raise ValueError(
            f"{type(model).__name__} has no {', '.join(missing)}; compile its parts yourself and call "
            "bi_inductor.serving.prepare(model, backend=None)"
        )
    layers = found.pop("layers")
    assert isinstance(layers, nn.ModuleList)
    return list(layers), [module for module in found.values() if module is not None]


# the cache is written in place, through views that a graph cannot hold
@torch.compiler.disable(reason=OWN_CALL)
def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of packed requests over transformers' paged cache.

    Args:
        module: the attention layer; its ``layer_idx`` selects the pages.
        query: ``[1, H, tokens, D]``; key and value ``[1, Hk, tokens, D]``, this step's tokens of all requests.
        attention_mask: None; the borders are in ``cu_seq_lens_q`` and ``cu_seq_lens_k``.
        dropout: 0.
        scaling: default ``1 / sqrt(D)``.
        sliding_window: keys that a token sees, itself included; None for all.
        softcap: None.
        kwargs: the engine's ``cache``, borders and indices, unless they came past the compiled block.

    Returns:
        ``[1, tokens, H, D]`` and None; padding tokens behind the last request get 0.

    Raises:
        ValueError: there is no paged cache, or a mask, dropout or softcap is asked for.
    """
    engine = {**getattr(_STEP, "engine", {}), **kwargs}
    cache = engine.pop("cache", None)
    if cache is None:
        raise ValueError(
            f"attention {ATTENTION!r} was called without a paged cache; it serves model.generate_batch. For "
            'model.generate and forward call model.set_attn_implementation("sdpa")'
        )
    if attention_mask is not None or dropout or softcap is not None or hasattr(module, "sinks"):
        raise ValueError(
            f"attention {ATTENTION!r} has no mask, dropout, softcap or attention sinks"
        )
    key, value = cache.update(key, value, module.layer_idx, engine)
    numbers = plan_numbers(t.Attention, query, (query.shape[-1], None))
    ends = engine["cu_seq_lens_q"], engine["cu_seq_lens_k"]
    packed = _packed_attention(query.device.type)
    if packed is None:
        return _one_by_one(query, key, value, *ends, scaling, sliding_window, numbers), None
    out: Tensor = packed(
        *(query, key, value, *ends),
        longest=engine.get("max_length_k"),
        window=sliding_window,
        scale=scaling,
        **numbers,
    )
    return out, None


@functools.cache
def _packed_attention(device: str) -> Callable[..., Tensor] | None:
    from lowerings.table import packed_attention_of

    return packed_attention_of(device)


def _one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    q_borders: Tensor,
    k_borders: Tensor,
    scaling: float | None,
    window: int | None,
    numbers: dict[str, int],
) -> Tensor:
    """A call of the op for each request, with its borders read by the host."""
    q_ends, k_ends = q_borders.tolist(), k_borders.tolist()
    out = torch.zeros_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    for i in range(len(q_ends) - 1):
        q_span, k_span = slice(q_ends[i], q_ends[i + 1]), slice(k_ends[i], k_ends[i + 1])
        queries, keys = q_span.stop - q_span.start, k_span.stop - k_span.start
        if queries == 0:
            continue
        mask = _mask(queries, keys, window, query.device)
        one, _lse = torch.ops.bi_inductor.attention(
            query[:, :, q_span],
            key[:, :, k_span],
            value[:, :, k_span],
            mask,
            scale=scaling,
            is_causal=mask is None and queries > 1,
            **numbers,
        )
        out[:, q_span] = one.transpose(1, 2)
    return out


def _mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor | None:
    """Return the bool mask of one request ``[queries, keys]``, None where causality alone says it."""
    span = None if window is None or keys <= window else window
    if span is None and queries in (1, keys):
        return None
    last = torch.arange(keys - queries, keys, device=device)[:, None]
    place = torch.arange(keys, device=device)
    mask = place <= last
    return mask if span is None else mask & (place > last - span)
