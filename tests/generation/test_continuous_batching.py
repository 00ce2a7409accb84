"""transformers' continuous batching: one prompt many times among random traffic has one answer, log-probabilities too."""

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

import bi_inductor
from bi_inductor import serving
from bi_inductor.sampling.transformers import PerRequestSampling
from tests.generation.decoders import decoder, prompts

CONFIG = {
    "page_size": 32,
    "num_blocks": 96,
    "max_batch_tokens": 256,
    "max_requests_per_batch": 16,
    "return_logprobs": True,
    "use_async_batching": False,
    "auto_switch_to_flash": False,
}
NEW = 6
#: longer than one split and than one step of the engine, so that it is prefilled in chunks
PROMPT = prompts(530)[0][0].tolist()
TRAFFIC = [p[0].tolist() for p in prompts(530, 1, 17, 90, 33, 5, 64, 7)[1:]]


def answers(model, requests):
    out = model.generate_batch(
        requests,
        generation_config=GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=-1),
        continuous_batching_config=ContinuousBatchingConfig(**CONFIG),
        warmup=False,
    )
    assert all(o.error is None for o in out.values())
    return [
        (tuple(o.generated_tokens), tuple(o.logprobs))
        for o in out.values()
        if o.prompt_ids == PROMPT
    ]


def distinct(model):
    alone = answers(model, [PROMPT])
    among = answers(model, [PROMPT, *TRAFFIC, PROMPT, PROMPT, *TRAFFIC[::-1], PROMPT])
    assert (len(alone), len(among)) == (1, 4)
    return len({*alone, *among})


def test_one_prompt_has_one_answer_in_any_traffic():
    torch.compiler.reset()
    assert distinct(serving.prepare(decoder(layers=2))) == 1
    certificate = bi_inductor.certificate()
    assert certificate.is_invariant
    assert "Matmul" in "".join(g.plan for g in certificate.graphs), "no template ran"


def test_torch_kernels_fail_on_the_same_traffic():
    assert distinct(decoder(layers=2)) > 1, "control too weak"


def test_a_seed_gives_one_answer_in_any_traffic():
    model = serving.prepare(decoder(), backend=None)

    def tokens(requests):
        manager = model.init_continuous_batching(
            generation_config=GenerationConfig(
                max_new_tokens=NEW, do_sample=False, eos_token_id=-1
            ),
            continuous_batching_config=ContinuousBatchingConfig(**CONFIG),
        )
        PerRequestSampling(temperature=1.3, top_k=40).install(manager)
        manager.start()
        try:
            names = {manager.add_request(ids, seed=seed): seed for ids, seed in requests}
            out = [manager.get_result(timeout=120) for _ in requests]
        finally:
            manager.stop(block=True)
        return {names[o.request_id]: o.generated_tokens for o in out}

    short = TRAFFIC[2]
    together = tokens([(short, seed) for seed in range(6)])
    assert len({tuple(t) for t in together.values()}) > 1, "the seed is not used"
    assert tokens([(short, 3)])[3] == together[3]


@pytest.mark.parametrize(("queries", "keys"), [(1, 700), (9, 9), (40, 700), (700, 700)])
@pytest.mark.parametrize("window", [None, 520])
def test_paged_attention_equals_attention_over_contiguous_keys(queries, keys, window):
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(1, 4, queries, 16),
        torch.randn(1, 2, keys, 16),
        torch.randn(1, 2, keys, 16),
    )
    noise = torch.randn(1, 2, 77, 16)

    class Cache:
        """Two requests in one row, ours second: what a paged cache returns after its gather."""

        def update(self, key, value, layer_idx, kwargs):
            return torch.cat([noise, k], 2), torch.cat([noise, v], 2)

    layer = torch.nn.Module()
    layer.layer_idx = 0
    packed = torch.cat([torch.randn(1, 4, 3, 16), q], 2)
    out, _ = serving.paged_attention(
        layer,
        packed,
        k,
        v,
        None,
        sliding_window=window,
        cache=Cache(),
        cu_seq_lens_q=torch.tensor([0, 3, 3 + queries]),
        cu_seq_lens_k=torch.tensor([0, 77, 77 + keys]),
    )
    last = torch.arange(keys - queries, keys)[:, None]
    mask = torch.arange(keys) <= last
    if window is not None:
        mask &= torch.arange(keys) > last - window
    alone, _lse = torch.ops.bi_inductor.attention(q, k, v, mask, split_size=512)
    assert torch.equal(out[:, 3:], alone.transpose(1, 2))


def test_attention_without_a_cache_says_what_to_do():
    x = torch.randn(1, 2, 3, 16)
    with pytest.raises(ValueError, match="set_attn_implementation"):
        serving.paged_attention(torch.nn.Module(), x, x, x, None)


def test_a_model_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="has no layers, norm, rotary_emb, lm_head"):
        serving.prepare(torch.nn.Linear(2, 2))
