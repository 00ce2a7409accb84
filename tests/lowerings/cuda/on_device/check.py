"""One line a check: equal bits, or how many elements differ."""

import torch
from torch import Tensor

ROWS = (1, 2, 7, 16, 17, 33, 64, 65, 129, 1000)
FAILED: list[str] = []
#: the parts named on the command line; empty: every part
CHOSEN: list[str] = []
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def chosen(part: str) -> bool:
    return not CHOSEN or part in CHOSEN


def report(name: str, pairs: list[tuple[Tensor, Tensor]], *, wanted: bool = True) -> None:
    """Compare bit for bit, any NaN equal to any other; ``wanted=False`` marks a negative control, which must differ."""
    different = sum(_different(a, b) for a, b in pairs)
    total = sum(a.numel() for a, _ in pairs)
    verdict(name, (different == 0) == wanted, f"{different} of {total} differ")


def verdict(name: str, good: bool, note: str = "") -> None:
    if not good:
        FAILED.append(name)
    print(f"{'ok' if good else 'FAILED':7}{name}: {note}", flush=True)


def _different(a: Tensor, b: Tensor) -> int:
    bits = _BITS[a.element_size()]
    differs = a.contiguous().view(bits) != b.contiguous().view(bits)
    return int((differs & ~(a.isnan() & b.isnan())).sum())


def data(kind: str, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Random normals, wide exponents, or values that cancel."""
    x = torch.randn(rows, columns, device="cuda")
    if kind == "wide":
        x = x * torch.exp2(torch.randint(-12, 12, x.shape, device="cuda").float())
    if kind == "cancelling":
        x = torch.cat([x[:, : columns // 2], -x[:, : columns - columns // 2]], 1) + x * 1e-3
    return x.to(dtype)
