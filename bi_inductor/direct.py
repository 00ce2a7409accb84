"""Calling a template outside a graph: the device's kernels, and the plan that a graph would carry."""

import torch
from torch import Tensor

import bi_inductor.fakes  # noqa: F401  (defines torch.ops.bi_inductor)
from bi_inductor import templates as t


def plan_numbers(
    template: type[t.Template], x: Tensor, reduced: tuple[int | None, ...]
) -> dict[str, int]:
    """Return the plan's keyword arguments for the op, with the kernels of ``x``'s device registered.

    Raises:
        UnsupportedDeviceError: the device has no lowerings.
        CompilerMissingError: its toolchain is not installed.
    """
    from lowerings.table import load, plans_of

    device = x.device.type
    load(device)
    key = t.PlanKey(template=template, reduced=reduced, dtype=x.dtype, device=device)
    numbers: dict[str, int] = plans_of(device).plan_for(key).numbers()
    return numbers


def softmax(x: Tensor, dim: int = -1, *, log: bool = False) -> Tensor:
    """Return (log-)softmax of ``x`` along ``dim`` by the Softmax template."""
    numbers = plan_numbers(t.Softmax, x, (x.shape[dim],))
    return torch.ops.bi_inductor.softmax(x, dim, log, **numbers)


def cumsum(x: Tensor, dim: int = -1) -> Tensor:
    """Return the running sum of ``x`` along ``dim`` by the Scan template."""
    numbers = plan_numbers(t.Scan, x, (x.shape[dim],))
    return torch.ops.bi_inductor.scan(x, "cumsum", dim, **numbers)
