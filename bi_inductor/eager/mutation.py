"""In-place ops and ``out=`` forms as a functional op followed by one write."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload


@functools.cache
def functional_of(func: OpOverload) -> OpOverload | None:
    """Return the op with the same inputs that writes to none of them, or None if torch has none."""
    name = func._schema.name.split("::")[1].removesuffix("_")
    packet = getattr(getattr(torch.ops, func.namespace), name, None)
    wanted = [(a.name, str(a.type)) for a in func._schema.arguments if not a.is_out]
    for overload in packet.overloads() if packet is not None else ():
        candidate: OpOverload = getattr(packet, overload)
        given = [(a.name, str(a.type)) for a in candidate._schema.arguments]
        if given == wanted and not candidate._schema.is_mutable:
            return candidate
    return None


def bound(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given arguments by name, and the defaults of the others."""
    names = func._schema.arguments
    values = {a.name: a.default_value for a in names if a.has_default_value()}
    values.update(zip((a.name for a in names), args, strict=False))
    values.update(kwargs)
    return values


def split(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], list[Tensor]]:
    """Return the arguments of the functional op, and the tensors that ``func`` writes to."""
    values = bound(func, args, kwargs)
    given = [a for a in func._schema.arguments if not a.is_out]
    positional = tuple(values[a.name] for a in given if not a.kwarg_only)
    named = {a.name: values[a.name] for a in given if a.kwarg_only}
    written = [
        values[a.name] for a in func._schema.arguments if a.alias_info and a.alias_info.is_write
    ]
    return positional, named, written


def write(func: OpOverload, outputs: Sequence[Tensor], made: Any) -> Any:
    """Copy results into ``outputs`` as torch does: ``out=`` is resized, in place keeps its shape.

    Raises:
        RuntimeError: the result's dtype cannot be cast to the output's, or its shape does not fit in place.
    """
    results = made if isinstance(made, (tuple, list)) else (made,)
    is_out = any(a.is_out for a in func._schema.arguments)
    for out, result in zip(outputs, results, strict=True):
        if not torch.can_cast(result.dtype, out.dtype):
            raise RuntimeError(
                f"result type {result.dtype} can't be cast to the desired output type {out.dtype}"
            )
        if is_out and out.shape != result.shape:
            out.resize_(result.shape)
        elif out.shape != result.shape:
            raise RuntimeError(
                f"output with shape {list(out.shape)} doesn't match the broadcast shape {list(result.shape)}"
            )
        out.copy_(result)
    if not func._schema.returns:
        return None
    return outputs[0] if len(outputs) == 1 else tuple(outputs)
