"""What decides speed on a NeuronCore: loop order and what stays in SBUF. Cannot express an order of additions.

No speed was measured: the choices follow from the sizes alone.
"""

from dataclasses import dataclass

from lowerings.neuron.plans import H_TILE, K_TILE, N_TILE, ROW_TILE, V_TILE

PANEL = (
    2048  # columns of a row that one DMA brings; a multiple of every chunk, so it moves no boundary
)
HELD_BYTES = 96 * 1024  # per partition: half of the smallest SBUF (192 KiB)

assert PANEL % H_TILE == 0
assert PANEL % V_TILE == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MatmulSchedule:
    """``hold_panel``: keep all K tiles of 512 columns in SBUF while the row tiles pass by."""

    hold_panel: bool


def matmul_schedule(rows: int, depth: int, itemsize: int) -> MatmulSchedule:
    """Hold the panel when a second row tile would load it again and it fits."""
    held = -(-depth // K_TILE) * N_TILE * itemsize
    return MatmulSchedule(hold_panel=rows > ROW_TILE and held <= HELD_BYTES)
