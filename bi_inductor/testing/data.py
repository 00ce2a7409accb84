"""Numbers that make rounding visible: a sum in another order has other bits.

All-positive or evenly spaced data hide an order that follows the batch; so does float64 on tame data.
"""

import torch
from torch import Tensor

#: exponents are drawn within +- this many powers of two, so that products stay finite
_SPREAD = {torch.float16: 6, torch.bfloat16: 20, torch.float32: 20, torch.float64: 20}
#: the two values that cancel in a row of ``cancelling``
_PEAK = {torch.float16: 2.0**15, torch.bfloat16: 2.0**60, torch.float32: 2.0**60}


def normal(
    *shape: int, dtype: torch.dtype = torch.float32, generator: torch.Generator | None = None
) -> Tensor:
    """Standard normals of the given shape."""
    return torch.randn(*shape, generator=generator, dtype=torch.float32).to(dtype)


def wide(
    *shape: int, dtype: torch.dtype = torch.float32, generator: torch.Generator | None = None
) -> Tensor:
    """Normals times powers of two between ``2**-20`` and ``2**20`` (float16: ``2**6``)."""
    spread = _SPREAD.get(dtype, 20)
    exponents = torch.randint(-spread, spread + 1, shape, generator=generator)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * 2.0**exponents).to(
        dtype
    )


def cancelling(
    *shape: int, dtype: torch.dtype = torch.float32, generator: torch.Generator | None = None
) -> Tensor:
    """Normals with ``+2**60`` and ``-2**60`` (float16: ``2**15``) in each row of at least three numbers.

    Where they stand follows the row: what lies between the two is lost to rounding, what lies behind is not.
    """
    x = torch.randn(*shape, generator=generator, dtype=torch.float64)
    width = shape[-1]
    if width >= 3 and x.numel():
        rows = x.view(-1, width)
        peak = _PEAK.get(dtype, 2.0**60)
        for i, row in enumerate(rows):
            row[i % width] = peak
            row[(i + 1 + (width - 1) // 2) % width] = -peak
    return x.to(dtype)


def order_matters(x: Tensor) -> bool:
    """Whether some row's sum has other bits when it is added up from behind: else a test on it shows nothing."""
    rows = x.reshape(-1, x.shape[-1])
    forth, back = torch.zeros_like(rows[:, 0]), torch.zeros_like(rows[:, 0])
    # a loop: cumsum adds up in a wider type
    for at in range(rows.shape[1]):
        forth, back = forth + rows[:, at], back + rows[:, -1 - at]
    return not torch.equal(forth, back)


#: what ``assert_batch_invariant(data=...)`` puts in the place of floating inputs
DATA = {"normal": normal, "wide": wide, "cancelling": cancelling}
