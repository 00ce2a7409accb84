"""Pointwise kernels: a value does not depend on its place in a vector, on the tail, or on its neighbours."""

import pytest
import torch
from torch.nn import functional as F

from tests.rows import bits_equal

UNARY = {
    name: getattr(torch, name)
    for name in (
        *(
            "exp",
            "exp2",
            "expm1",
            "log",
            "log2",
            "log10",
            "log1p",
            "tanh",
            "sigmoid",
            "erf",
            "erfc",
            "erfinv",
        ),
        *(
            "atan",
            "asin",
            "acos",
            "sinh",
            "cosh",
            "asinh",
            "acosh",
            "atanh",
            "lgamma",
            "rsqrt",
            "digamma",
        ),
        *("sin", "cos", "tan", "sqrt", "reciprocal"),
    )
}
UNARY |= {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "softplus": F.softplus,
    "mish": F.mish,
    "elu": F.elu,
    "pow_scalar": lambda x: x.abs() ** 1.3,
    "pow_tensor": lambda x: x.abs() ** x,
    "atan2": lambda x: torch.atan2(x, x + 1),
    "hypot": lambda x: torch.hypot(x, x + 1),
    "fmod": lambda x: torch.fmod(x, 1.7),
    "remainder": lambda x: x % 1.7,
}


def hard_data(dtype: torch.dtype) -> torch.Tensor:
    # 13 columns: no vector width divides a row; rows 5 and 7 are large enough to change Sleef's algorithm
    x = torch.randn(40, 13, dtype=torch.float64) * 3
    x[5] *= 1000
    x[7] *= 1e30 if dtype == torch.float32 else 1e200
    x[9] *= 1e-30
    x[11, 3], x[12, 5] = float("nan"), float("inf")
    return x.to(dtype)


def places(f, x: torch.Tensor) -> dict[str, list[bool]]:
    """Per way of cutting ``x``: for each function, whether its values are those of the full call."""
    full = f(x)
    ways = {f"row {i} alone": (x[i : i + 1].clone(), slice(i, i + 1)) for i in (0, 5, 8, 20)}
    ways["first rows"] = (x[:5].clone(), slice(0, 5))
    ways["other offset"] = (x[3:].clone(), slice(3, None))
    ways["transposed memory"] = (x.t().contiguous().t(), slice(None))
    return {
        way: [bits_equal(part, whole[rows]) for part, whole in zip(f(data), full, strict=True)]
        for way, (data, rows) in ways.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_value_does_not_depend_on_its_place(dtype):
    x = hard_data(dtype)

    def every(x):
        return tuple(f(x) for f in UNARY.values())

    ours = torch.compile(every, backend="batch_invariant", dynamic=False)
    for way, same in places(ours, x).items():
        broken = [name for name, ok in zip(UNARY, same, strict=True) if not ok]
        assert broken == [], f"{way}: {broken}"


def test_stock_inductor_fails_on_sine_and_cosine():
    def trig(x):
        return torch.sin(x), torch.cos(x)

    stock = torch.compile(trig, backend="inductor", dynamic=False)
    assert not all(ok for same in places(stock, hard_data(torch.float32)).values() for ok in same)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_half_arithmetic_rounds_where_the_graph_says(dtype):
    x, y, z, w = (torch.randn(37, 29).to(dtype) for _ in range(4))
    steps = (
        lambda a: a * y,
        lambda a: a + z,
        F.silu,
        lambda a: a * w,
        lambda a: torch.exp(a - 1.3),
    )

    def fused(a):
        for step in steps:
            a = step(a)
        return a

    one_by_one = x
    for step in steps:
        torch.compiler.reset()
        one_by_one = torch.compile(step, backend="batch_invariant", dynamic=False)(one_by_one)
    torch.compiler.reset()
    assert bits_equal(torch.compile(fused, backend="batch_invariant", dynamic=False)(x), one_by_one)
    torch.compiler.reset()
    stock = torch.compile(fused, backend="inductor", dynamic=False)(x)
    assert not bits_equal(stock, one_by_one), "control: stock keeps float32 between fused ops"
