"""A batch size that comes into a graph as a number: behind a graph break nothing says that it is the batch's."""

import pytest
import torch
from harness import plan_of, plans_of

from bi_inductor.errors import VariantOpError

TOKENS = torch.randn(3, 4, 8)


def own_rows(x, count):
    """Masks of transformers: ``padding_mask[arange(batch_size), kv_idx]``."""
    return 2 * x[torch.arange(count)[:, None], torch.arange(x.shape[1])]


def scaled(x, count):
    return own_rows(x, count) / count


@pytest.mark.parametrize("dynamic", [False, True])
@torch.no_grad()
def test_a_number_that_counts_the_samples_is_guarded_to_be_the_batch_size(dynamic):
    planned = plan_of(own_rows, TOKENS, 3, dynamic=dynamic)
    assert planned.output_batch == (0,)
    assert not planned.variants


@torch.no_grad()
def test_the_guard_admits_other_batches_only_with_their_own_number():
    more = torch.cat([TOKENS, TOKENS])
    assert len(plans_of(own_rows, TOKENS, 3, dynamic=True, again=[(more, 6)])) == 1
    with pytest.raises(Exception, match="fixed positions of the batch") as caught:
        plans_of(own_rows, TOKENS, 3, dynamic=True, again=[(more, 3)])
    assert isinstance(caught.value.inner_exception, VariantOpError)


@torch.no_grad()
def test_it_is_a_size_of_the_batch_from_then_on():
    with pytest.raises(Exception, match="computes with the size of the batch") as caught:
        plans_of(scaled, TOKENS, 3, dynamic=True)
    assert isinstance(caught.value.inner_exception, VariantOpError)
