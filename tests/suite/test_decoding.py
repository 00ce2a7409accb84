"""A token has the same bits whether computed in a prefill, in chunks or one at a time, padded or not.

One compiled model with dynamic shapes serves a test. Contexts are chosen at the border of a piece of keys.
"""

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache, StaticCache

from bi_inductor.testing import BatchVariantError, assert_batch_invariant
from tests.generation.decoders import in_mode
from tests.rows import bits_equal
from tests.suite.engagement import templates_ran
from tests.zoo import ZOO
from tests.zoo.case import build, tokens

#: keys per piece of the attention plan
PIECE = 512
DECODERS = [name for name, row in ZOO.items() if row.has_cache]


def ids(n):
    return {"input_ids": tokens(n, 24)[0]}


def check(model, batch_invariant, axes, **kwargs):
    batch_invariant(model, ids, axes=axes, batch_sizes=(1, 2), dynamic=True, seed=1, **kwargs)
    templates_ran()


def test_pieces_change_no_bit(batch_invariant, device):
    """Prefill = chunks = decode. Gemma has layers that see all keys, and layers with a sliding window."""
    axis = {"axes": ("cache",), "batch_sizes": (1, 2), "seed": 1, "backend": "eager"}
    batch_invariant(in_mode(build(ZOO["gemma3"]).model.to(device)), ids, **axis)
    stock = build(ZOO["gemma3"]).model
    with pytest.raises(BatchVariantError):
        assert_batch_invariant(stock, ids, **axis, devices=(device,), explain=False)


def test_padding_changes_no_bit(batch_invariant):
    check(one_layer(), batch_invariant, ("padding",))


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_through_its_cache(name, dtype, batch_invariant):
    check(build(ZOO[name]).model, batch_invariant, ("cache",), dtypes=(dtype,))


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_behind_padding(name, dtype, batch_invariant):
    check(build(ZOO[name]).model, batch_invariant, ("padding",), dtypes=(dtype,))


def one_layer(**settings):
    row = ZOO["llama"]
    settings = {**row.settings, **settings, "num_hidden_layers": 1}
    return build(replace(row, settings=settings)).model


def test_contexts_that_cross_the_border_of_a_piece(device):
    """-1, 0 and +1 around the first two borders: the token there by decode, by chunk and by prefill."""
    length = 2 * PIECE + 4

    def model():
        return one_layer(max_position_embeddings=length + 40).to(device)

    uncompiled, config = in_mode(model()), model().config
    compiled = torch.compile(model(), backend="batch_invariant", dynamic=True)
    torch.manual_seed(1)
    text = tokens(1, length)[0].to(device)

    def logits(fn, ends, cache):
        parts, start = [], 0
        for end in ends:
            positions = torch.arange(start, end, device=device)[None]
            with torch.no_grad():
                out = fn(
                    input_ids=text[:, start:end], position_ids=positions, past_key_values=cache, use_cache=True
                )  # fmt: skip
            parts.append(out.logits)
            start = end
        return torch.cat(parts, 1)

    whole = logits(compiled, (length,), DynamicCache(config=config))
    for border in (PIECE, 2 * PIECE):
        for at in (border - 1, border, border + 1):
            # graphs: a chunk behind keys; a prefill into a static cache; a token behind keys in a static cache
            steps, capacity = (at, at + 1, at + 2), length + at % 3
            for fn, ends, cache in (
                (compiled, (at - 3, at + 2), DynamicCache(config=config)),
                (compiled, steps, StaticCache(config=config, max_cache_len=capacity)),
                (uncompiled, steps, DynamicCache(config=config)),
            ):
                assert bits_equal(logits(fn, ends, cache), whole[:, : at + 2]), (at, ends, cache)
    templates_ran()
