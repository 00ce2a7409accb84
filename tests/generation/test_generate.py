"""``model.generate``: each request of a padded batch against the request alone, tokens and logits, raw bits."""

import pytest
import torch
from transformers import StaticCache

import bi_inductor
from bi_inductor.generation import generate, left_pad
from tests.generation.decoders import compiled, decoder, in_mode, padded, prompts

#: together they cross the CPU's split of 512 keys, in the prompt or while decoding
LENGTHS = (508, 3, 530)
NEW = 8


def answers(model, rows, side="left", **kwargs):
    ids, mask = padded(rows, side)
    out = generate(
        model,
        ids,
        mask,
        max_new_tokens=NEW,
        output_logits=True,
        return_dict_in_generate=True,
        **kwargs,
    )
    return out.sequences[:, -NEW:], torch.stack(out.logits, 1)


def rows_that_differ(model, side="left", alone_by=None, seeds=None, **kwargs):
    """Requests that ``model`` answers otherwise in a batch than alone.

    ``alone_by``: another form of the model computes them alone, without ``kwargs``.
    """
    rows = prompts(*LENGTHS)
    tokens, logits = answers(model, rows, side, **kwargs, **({"seeds": seeds} if seeds else {}))
    different = []
    for i, row in enumerate(rows):
        own = {} if alone_by else dict(kwargs)
        if seeds:
            own["seeds"] = seeds[i : i + 1]
        alone, alone_logits = answers(alone_by or model, [row], side, **own)
        if not (torch.equal(alone[0], tokens[i]) and torch.equal(alone_logits[0], logits[i])):
            different.append(i)
    return different


def test_padded_requests_equal_themselves_alone():
    torch.compiler.reset()
    model = compiled(decoder())
    assert rows_that_differ(model) == []
    certificate = bi_inductor.certificate()
    assert certificate.is_invariant
    assert "split_size=512" in certificate.graphs[0].plan, "no attention template ran"
    # the same compiled graphs: padding on the right, seeds
    assert rows_that_differ(model, side="right") == []
    assert rows_that_differ(model, seeds=[5, 6, 7], temperature=1.5, top_p=0.95) == []
    assert len(bi_inductor.certificate().graphs) == len(certificate.graphs)
    # what was compiled against the eager mode with another cache
    static = {"cache_implementation": "static", "disable_compile": True}
    assert rows_that_differ(in_mode(decoder()), alone_by=model, **static) == []


def test_torch_kernels_fail_on_the_same_requests():
    assert rows_that_differ(decoder()), "control too weak"


def test_a_sliding_window_moves_no_split():
    # the window itself is longer than a split
    def mistral():
        return decoder("mistral", window=520)

    model = compiled(mistral())
    assert rows_that_differ(model, alone_by=in_mode(mistral())) == []
    assert "split_size=512" in bi_inductor.certificate().graphs[0].plan, "no template ran"


def test_holes_and_sides_of_padding_are_the_same_request():
    ids = torch.tensor([[0, 5, 0, 6, 7, 0], [1, 2, 3, 0, 0, 0]])
    mask = torch.tensor([[0, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0]])
    moved, moved_mask = left_pad(ids, mask, 9)
    assert moved.tolist() == [[5, 6, 7], [1, 2, 3]]
    assert moved_mask.all()
    moved, moved_mask = left_pad(ids[:, :4], mask[:, :4], 9)
    assert moved.tolist() == [[9, 5, 6], [1, 2, 3]]
    assert moved_mask.tolist() == [[0, 1, 1], [1, 1, 1]]


ROW = torch.ones(1, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("ids", "kwargs", "message"),
    [
        (ROW[:0], {}, "holds no token"),
        (ROW[:, :0], {}, "holds no token"),
        (ROW, {"attention_mask": ROW * 0}, r"rows \[0\] are all padding"),
        (ROW, {"attention_mask": ROW[:, :2]}, "must both be"),
        (ROW, {"num_beams": 2}, "num_beams=2"),
        (ROW, {"penalty_alpha": 0.6}, "penalty_alpha"),
        (ROW, {"temperature": 0.5}, "without seeds"),
        (ROW, {"do_sample": True}, "without seeds"),
        (ROW, {"seeds": [1, 2]}, "2 seeds for 1 prompts"),
        (ROW.expand(2, -1), {"pad_token_id": None}, "no pad token"),
    ],
)
def test_bad_requests_are_refused(ids, kwargs, message):
    with pytest.raises(ValueError, match=message):
        generate(decoder(), ids, **kwargs)


def test_a_prompt_longer_than_the_cache_is_refused():
    model = decoder()
    cache = StaticCache(config=model.config, max_cache_len=8)
    with pytest.raises(ValueError, match="do not fit the cache of 8"):
        generate(model, torch.ones(1, 6, dtype=torch.long), past_key_values=cache, max_new_tokens=3)
