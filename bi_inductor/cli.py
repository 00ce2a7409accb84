"""``bi-inductor explain|diff|certify|bench TARGET``. Exit code 0: invariant; 1: variant; 2: usage.

TARGET is ``package.module:factory`` (returns ``(model, args)`` or ``(model, args, kwargs)``), a Hugging Face
folder or a GGUF file. Results go to stdout, progress (on a terminal only) and errors to stderr.
"""

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bi_inductor.errors import BatchInvariantError, InspectionError

INVARIANT, VARIANT, USAGE = 0, 1, 2

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="See, prove and find what makes the bits of a model follow its batch.",
)
_out = Console(width=None if sys.stdout.isatty() else 100, highlight=False, soft_wrap=False)
_err = Console(stderr=True, highlight=False)

TargetArg = Annotated[
    str, typer.Argument(help="package.module:factory, a Hugging Face folder, or a .gguf file")
]
DeviceOpt = Annotated[str | None, typer.Option(help="cpu, cuda, mps or neuron")]
DtypeOpt = Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or float64")]
SizesOpt = Annotated[str | None, typer.Option(help="batch sizes, for example 1,2,3,8,17")]
JsonOpt = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
DebugOpt = Annotated[bool, typer.Option(help="show tracebacks and warnings")]


@app.command()
def explain(
    target: TargetArg,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    batch_sizes: SizesOpt = None,
    as_json: JsonOpt = False,
    html: Annotated[Path | None, typer.Option(help="write the page to this file")] = None,
    dot: Annotated[Path | None, typer.Option(help="write Graphviz text to this file")] = None,
    train: Annotated[bool, typer.Option(help="explain the graph with its gradients")] = False,
    kernels: Annotated[bool, typer.Option(help="also generate code for the page (slow)")] = False,
    debug: DebugOpt = False,
) -> None:
    """Give every op one verdict, with its plan and source line. Runs no kernel; the device need not be there.

    With --batch-sizes the plans are made at each size, and the exit code says whether they are equal.
    """
    with _errors(debug):
        import torch

        from bi_inductor.inspection.capture import with_batch
        from bi_inductor.inspection.explain import explain as run_explain
        from bi_inductor.inspection.targets import load_target

        sizes = _sizes(batch_sizes)
        with _status(f"loading {target}"):
            found = load_target(target, dtype=_dtype(dtype), weights=False)
        same = True
        with torch.set_grad_enabled(train), _status(f"tracing {found.name}") as progress:
            report = run_explain(
                found.model,
                *found.args,
                device=device,
                kernels=kernels,
                on_graph=lambda graph: progress(f"planned a graph of {len(graph.nodes)} nodes"),
                **found.kwargs,
            )
            for size in sizes:
                progress(f"tracing {found.name} with {size} samples")
                args, kwargs = with_batch(found.model, found.args, found.kwargs, size)
                other = run_explain(found.model, *args, device=device, dynamic=False, **kwargs)
                if other.text() != report.text():
                    same = False
                    _err.print(f"[red]the plans are different at batch size {size}[/red]")
        if as_json:
            print(json.dumps(report.json(), indent=2))
        else:
            _out.print(report.table())
            if sizes and same:
                _out.print(f"the plans are equal at batch sizes {', '.join(map(str, sizes))}")
        if html is not None:
            report.html(html)
        if dot is not None:
            dot.write_text(report.dot())
        raise typer.Exit(INVARIANT if report.ok and same else VARIANT)


