"""flex_attention: masks through the attention template, score functions between two products."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import bi_inductor
from bi_inductor.errors import VariantOpError
from tests.rows import bits_equal

BATCHES = (1, 2, 5, 8)
LENGTH = 200


def causal(b, h, i, j):
    return i >= j


def masked(q, k, v, slopes, documents):
    mask = create_block_mask(causal, None, None, LENGTH, LENGTH, device=q.device)
    return flex_attention(q, k, v, block_mask=mask, enable_gqa=True)


def scored(q, k, v, slopes, documents):
    """ALiBi inside documents, with the log-sum-exp."""

    def score(s, b, h, i, j):
        same = documents[b, i] == documents[b, j]
        return torch.where(same & (i >= j), s + slopes[h] * (j - i), -float("inf"))

    return flex_attention(q, k, v, score_mod=score, enable_gqa=True, return_lse=True)


def inputs(device: str, batch: int, dtype: torch.dtype = torch.float32):
    torch.manual_seed(0)
    q = torch.randn(8, 4, LENGTH, 32).to(device, dtype)
    k, v = torch.randn(2, 8, 2, LENGTH, 32).to(device, dtype)
    documents = torch.randint(0, 3, (8, LENGTH)).sort(-1).values.to(device)
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625], device=device)
    return q[:batch], k[:batch], v[:batch], slopes, documents[:batch]


def results(fn, device: str, batch: int, dtype: torch.dtype = torch.float32):
    out = fn(*inputs(device, batch, dtype))
    return out if isinstance(out, tuple) else (out,)


@pytest.mark.parametrize(("fn", "template"), [(masked, "Attention("), (scored, "Softmax(")])
def test_rows_alone_and_in_a_batch(fn, template, device):
    torch.compiler.reset()
    ours = torch.compile(fn, backend="batch_invariant", dynamic=True)
    whole = results(ours, device, 8)
    for batch in BATCHES:
        for part, every in zip(results(ours, device, batch), whole, strict=True):
            assert bits_equal(part, every[:batch]), batch
    assert template in bi_inductor.certificate().graphs[0].plan
    exact = results(torch.compile(fn, backend="eager"), device, 8, torch.float64)
    stock = results(torch.compile(fn, backend="eager"), device, 8)
    for a, b, c in zip(whole, stock, exact, strict=True):
        budget = 2 * (b.double() - c).abs().max() + 1e-6
        assert (a.double() - c).abs().max() <= budget


def test_a_mask_that_follows_the_position_in_the_batch_is_refused(device):
    def fn(q, k, v, slopes, documents):
        def score(s, b, h, i, j):
            return s + b * 0.1

        return flex_attention(q, k, v, score_mod=score, enable_gqa=True)

    torch.compiler.reset()
    with pytest.raises(Exception, match="position in the batch") as raised:
        torch.compile(fn, backend="batch_invariant")(*inputs(device, 8))
    assert isinstance(raised.value.inner_exception, VariantOpError)
