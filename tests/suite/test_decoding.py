"""A token has the same bits whether computed in a prefill, in chunks or one at a time, padded or not.

One compiled model with dynamic shapes serves all of it. Contexts are chosen at the border of a piece of keys.
"""

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache, StaticCache

from tests.rows import bits_equal
from tests.zoo import ZOO
from tests.zoo.case import VOCAB, build

#: keys per piece of the attention plan
PIECE = 512


def runner(model):
    fn = torch.compile(model, backend="batch_invariant", dynamic=True)

    def run(**kwargs):
        with torch.no_grad():
            return fn(**kwargs).logits

    return run


def long_llama(length):
    row = ZOO["llama"]
    settings = {**row.settings, "max_position_embeddings": length, "num_hidden_layers": 1}
    return build(replace(row, settings=settings)).model


def tokens(n, length):
    torch.manual_seed(1)
    return torch.randint(3, VOCAB, (n, length))


def in_chunks(run, ids, cuts, cache):
    parts, start = [], 0
    for end in (*cuts, ids.shape[1]):
        positions = torch.arange(start, end)[None]
        parts.append(
            run(
                input_ids=ids[:, start:end], position_ids=positions, past_key_values=cache,
                use_cache=True,
            )
        )  # fmt: skip
        start = end
    return torch.cat(parts, 1)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_prefill_chunks_and_decode_agree(name):
    model = build(ZOO[name]).model
    ids = tokens(2, 24)
    run = runner(model)
    whole = in_chunks(run, ids, (), DynamicCache(config=model.config))
    for cuts in ((9, 10, 17), (20, 21, 22, 23)):
        assert bits_equal(in_chunks(run, ids, cuts, DynamicCache(config=model.config)), whole), cuts


def test_contexts_that_cross_the_border_of_a_piece():
    """-1, 0 and +1 around the first two borders: the token there by decode, by chunk and by prefill."""
    model = long_llama(2 * PIECE + 8)
    ids = tokens(1, 2 * PIECE + 4)
    run = runner(model)
    whole = in_chunks(run, ids, (), DynamicCache(config=model.config))
    for border in (PIECE, 2 * PIECE):
        for at in (border - 1, border, border + 1):
            cache = DynamicCache(config=model.config)
            parts = in_chunks(run, ids[:, : at + 2], (at, at + 1), cache)
            assert bits_equal(parts, whole[:, : at + 2]), at


def test_a_longer_static_cache_changes_no_bit():
    model = build(ZOO["llama"]).model
    ids = tokens(2, 12)
    run = runner(model)
    results = [
        in_chunks(run, ids, (11,), StaticCache(config=model.config, max_cache_len=length))
        for length in (16, 64)
    ]
    assert bits_equal(*results)


def test_padding_changes_no_bit():
    model = build(ZOO["llama"]).model
    ids = tokens(1, 12)
    run = runner(model)
    positions = torch.arange(12)[None]

    def logits(left, right):
        def pad(x, value):
            return torch.nn.functional.pad(x, (left, right), value=value)

        out = run(
            input_ids=pad(ids, 0), attention_mask=pad(torch.ones_like(ids), 0),
            position_ids=pad(positions, 0), use_cache=False,
        )  # fmt: skip
        return out[:, left : left + 12]

    alone = logits(0, 0)
    for left, right in ((1, 0), (5, 0), (16, 0), (0, 1), (0, 5), (0, 16), (3, 4)):
        assert bits_equal(logits(left, right), alone), (left, right)
