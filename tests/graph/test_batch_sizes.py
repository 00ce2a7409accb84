"""The size of the batch as a number inside an op: its result would follow the batch in every sample."""

import pytest
import torch
from harness import plan_of

from bi_inductor._torch import unwrapped
from bi_inductor.errors import VariantOpError

TABLE = torch.arange(64.0)
COMPUTES = {
    "quotient": lambda x: x / x.shape[0],
    "factor of a product": lambda x: torch.addmm(x.new_zeros(8), x, torch.ones(8, 8), alpha=x.shape[0]),
    "tensor": lambda x: x * torch.tensor(x.shape[0]),
    "step": lambda x: x + torch.arange(0, 8 * x.shape[0], x.shape[0]),
    "place": lambda x: x + TABLE[x.shape[0]],
    "start": lambda x: x + TABLE[x.shape[0] : x.shape[0] + 8],
    "written value": lambda x: x.scatter(1, torch.zeros_like(x, dtype=torch.int64), x.shape[0] * 1.0),
    "count of the best": lambda x: x.topk(x.shape[0] % 3 + 1, 1)[0],
    "order of a norm": lambda x: torch.linalg.vector_norm(x, x.shape[0] * 1.0, -1),
    "correction": lambda x: x.var(1, correction=x.shape[0] - 1),
}  # fmt: skip
ONLY_SIZES = {
    "own rows": lambda x: x[torch.arange(x.shape[0])],
    "all rows": lambda x: x[: x.shape[0]],
    "view": lambda x: x.view(x.shape[0], 2, 4).sum(-1),
    "width": lambda x: x + TABLE[x.shape[1] : x.shape[1] + 8],
    "zeros": lambda x: torch.cat([x, x.new_zeros(x.shape[0], 1)], 1),
}


@pytest.mark.parametrize("name", COMPUTES)
@torch.no_grad()
def test_the_size_of_the_batch_as_a_number_is_refused(name):
    with pytest.raises(VariantOpError, match="size of the batch"), unwrapped():
        plan_of(COMPUTES[name], torch.randn(5, 8), dynamic=True)


@pytest.mark.parametrize("name", ONLY_SIZES)
@torch.no_grad()
def test_the_size_of_the_batch_as_a_size_is_not(name):
    plan_of(ONLY_SIZES[name], torch.randn(5, 8), dynamic=True)
