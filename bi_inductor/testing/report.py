"""What a check found: one cell per axis, dtype and device, and a message that says where the bits part."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row whose bits differ. ``ulps``: the most representable numbers between the two, None for integers."""

    place: str
    row: int
    output: int
    changed: int
    total: int
    max_abs: float
    ulps: int | None

    def __str__(self) -> str:
        size = (
            f"{self.max_abs:.2e}" if self.ulps is None else f"{self.ulps} ulp, {self.max_abs:.2e}"
        )
        return (
            f"row {self.row} of output {self.output}, {self.place}: "
            f"{self.changed} of {self.total} elements differ, by at most {size}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One axis of one model in one dtype on one device: how many comparisons, and what failed.

    ``refused``: the op and the reason for which the compiler refuses the model, which then was not measured.
    """

    axis: str
    dtype: str
    device: str
    compared: int
    findings: tuple[Finding, ...] = ()
    refused: str = ""

    @property
    def passed(self) -> bool:
        """Whether bits were compared, and all were equal."""
        return not self.findings and not self.refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All cells of one check. ``culprit``: the first op whose bits change, as ``bi_inductor.diff`` tells it."""

    backend: str
    seed: int
    cells: tuple[Cell, ...]
    culprit: str = ""

    @property
    def passed(self) -> bool:
        """Whether every cell passed."""
        return all(cell.passed for cell in self.cells)

    def text(self) -> str:
        """A line per failed cell, with its first findings."""
        lines = []
        for cell in self.cells:
            if cell.passed:
                continue
            lines.append(
                f"axis {cell.axis} ({cell.dtype}, {cell.device}): {len(cell.findings)} of "
                f"{cell.compared} comparisons differ"
            )
            lines += [f"  {finding}" for finding in cell.findings[:3]]
        if self.culprit:
            lines.append(f"first op whose bits change: {self.culprit}")
        lines.append(f"backend {self.backend}, seed {self.seed}")
        return "\n".join(lines)


class BatchVariantError(AssertionError):
    """A model gave one sample different bits; ``report`` holds every cell."""

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__("the bits of a sample follow its batch\n" + report.text())


class ControlTooWeakError(AssertionError):
    """The control agrees with itself on this data, so a test that passes on it shows nothing."""

    def __init__(self, backend: str, sizes: tuple[int, ...]) -> None:
        super().__init__(
            f"{backend} gives the same bits at the batch sizes {', '.join(map(str, sizes))}: the data or "
            "the sizes are too tame to show anything; use bi_inductor.testing.wide or cancelling, wider "
            "rows, or more sizes"
        )
