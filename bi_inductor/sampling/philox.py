"""Philox 4x32-10 (Salmon et al., 2011) in integer ops: a random number is a function of (seed, position)."""

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF


def philox(
    key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor, Tensor, Tensor]
) -> list[Tensor]:
    """Return the four 32-bit words of one Philox block.

    Args:
        key: two words, int64 tensors with values in [0, 2**32).
        counter: four words of the same kind; all shapes broadcast.
    """
    k0, k1 = key
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return [c0, c1, c2, c3]


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low word of a 32 x 32 bit product; halves of ``b`` keep every step below 2**63."""
    low = a * (b & 0xFFFF)
    high = a * (b >> 16) + (low >> 16)
    return high >> 16, (high & 0xFFFF) << 16 | (low & 0xFFFF)


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """Return one float32 in [0, 1) per row, a multiple of 2**-24.

    Args:
        seeds: int64 ``[rows]``, any value; the seed of each request.
        positions: int64 ``[rows]``, at least 0; the place of the token in its own request, padding not counted.

    Raises:
        ValueError: a tensor is not int64.
    """
    for name, x in (("seeds", seeds), ("positions", positions)):
        if x.dtype != torch.int64:
            raise ValueError(f"{name} have dtype {x.dtype}; give int64")
    zero = torch.zeros_like(positions)
    words = philox(
        (seeds & _WORD, (seeds >> 32) & _WORD),
        (positions & _WORD, (positions >> 32) & _WORD, zero, zero),
    )
    return (words[0] >> 8).to(torch.float32) * 2.0**-24
