"""A token has the same bits whether computed in a prefill, in chunks, or one at a time, padded or not."""

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


def test_prefill_chunks_and_decode_agree():
    case = models.make("llama")
    ids = models.tokens(2, 24)[0]
    run = runner(case.model)
    whole = in_chunks(run, case.model, ids, (), DynamicCache(config=case.model.config))
    for cuts in ((9, 10, 17), (20, 21, 22, 23)):
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


def test_padding_changes_no_bit():
    case = models.make("llama")
    ids = models.tokens(1, 12)[0]
    run = runner(case.model)
    positions = torch.arange(12)[None]

    def logits(left: int, right: int) -> torch.Tensor:
        def pad(x, value):
            return torch.nn.functional.pad(x, (left, right), value=value)

        out = run(
            input_ids=pad(ids, 0),
            attention_mask=pad(torch.ones_like(ids), 0),
            position_ids=pad(positions, 0),
            use_cache=False,
        )
        return out[:, left : left + 12]

    alone = logits(0, 0)
    for left, right in ((1, 0), (5, 0), (16, 0), (0, 1), (0, 5), (0, 16), (3, 4)):
        assert bits_equal(logits(left, right), alone), (left, right)
