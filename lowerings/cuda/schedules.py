"""What decides speed on CUDA, as plain data: tiles, warps, stages. It may see M; it cannot express an order.

Every schedule of one plan gives the same bits: ``tests/lowerings/cuda/on_device`` holds them together on a GPU.
"""

import functools
from dataclasses import dataclass, replace

import torch


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Return how many programs the device runs side by side at least."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Return the bytes of shared memory that one program may use."""
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", 99 << 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """Tile of one program. ``swap``: the weights fill the 64-row side of the tensor core; ``tma``: persistent.

    ``stream``: the kernels of ``stream_kernels.py``.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    swap: bool = False
    tma: bool = False
    stream: bool = False

    def text(self) -> str:
        """Return e.g. ``128x256x64 w8 s3 tma``."""
        kinds = ((" swap", self.swap), (" tma", self.tma), (" stream", self.stream))
        marks = "".join(mark for mark, on in kinds if on)
        return f"{self.m}x{self.n}x{self.k} w{self.warps} s{self.stages}{marks}"

    def shared_bytes(self, element: int) -> int:
        """Return the shared memory of the operand buffers, without the epilogue's."""
        return (self.m + self.n) * self.k * element * self.stages


#: (largest M, schedules from few to many columns); the one that fills the chip best is taken
_SWAPPED_16 = (
    Gemm(m=16, n=32, k=256, warps=2, stages=4, swap=True),
    Gemm(m=16, n=64, k=128, warps=4, stages=5, swap=True),
)
_SWAPPED_32 = (
    Gemm(m=32, n=32, k=256, warps=4, stages=3, swap=True),
    Gemm(m=32, n=64, k=128, warps=4, stages=5, swap=True),
)
_MIDDLE_64 = (
    Gemm(m=64, n=32, k=128, warps=4, stages=4, swap=True),
    Gemm(m=64, n=64, k=128, warps=4, stages=5, swap=True),
)
#: (largest M, schedule where every program has a multiprocessor of its own, schedule for more columns): timed on an H200
#: for 11 weights of N 1024..151936, K 2048..12288
STREAMED = (
    (
        8,
        Gemm(m=8, n=32, k=256, warps=2, stages=5, stream=True),
        Gemm(m=8, n=32, k=256, warps=2, stages=4, stream=True),
    ),
    (
        16,
        Gemm(m=16, n=64, k=128, warps=4, stages=6, stream=True),
        Gemm(m=16, n=64, k=128, warps=4, stages=6, stream=True),
    ),
    (
        32,
        Gemm(m=32, n=64, k=128, warps=4, stages=5, stream=True),
        Gemm(m=32, n=64, k=128, warps=4, stages=4, stream=True),
    ),
)
#: (tile, time of one per unit of area with the chip full): fitted to 112 products timed on an H100
TENSOR_COPIES = (
    (Gemm(m=128, n=128, k=64, warps=4, stages=4, tma=True), 1.16),
    (Gemm(m=64, n=128, k=128, warps=4, stages=4, tma=True), 1.39),
    (Gemm(m=64, n=256, k=64, warps=4, stages=4, tma=True), 1.61),
    (Gemm(m=64, n=64, k=128, warps=4, stages=6, tma=True), 1.83),
    (Gemm(m=64, n=32, k=128, warps=4, stages=6, tma=True), 4.53),
)
#: any strides, any alignment
POINTERS = (
    Gemm(m=64, n=64, k=64, warps=4, stages=4),
    Gemm(m=128, n=128, k=64, warps=8, stages=3),
)
FLOAT32 = (
    Gemm(m=16, n=64, k=16, warps=4, stages=3),
    Gemm(m=64, n=64, k=16, warps=4, stages=3),
    Gemm(m=128, n=64, k=16, warps=8, stages=3),
)

