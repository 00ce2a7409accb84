"""The engine under the interface of deterministic-llm: rows, threads, refusals."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from bi_inductor.engine import DeterministicInferenceEngine
from tests import models
from tests.rows import bits_equal


@pytest.fixture(scope="module")
def engine():
    return DeterministicInferenceEngine(models.make("gpt2").model, patch_model=True)


def test_a_batch_repeats_the_bits_of_one_row(engine):
    ids = torch.randint(3, models.VOCAB, (1, 7))
    single = engine.forward(ids)
    batch = engine.forward(ids.repeat(4, 1))
    assert torch.equal(single.logits[0], batch.logits[0])


def test_without_patching_rows_follow_their_batch():
    stock = DeterministicInferenceEngine(models.make("gpt2").model, patch_model=False)
    ids = torch.randint(3, models.VOCAB, (1, 7))
    alone = stock.forward(ids).logits[0]
    batches = [stock.forward(ids.repeat(n, 1)).logits[0] for n in (2, 3, 8, 17, 33)]
    assert not all(torch.equal(alone, made) for made in batches), "control too weak"


def test_greedy_tokens_do_not_depend_on_the_batch(engine):
    ids = torch.randint(3, models.VOCAB, (5, 4))
    together = engine.generate(ids, max_length=12, temperature=0.0)
    assert together.shape == (5, 12)
    for row in range(5):
        assert torch.equal(engine.generate(ids[row : row + 1], max_length=12)[0], together[row])


def test_rows_that_ended_are_filled(engine):
    ids = torch.randint(3, models.VOCAB, (2, 4))
    first = int(engine.generate(ids[:1], max_length=5)[0, -1])
    made = engine.generate(ids, max_length=9, eos_token_id=first)
    assert bool((made[0, 4:] == first).all())


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.5}, {"top_k": 50}, {"top_p": 0.9}, {"do_sample": True}]
)
def test_sampling_without_a_seed_is_refused(engine, sampling):
    with pytest.raises(ValueError, match="seed"):
        engine.generate(torch.zeros(1, 3, dtype=torch.int64), max_length=5, **sampling)


def test_a_text_needs_a_tokenizer(engine):
    with pytest.raises(ValueError, match="tokenizer"):
        engine.generate("Hello world", max_length=5)


def test_two_thousand_workers_share_one_engine():
    model = nn.Sequential(
        nn.Embedding(models.VOCAB, 96), nn.Linear(96, models.VOCAB), nn.LogSoftmax(-1)
    )
    engine = DeterministicInferenceEngine(model)
    ids = torch.randint(3, models.VOCAB, (8, 5))
    alone = [engine.forward(ids[i : i + 1])[0] for i in range(8)]

    def work(job):
        # batches of all sizes, so that workers really compute different things
        return bits_equal(engine.forward(ids[job % 8 :])[0], alone[job % 8])

    with ThreadPoolExecutor(max_workers=2000) as pool:
        assert all(pool.map(work, range(2000)))


def test_determinism_is_verified_by_bits(engine):
    report = engine.verify_determinism(torch.randint(3, models.VOCAB, (2, 5)), num_runs=3)
    assert report["is_deterministic"]
    assert report["unique_outputs"] == 1
    assert len(report["outputs"]) == report["total_runs"] == 3
