"""``certify``: what the compiler proves of a model, and what its bits do over the five axes, on this machine."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bi_inductor import _torch, certificates
from bi_inductor.errors import BatchInvariantError, InspectionError
from bi_inductor.inspection import certify_axes, certify_tokens
from bi_inductor.inspection.certify_axes import Bench
from bi_inductor.inspection.certify_hash import environment, subject_of
from bi_inductor.inspection.certify_report import AXES, Check, ModelCertificate, differences, load
from bi_inductor.inspection.diff_samples import Samples, checked_sizes

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

Model = Callable[..., Any]


def certify(
    model: Model,
    *args: Any,
    batch_sizes: Sequence[int] = (1, 2, 3, 8, 17),
    options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
    **kwargs: Any,
) -> ModelCertificate:
    """Compile a model with ``backend="batch_invariant"``, and measure its bits over the five axes of the promise.

    Args:
        model: a module or function; it runs under ``no_grad``.
        args: its inputs, a batch of samples; samples are repeated for batches larger than that.
        batch_sizes: sizes to compare with one sample alone.
        options: those of the backend; ``batch_dims`` says where the batch is.
        progress: called with a few words before each slow step.
        kwargs: the model's inputs by name.

    The axes: (1) every row of every batch size; (2) every position, and neighbours of noise, NaN and infinity;
    (3) prefill against chunks and single tokens where the model takes a cache, prefixes where it is causal;
    (4) padding where there are ``input_ids`` and an ``attention_mask``, two capacities of a static cache;
    (5) recompiled, static and dynamic shapes, other thread counts, eager mode, another process. What does not
    apply to a model is recorded as such, with the reason, and never counts as passed. A model that the compiler
    refuses gets a certificate that says so, and is not ``ok``.

    Compiled models of this process are compiled again afterwards: Dynamo is reset.

    Raises:
        InspectionError: no input has a batch, or the model does not run.
        OptionError: an option that the backend refuses.
    """
    sizes = checked_sizes(batch_sizes)
    given = dict(options or {})
    with _quiet():
        bench = _bench(model, args, kwargs, given, progress)
        control = certify_axes.control(bench, sizes[-1])
        static, device = _static(bench, sizes)
        checks = _refused() if static["refused"] else tuple(_measure(bench, sizes))
    return ModelCertificate(
        subject=subject_of(model),
        environment=environment(device),
        options=given,
        batch_sizes=sizes,
        static=static,
        checks=checks,
        control=control,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recheck:
    """A saved certificate against this machine; ``differences`` names each changed version and plan."""

    name: str
    differences: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether versions, device and plans are those of the certificate."""
        return not self.differences

    def json(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        return {"name": self.name, "ok": self.ok, "differences": list(self.differences)}

    def text(self) -> str:
        """Return the result in one sentence."""
        if self.ok:
            return f"{self.name}: this machine has the plans and versions of the certificate"
        return f"{self.name}: {len(self.differences)} differences; {self.differences[0]}"

    def table(self) -> "Table | Text":
        """Return the result for a terminal of 100 columns; plain text where nothing differs."""
        from rich.table import Table
        from rich.text import Text

        if self.ok:
            return Text(self.text())
        made = Table(title=self.name, width=100, show_header=False)
        made.add_column("difference", overflow="fold")
        for line in self.differences:
            made.add_row(line)
        return made


def check_certificate(
    certificate: ModelCertificate | Mapping[str, Any] | str | Path,
    model: Model,
    *args: Any,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Recheck:
    """Compile a model again and say whether this machine has the plans of a saved certificate.

    Args:
        certificate: what ``certify`` returned, its JSON, or the path it was saved to.
        model: the model, with inputs of the same shapes and the same ``options``.

    Raises:
        InspectionError: the file is missing, was changed after it was signed, or the model does not run.
    """
    if isinstance(certificate, (str, Path)):
        earlier: Mapping[str, Any] = load(certificate)
    elif isinstance(certificate, ModelCertificate):
        earlier = certificate.json()
    else:
        earlier = certificate
    given = dict(options or {})
    with _quiet():
        bench = _bench(model, args, kwargs, given, None)
        static, device = _static(bench, tuple(earlier["batch_sizes"]))
    now = {
        "subject": subject_of(model),
        "environment": environment(device),
        "options": {k: repr(v) for k, v in given.items()},
        "static": static,
    }
    return Recheck(name=now["subject"]["name"], differences=differences(now, earlier))  # type: ignore[index]


def _bench(
    model: Model,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    progress: Callable[[str], None] | None,
) -> Bench:
    samples = Samples.of(model, args, kwargs, options.get("batch_dims"))
    return Bench(model=model, samples=samples, options=options, tell=progress or (lambda _: None))


def _static(bench: Bench, sizes: Sequence[int]) -> tuple[dict[str, Any], str]:
    """Compile for one sample and for the largest batch: their plans must be one text."""
    bench.tell("plans")
    refused = ""
    try:
        bench.alone(0)
        bench.run(bench.samples.take(range(sizes[-1])))
    except InspectionError:
        raise
    except BatchInvariantError as error:
        refused = " ".join(str(error).split())
    found = certificates.certificate()
    graphs = list(dict.fromkeys(found.graphs))
    listed = [json.loads(json.dumps(asdict(g))) for g in graphs]
    return {
        "invariant": found.is_invariant and bool(graphs) and not refused,
        "refused": refused,
        "hash": hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest(),
        "graphs": listed,
    }, (found.device[0] if found.device else "cpu")


def _measure(bench: Bench, sizes: Sequence[int]) -> Iterator[Check]:
    yield certify_axes.batch_sizes(bench, sizes)
    yield from certify_axes.neighbours(bench, min(max(sizes), 5))
    yield from certify_tokens.sequences(bench)
    yield from certify_axes.execution(bench, min(max(sizes), 5))


def _refused() -> tuple[Check, ...]:
    reason = "the compiler refuses the model"
    return tuple(
        Check(axis=axis, name=name, status="not measured", detail=reason)
        for axis, name in AXES.items()
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """No gradients, no recompile limit, and no warning of what the certificate records."""
    with torch.no_grad(), _torch.without_recompile_limit(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="bi_inductor goes on")
        warnings.filterwarnings("ignore", message="graph break at")
        try:
            yield
        finally:
            torch.compiler.reset()
