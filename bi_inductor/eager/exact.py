"""Ops whose eager kernel already gives the compiler's bits: data movement, and arithmetic that rounds once.

``tests/eager/test_exact.py`` holds every row of ``_ROUNDS_ONCE`` to a compiled kernel, bit by bit.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from bi_inductor.eager import mutation, pointwise


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: One IEEE operation for each element, or a choice among its inputs.
_ROUNDS_ONCE = _names(
    "add sub rsub mul div neg abs maximum minimum clamp clamp_min clamp_max relu threshold"
    " reciprocal floor ceil trunc round sign signbit where masked_fill fill copy eq ne lt le gt ge isnan"
    " isinf isfinite isposinf isneginf logical_and logical_or logical_xor logical_not bitwise_and bitwise_or"
    " bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift addcmul addcdiv threshold_backward"
)
#: Exact, and in no table of the compiler: their shapes follow the data, or they only write.
_MOVES = _names(
    "complex nonzero masked_select unique_dim _unique _unique2 unique_consecutive equal index_copy index_fill masked_scatter"
    " resize set zero zeros_like fill copy _local_scalar_dense item is_nonzero repeat_interleave resolve_conj"
    " resolve_neg _to_copy isin detach alias record_stream is_pinned pin_memory _pin_memory rename"
)
#: Ops that only tell a tool where the program is; optimizers announce their steps so.
_COMPUTES_NOTHING = frozenset({"profiler"})
#: Random numbers drawn for the elements of a tensor: dropout and sampling, not the making of weights.
_DRAWS_FOR_DATA = _names(
    "bernoulli native_dropout multinomial exponential geometric cauchy log_normal"
)


_HALVES = (torch.bfloat16, torch.float16)


def _base(func: OpOverload) -> str:
    return func._schema.name.split("::")[1].removesuffix("_")


def moves_data(func: OpOverload) -> bool:
    """Whether an op only moves data, makes a view, or computes nothing at all."""
    if func.namespace != "aten":
        return func.namespace in _COMPUTES_NOTHING
    return func.is_view or _base(func) in _MOVES


def draws_for_data(func: OpOverload) -> bool:
    """Whether an op draws one random number for each element of an input."""
    return func.namespace == "aten" and _base(func) in _DRAWS_FOR_DATA


@functools.cache
def rounds_once(func: OpOverload) -> bool:
    """Whether torch's own kernel gives the compiler's bits."""
    overload = func._overloadname
    return (
        func.namespace == "aten" and _base(func) in _ROUNDS_ONCE and not overload.endswith("_mode")
    )


#: ops that torch's kernels contract or round otherwise when they have a factor
_FACTORS = {"add": "alpha", "sub": "alpha", "rsub": "alpha", "addcmul": "value", "addcdiv": "value"}


#: compiled code on a GPU divides float32 to 2 ulp, torch's own kernel to the last bit
_DIVIDES = frozenset({"div", "reciprocal"})


#: of complex numbers several operations, which torch's vector code contracts and its scalar tail does not
_SEVERAL_FOR_COMPLEX = frozenset({"mul", "div", "reciprocal", "abs", "sign", "addcmul", "addcdiv"})


def _several_for_complex(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return _base(func) in _SEVERAL_FOR_COMPLEX and _is_complex(*args, *kwargs.values())


def _is_complex(*values: Any) -> bool:
    return any(x.is_complex() if isinstance(x, Tensor) else isinstance(x, complex) for x in values)


def _complex_product(a: Tensor | complex, b: Tensor | complex) -> Tensor:
    """``(ac - bd) + (ad + bc) i``, every step rounded."""
    dtype = torch.result_type(a, b)
    device = next(x.device for x in (a, b) if isinstance(x, Tensor))
    x, y = (torch.as_tensor(z, dtype=dtype, device=device) for z in (a, b))
    return torch.complex(x.real * y.real - x.imag * y.imag, x.real * y.imag + x.imag * y.real)


def _divides_on_gpu(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    given = (*args, *kwargs.values())
    return _base(func) in _DIVIDES and any(isinstance(x, Tensor) and x.is_cuda for x in given)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    div = torch.ops.aten.div.Tensor
    if _divides_on_gpu(div, (a, b), {}):
        quotient: Tensor = pointwise.run(div, (a, b), {})
        return quotient
    return a / b


def agrees(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether this call of an op that rounds once has the compiler's bits in torch's own kernel."""
    if _divides_on_gpu(func, args, kwargs) or _several_for_complex(func, args, kwargs):
        return False
    if _base(func) not in _FACTORS:
        return True
    given = mutation.bound(func, args, kwargs)
    if "value" in given:
        return not any(isinstance(x, Tensor) and x.is_floating_point() for x in given.values())
    return given.get("alpha") == 1 and not _adds_number_to_half(given)


def _adds_number_to_half(given: Mapping[str, Any]) -> bool:
    # torch adds a number as float32, compiled code as the tensor's own type
    return given["self"].dtype in _HALVES and not isinstance(given["other"], Tensor)


def opened(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the result of an op of several operations in steps that round once; None where a kernel is needed.

    torch's vector kernels contract ``x + alpha * y``; and a factor that changes from call to call, such as a
    learning rate, must not cost a kernel of its own each time.
    """
    if _divides_on_gpu(func, args, kwargs):
        return None
    given = mutation.bound(func, args, kwargs)
    if _several_for_complex(func, args, kwargs):
        return _complex_product(given["self"], given["other"]) if _base(func) == "mul" else None
    if "alpha" in given:
        return None if _adds_number_to_half(given) else _scaled_sum(func, given)
    a, b = given["tensor1"], given["tensor2"]
    part = a * b if _base(func) == "addcmul" else _quotient(a, b)
    return given["self"] + part * given["value"]


def _scaled_sum(func: OpOverload, given: Mapping[str, Any]) -> Tensor:
    x, y, alpha = given["self"], given["other"], given["alpha"]
    name = _base(func)
    times = _complex_product if _is_complex(x, y, alpha) else torch.mul
    if name == "rsub":
        return y - times(x, alpha)
    return x + times(y, alpha) if name == "add" else x - times(y, alpha)
