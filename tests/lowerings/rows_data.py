"""Rows that hurt: normals, wide exponents, cancelling pairs; and the same numbers in other strides."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)
FLOATS = (torch.float32, torch.float64, *HALVES)
EXTENTS = (1, 2, 63, 64, 65, 100, 768, 2048, 50257)


def normals(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def cancelling(rows: int, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """[big, normals, -big]: any change of the order shows in the sum."""
    x = normals(rows, n, dtype=dtype)
    big = 1024.0 if dtype == torch.float16 else 2.0**60
    x[:, 0], x[:, -1] = big, -big
    return x


def strided(x: Tensor) -> dict[str, Tensor]:
    """The same values as ``x [A, B, C]`` in layouts that ask for different schedules."""
    a, b, c = x.shape
    padded = torch.full((a, b, 2 * c + 3), float("nan"), dtype=x.dtype)
    padded[..., 1 : 2 * c + 1 : 2] = x
    return {
        "contiguous": x.contiguous(),
        "last dim outermost": x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "middle dim innermost": x.transpose(1, 2).contiguous().transpose(1, 2),
        "first dim innermost": x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
        "every second element": padded[..., 1 : 2 * c + 1 : 2],
        "odd offset": torch.cat([x.flatten()[:1], x.flatten()])[1:].view(a, b, c),
    }


def same_bits(actual: Tensor, expected: Tensor) -> bool:
    """Equal numbers and signs of zero; NaN equals NaN, whatever its payload."""
    nan = actual.isnan()
    a, e = actual.masked_fill(nan, 0.0), expected.masked_fill(expected.isnan(), 0.0)
    return (
        torch.equal(nan, expected.isnan())
        and torch.equal(a, e)
        and torch.equal(a.signbit(), e.signbit())
    )


def rows_that_change(op: Callable[[Tensor], Tensor], x: Tensor) -> list[int]:
    """Rows of ``x [M, N]`` whose bits in the batch differ from their bits alone."""
    together = op(x)
    return [i for i in range(len(x)) if not same_bits(op(x[i : i + 1])[0], together[i])]


@pytest.fixture(params=[1, 2, 3], ids="threads{}".format)
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
