"""Log-probabilities of served tokens: the model's own, the same in any traffic, and those of one forward pass."""

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.requests import RequestState

from bi_inductor import serving
from bi_inductor.direct import softmax
from bi_inductor.generation import generate
from bi_inductor.sampling import token_logprobs
from bi_inductor.sampling.transformers import PerRequestSampling
from tests.generation.decoders import decoder, in_mode, prompts

NEW = 6
#: prefilled in chunks of the engine's 256 tokens, and longer than one split
PROMPT, *TRAFFIC = (p[0].tolist() for p in prompts(530, 1, 17, 90, 33, 5))
ENGINE = {
    "page_size": 32,
    "num_blocks": 96,
    "max_batch_tokens": 256,
    "max_requests_per_batch": 8,
    "use_async_batching": False,
    "auto_switch_to_flash": False,
}


def manager_of(model, **engine):
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=-1),
        continuous_batching_config=ContinuousBatchingConfig(**ENGINE | engine),
    )
    PerRequestSampling().install(manager)
    return manager


def outputs(model, requests, **engine):
    """The outputs of ``(prompt, settings)`` requests, in their order."""
    manager = manager_of(model, **engine)
    manager.start()
    try:
        names = [
            manager.add_request(ids, max_new_tokens=NEW, **settings) for ids, settings in requests
        ]
        made = {o.request_id: o for o in (manager.get_result(timeout=500) for _ in requests)}
    finally:
        manager.stop(block=True)
    return [made[name] for name in names]


ASKED = {"seed": 7, "temperature": 0.8, "logprobs": 3}


def served(model):
    """Tokens and notes of one request: alone, and at three places among traffic."""
    among = [(ids, {"seed": i, "temperature": 1.0}) for i, ids in enumerate(TRAFFIC)]
    requests = [(PROMPT, ASKED), *among, (PROMPT, ASKED), *among[::-1], (PROMPT, ASKED)]
    made = [*outputs(model, [(PROMPT, ASKED)]), *outputs(model, requests)]
    assert all(o.error is None for o in made)
    return [(o.generated_tokens, o.logprobs) for o in made if o.prompt_ids == PROMPT]


def distinct(answers):
    return len({(tuple(tokens), tuple(notes)) for tokens, notes in answers})


@pytest.fixture(autouse=True)
def _clean():
    """No reset of Dynamo: the model of all tests keeps what it compiled."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def ours():
    torch.compiler.reset()
    return serving.prepare(decoder())


def test_a_request_has_one_list_of_logprobs_and_they_are_those_of_generate_and_of_one_forward(ours):
    answers = served(ours)
    assert len(answers) == 4
    assert distinct(answers) == 1
    tokens, notes = answers[0]
    assert [n.token for n in notes] == tokens
    assert all(n.logprob < 0 and len(n.top) == 3 for n in notes)

    model, ids = in_mode(decoder()), torch.tensor([PROMPT])
    with torch.no_grad():
        out = generate(
            model, ids, seeds=[7], temperature=0.8, max_new_tokens=NEW, pad_token_id=0,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        scored = model(input_ids=out.sequences, use_cache=False).logits[0, -NEW - 1 : -1]
    assert out.sequences[0, -NEW:].tolist() == tokens
    for logits in (torch.cat(out.logits), scored):
        assert token_logprobs(logits, torch.tensor(tokens), [3] * NEW) == notes


def test_torch_kernels_fail_on_the_same_traffic():
    assert distinct(served(serving.prepare(decoder(), backend=None))) > 1, "control too weak"


def test_only_requests_that_ask_are_told():
    model = serving.prepare(decoder(), backend=None)
    short = TRAFFIC[1]
    quiet, chosen, greedy = outputs(
        model,
        [
            (short, {"seed": 1}),
            (short, {"logprobs": 0}),
            (short, {"temperature": 0.0, "logprobs": 1}),
        ],
    )
    assert quiet.logprobs == []
    assert [n.top for n in chosen.logprobs] == [()] * NEW
    # temperature 0 takes the likeliest token, and does not make its probability 1
    assert [n.top for n in greedy.logprobs] == [((n.token, n.logprob),) for n in greedy.logprobs]
    assert all(n.logprob < 0 for n in greedy.logprobs)


def test_logprobs_are_kept_when_the_cache_is_full_and_requests_start_anew(ours, monkeypatch):
    started_anew = []
    again = RequestState.create_equivalent_initial_request
    monkeypatch.setattr(
        RequestState,
        "create_equivalent_initial_request",
        lambda state: started_anew.append(state) or again(state),
    )
    requests = [(p[0].tolist(), {"seed": 3, "logprobs": 1}) for p in prompts(30, 31, 29, 30, 28)]
    roomy = outputs(ours, requests)
    assert not started_anew
    tight = outputs(ours, requests, num_blocks=5)
    assert started_anew, "the cache was large enough"
    for one, other in zip(roomy, tight, strict=True):
        assert (one.generated_tokens, one.logprobs) == (other.generated_tokens, other.logprobs)
        assert len(one.logprobs) == NEW


def test_rows_of_token_logprobs_do_not_depend_on_the_batch_and_ties_go_to_the_lower_token():
    torch.manual_seed(0)
    logits = torch.randn(33, 1000) * 5
    logits[4, [9, 700]] = 40.0
    tokens, top = torch.arange(33), [i % 4 for i in range(33)]
    together = token_logprobs(logits, tokens, top)
    for i, note in enumerate(together):
        assert token_logprobs(logits[i : i + 1], tokens[i : i + 1], [top[i]]) == [note]
        assert note.logprob == softmax(logits[i : i + 1], log=True)[0, i].item()
    assert [t for t, _ in token_logprobs(logits[4:5], tokens[:1], [2])[0].top] == [9, 700]


@pytest.mark.parametrize(
    ("settings", "engine", "message"),
    [
        ({"logprobs": -1}, {}, "logprobs must be 0 or more"),
        ({"temperature": -1.0}, {}, "temperature must be 0 or more"),
        ({"logprobs": 1}, {"use_async_batching": True}, "use_async_batching=False"),
    ],
)
def test_what_cannot_be_answered_is_refused(settings, engine, message):
    chain = manager_of(serving.prepare(decoder(), backend=None), **engine).logit_processor
    with pytest.raises(ValueError, match=message):
        chain.check_kwargs(settings)


def test_counts_out_of_range_are_refused():
    logits, tokens = torch.zeros(2, 5), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="between 0 and 5"):
        token_logprobs(logits, tokens, [0, 6])
    with pytest.raises(ValueError, match="1 counts"):
        token_logprobs(logits, tokens, [0])
