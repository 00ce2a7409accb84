"""Row buckets: one compiled program for all batches of a bucket, pointwise ops of the vendor's compiler included.

The rows are padded in front of the compiled model, not inside the backend: a static graph of Dynamo holds the batch
size as numbers (``view(9, 3, 64)``), so it can no longer be given more rows. That a padded row cannot reach a
real one is the planner's verdict on the graph: an op that mixes rows along the batch is refused at compile time.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree


def bucket_rows(
    function: Callable[..., Any],
    row_bucket: int,
    *,
    batch_dims: Mapping[str, int | None] | None = None,
) -> Callable[..., Any]:
    """Pad the batch of the tensor arguments to a multiple of ``row_bucket``, call, cut dim 0 of every output.

    The last row is repeated: its values are valid where zeros might not be (divisions, ids). All batches of
    1..row_bucket rows then have one shape, so they run one program; across buckets only our kernels are
    batch-invariant. Wrap the compiled model: ``bucket_rows(torch.compile(model, ..., dynamic=False), 64)``.

    Args:
        function: a compiled model or function.
        row_bucket: rows of a bucket.
        batch_dims: as in the backend's options: argument name -> its batch dim, or None for one that the batch
            shares (positions, a table). Arguments not named have their batch in dim 0.

    Raises:
        ValueError: a name that is no argument, batches of different sizes, no rows, or an output without the
            padded rows.
    """
    if row_bucket < 1:
        raise ValueError(f"row_bucket must be at least 1, got {row_bucket}")
    named = dict(batch_dims or {})
    plain = getattr(function, "_orig_mod", function)  # torch.compile(module) takes *args, **kwargs
    names = _check_names(named, inspect.signature(getattr(plain, "forward", plain)))

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        given = [*zip([*names, *[""] * len(args)], args, strict=False), *kwargs.items()]
        dims = [named.get(name, 0) for name, _ in given]
        rows = _rows_of(given, dims)
        padded = -(-rows // row_bucket) * row_bucket
        where = torch.arange(padded).clamp(max=rows - 1)
        values = [
            pytree.tree_map_only(torch.Tensor, functools.partial(_pad, dim=dim, where=where), value)
            for (_, value), dim in zip(given, dims, strict=True)
        ]
        out = function(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))
        cut = functools.partial(_cut, rows=rows, padded=padded)
        return pytree.tree_map_only(torch.Tensor, cut, out)

    return run


def _check_names(named: Mapping[str, int | None], signature: inspect.Signature) -> list[str]:
    """Return the names of the arguments that may be given by position."""
    parameters = signature.parameters.values()
    unknown = sorted(set(named) - set(signature.parameters))
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise ValueError(
            f"batch_dims names {', '.join(unknown)}, which is no argument; the arguments are "
            f"{', '.join(signature.parameters)}"
        )
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _pad(x: torch.Tensor, dim: int | None, where: torch.Tensor) -> torch.Tensor:
    if dim is None or x.dim() == 0:
        return x
    return x.index_select(dim, where.to(x.device))


def _cut(x: torch.Tensor, rows: int, padded: int) -> torch.Tensor:
    if x.dim() == 0 or x.shape[0] != padded:
        raise ValueError(
            f"an output of shape {tuple(x.shape)} has not the {padded} padded rows in dim 0, so "
            "the padding cannot be cut off; return one row per input row"
        )
    return x[:rows]


def _rows_of(given: Sequence[tuple[str, Any]], dims: Sequence[int | None]) -> int:
    sizes = {
        x.shape[dim]
        for (_, value), dim in zip(given, dims, strict=True)
        if dim is not None
        for x in pytree.tree_leaves(value)
        if isinstance(x, torch.Tensor) and x.dim()
    }
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"row buckets need tensor arguments that agree in their batch and have rows, got {sorted(sizes)}; "
            "name those that the batch shares, batch_dims={'name': None}"
        )
    return sizes.pop()
