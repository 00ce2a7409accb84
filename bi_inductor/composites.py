"""Functions that torch opens by the sizes and strides of their arguments, opened here without looking at them.

torch rounds ``linear`` once where its input lies in one piece, and twice (product, then bias) where it does not; a
slice ``x[:, 1:]`` does so for one sample alone and not for two. ``multi_dot`` multiplies in the order that is
cheapest for the sizes, and ``einsum`` with opt_einsum contracts in it. Each of them made a row follow its batch. An
``lstm`` goes to oneDNN, which has no order that is known.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from bi_inductor import _torch

_aten = torch.ops.aten


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x [.., K] @ weight [N, K].T + bias [N]``, rounded once, however x lies in memory."""
    if bias is None:
        return torch.matmul(x, weight.t())
    if weight.dim() != 2 or bias.dim() != 1:
        return torch.matmul(x, weight.t()) + bias
    if x.dim() == 1:
        return torch.addmv(bias, weight, x)
    if x.dim() == 2:
        return torch.addmm(bias, x, weight.t())
    rows = torch.addmm(bias, x.flatten(0, -2), weight.t())
    return rows.view(*x.shape[:-1], weight.shape[0])


def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """The product of all ``tensors``, from the left; the first and the last may have one dim."""
    return functools.reduce(torch.matmul, tensors)


def einsum(
    equation: str, tensors: Sequence[Tensor], *, path: Sequence[int] | None = None
) -> Tensor:
    """``torch.einsum`` from the left: opt_einsum's ``path`` follows the sizes."""
    opened: Tensor = _torch.open_composite(_aten.einsum.default, equation, tensors)
    return opened


#: op -> what it is opened into
COMPOSITES: dict[OpOverload, Callable[..., Any]] = {
    _aten.linear.default: linear,
    _aten.linalg_multi_dot.default: multi_dot,
    _aten.chain_matmul.default: multi_dot,
    _aten.einsum.default: einsum,
    _aten.lstm.input: _torch.open_lstm,
}


def opened_alike() -> AbstractContextManager[None]:
    """A block in which AOTAutograd opens these functions as above, also where torch's own C++ calls them."""
    return _torch.composites(COMPOSITES)
