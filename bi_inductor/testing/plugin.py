"""The pytest plugin: the fixture ``batch_invariant``, four options, a table at the end.

Loaded by pytest in every environment that has this package, so nothing here imports torch before a test asks
for it. ``-p no:bi_inductor.testing.plugin`` turns it off; the name works installed or not.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bi_inductor.testing.report import Report

#: name of the property of a test that holds a row of the table
CELL = "batch_invariant"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--bi-device``, ``--bi-axes``, ``--bi-seed`` and ``--bi-table``."""
    group = parser.getgroup("batch invariance")
    group.addoption(
        "--bi-device", metavar="DEVICE", help="device of the models under test; fails without it"
    )
    group.addoption(
        "--bi-axes", metavar="A,B", help="axes to test instead of those that a test names"
    )
    group.addoption("--bi-seed", metavar="N", type=int, help="seed of the inputs")  # fmt: skip
    group.addoption("--bi-table", metavar="FILE", help="write the final table to FILE as Markdown")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a device that this machine lacks, and an axis that does not exist."""
    device, axes = config.getoption("--bi-device"), config.getoption("--bi-axes")
    if device is None and axes is None:
        return
    from bi_inductor.testing.axes import AXES
    from bi_inductor.testing.check import require_device

    try:
        require_device(device or "cpu")
    except ValueError as error:
        raise pytest.UsageError(f"--bi-device: {error}") from error
    for axis in (axes or "batch").split(","):
        if axis not in AXES:
            raise pytest.UsageError(
                f"--bi-axes: unknown axis {axis!r}; known are {', '.join(AXES)}"
            )


@pytest.fixture
def batch_invariant(request: pytest.FixtureRequest) -> Callable[..., "Report"]:
    """``assert_batch_invariant`` with the options of the command line; its cells appear in the final table."""
    from bi_inductor.errors import VariantOpError
    from bi_inductor.testing import BatchVariantError, assert_batch_invariant

    given = {
        name: value
        for name, value in {
            "devices": _tuple(request.config.getoption("--bi-device")),
            "axes": _tuple(request.config.getoption("--bi-axes")),
            "seed": request.config.getoption("--bi-seed"),
        }.items()
        if value is not None
    }

    def check(model_or_fn: Callable[..., Any], make_inputs: Any, **kwargs: Any) -> "Report":
        try:
            report = assert_batch_invariant(model_or_fn, make_inputs, **{**kwargs, **given})
        except BatchVariantError as error:
            note(request.node, error.report)
            raise
        except VariantOpError as error:
            note(request.node, _refusal(error, {**kwargs, **given}))
            raise
        note(request.node, report)
        return report

    return check


def _refusal(error: Any, given: Mapping[str, Any]) -> "Report":
    """The report of a model that the compiler does not take."""
    from bi_inductor.testing import Cell, Report
    from bi_inductor.testing.axes import DEFAULT_AXES

    dtype = next(iter(given.get("dtypes") or ("as given",)))
    cell = Cell(
        axis=given.get("axes", DEFAULT_AXES)[0], dtype=str(dtype).removeprefix("torch."),
        device=given.get("devices", ("cpu",))[0], compared=0, refused=f"{error.op} {error.reason}",
    )  # fmt: skip
    return Report(backend="batch_invariant", seed=given.get("seed", 0), cells=(cell,))


def _tuple(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(text.split(","))


def note(node: pytest.Item, report: "Report") -> None:
    """Show a report's cells in the final table; the fixture does so for its own."""
    # user_properties travel from xdist's workers to the process that prints
    name = node.callspec.id if hasattr(node, "callspec") else node.name
    for cell in report.cells:
        row = (
            name, cell.axis, cell.dtype, cell.device, cell.compared, len(cell.findings), cell.refused
        )  # fmt: skip
        node.user_properties.append((CELL, row))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print one row per test and axis, and write them to ``--bi-table``."""
    rows = _rows(terminalreporter)
    if not rows:
        return
    terminalreporter.section("batch invariance")
    width = max(len(row[0]) for row in rows)
    for test, axis, dtype, device, compared, different, refused in rows:
        terminalreporter.line(
            f"{test:{width}}  {axis:10}  {dtype:9} {device:6} {compared:5} rows  "
            f"{_verdict(different, refused)}"
        )
    if path := config.getoption("--bi-table"):
        Path(path).write_text(_markdown(rows, " ".join(config.invocation_params.args)))


def _rows(terminalreporter: Any) -> list[tuple[Any, ...]]:
    return [
        tuple(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == CELL
    ]


def _verdict(different: int, refused: str) -> str:
    if refused:
        return f"refused: {refused}"
    return "equal" if not different else f"{different} DIFFER"


def _markdown(rows: list[tuple[Any, ...]], command: str) -> str:
    """A line per test, dtype and device, a column per axis, and the sums."""
    import torch

    axes = list(dict.fromkeys(row[1] for row in rows))
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for test, axis, dtype, device, compared, different, refused in rows:
        verdict = _verdict(different, refused) + ("" if refused else f" ({compared})")
        cells.setdefault((test, dtype, device), {})[axis] = verdict
    refusals = sum(1 for row in rows if row[6])
    equal = sum(1 for row in rows if not row[5] and not row[6])
    lines = [
        f"# Batch invariance: {equal} of {len(rows) - refusals} cells equal, {refusals} models refused",
        "",
        f"torch {torch.__version__}, `pytest {command}`. In brackets: rows compared with `torch.equal` semantics.",
        "",
        f"| model | dtype | device | {' | '.join(axes)} |",
        f"|{'---|' * (3 + len(axes))}",
    ]
    for key, found in cells.items():
        lines.append(f"| {' | '.join((*key, *(found.get(axis, '') for axis in axes)))} |")
    return "\n".join(lines) + "\n"
