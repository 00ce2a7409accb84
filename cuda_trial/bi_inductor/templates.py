"""Device-free descriptions of every computation that adds things up, and the types of key and plan.

A template says *what* is computed; a ``Plan`` says in which pieces and order. Nothing here has a field for
a row count, a stride or a thread count: what decides bits cannot see the batch, by type.
"""

from dataclasses import dataclass, fields

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Base of the templates. ``text`` is what goldens and reports print: the type and its fields."""

    def text(self) -> str:
        """Return e.g. ``Reduction(kind=sum, dims=1, keepdim=False)``."""
        shown = (f"{field.name}={_plain(getattr(self, field.name))}" for field in fields(self))
        return f"{type(self).__name__}({', '.join(shown)})"


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value)) or "()"
    return str(value).removeprefix("torch.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Matmul(Template):
    """Rows ``[M, K]`` (``[N, M, K]`` when batched) times ``[K, N]``, with an optional bias."""

    batched: bool = False
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedMatmul(Template):
    """Rows ``[M, K]``, cut into groups by offsets, each group times a matrix ``[K, N]`` of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution(Template):
    """Convolution ``[N, C, *spatial]`` over channels and window; ``spatial`` is the number of window dims."""

    spatial: int
    transposed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Template):
    """Softmax attention; keys are cut into pieces at absolute positions, the head dim is one piece."""

    is_causal: bool = False
    mask: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction(Template):
    """``kind`` over ``dims`` (normalised, ascending)."""

    kind: str
    dims: tuple[int, ...]
    keepdim: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VarMean(Template):
    """Variance and mean over ``dims``, two passes."""

    dims: tuple[int, ...]
    keepdim: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax(Template):
    """(log-)softmax over one dim."""

    dim: int
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorm(Template):
    """Layer norm over the last ``dims`` dims."""

    dims: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RmsNorm(Template):
    """RMS norm over the last ``dims`` dims."""

    dims: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan(Template):
    """One sequential chain along ``dim``."""

    kind: str
    dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter(Template):
    """Adds in ascending order of the source; ``kind`` names the op of ``torch.ops.bi_inductor``."""

    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingBag(Template):
    """Sum, mean or max of the rows of each bag, in the order of the indices."""

    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AvgPool(Template):
    """Average over windows of ``spatial`` dims, in row-major order."""

    spatial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK(Template):
    """The k largest or smallest along ``dim``; on a tie the lower index wins."""

    dim: int
    largest: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Sort(Template):
    """A stable sort along ``dim``: exact, so its plan is its definition."""

    dim: int
    descending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanKey:
    """All that a plan may depend on. An extent that is symbolic or may grow is ``None``."""

    template: type[Template]
    reduced: tuple[int | None, ...]
    dtype: torch.dtype
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What decides bits: the size of a piece, the order of the pieces, the dtype of the accumulator.

    ``split_size`` counts elements of the reduced extent from its position 0; ``lanes`` is the number of
    interleaved partial results of a row reduction. An order that needs no number has neither.
    """

    order: str
    accumulator: torch.dtype | None = None
    split_size: int | None = None
    lanes: int | None = None

    def __post_init__(self) -> None:
        for name in ("split_size", "lanes"):
            number = getattr(self, name)
            if number is not None and (number < 16 or number % 16):
                raise ValueError(f"{name} must be a positive multiple of 16, got {number}")

    def numbers(self) -> dict[str, int]:
        """Return the keyword arguments that the plan adds to the op."""
        given = {"split_size": self.split_size, "lanes": self.lanes}
        return {name: number for name, number in given.items() if number is not None}

    def text(self) -> str:
        """Return e.g. ``split_size=1024 acc=float32 order=pieces-in-order``."""
        parts = [f"{name}={number}" for name, number in self.numbers().items()]
        if self.accumulator is not None:
            parts.append(f"acc={_plain(self.accumulator)}")
        return " ".join([*parts, f"order={self.order}"])
