"""What decides speed on Apple GPUs: tiles, groups, thresholds. May see every extent; cannot express an order.

Chosen by reasoning, not measured: no Apple GPU has run them yet. Tests hold each row to the bits of its plan.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """``block_m`` x ``block_n`` outputs a threadgroup, 4x4 a thread, ``block_k`` of K staged at a time."""

    block_m: int
    block_n: int
    block_k: int = 16

    @property
    def threads(self) -> int:
        """Threads of a threadgroup."""
        return self.block_m // 4 * (self.block_n // 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemv:
    """Pieces of K side by side; ``rows`` rows share one read of the weight."""

    rows: int


#: (largest M, schedule): the first that fits.
MATMUL: tuple[tuple[int | None, Tile | Gemv], ...] = (
    (1, Gemv(rows=1)),
    (4, Gemv(rows=4)),
    (16, Tile(block_m=16, block_n=64)),
    (64, Tile(block_m=32, block_n=32)),
    (None, Tile(block_m=64, block_n=64)),
)
#: The schedule of ``options={"tiling": "uniform"}``.
UNIFORM = Tile(block_m=32, block_n=32)
#: Threads of a row: one simdgroup up to this extent, a whole threadgroup above.
ROW_SIMDGROUP_UP_TO = 2048
#: Queries that share a threadgroup when there are at least as many, one otherwise.
ATTENTION_QUERIES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSchedule:
    """``queries`` a threadgroup; ``by_piece`` gives every piece of the keys a threadgroup of its own."""

    queries: int
    by_piece: bool
    threads: int


def matmul_schedule(rows: int) -> Tile | Gemv:
    """Return the schedule for ``rows`` rows."""
    return next(use for up_to, use in MATMUL if up_to is None or rows <= up_to)


def row_width(extent: int) -> int:
    """Return how many threads work on a row of ``extent`` elements."""
    return 32 if extent <= ROW_SIMDGROUP_UP_TO else 256


def attention_schedule(queries: int, pieces: int, value_dim: int) -> AttentionSchedule:
    """Return the schedule: few queries take the pieces of the keys side by side."""
    few = queries < ATTENTION_QUERIES
    return AttentionSchedule(
        queries=1 if few else ATTENTION_QUERIES,
        by_piece=few and pieces > 1,
        threads=64 if value_dim <= 64 else 128,
    )
