"""What may be known of a tensor's numbers: the proofs that routing needs."""

from dataclasses import dataclass

from bi_inductor.flow.axes import Dim


@dataclass(frozen=True, slots=True)
class Counting:
    """Each number is its position along the axis with this tag: ``arange(n)``, viewed or broadcast."""

    tag: object


@dataclass(frozen=True, slots=True)
class Routing:
    """The stable order that sorts ``keys``: one key per row of ``base``, made from the row's own data."""

    keys: object
    base: Dim
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """The order in which a boolean mask over dims ``base`` reads their elements, and leaves out some."""

    mask: object
    base: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class OwnRow:
    """Each number is a position in a dim of axes ``base``, and the row there is of the number's own sample.

    ``bijective``: the numbers of one row dim are a permutation of ``base``.
    """

    base: Dim
    bijective: bool = False


@dataclass(frozen=True, slots=True)
class SortedKeys:
    """The keys of a routing, in its order."""

    routing: Routing


@dataclass(frozen=True, slots=True)
class OneHot:
    """``keys == class``, with the classes on the last dim."""

    keys: object


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows have each key. It depends on the whole batch: only offsets may be made of it."""

    keys: object
    made_by: object


@dataclass(frozen=True, slots=True)
class Offsets:
    """Where the group of each key ends in the order of a routing: only a grouped matmul may read it."""

    keys: object
    made_by: object


@dataclass(frozen=True, slots=True)
class Picked:
    """Data of the sample at one fixed position: it may leave the graph, but not meet the batch again."""

    position: str
    made_by: object


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Made of counts or offsets, and neither any more: nothing of a single sample may read it."""

    made_by: object


WHOLE_BATCH = (Counts, Offsets, Picked, Aggregate)
