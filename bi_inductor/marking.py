"""Telling the backend which dimension of an input is the batch."""

from torch import Tensor


def mark_batch(x: Tensor, dim: int = 0) -> Tensor:
    """Say that dimension ``dim`` of a graph input is the batch, and that its size may change.

    Without a mark, dimension 0 of each input is taken. The mark is of this tensor object: its copies and views have
    none. Code that was compiled for other marks is compiled again. Returns ``x``.

    Raises:
        ValueError: ``dim`` is not a dimension of ``x``.
    """
    if not -x.dim() <= dim < x.dim():
        raise ValueError(f"dim {dim} is not a dimension of a tensor of shape {tuple(x.shape)}")
    from bi_inductor import _torch

    setattr(x, _torch.BATCH_MARK, (dim % x.dim(),))
    _torch.maybe_mark_dynamic(x, dim)
    return x
