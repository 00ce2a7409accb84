"""Tiles of a product on a Hopper's specialised warps, and how long one takes: plain data, fitted to measured times."""

from dataclasses import dataclass, replace
from functools import cached_property

#: bytes of shared memory of one program, without what the compiler keeps for barriers and specialised warps
_SHARED = (227 << 10) - 1536
#: stages that are worth having
_MOST_STAGES = 16


@dataclass(frozen=True, kw_only=True)
class Hopper:
    """``groups`` warp groups take ``rows`` rows of the tensor core each, and ``first + second`` columns.

    ``swap``: the rows are the weights'. ``early``: the program may begin before the kernel in front has ended, and waits
    for its end there.
    """

    groups: int
    rows: int
    first: int
    second: int = 0
    k: int = 64
    swap: bool = False
    early: bool = False

    @cached_property
    def side(self) -> int:
        """Rows of the tensor core that a tile has."""
        return self.rows * self.groups

    @cached_property
    def width(self) -> int:
        """Columns of the tensor core that a tile has."""
        return self.first + self.second

    @cached_property
    def area(self) -> int:
        """Elements of the result that a tile has."""
        return self.side * self.width

    @cached_property
    def m(self) -> int:
        """Rows of the result that a tile has."""
        return self.width if self.swap else self.side

    @cached_property
    def n(self) -> int:
        """Columns of the result that a tile has."""
        return self.side if self.swap else self.width

    @cached_property
    def chunk(self) -> int:
        """Columns of the tensor core that are stored at a time."""
        most = min(32 if self.rows == 128 else 64, self.first)
        return self.second if 32 <= self.second < most else most

    @cached_property
    def buffers(self) -> int:
        """Chunks on their way to memory: as many as cost no stage, and divide the chunks of a tile."""
        stored = self.first if self.second % self.chunk else self.width
        return next(
            n
            for n in (3, 2, 1)
            if stored // self.chunk % n == 0 and (n == 1 or self._stages(n) == self._stages(1))
        )

    @cached_property
    def stages(self) -> int:
        """Slices of K in shared memory."""
        return self._stages(self.buffers)

    def _stages(self, buffers: int) -> int:
        rest = self.second if self.second % self.chunk else 0
        stored = self.groups * self.rows * (self.chunk * buffers + rest) * 2
        return min(_MOST_STAGES, (_SHARED - stored) // ((self.side + self.width) * self.k * 2))

    def blocks(self, by_k: bool) -> tuple[tuple[int, int] | None, ...]:
        """Return the blocks of the copies: rows and both pieces of the columns, and the stored chunk and rest.

        Args:
            by_k: the weights are [K, N].
        """
        side = (self.k, self.rows) if by_k and self.swap else (self.rows, self.k)
        pieces = [
            None if not x else (self.k, x) if by_k and not self.swap else (x, self.k)
            for x in (self.first, self.second)
        ]
        stored = [
            None if not x else (x, self.rows) if self.swap else (self.rows, x)
            for x in (self.chunk, self.second if self.second % self.chunk else 0)
        ]
        return side, *pieces, *stored

    def zeros(self, rows: int) -> int:
        """Return how many rows past the last of ``rows`` tokens a tile copies: the engine fills them in."""
        pieces = (self.first, self.second) if self.swap else (self.rows,) * self.groups
        return sum(max(0, piece - rows) for piece in pieces)

    def text(self) -> str:
        """Return e.g. ``96x64x64 hopper1 swap``: rows and columns of the result, slice of K, groups."""
        marks = "".join(f" {name}" for name in ("swap", "early") if getattr(self, name))
        return f"{self.m}x{self.n}x{self.k} hopper{self.groups}{marks}"


def _by_tokens(groups: int, rows: int, first: int, second: int = 0, k: int = 64) -> Hopper:
    return Hopper(groups=groups, rows=rows, first=first, second=second, k=k)


def _by_weights(groups: int, rows: int, first: int, second: int = 0, k: int = 64) -> Hopper:
    return Hopper(groups=groups, rows=rows, first=first, second=second, k=k, swap=True)


#: (tile, its time over that of the model below): fitted to 2,700 products timed on an H200
TILES = (
    (_by_tokens(1, 64, 32, k=128), 0.932),
    (_by_tokens(1, 64, 64, 32), 0.963),
    (_by_tokens(1, 64, 64, 32, k=128), 1.0),
    (_by_tokens(1, 64, 128), 0.94),
    (_by_tokens(1, 64, 128, 16), 1.009),
    (_by_tokens(1, 64, 128, 64), 0.96),
    (_by_tokens(2, 64, 128), 0.962),
    (_by_tokens(2, 64, 128, 16), 0.993),
    (_by_tokens(2, 64, 128, 64), 0.94),
    (_by_tokens(2, 64, 256), 0.924),
    (_by_tokens(3, 64, 128), 0.949),
    (_by_weights(1, 64, 16, k=128), 0.967),
    (_by_weights(1, 64, 32, k=128), 0.912),
    (_by_weights(1, 64, 32, 8, k=128), 1.029),
    (_by_weights(1, 64, 32, 16, k=128), 1.019),
    (_by_weights(1, 64, 64, k=128), 0.922),
    (_by_weights(1, 64, 64, 16), 0.987),
    (_by_weights(1, 64, 64, 16, k=128), 0.971),
    (_by_weights(1, 64, 64, 32), 0.988),
    (_by_weights(1, 64, 64, 32, k=128), 0.969),
    (_by_weights(1, 64, 128), 0.931),
    (_by_weights(1, 64, 128, 64), 0.954),
    (_by_weights(1, 64, 256), 0.941),
    (_by_weights(2, 64, 64), 0.961),
    (_by_weights(2, 64, 128), 0.947),
    (_by_weights(2, 128, 128, 64), 0.95),
    (_by_weights(3, 64, 64), 0.976),
    (_by_weights(3, 64, 64, 16), 1.011),
    (_by_weights(3, 64, 64, 32), 1.005),
    (_by_weights(3, 64, 128), 0.948),
    (_by_weights(3, 64, 128, 32), 1.017),
    (_by_weights(3, 64, 128, 64), 0.942),
)
#: the model's numbers, from the same fit: cycles of a microsecond, of a 64x32x64 product, of a row of zeros filled in,
#: of a tile and each of its elements; bytes of a cycle from the L2 cache to one multiprocessor and to all
_CYCLES = 1755
_PRODUCT = 1.193 / 32
_ZEROS = 8.36
_TILE, _ELEMENT = 609, 0.0308
_TO_ONE, _TO_ALL = 77.3, 9675
#: bytes of a microsecond from memory, microseconds of an empty launch, and how far times overlap
_MEMORY, _LAUNCH, _POWER = 3.929e6, 3.37, 3.58
#: tokens of the largest piece
_WIDEST = 256
#: largest K of which an early start pays: 1.04 to 1.2 times at 2048, 0.76 to 1.0 times from 4096 on
_EARLY = 2048
#: K from which these tiles begin at 17 rows
_DEEP = 8192


def takes(rows: int, depth: int) -> bool:
    """Return whether these tiles are for the product, and not the kernels that stream weights past few rows.

    Those take 64 columns a program and are 0.70 and 0.83 of cuBLAS for 32 rows where a K of 8192 and more goes with few columns.
    """
    return rows > 32 or (rows > 16 and depth >= _DEEP)


def choose(rows: int, columns: int, depth: int, *, sms: int) -> Hopper:
    """Choose the tile of a product of ``rows`` tokens, ``columns`` and ``depth`` of weights on ``sms`` multiprocessors."""
    best, least = TILES[0][0], float("inf")
    for tile, rate in TILES:
        time = micros(tile, rate, rows, columns, depth, sms=sms)
        if time < least:
            best, least = tile, time
    return replace(best, early=depth <= _EARLY)


def micros(tile: Hopper, rate: float, rows: int, columns: int, depth: int, *, sms: int) -> float:
    """Return the microseconds that a product takes on this tile: about 5% from what an H200 took."""
    tiles = -(-rows // tile.m) * -(-columns // tile.n)
    slices = (tile.side + tile.width) * 128
    zeros = tile.zeros(rows) * _ZEROS if rows < _WIDEST else 0
    step = max(
        tile.area * _PRODUCT,
        slices * min(tiles, sms) / _TO_ALL,
        slices / _TO_ONE + zeros,
    )
    turns = -(-tiles // sms)
    chip = turns * (depth / 64 * step + _TILE + _ELEMENT * tile.area) / _CYCLES
    memory = 2 * (columns * depth + rows * depth + rows * columns) / _MEMORY
    return float(rate * (_LAUNCH + (chip**_POWER + memory**_POWER) ** (1 / _POWER)))
