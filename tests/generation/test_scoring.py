"""Log-probabilities of generated tokens equal those of one forward over the finished text, bit for bit."""

import torch

from bi_inductor.direct import softmax
from bi_inductor.generation import generate
from tests.generation.decoders import compiled, decoder, in_mode, padded, prompts
from tests.suite.engagement import templates_ran

NEW = 12


def sampled_and_scored(sampler, scorer):
    """Log-probabilities ``[rows, NEW, vocab]`` as the sampler saw them, and from one forward over the text."""
    ids, mask = padded(prompts(9, 4, 505))
    with torch.no_grad():
        out = generate(
            sampler,
            ids,
            mask,
            seeds=[1, 2, 3],
            max_new_tokens=NEW,
            output_logits=True,
            return_dict_in_generate=True,
        )
        mask = torch.cat([mask, mask.new_ones(len(ids), NEW)], 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        scored = scorer(
            input_ids=out.sequences, attention_mask=mask, position_ids=positions, use_cache=False
        ).logits[:, -NEW - 1 : -1]
    return [softmax(x.float(), log=True) for x in (torch.stack(out.logits, 1), scored)]


def test_sampler_and_scorer_agree_bit_for_bit():
    """The sampler in the eager mode, which ``test_generate`` compares with the compiled one."""
    sampled, scored = sampled_and_scored(in_mode(decoder()), compiled(decoder()))
    assert torch.equal(sampled, scored)
    templates_ran()


def test_torch_kernels_fail_on_the_same_text():
    model = decoder()
    sampled, scored = sampled_and_scored(model, model)
    assert not torch.equal(sampled, scored), "control too weak"
