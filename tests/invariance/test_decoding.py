"""A token has the same bits whether computed in a prefill, in chunks, or one at a time, padded or not."""

import pytest
import torch
from transformers import DynamicCache, StaticCache

from tests import models
from tests.rows import bits_equal


def runner(model, dynamic=True):
    fn = torch.compile(model, backend="batch_invariant", dynamic=dynamic)

    def run(**kwargs):
        with torch.no_grad():
            return fn(**kwargs).logits

    return run


def in_chunks(run, model, ids, cuts, cache):
    parts, start = [], 0
    for end in (*cuts, ids.shape[1]):
        positions = torch.arange(start, end)[None]
        parts.append(
            run(
                input_ids=ids[:, start:end],
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        )
        start = end
    return torch.cat(parts, 1)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_prefill_chunks_and_decode_agree(name):
    case = models.make(name)
    ids = models.tokens(2, 24)[0]
    run = runner(case.model)
    whole = in_chunks(run, case.model, ids, (), DynamicCache(config=case.model.config))
    for cuts in ((9, 10, 17), tuple(range(20, 24))):
        cache = DynamicCache(config=case.model.config)
        assert bits_equal(in_chunks(run, case.model, ids, cuts, cache), whole), cuts


def test_a_longer_static_cache_changes_no_bit():
    case = models.make("llama")
    ids = models.tokens(2, 12)[0]
    run = runner(case.model)
    results = [
        in_chunks(
            run, case.model, ids, (11,), StaticCache(config=case.model.config, max_cache_len=length)
        )
        for length in (16, 64)
    ]
    assert bits_equal(*results)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("padding", [1, 5, 16])
def test_padding_changes_no_bit(side, padding):
    case = models.make("llama")
    ids = models.tokens(1, 12)[0]
    run = runner(case.model)
    positions = torch.arange(12)[None]
    alone = run(
        input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions, use_cache=False
    )
    pads = torch.zeros(1, padding, dtype=torch.int64)
    order = (
        (lambda a, b: torch.cat([b, a], 1))
        if side == "left"
        else (lambda a, b: torch.cat([a, b], 1))
    )
    padded = run(
        input_ids=order(ids, pads),
        attention_mask=order(torch.ones_like(ids), pads),
        position_ids=order(positions, pads),
        use_cache=False,
    )
    real = slice(padding, None) if side == "left" else slice(0, 12)
    assert bits_equal(padded[:, real], alone)
