"""What an axis yields: one sample's outputs, computed in two ways."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """``actual`` must have the bits of ``expected``: the outputs of one sample, computed in two ways."""

    place: str
    row: int
    expected: list[Tensor]
    actual: list[Tensor]
