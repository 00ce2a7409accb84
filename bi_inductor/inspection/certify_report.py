"""The certificate: verdicts, measured axes, versions, signed by a hash; saved, loaded and compared."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bi_inductor.errors import InspectionError
from bi_inductor.inspection.certify_hash import signed_hash
from bi_inductor.inspection.schema import COUNT, TEXT, list_of, object_of

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = "bi_inductor.certify/1"
AXES = {
    1: "batch size",
    2: "position and neighbours",
    3: "query length",
    4: "padding and cache capacity",
    5: "way of execution",
}
Status = Literal["passed", "failed", "not applicable", "not measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One measurement of an axis. ``compared``: how many results; ``detail``: what changed, or why not measured."""

    axis: int
    name: str
    status: Status
    compared: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCertificate:
    """What was proved and measured of one model on one machine.

    ``static``: the plans of the compiled graphs, or the sentence by which the compiler refused the model.
    ``control``: whether stock eager torch changes bits on the same data, so that the data can show a change.
    """

    subject: Mapping[str, str]
    environment: Mapping[str, str]
    options: Mapping[str, Any]
    batch_sizes: tuple[int, ...]
    static: Mapping[str, Any]
    checks: tuple[Check, ...]
    control: str

    @property
    def ok(self) -> bool:
        """Whether every node is proved, no measurement failed, and at least the batch size was measured."""
        failed = any(c.status == "failed" for c in self.checks)
        batch = any(c.axis == 1 and c.status == "passed" for c in self.checks)
        return bool(self.static["invariant"]) and batch and not failed

    @property
    def axes(self) -> dict[int, Status]:
        """The status of each of the five axes: failed if a check failed, passed if one passed and none failed."""
        return {axis: _worst([c.status for c in self.checks if c.axis == axis]) for axis in AXES}

    @property
    def hash(self) -> str:
        """SHA-256 over all of ``json()`` but itself."""
        return signed_hash(self._content())

    def json(self) -> dict[str, Any]:
        """Return the certificate as JSON types; ``certify_report.JSON_SCHEMA`` describes it."""
        return {**self._content(), "hash": self.hash}

    def _content(self) -> dict[str, Any]:
        axes = [
            {
                "axis": number,
                "name": AXES[number],
                "status": status,
                "checks": [_check_json(c) for c in self.checks if c.axis == number],
            }
            for number, status in self.axes.items()
        ]
        content = {
            "schema": SCHEMA,
            "ok": self.ok,
            "subject": dict(self.subject),
            "environment": dict(self.environment),
            "options": {k: repr(v) for k, v in self.options.items()},
            "batch_sizes": list(self.batch_sizes),
            "static": dict(self.static),
            "axes": axes,
            "control": self.control,
        }
        loaded: dict[str, Any] = json.loads(json.dumps(content))
        return loaded

    def save(self, path: str | Path) -> None:
        """Write the certificate as JSON."""
        Path(path).write_text(json.dumps(self.json(), indent=1) + "\n")

    def compare(self, other: "ModelCertificate | Mapping[str, Any]") -> tuple[str, ...]:
        """Return a sentence for each thing that differs from another certificate; none if all agree."""
        theirs = other.json() if isinstance(other, ModelCertificate) else other
        return differences(self.json(), theirs)

    def table(self) -> "Table":
        """Return the certificate for a terminal of 100 columns."""
        return table(self.json())

    def text(self) -> str:
        """Return the result in one sentence."""
        named = {number: status for number, status in self.axes.items() if status != "passed"}
        rest = "; ".join(f"{AXES[n]}: {status}" for n, status in named.items())
        proof = "every op proved" if self.static["invariant"] else "not every op is proved"
        said = f"certified, {proof}" if self.ok else f"not certified, {proof}"
        return f"{self.subject['name']}: {said}{f'; {rest}' if rest else ''}"


