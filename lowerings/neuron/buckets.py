"""Row buckets: one compiled program for all batches of a bucket, pointwise ops of the vendor's compiler included."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree


def bucket_rows(function: Callable[..., Any], row_bucket: int) -> Callable[..., Any]:
    """Pad dim 0 of every tensor argument to a multiple of ``row_bucket``, call, cut dim 0 of every output.

    The last row is repeated: its values are valid where zeros might not be (divisions, ids). All batches of
    1..row_bucket rows then have one shape, so they run one program; across buckets only our kernels are
    batch-invariant. Wrap the compiled model: ``bucket_rows(torch.compile(model, ..., dynamic=False), 64)``.

    Raises:
        ValueError: tensors with different sizes in dim 0, no rows, or an output without the padded rows.
    """
    if row_bucket < 1:
        raise ValueError(f"row_bucket must be at least 1, got {row_bucket}")

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        rows = _rows_of((args, kwargs))
        padded = -(-rows // row_bucket) * row_bucket
        where = torch.arange(padded).clamp(max=rows - 1)

        def pad(x: torch.Tensor) -> torch.Tensor:
            return x.index_select(0, where.to(x.device)) if x.dim() else x

        def cut(x: torch.Tensor) -> torch.Tensor:
            if x.dim() == 0 or x.shape[0] != padded:
                raise ValueError(
                    f"an output of shape {tuple(x.shape)} has not the {padded} padded rows in dim 0, so "
                    "the padding cannot be cut off; return one row per input row"
                )
            return x[:rows]

        args, kwargs = pytree.tree_map_only(torch.Tensor, pad, (args, kwargs))
        return pytree.tree_map_only(torch.Tensor, cut, function(*args, **kwargs))

    return run


def _rows_of(arguments: Any) -> int:
    tensors = [x for x in pytree.tree_leaves(arguments) if isinstance(x, torch.Tensor) and x.dim()]
    sizes = {x.shape[0] for x in tensors}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"row buckets need tensor arguments that agree in dim 0 and have rows, got {sorted(sizes)}; "
            "bind the others to the function first"
        )
    return sizes.pop()
