"""Log-probabilities of generated tokens equal those of one forward over the finished text, bit for bit."""

import torch

from bi_inductor.direct import softmax
from bi_inductor.generation import generate
from tests.generation.decoders import compiled, decoder, padded, prompts

NEW = 12


def sampled_and_scored(model):
    """Log-probabilities ``[rows, NEW, vocab]`` as the sampler saw them, and from one forward over the text."""
    ids, mask = padded(prompts(9, 4, 505))
    with torch.no_grad():
        out = generate(
            model,
            ids,
            mask,
            seeds=[1, 2, 3],
            max_new_tokens=NEW,
            output_logits=True,
            return_dict_in_generate=True,
        )
        mask = torch.cat([mask, mask.new_ones(len(ids), NEW)], 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        scored = model(
            input_ids=out.sequences, attention_mask=mask, position_ids=positions, use_cache=False
        ).logits[:, -NEW - 1 : -1]
    return [softmax(x.float(), log=True) for x in (torch.stack(out.logits, 1), scored)]


def test_sampler_and_scorer_agree_bit_for_bit():
    sampled, scored = sampled_and_scored(compiled(decoder()))
    assert torch.equal(sampled, scored)


def test_stock_torch_fails_on_the_same_text():
    sampled, scored = sampled_and_scored(compiled(decoder(), backend="inductor"))
    assert not torch.equal(sampled, scored), "control too weak"