@app.command()
def diff(
    target: TargetArg,
    backend: Annotated[
        str, typer.Option(help="eager, inductor, batch_invariant, ...")
    ] = "inductor",
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    batch_sizes: SizesOpt = None,
    as_json: JsonOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Run the model alone and in batches, and name the first node whose bits change."""
    with _errors(debug):
        import bi_inductor

        given = _batch_sizes(batch_sizes)
        found = _loaded(target, dtype, device)
        with _status(f"comparing batches of {found.name} under {backend}") as progress:
            report = bi_inductor.diff(
                found.model,
                *found.args,
                backend=backend,
                progress=progress,
                **given,
                **found.kwargs,
            )
        _print(report, as_json)
        raise typer.Exit(INVARIANT if report.ok else VARIANT)


@app.command()
def certify(
    target: TargetArg,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    batch_sizes: SizesOpt = None,
    as_json: JsonOpt = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write the certificate to this file")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="measure nothing, compare plans with this certificate")
    ] = None,
    debug: DebugOpt = False,
) -> None:
    """Static verdicts and measured bits as a certificate; --check compares this machine with a stored one."""
    with _errors(debug):
        from bi_inductor.inspection.certify import certify as run_certify
        from bi_inductor.inspection.certify import check_certificate
        from bi_inductor.inspection.certify_report import load

        if check is not None:
            load(check)  # before the model: a bad file needs no compilation to be found
        given = _batch_sizes(batch_sizes)
        found = _loaded(target, dtype, device)
        made: Any
        with _status(f"measuring {found.name}") as progress:
            if check is not None:
                made = check_certificate(check, found.model, *found.args, **found.kwargs)
            else:
                made = run_certify(
                    found.model, *found.args, progress=progress, **given, **found.kwargs
                )
        if output is not None and check is None:
            made.save(output)
        _print(made, as_json)
        raise typer.Exit(INVARIANT if made.ok else VARIANT)


@app.command()
def bench(
    target: TargetArg,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    batch_sizes: SizesOpt = None,
    rounds: Annotated[int, typer.Option(min=3, help="timed calls of each")] = 20,
    as_json: JsonOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Time stock torch.compile against ours on the target, taking turns; medians.

    Exit code 0: timed; 1: ours refuses an op of the model; 2: usage.
    """
    with _errors(debug):
        from bi_inductor.inspection.bench import bench as run_bench

        sizes = _sizes(batch_sizes, least=1)
        found = _loaded(target, dtype, device)
        with _quiet_grad(), _status(f"compiling {found.name}") as progress:
            report = run_bench(found, batch_sizes=sizes, rounds=rounds, progress=progress)
        _print(report, as_json)
        raise typer.Exit(INVARIANT)


def run() -> None:
    """Run the command line."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    app(prog_name="bi-inductor")


def _loaded(target: str, dtype: str | None, device: str | None) -> Any:
    from bi_inductor.inspection.targets import load_target

    with _status(f"loading {target}"):
        return load_target(target, dtype=_dtype(dtype), device=device)


def _print(report: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.json(), indent=2))
    else:
        _out.print(report.table())


def _dtype(name: str | None) -> Any:
    import torch

    if name is None:
        return None
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InspectionError(
            f"--dtype must be float32, bfloat16, float16 or float64, got {name!r}"
        )
    return dtype


def _sizes(text: str | None, least: int = 2) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InspectionError(
            f"--batch-sizes must be numbers with commas between, got {text!r}"
        ) from None
    if any(size < 1 for size in sizes):
        raise InspectionError(f"--batch-sizes must be positive, got {text!r}")
    if len(set(sizes)) < least:
        raise InspectionError(
            f"--batch-sizes {text} has one size only, and there is nothing to compare it with; "
            "give two or more, for example 1,2,8"
        )
    return sizes


def _batch_sizes(text: str | None) -> dict[str, Any]:
    sizes = _sizes(text)
    return {"batch_sizes": sizes} if sizes else {}


@contextlib.contextmanager
def _quiet_grad() -> Iterator[None]:
    import torch

    with torch.no_grad():
        yield


@contextlib.contextmanager
def _status(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal, nothing in a pipe or in CI; yields what changes its text."""
    if not _err.is_terminal or os.environ.get("CI"):
        yield lambda _: None
        return
    with _err.status(text) as status:
        yield status.update


@contextlib.contextmanager
def _errors(debug: bool) -> Iterator[None]:
    """One sentence for what is wrong with the input; the traceback only with --debug."""
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
            _silence()
        try:
            yield
        except typer.Exit:
            raise
        except Exception as error:
            if debug:
                raise
            raise typer.Exit(_said(error)) from None


def _said(error: Exception) -> int:
    from bi_inductor import _torch
    from bi_inductor.errors import VariantOpError

    cause = _torch.root_cause(error)
    ours = next((e for e in (error, cause) if isinstance(e, BatchInvariantError)), None)
    if ours is not None:
        text = str(ours)
    else:
        said = _torch.first_sentence(cause)
        text = f"{type(cause).__name__}: {said} (the traceback: --debug)"
    _err.print(f"bi-inductor: error: {text}", markup=False, soft_wrap=True)
    return VARIANT if isinstance(ours, VariantOpError) else USAGE


def _silence() -> None:
    """An error of the input is said in one sentence, not also as a logged traceback."""
    import torch  # noqa: F401  (sets the levels of its loggers when it is imported)

    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
