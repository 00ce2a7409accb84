"""A run in several parts: what passed is kept in a file and not run again, and a run may end at a given second.

``pytest --record FILE`` adds a JSON line per test to FILE, and leaves out tests that passed in it before: of the same
sources, with the same torch, on the same device.
``pytest --seconds N`` stops what runs then and reaches nothing more: those tests count as stopped, not as passed.
``python -m tests.suite.record FILE...`` prints the table of all parts.
"""

import argparse
import hashlib
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from bi_inductor.cache import sources_digest
from bi_inductor.testing.plugin import CELL

#: why a test of a run with ``--seconds`` has no result
OUT_OF_TIME = "no time left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What is kept of one test. ``cells``: rows of the table, as ``bi_inductor.testing.plugin.note`` makes them; ``notes``: other properties.

    ``run``: the hash of what must be equal for a test not to be run again.
    """

    test: str
    outcome: str
    seconds: float
    run: str = ""
    cells: list[list[Any]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    error: str = ""


def read(paths: list[Path]) -> dict[str, Line]:
    """The last line of each test, but of one run one that passed wins."""
    found: dict[str, Line] = {}
    for path in paths:
        for text in path.read_text().splitlines() if path.exists() else ():
            line = Line(**json.loads(text))
            old = found.get(line.test)
            if old is None or old.outcome != "passed" or old.run != line.run:
                found[line.test] = line
    return found


def run_of(device: str) -> str:
    """Hash of the sources of both packages and of these tests, torch's version and the device."""
    digest = hashlib.sha256(f"{sources_digest()} {torch.__version__} {device}".encode())
    for folder in ("suite", "zoo"):
        for file in sorted((Path(__file__).parents[1] / folder).glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class Recorder:
    """The two options above, with and without xdist: workers are told what to leave out and when to end."""

    def __init__(self, config: pytest.Config) -> None:
        given = getattr(config, "workerinput", None)
        self.is_worker = given is not None
        path, seconds = config.getoption("--record"), config.getoption("--seconds")
        self.path = Path(path) if path else None
        if given is not None:
            self.ends, self.passed = given["ends"], set(given["passed"])
            return
        self.ends = time.time() + seconds if seconds else None
        self.run = run_of(config.getoption("--bi-device") or "cpu")
        lines = read([self.path] if self.path else []).values()
        self.passed = {n.test for n in lines if n.outcome == "passed" and n.run == self.run}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput.update(ends=self.ends, passed=sorted(self.passed))

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        done = [item for item in items if item.nodeid in self.passed]
        config.hook.pytest_deselected(items=done)
        items[:] = [item for item in items if item.nodeid not in self.passed]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        if self.ends is not None and time.time() > self.ends:
            pytest.skip(OUT_OF_TIME)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        if self.ends is None:
            return (yield)

        def stop(*_: object) -> None:
            pytest.skip(OUT_OF_TIME)

        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(0.1, self.ends - time.time()))
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        ended = report.when == "call" or report.outcome != "passed"
        if self.path is None or self.is_worker or not ended:
            return
        stopped = report.outcome == "skipped" and OUT_OF_TIME in str(report.longrepr)
        line = Line(
            test=report.nodeid,
            outcome="stopped" if stopped else report.outcome,
            seconds=round(report.duration, 1),
            run=self.run,
            cells=[list(row) for name, row in report.user_properties if name == CELL],
            notes={name: str(value) for name, value in report.user_properties if name != CELL},
            error=str(report.longrepr)[-3000:] if report.outcome == "failed" else "",
        )
        with self.path.open("a") as file:
            file.write(json.dumps({name: getattr(line, name) for name in Line.__slots__}) + "\n")


def table(lines: dict[str, Line]) -> str:
    """Markdown: a line per model and dtype, a column per axis; what was refused and why; what failed."""
    count = {o: sum(line.outcome == o for line in lines.values()) for o in ("passed", "failed", "stopped")}  # fmt: skip
    cells: dict[tuple[str, str, str], dict[str, list[Any]]] = {}
    for line in lines.values():
        for name, axis, dtype, device, *rest in line.cells:
            cells.setdefault((_model(name), dtype, device), {})[axis] = rest
    axes = list(dict.fromkeys(axis for row in cells.values() for axis in row))
    out = [
        f"{count['passed']} tests passed, {count['failed']} failed, {count['stopped']} without a result in their time.",
        "",
        f"| model | dtype | device | {' | '.join(axes)} |",
        f"|{'---|' * (3 + len(axes))}",
    ]
    refused: dict[str, str] = {}
    for key, row in sorted(cells.items()):
        shown = []
        for axis in axes:
            compared, different, reason = row.get(axis, (0, 0, ""))
            if reason:
                refused[f"{key[0]} ({key[1]})"] = reason
            shown.append(_cell(compared, different, reason) if axis in row else "")
        out.append(f"| {' | '.join((*key, *shown))} |")
    out += ["", "| refused | because |", "|---|---|"] if refused else []
    out += [f"| {name} | {reason} |" for name, reason in refused.items()]
    for outcome in ("failed", "stopped"):
        named = [line for line in lines.values() if line.outcome == outcome]
        out += ["", f"## {outcome}", ""] if named else []
        out += [
            f"- `{line.test}` ({line.seconds} s) {_first_error(line.error)} {line.notes or ''}"
            for line in named
        ]
    return "\n".join(out) + "\n"


def _cell(compared: int, different: int, reason: str) -> str:
    if reason:
        return "refused"
    return f"**{different} of {compared} differ**" if different else str(compared)


#: parts of a test's name that are no name of a model
_NOT_NAMES = frozenset({"float32", "bfloat16", "float16", "rows", "ways", "mode"})


def _model(name: str) -> str:
    """Without dtype and group of axes, which are in other columns."""
    return "-".join(part for part in name.split("-") if part not in _NOT_NAMES)


def _first_error(text: str) -> str:
    marked = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return " ".join(marked)[:600]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    print(table(read(parser.parse_args().files)))


if __name__ == "__main__":
    main()
