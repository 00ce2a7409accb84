"""The engine under the interface of deterministic-llm: rows, threads, refusals."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from bi_inductor.engine import DeterministicInferenceEngine
from tests.rows import bits_equal
from tests.zoo import ZOO
from tests.zoo.case import VOCAB, build


@pytest.fixture(scope="module")
def engine():
    return DeterministicInferenceEngine(build(ZOO["gpt2"]).model, patch_model=True)


def test_a_batch_repeats_the_bits_of_one_row(engine):
    ids = torch.randint(3, VOCAB, (1, 7))
    single = engine.forward(ids)
    batch = engine.forward(ids.repeat(4, 1))
    assert torch.equal(single.logits[0], batch.logits[0])


def test_without_patching_rows_follow_their_batch():
    stock = DeterministicInferenceEngine(build(ZOO["gpt2"]).model, patch_model=False)
    ids = torch.randint(3, VOCAB, (1, 7))
    alone = stock.forward(ids).logits[0]
    batches = [stock.forward(ids.repeat(n, 1)).logits[0] for n in (2, 3, 8, 17, 33)]
    assert not all(torch.equal(alone, made) for made in batches), "control too weak"


def test_greedy_tokens_do_not_depend_on_the_batch(engine):
    ids = torch.randint(3, VOCAB, (5, 4))
    together = engine.generate(ids, max_length=12, temperature=0.0)
    assert together.shape == (5, 12)
    for row in range(5):
        assert torch.equal(engine.generate(ids[row : row + 1], max_length=12)[0], together[row])


def test_rows_that_ended_are_filled(engine):
    ids = torch.randint(3, VOCAB, (2, 4))
    first = int(engine.generate(ids[:1], max_length=5)[0, -1])
    made = engine.generate(ids, max_length=9, eos_token_id=first)
    assert bool((made[0, 4:] == first).all())


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.5}, {"top_k": 50}, {"top_p": 0.9}, {"do_sample": True}]
)
def test_sampling_without_a_seed_is_refused(engine, sampling):
    with pytest.raises(ValueError, match="seed"):
        engine.generate(torch.zeros(1, 3, dtype=torch.int64), max_length=5, **sampling)


SAMPLING = {"temperature": 1.5, "top_k": 60, "top_p": 0.95, "min_p": 0.001}


def test_sampled_tokens_depend_on_prompt_and_seed_alone(engine):
    ids = torch.randint(3, VOCAB, (5, 4))
    seeds = [3, 1, 4, 1, 5]
    together = engine.generate(ids, max_length=12, seed=seeds, **SAMPLING)
    turned = engine.generate(ids.flip(0), max_length=12, seed=seeds[::-1], **SAMPLING)
    assert torch.equal(turned.flip(0), together)
    for row, seed in enumerate(seeds):
        alone = engine.generate(ids[row : row + 1], max_length=12, seed=seed, **SAMPLING)
        assert torch.equal(alone[0], together[row])
    other = engine.generate(ids, max_length=12, seed=[s + 1 for s in seeds], **SAMPLING)
    assert not any(torch.equal(*rows) for rows in zip(other, together, strict=True))
    assert not torch.equal(engine.generate(ids, max_length=12), together)


def test_do_sample_with_a_seed_is_the_same_draw(engine):
    ids = torch.randint(3, VOCAB, (2, 4))
    asked = engine.generate(ids, max_length=8, temperature=1.0, seed=7, do_sample=True)
    assert torch.equal(asked, engine.generate(ids, max_length=8, temperature=1.0, seed=7))
    with pytest.raises(ValueError, match="temperature above 0"):
        engine.generate(ids, max_length=8, seed=7, do_sample=True)


def test_seeds_are_one_or_one_for_each_row(engine):
    ids = torch.randint(3, VOCAB, (2, 4))
    one = engine.generate(ids, max_length=8, temperature=1.0, seed=7)
    assert torch.equal(one, engine.generate(ids, max_length=8, temperature=1.0, seed=[7, 7]))
    with pytest.raises(ValueError, match="3 seeds were given for 2 rows"):
        engine.generate(ids, max_length=8, temperature=1.0, seed=[7, 7, 7])


def test_a_mask_is_sent_to_the_function_that_takes_one(engine):
    ids = torch.ones(2, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"generation\.generate"):
        engine.generate(ids, max_length=8, attention_mask=ids)


def test_a_text_needs_a_tokenizer(engine):
    with pytest.raises(ValueError, match="tokenizer"):
        engine.generate("Hello world", max_length=5)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(VOCAB, 96), nn.Linear(96, VOCAB), nn.LogSoftmax(-1))
    return DeterministicInferenceEngine(model)


def test_two_thousand_workers_share_one_engine(small):
    engine = small
    ids = torch.randint(3, VOCAB, (8, 5))
    alone = [engine.forward(ids[i : i + 1])[0] for i in range(8)]

    def work(job):
        # batches of all sizes, so that workers really compute different things
        return bits_equal(engine.forward(ids[job % 8 :])[0], alone[job % 8])

    with ThreadPoolExecutor(max_workers=2000) as pool:
        assert all(pool.map(work, range(2000)))


def test_sixty_four_workers_draw_the_tokens_of_their_seeds(small):
    ids = torch.randint(3, VOCAB, (8, 5))

    def draw(first):
        seeds = list(range(first, 8))
        return small.generate(ids[first:], max_length=6, seed=seeds, **SAMPLING)

    alone = [small.generate(ids[i : i + 1], max_length=6, seed=i, **SAMPLING)[0] for i in range(8)]
    assert len({tuple(row[5:].tolist()) for row in alone}) > 4, "the draws follow no seed"

    def work(job):
        return torch.equal(draw(job % 8), torch.stack(alone[job % 8 :]))

    with ThreadPoolExecutor(max_workers=64) as pool:
        assert all(pool.map(work, range(64)))


def test_determinism_is_verified_by_bits(engine):
    report = engine.verify_determinism(torch.randint(3, VOCAB, (2, 5)), num_runs=3)
    assert report["is_deterministic"]
    assert report["unique_outputs"] == 1
    assert len(report["outputs"]) == report["total_runs"] == 3
