"""``assert_batch_invariant`` and its control."""

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from bi_inductor.inspection import bits
from bi_inductor.testing.axes import AXES, DEFAULT_AXES
from bi_inductor.testing.comparison import Comparison
from bi_inductor.testing.data import DATA
from bi_inductor.testing.report import (
    BatchVariantError,
    Cell,
    ControlTooWeakError,
    Finding,
    Report,
)
from bi_inductor.testing.subject import Model, Subject

MakeInputs = Callable[[int], Tensor | Sequence[Tensor] | Mapping[str, Tensor]]
SIZES = (1, 2, 3, 5, 8, 17)


def assert_batch_invariant(
    model_or_fn: Model,
    make_inputs: MakeInputs,
    *,
    axes: Sequence[str] = DEFAULT_AXES,
    batch_sizes: Sequence[int] = SIZES,
    dtypes: Sequence[torch.dtype] | None = None,
    devices: Sequence[str] = ("cpu",),
    backend: str = "batch_invariant",
    options: Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
    data: str | None = None,
    seed: int = 0,
    inside_mode: bool = False,
    alone_in_mode: bool = False,
    explain: bool = True,
) -> Report:
    """Compare each sample alone with the same sample in batches, by bits, along every axis.

    Args:
        model_or_fn: a module in eval mode, or a function of tensors.
        make_inputs: ``n -> n`` samples: a tensor, a sequence or a dict of tensors with the batch on dimension
            0. It is called once, with the largest batch size, behind ``torch.manual_seed(seed)``.
        axes: of ``"batch"``, ``"position"``, ``"neighbours"``, ``"execution"`` (the default), ``"eager"``, for
            causal models ``"length"``, and for decoders of transformers ``"cache"`` and ``"padding"``.
        batch_sizes: sizes to compare with one sample alone.
        dtypes: floating dtypes to cast the module (a copy) and its floating inputs to; default: as given.
        devices: ``"cpu"``, ``"cuda"``, ...
        backend: any backend of ``torch.compile``, or ``"eager"``.
        options: handed to ``torch.compile``.
        dynamic: handed to ``torch.compile``.
        data: ``"normal"``, ``"wide"`` or ``"cancelling"`` replaces the floating inputs; see ``testing.data``.
        seed: of the inputs and of the noise.
        inside_mode: call it inside ``batch_invariant_mode``, which takes the code at graph breaks as well.
        alone_in_mode: compute a sample alone in ``batch_invariant_mode`` instead of compiled code. Compiles one
            graph less, and holds that mode to compiled code at the same time.
        explain: look for the op with ``bi_inductor.diff`` when bits differ.

    Returns:
        A report with a cell per axis, dtype and device.

    Raises:
        BatchVariantError: a row's bits follow the batch; says axis, row, ulps and op, and holds the report.
        VariantOpError: the backend refuses the model; says the op, its line and the remedy.
        ValueError: an unknown axis, device or data, an axis that does not fit, or inputs that are no batch.
    """
    report = examine(
        model_or_fn, make_inputs, axes=axes, batch_sizes=batch_sizes, dtypes=dtypes, devices=devices,
        backend=backend, options=options, dynamic=dynamic, data=data, seed=seed,
        inside_mode=inside_mode, alone_in_mode=alone_in_mode, explain=explain,
    )  # fmt: skip
    if not report.passed:
        raise BatchVariantError(report)
    return report


def run_negative_control(
    model_or_fn: Model,
    make_inputs: MakeInputs,
    *,
    backend: str = "inductor",
    batch_sizes: Sequence[int] = SIZES,
    dtypes: Sequence[torch.dtype] | None = None,
    devices: Sequence[str] = ("cpu",),
    data: str | None = None,
    seed: int = 0,
) -> Report:
    """Show that another backend, stock torch by default, fails on the same data; arguments as above.

    Raises:
        ControlTooWeakError: it does not, so a passing ``assert_batch_invariant`` would show nothing.
    """
    report = examine(
        model_or_fn, make_inputs, axes=("batch",), batch_sizes=batch_sizes, dtypes=dtypes, devices=devices,
        backend=backend, data=data, seed=seed, explain=False,
    )  # fmt: skip
    if report.passed:
        raise ControlTooWeakError(backend, tuple(batch_sizes))
    return report


def examine(
    model_or_fn: Model,
    make_inputs: MakeInputs,
    *,
    axes: Sequence[str] = DEFAULT_AXES,
    batch_sizes: Sequence[int] = SIZES,
    dtypes: Sequence[torch.dtype] | None = None,
    devices: Sequence[str] = ("cpu",),
    backend: str = "batch_invariant",
    options: Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
    data: str | None = None,
    seed: int = 0,
    inside_mode: bool = False,
    alone_in_mode: bool = False,
    explain: bool = True,
) -> Report:
    """Return the report of ``assert_batch_invariant`` without raising on a difference."""
    _check_arguments(axes, batch_sizes, devices, data, backend, alone_in_mode)
    cells: list[Cell] = []
    culprit = ""
    for device, dtype in product(devices, dtypes or (None,)):
        torch.compiler.reset()
        subject = Subject(
            model=_moved(model_or_fn, device, dtype),
            **_samples(make_inputs, max(batch_sizes), device, dtype, data, seed),
            backend=backend,
            options=options,
            dynamic=dynamic,
            batch_sizes=tuple(batch_sizes),
            generator=torch.Generator().manual_seed(seed),
            inside_mode=inside_mode,
            alone_in_mode=alone_in_mode,
        )
        name = str(dtype or _dtype_of(subject)).removeprefix("torch.")
        found = [_cell(axis, subject, name, device) for axis in axes]
        cells += found
        if explain and not culprit and not all(cell.passed for cell in found):
            culprit = _culprit(subject)
    return Report(backend=backend, seed=seed, cells=tuple(cells), culprit=culprit)


