"""Sampling: the random stream against published vectors, filters against their definition, rows against the batch."""

import pytest
import torch

from bi_inductor.sampling import philox, rank, sample, uniform

#: key, counter, output of philox4x32-10 in Random123's kat_vectors
KNOWN = (
    (
        "00000000 00000000",
        "00000000 00000000 00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff",
        "ffffffff ffffffff ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "a4093822 299f31d0",
        "243f6a88 85a308d3 13198a2e 03707344",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
)
SETTINGS = (
    {},
    {"temperature": 0.7, "top_k": 20},
    {"top_p": 0.8},
    {"min_p": 0.05, "temperature": 1.7},
    {"temperature": 0.9, "top_k": 50, "top_p": 0.9, "min_p": 0.01},
)


def words(text: str):
    return tuple(torch.tensor([int(w, 16)]) for w in text.split())


@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN)
def test_philox_gives_the_published_words(key, counter, expected):
    assert [f"{int(w):08x}" for w in philox(words(key), words(counter))] == expected.split()


def test_uniform_numbers_are_distinct_in_range_and_even():
    n = 20000
    numbers = uniform(torch.arange(n) - n // 2, torch.arange(n) % 7)
    assert numbers.dtype == torch.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, 100, 0, 1)
    # chi-square with 99 degrees of freedom: 150 has probability 0.0007, and the numbers never change
    assert ((counts - n / 100) ** 2 / (n / 100)).sum() < 150


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_row_draws_the_same_token_in_any_batch(settings):
    torch.manual_seed(0)
    logits, seeds, positions = torch.randn(33, 1000) * 3, torch.arange(33) * 7919, torch.arange(33)
    together = sample(logits, seeds, positions, **settings)
    order = torch.randperm(33)
    assert torch.equal(
        sample(logits[order], seeds[order], positions[order], **settings), together[order]
    )
    for i in range(0, 33, 4):
        row = slice(i, i + 1)
        assert sample(logits[row], seeds[row], positions[row], **settings) == together[i]
        alone, among = rank(logits[row], **settings), rank(logits, **settings)
        assert torch.equal(alone.cumulative[0], among.cumulative[i])


def test_torch_multinomial_fails_on_the_same_data():
    torch.manual_seed(0)
    p = (torch.randn(33, 1000) * 3).softmax(-1)
    together = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(5))
    alone = torch.multinomial(p[7:8], 1, generator=torch.Generator().manual_seed(5))
    assert alone[0] != together[7], "control too weak"


def test_drawn_frequencies_follow_the_distribution():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])
    n = 20000
    drawn = sample(logits.expand(n, -1), torch.full((n,), 11), torch.arange(n), temperature=0.8)
    expected = (logits / 0.8).softmax(0) * n
    chi = ((torch.bincount(drawn, minlength=5) - expected) ** 2 / expected).sum()
    assert chi < 20  # four degrees of freedom: probability 0.0005


def test_filters_keep_what_their_definition_says():
    p = torch.tensor([[0.05, 0.5, 0.15, 0.3], [0.25, 0.25, 0.25, 0.25]])
    logits = p.log()

    def kept(**settings):
        ranked = rank(logits, **settings)
        return [sorted(t[:k].tolist()) for t, k in zip(ranked.tokens, ranked.kept, strict=True)]

    assert kept(top_k=2) == [[1, 3], [0, 1]]
    assert kept(top_k=torch.tensor([1, 3])) == [[1], [0, 1, 2]]
    assert kept(top_p=0.7) == [[1, 3], [0, 1, 2]]
    assert kept(min_p=0.25) == [[1, 2, 3], [0, 1, 2, 3]]
    assert kept(temperature=0) == [[1], [0]]
    assert kept(temperature=torch.tensor([0.0, 1.0]), top_k=3) == [[1], [0, 1, 2]]
    assert kept(top_p=0.0) == [[1], [0]]


def test_masked_tokens_are_never_drawn():
    logits = torch.full((4096, 9), float("-inf"))
    logits[:, 4:6] = 0.0
    drawn = sample(logits, torch.arange(4096), torch.zeros(4096, dtype=torch.long))
    assert drawn.unique().tolist() == [4, 5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature must be between"),
        ({"top_p": 1.5}, "top_p must be between"),
        ({"top_k": 0}, "top_k must be between"),
        ({"min_p": torch.zeros(3)}, "one per row"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    zeros = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        sample(torch.zeros(2, 5), zeros, zeros, **settings)


def test_a_row_without_a_finite_logit_is_refused():
    zeros = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="nothing can be drawn"):
        sample(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), zeros, zeros)
