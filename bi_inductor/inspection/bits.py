"""Raw bits of two tensors: whether they are equal, and if not, by how many elements, units and ulp."""

from dataclasses import dataclass

import torch
from torch import Tensor

_INTS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How two tensors of equal shape and dtype differ.

    ``changed`` of ``total`` elements have other bits; ``max_abs`` is the largest difference (NaN if one side
    alone is NaN); ``max_ulp`` counts representable numbers between the two, None for integers.
    """

    changed: int
    total: int
    max_abs: float
    max_ulp: int | None

    def text(self) -> str:
        """Return e.g. ``3 of 64 values, 2 ulp, up to 1.2e-07``."""
        ulp = "" if self.max_ulp is None else f", {self.max_ulp} ulp"
        return f"{self.changed} of {self.total} values{ulp}, up to {self.max_abs:.2g}"


def difference(a: Tensor, b: Tensor) -> Difference | None:
    """Compare bits; None if all are equal. All NaN count as one value, +0 and -0 as two.

    Raises:
        ValueError: the shapes or dtypes differ.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(
            f"cannot compare {_kind(a)} with {_kind(b)}; shapes and dtypes must be equal"
        )
    if a.is_complex():
        return difference(torch.view_as_real(a), torch.view_as_real(b))
    a, b = a.detach().contiguous(), b.detach().contiguous()
    if not a.is_floating_point():
        return _of_integers(a, b)
    raw_a, raw_b = (x.view(_INTS[x.element_size()]) for x in (a, b))
    # isnan has no kernel for 8-bit floats
    wide_a, wide_b = a.double(), b.double()
    nan_a, nan_b = wide_a.isnan(), wide_b.isnan()
    changed = (raw_a != raw_b) & ~(nan_a & nan_b)
    if not changed.any():
        return None
    gap = (wide_a - wide_b).abs()[changed]
    finite = changed & ~nan_a & ~nan_b
    ulp = ulp_between(raw_a[finite], raw_b[finite])
    return Difference(
        changed=int(changed.sum()),
        total=a.numel(),
        max_abs=float(gap.max()),
        max_ulp=ulp,
    )


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether shape, dtype and bits agree."""
    return a.shape == b.shape and a.dtype == b.dtype and difference(a, b) is None


def ulp_between(raw_a: Tensor, raw_b: Tensor) -> int | None:
    """Return the largest distance between floats given as the integers of their bits, None for no element."""
    if not raw_a.numel():
        return None
    # a 64-bit distance may exceed int64: exact in Python
    pairs = zip(_ordered(raw_a).tolist(), _ordered(raw_b).tolist(), strict=True)
    return max(abs(x - y) for x, y in pairs)


def _ordered(raw: Tensor) -> Tensor:
    """Map the bits of floats to integers that count them in order; -0 and +0 are neighbours."""
    magnitude = raw & torch.iinfo(raw.dtype).max
    return torch.where(raw < 0, -magnitude.long() - 1, raw.long())


def _of_integers(a: Tensor, b: Tensor) -> Difference | None:
    changed = a != b
    if not changed.any():
        return None
    gap = max(abs(int(x) - int(y)) for x, y in zip(a[changed], b[changed], strict=True))
    return Difference(changed=int(changed.sum()), total=a.numel(), max_abs=float(gap), max_ulp=None)


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"
