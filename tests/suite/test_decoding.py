"""A token has the same bits whether computed in a prefill, in chunks or one at a time, padded or not.

One compiled model with dynamic shapes serves all of it. Contexts are chosen at the border of a piece of keys.
"""

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from tests.rows import bits_equal
from tests.suite.engagement import templates_ran
from tests.zoo import ZOO
from tests.zoo.case import build, tokens

#: keys per piece of the attention plan
PIECE = 512
DECODERS = [name for name, row in ZOO.items() if row.has_cache]


def ids(n):
    return {"input_ids": tokens(n, 24)[0]}


def check(name, batch_invariant, axes, **kwargs):
    model = build(ZOO[name]).model
    batch_invariant(model, ids, axes=axes, batch_sizes=(1, 2), dynamic=True, seed=1, **kwargs)
    templates_ran()


@pytest.mark.parametrize(
    ("name", "axes"),
    # gemma3 has layers that see all keys, and layers with a sliding window
    [("gemma3", ("cache",)), ("llama", ("padding",))],
    ids=["gemma3", "llama"],
)
def test_pieces_and_padding_change_no_bit(name, axes, batch_invariant):
    """Prefill = chunks = decode, and the same behind padding."""
    check(name, batch_invariant, axes)


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_through_its_cache(name, dtype, batch_invariant):
    check(name, batch_invariant, ("cache",), dtypes=(dtype,))


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_behind_padding(name, dtype, batch_invariant):
    check(name, batch_invariant, ("padding",), dtypes=(dtype,))


def long_llama(length):
    row = ZOO["llama"]
    settings = {**row.settings, "max_position_embeddings": length, "num_hidden_layers": 1}
    return build(replace(row, settings=settings)).model


def test_contexts_that_cross_the_border_of_a_piece(device):
    """-1, 0 and +1 around the first two borders: the token there by decode, by chunk and by prefill."""
    model = long_llama(2 * PIECE + 8).to(device)
    torch.manual_seed(1)
    text = tokens(1, 2 * PIECE + 4)[0].to(device)
    fn = torch.compile(model, backend="batch_invariant", dynamic=True)

    def logits(ends):
        cache, parts, start = DynamicCache(config=model.config), [], 0
        for end in ends:
            positions = torch.arange(start, end, device=device)[None]
            with torch.no_grad():
                out = fn(
                    input_ids=text[:, start:end], position_ids=positions, past_key_values=cache, use_cache=True
                )  # fmt: skip
            parts.append(out.logits)
            start = end
        return torch.cat(parts, 1)

    whole = logits((text.shape[1],))
    for border in (PIECE, 2 * PIECE):
        for at in (border - 1, border, border + 1):
            assert bits_equal(logits((at, at + 1, at + 2)), whole[:, : at + 2]), at