#: every schedule that the tests hold together, by kind of dtype
ALL_HALVES = (
    *(tile for _, *tiles in STREAMED for tile in dict.fromkeys(tiles)),
    *_SWAPPED_16,
    *_SWAPPED_32,
    *_MIDDLE_64,
    *(tile for tile, _ in TENSOR_COPIES),
    *POINTERS,
)


def gemm(
    rows: int,
    columns: int,
    dtype: torch.dtype,
    *,
    sms: int,
    tma: bool,
    stream: bool = False,
    shared: int = 227 << 10,
) -> Gemm:
    """Choose the schedule of a product with ``rows`` rows and ``columns`` columns.

    Args:
        sms: multiprocessors of the device.
        tma: whether device and operands allow tensor copies (16-byte aligned, one unit stride).
        stream: whether K is side by side in both operands, as ``stream.streams`` says.
        shared: bytes of shared memory that one program may use.
    """
    if dtype == torch.float32:
        return FLOAT32[0] if rows <= 16 else _fitting(FLOAT32[1:], rows, columns, sms)
    if stream and rows <= STREAMED[-1][0]:
        found = _streamed(rows, columns, sms)
    elif rows <= 16:
        found = _SWAPPED_16[0 if rows == 16 and columns < 64 * sms // 2 else 1]
    elif rows <= 32:
        found = _SWAPPED_32[1]
    elif tma:
        found = _tensor_copies(rows, columns, sms)
    elif rows <= 64:
        found = _MIDDLE_64[1]
    else:
        found = _fitting(POINTERS, rows, columns, sms)
    # the epilogue of a tensor copy holds the output, and half of it again where every row has a bias of its own
    epilogue = found.m * found.n * 3 if found.tma else 0
    return found if found.shared_bytes(2) + epilogue <= shared else POINTERS[0]


def _streamed(rows: int, columns: int, sms: int) -> Gemm:
    """Choose from the first row of STREAMED that holds ``rows``, 32 at most."""
    alone, shared = next(tiles for most, *tiles in STREAMED if rows <= most)
    return alone if columns <= alone.n * sms else shared


def _tensor_copies(rows: int, columns: int, sms: int) -> Gemm:
    """The tile with the least time: waves of the chip times the time of a tile, in units of its area."""
    best, least = TENSOR_COPIES[0][0], float("inf")
    for tile, rate in TENSOR_COPIES:
        waves = -(-_tiles(tile, rows, columns) // sms)
        time = waves * tile.m * tile.n * rate
        if time < least:
            best, least = tile, time
    return best


def _tiles(tile: Gemm, rows: int, columns: int) -> int:
    return -(-rows // tile.m) * -(-columns // tile.n)


def _fitting(table: tuple[Gemm, ...], rows: int, columns: int, sms: int) -> Gemm:
    """The largest tile that still gives every multiprocessor one; the smallest if none does."""
    for tile in reversed(table):
        if _tiles(tile, rows, columns) >= sms:
            return tile
    return table[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Float32:
    """Tile of one program of a float32 product, with ``pieces`` of K side by side.

    A thread has ``tall`` times ``wide`` squares of 4 by 4; ``k`` elements of each piece are in shared memory at a time.
    """

    m: int
    n: int
    k: int = 16
    pieces: int = 1
    tall: int = 2
    wide: int = 2

    @property
    def warps(self) -> int:
        """As many as the squares need."""
        return self.pieces * self.m * self.n // (512 * self.tall * self.wide)

    def text(self) -> str:
        """Return e.g. ``64x32x16 p4 w4 2x2``."""
        return f"{self.m}x{self.n}x{self.k} p{self.pieces} w{self.warps} {self.tall}x{self.wide}"

    def shared_bytes(self) -> int:
        """Return the shared memory of the operands, 16 bytes a row apart at most, and of sums: of each piece, or of two levels."""
        operands = (self.m + self.n) * self.k * self.pieces * 4 + 1024
        return operands + max(2, self.pieces) * self.m * self.n * 4

    def cycles(self, tiles: int, depth: int, split: int, sms: int) -> float:
        """Estimate the cycles of a multiprocessor, without the time of reading operands from memory."""
        each = -(-tiles // sms)
        rounds = -(-depth // (split * self.pieces))
        lines = self.pieces * (self.m + self.n) * split
        # multiply-adds, an add for 16 of them, reads of both operands from shared memory, and their copies from global memory
        steps = 17 * self.tall * self.wide + self.tall + self.wide
        issued = (split * steps + lines / (32 * self.warps) * 1.8) * self.warps / 4
        if self.pieces > 1:
            issued += self.warps * 36 * self.tall * self.wide / 4
        # one warp of each scheduler alone waits for its operands
        busy = max(each * self.warps, 6) / (each * self.warps)
        # the L2 cache feeds a multiprocessor with about 20 bytes a cycle
        shorter, longer = sorted((issued * busy, lines * 4 / 20))
        # neither hides behind the other wholly
        return each * rounds * (longer + shorter / 4)


_SIXTEEN_ROWS = (
    Float32(m=16, n=32, pieces=16, tall=2, wide=1),
    Float32(m=16, n=16, pieces=16, tall=2, wide=1),
    Float32(m=16, n=16, pieces=32, tall=2, wide=1),
    Float32(m=16, n=8, k=8, pieces=64, tall=2, wide=1),
)
#: the most rows, and the tiles for as many
FLOAT32_FEW = (
    (
        4,
        (
            Float32(m=4, n=32, pieces=32, tall=1, wide=1),
            Float32(m=4, n=16, pieces=32, tall=1, wide=1),
            Float32(m=4, n=8, pieces=64, tall=1, wide=1),
        ),
    ),
    (
        8,
        (
            Float32(m=8, n=32, pieces=16, tall=1, wide=1),
            Float32(m=8, n=8, pieces=64, tall=1, wide=1),
        ),
    ),
    (16, _SIXTEEN_ROWS),
)
#: 32 of K at a time leave a thread of 64 numbers too few registers: 128x128 took 4.08 ms where 64x64 takes 3.76 (4096 rows)
FLOAT32_TILES = (
    Float32(m=128, n=64),
    Float32(m=64, n=128),
    Float32(m=64, n=64),
    Float32(m=64, n=64, pieces=2),
    Float32(m=64, n=64, pieces=4),
    Float32(m=64, n=32, pieces=4),
    Float32(m=64, n=32, pieces=4, k=8),
    Float32(m=64, n=32, pieces=8),
    Float32(m=32, n=32, pieces=4),
    Float32(m=32, n=32, pieces=8),
    Float32(m=32, n=32, pieces=16, k=8),
    Float32(m=32, n=16, pieces=16, k=8),
    Float32(m=32, n=16, pieces=32, k=8),
    *_SIXTEEN_ROWS,
)
ALL_FLOAT32 = tuple(
    dict.fromkeys((*FLOAT32_TILES, *(tile for _, tiles in FLOAT32_FEW for tile in tiles)))
)


def float32(
    rows: int, columns: int, depth: int, split: int, *, batch: int, sms: int, shared: int
) -> Float32:
    """Choose the schedule of ``batch`` float32 products of ``[rows, depth]`` and ``[depth, columns]``."""
    table = next((tiles for most, tiles in FLOAT32_FEW if rows <= most), FLOAT32_TILES)

    def cycles(tile: Float32) -> float:
        tiles = batch * -(-rows // tile.m) * -(-columns // tile.n)
        return tile.cycles(tiles, depth, split, sms)

    fitting = [tile for tile in table if tile.shared_bytes() <= shared]
    return min(fitting or FLOAT32_TILES[:1], key=cycles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Rows of one program (queries times the heads of a kv head); ``parallel``: a program for every piece."""

    m: int
    warps: int
    stages: int
    parallel: bool = False


def attention(
    rows: int, sequences: int, pieces: int, dtype: torch.dtype, dim: int, *, sms: int
) -> Attention:
    """Choose the schedule of ``rows`` packed rows for each of ``sequences`` kv heads, keys in ``pieces``."""
    if rows <= 16:
        # timed: 128 kv heads on 132 multiprocessors are faster with a program for all pieces
        few = sequences < 3 * sms // 4
        return Attention(m=16, warps=4, stages=2 if dim > 128 else 3, parallel=few and pieces > 1)
    if dtype == torch.float32:
        return Attention(
            m=16, warps=4, stages=2, parallel=pieces > 1 and sequences * rows < 16 * sms
        )
    wide = dim > 128
    tile = (
        32 if rows <= 32 else 64 if wide or rows <= 64 or -(-rows // 128) * sequences < sms else 128
    )
    alone = -(-rows // tile) * sequences * 2 >= sms
    warps = 8 if tile == 128 or wide else 4
    return Attention(
        m=tile, warps=warps, stages=2 if wide else 3, parallel=pieces > 1 and not alone
    )


def packed_attention(
    rows: int, sequences: int, pieces: int, dtype: torch.dtype, dim: int, *, sms: int
) -> Attention:
    """The same for ``rows`` rows of a request on average: tiles with room for the second look at a NaN."""
    found = attention(rows, sequences, pieces, dtype, dim, sms=sms)
    return found if found.m <= 32 else replace(found, m=32, warps=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """Blocks of keys scored together; ``parallel``: a program for every piece; registers of a thread, 0 for any."""

    blocks: int
    warps: int = 4
    registers: int = 0
    parallel: bool = False


def decode(sequences: int, pieces: int, dim: int, *, sms: int) -> Decode:
    """Choose the schedule of one query for each of ``sequences`` kv heads, keys in ``pieces``."""
    parallel = sequences < 3 * sms // 4
    # four programs on a multiprocessor where there are that many, two that wait less where not
    if sequences * (pieces if parallel else 1) > 3 * sms // 2:
        return Decode(blocks=1, registers=128 if dim <= 128 else 0, parallel=parallel)
    return Decode(blocks=2, parallel=parallel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one program, the lanes it keeps (the plan's, or fewer for a short row), steps in flight."""

    rows: int
    lanes: int
    unroll: int
    warps: int


def rows(count: int, extent: int, *, unit_stride: bool, lanes: int = 4096) -> Rows:
    """Choose the schedule of ``count`` rows of ``extent`` elements."""
    short = min(lanes, max(16, 1 << max(extent - 1, 0).bit_length()))
    if not unit_stride:
        # neighbouring rows are neighbours in memory
        side = max(8, min(64, 8192 // short, 1 << max(count - 1, 0).bit_length()))
        return Rows(rows=side, lanes=short, unroll=1, warps=16 if short * side > 8192 else 4)
    if short < lanes:
        side = max(1, min(2048 // short, 1 << max(count // 264, 1).bit_length() - 1))
        return Rows(rows=side, lanes=short, unroll=1, warps=4 if side * short >= 1024 else 1)
    if extent <= lanes:
        return Rows(rows=1, lanes=lanes, unroll=1, warps=4)
    return Rows(rows=1, lanes=lanes, unroll=2, warps=8)


def softmax_parts(count: int, extent: int) -> int:
    """How many programs share the lanes of a long row: one unless long rows are few."""
    return 32 if count <= 64 and extent > 32768 else 1


def softmax_held(
    count: int, extent: int, lanes: int, element: int, *, sms: int, shared: int
) -> int:
    """Steps of ``lanes`` numbers of a long row, a multiple of 3, that wait in shared memory; 0: the L2 cache keeps rows.

    Timed on an H100: 132 rows of 128 KiB are faster from its cache (124 against 151 us), of 192 KiB no more (244, 185).
    """
    if extent * element % 16 or min(count, sms) * extent * element < 20 << 20:
        return 0
    return (shared - 4096) // (lanes * element) // 3 * 3