def _check_arguments(
    axes: Sequence[str],
    sizes: Sequence[int],
    devices: Sequence[str],
    data: str | None,
    backend: str,
    alone_in_mode: bool,
) -> None:
    for axis in axes:
        if axis not in AXES:
            raise ValueError(f"unknown axis {axis!r}; known are {', '.join(AXES)}")
    if ("eager" in axes or alone_in_mode) and backend != "batch_invariant":
        raise ValueError(
            "what compares with batch_invariant_mode wants backend='batch_invariant'; "
            f"got {backend!r}"
        )
    if data is not None and data not in DATA:
        raise ValueError(f"unknown data {data!r}; known are {', '.join(DATA)}")
    if not sizes or min(sizes) < 1 or max(sizes) < 2:
        raise ValueError(f"batch_sizes must be positive and one of them 2 or more, got {sizes}")
    for device in devices:
        require_device(device)


def require_device(device: str) -> None:
    """Raise ValueError unless this machine has the device: a test that was asked for is never skipped."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return
    module = getattr(torch, kind, None)
    if module is None or not hasattr(module, "is_available") or not module.is_available():
        raise ValueError(f"this machine has no device {device!r}")


def _moved(model: Model, device: str, dtype: torch.dtype | None) -> Model:
    if not isinstance(model, nn.Module) or (dtype is None and device == "cpu"):
        return model
    return copy.deepcopy(model).to(device=device, dtype=dtype)


def _samples(
    make_inputs: MakeInputs,
    size: int,
    device: str,
    dtype: torch.dtype | None,
    data: str | None,
    seed: int,
) -> dict[str, Any]:
    torch.manual_seed(seed)
    made = make_inputs(size)
    names = tuple(made) if isinstance(made, Mapping) else None
    values = list(made.values()) if isinstance(made, Mapping) else made
    tensors = [values] if isinstance(values, Tensor) else list(values)
    for x in tensors:
        if not isinstance(x, Tensor) or not x.dim() or x.shape[0] != size:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"make_inputs({size}) must give tensors [{size}, ...], got {found}")
    generator = torch.Generator().manual_seed(seed)

    def prepared(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x.to(device)
        if data is not None:
            x = DATA[data](*x.shape, dtype=dtype or x.dtype, generator=generator)
        return x.to(device=device, dtype=dtype)

    return {"samples": tuple(map(prepared, tensors)), "names": names}


def _dtype_of(subject: Subject) -> torch.dtype:
    if isinstance(subject.model, nn.Module):
        for parameter in subject.model.parameters():
            return parameter.dtype
    floating = [x.dtype for x in subject.samples if x.is_floating_point()]
    return floating[0] if floating else subject.samples[0].dtype


def _cell(axis: str, subject: Subject, dtype: str, device: str) -> Cell:
    findings: list[Finding] = []
    compared = 0
    for comparison in AXES[axis](subject):
        compared += 1
        findings += _findings(comparison)
    return Cell(axis=axis, dtype=dtype, device=device, compared=compared, findings=tuple(findings))


def _findings(comparison: Comparison) -> list[Finding]:
    found = []
    for index, (a, b) in enumerate(zip(comparison.actual, comparison.expected, strict=True)):
        difference = bits.difference(a, b)
        if difference is not None:
            found.append(
                Finding(
                    place=comparison.place, row=comparison.row, output=index, changed=difference.changed,
                    total=difference.total, max_abs=difference.max_abs, ulps=difference.max_ulp,
                )
            )  # fmt: skip
    return found


def _culprit(subject: Subject) -> str:
    """Ask ``diff`` for the first op whose bits change; its own trouble must not hide the finding."""
    from bi_inductor.errors import BatchInvariantError
    from bi_inductor.inspection.diff import diff

    named: dict[str, Any] = dict(zip(subject.names or (), subject.samples, strict=False))
    args = () if named else subject.samples
    sizes = tuple(n for n in subject.batch_sizes if n > 1)[:2]
    try:
        report = diff(
            subject.model, *args, backend=subject.backend, options=subject.options, batch_sizes=sizes, **named
        )  # fmt: skip
    except BatchInvariantError as error:
        return f"not found ({error})"
    first = report.first
    if first is None:
        return "none observed; the difference is made by a fusion, or outside of the graphs"
    return f"{first.op} ({', '.join(part for part in (first.code, first.line) if part)})"