def load(path: str | Path) -> dict[str, Any]:
    """Read a certificate that ``save`` wrote, as JSON types.

    Raises:
        InspectionError: the file is missing, no certificate, or was changed after it was signed.
    """
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise InspectionError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InspectionError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise InspectionError(f"{path} is no certificate: schema {SCHEMA} expected, found {found}")
    signed, found = content.get("hash"), signed_hash(content)
    if signed != found:
        raise InspectionError(
            f"{path} was changed after it was signed: its hash is {str(signed)[:16]}, "
            f"its content gives {found[:16]}"
        )
    return content


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a sentence for each difference of two certificates, ``theirs`` being the earlier one."""
    found = []
    for part in ("subject", "environment", "options"):
        for key in sorted({*ours[part], *theirs[part]}):
            now, then = ours[part].get(key, "nothing"), theirs[part].get(key, "nothing")
            if now != then:
                found.append(f"{part} {key} was {then}, is {now}")
    found += _plan_differences(ours["static"], theirs["static"])
    if "axes" in ours and "axes" in theirs:
        for now, then in zip(ours["axes"], theirs["axes"], strict=True):
            if now["status"] != then["status"]:
                found.append(f"{now['name']} was {then['status']}, is {now['status']}")
    return tuple(found)


def _plan_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    found = []
    if ours["refused"] != theirs["refused"]:
        found.append(f"the compiler said {theirs['refused']!r}, says {ours['refused']!r}")
    now, then = ours["graphs"], theirs["graphs"]
    if len(now) != len(then):
        return [*found, f"the model had {len(then)} graphs, has {len(now)}"]
    for index, (a, b) in enumerate(zip(now, then, strict=True)):
        new, old = a["plan"].splitlines(), b["plan"].splitlines()
        changed = [i for i in range(max(len(new), len(old))) if new[i : i + 1] != old[i : i + 1]]
        if changed:
            at = changed[0]
            found.append(
                f"the plan of graph {index} changed in {len(changed)} steps, first step {at}: "
                f"was {_line(old, at)}, is {_line(new, at)}"
            )
        for key in ("variants", "graph_break"):
            if a[key] != b[key]:
                found.append(f"{key} of graph {index} was {b[key]}, is {a[key]}")
    return found


def _line(lines: list[str], at: int) -> str:
    return " ".join(lines[at].split()) if at < len(lines) else "nothing"


def _worst(statuses: list[Status]) -> Status:
    order: tuple[Status, ...] = ("failed", "passed", "not measured", "not applicable")
    return next((s for s in order if s in statuses), "not measured")


def _check_json(check: Check) -> dict[str, Any]:
    made = asdict(check)
    del made["axis"]
    return made


def table(content: Mapping[str, Any]) -> "Table":
    """Return a certificate, given as JSON types, for a terminal of 100 columns."""
    from rich.table import Table
    from rich.text import Text

    style = {"passed": "green", "failed": "bold red"}
    title = f"{content['subject']['name']}: {'certified' if content['ok'] else 'not certified'}"
    static = content["static"]
    steps = sum(len(g["plan"].splitlines()) for g in static["graphs"])
    plans = (
        static["refused"]
        or f"{len(static['graphs'])} graph{'s' * (len(static['graphs']) != 1)}, {steps} steps with a plan or a reason"
    )
    said = [
        f"static: {plans}{'' if static['invariant'] else ', not every op is proved'}",
        f"control: {content['control']}",
        ", ".join(f"{k} {v}" for k, v in content["environment"].items()),
        f"hash {content['hash']}",
    ]
    made = Table(
        title=title,
        caption=Text("\n".join(said)),
        caption_justify="left",
        width=100,
        title_style="green" if content["ok"] else "red",
    )
    for name, ratio in (("axis", 2), ("check", 3), ("status", 2), ("detail", 4)):
        made.add_column(name, ratio=ratio, overflow="fold")
    for axis in content["axes"]:
        for at, check in enumerate(axis["checks"]):
            made.add_row(
                f"{axis['axis']} {axis['name']}" if at == 0 else "",
                check["name"],
                Text(check["status"], style=style.get(check["status"], "yellow")),
                check["detail"] or f"{check['compared']} compared",
                end_section=at + 1 == len(axis["checks"]),
            )
    return made


_STATUS = {"enum": ["passed", "failed", "not applicable", "not measured"]}
_TEXTS = {"type": "object", "additionalProperties": TEXT}


_GRAPH = object_of(
    {
        "plan": TEXT,
        "variants": list_of(TEXT),
        "backward_batch_sums": list_of(TEXT),
        "graph_break": {"type": ["string", "null"]},
    }
)
_CHECK = object_of({"name": TEXT, "status": _STATUS, "compared": COUNT, "detail": TEXT})

#: JSON Schema of ``ModelCertificate.json()`` and of the file that ``save`` writes.
JSON_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": SCHEMA,
    **object_of(
        {
            "schema": {"const": SCHEMA},
            "ok": {"type": "boolean"},
            "subject": object_of({"name": TEXT, "structure": TEXT}),
            "environment": _TEXTS,
            "options": _TEXTS,
            "batch_sizes": list_of(COUNT),
            "static": object_of(
                {
                    "invariant": {"type": "boolean"},
                    "refused": TEXT,
                    "hash": TEXT,
                    "graphs": list_of(_GRAPH),
                }
            ),
            "axes": list_of(
                object_of(
                    {
                        "axis": {"type": "integer", "minimum": 1, "maximum": 5},
                        "name": TEXT,
                        "status": _STATUS,
                        "checks": list_of(_CHECK),
                    }
                )
            ),
            "control": TEXT,
            "hash": TEXT,
        }
    ),
}
