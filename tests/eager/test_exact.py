"""Rows of ``eager.exact`` that run torch's own kernel, held to a kernel of the compiler bit by bit."""

import math

import pytest
import torch

from bi_inductor import batch_invariant_mode
from bi_inductor.eager import exact
from bi_inductor.errors import BatchInvariantError
from tests.rows import bits_equal, rows_that_change

SPECIAL = (0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 3e38, 0.5, 1.5, 2.5)
FACTORED = {
    "add": lambda x, y, z: torch.add(x, y, alpha=0.3),
    "sub": lambda x, y, z: torch.sub(x, y, alpha=0.3),
    "rsub": lambda x, y, z: torch.rsub(x, y, alpha=0.3),
}
#: Spellings of one computation; Dynamo opens some of them itself, by steps or as a fused multiply-add.
SPELLINGS = {
    "addcmul": lambda x, y, z: torch.addcmul(x, y, z, value=0.3),
    "addcmul method": lambda x, y, z: x.addcmul(y, z, value=0.3),
    "addcmul in place": lambda x, y, z: x.clone().addcmul_(y, z, value=0.3),
    "addcmul out": lambda x, y, z: torch.addcmul(x, y, z, value=0.3, out=torch.empty_like(x)),
    "addcdiv": lambda x, y, z: torch.addcdiv(x, y, z, value=0.3),
    "addcdiv method": lambda x, y, z: x.addcdiv(y, z, value=0.3),
    "addcdiv in place": lambda x, y, z: x.clone().addcdiv_(y, z, value=0.3),
    "addcdiv out": lambda x, y, z: torch.addcdiv(x, y, z, value=0.3, out=torch.empty_like(x)),
}
PLAIN = {
    "add": lambda x, y, z: x + y,
    "add scalar": lambda x, y, z: x + 0.1,
    "sub": lambda x, y, z: x - y,
    "sub scalar": lambda x, y, z: 0.1 - x,
    "mul": lambda x, y, z: x * y,
    "mul scalar": lambda x, y, z: x * 0.1,
    "div": lambda x, y, z: x / y,
    "div scalar": lambda x, y, z: x / 3.0,
    "addcmul": lambda x, y, z: x.addcmul(y, z),
    "addcdiv": lambda x, y, z: x.addcdiv(y, z),
    "addcmul of two dtypes": lambda x, y, z: x.addcmul(y.float(), z, value=0.3),
    "lerp": lambda x, y, z: x.lerp(y, 0.3),
    "lerp of tensors": lambda x, y, z: x.lerp(y, z),
    "neg": lambda x, y, z: -x,
    "abs": lambda x, y, z: x.abs(),
    "maximum": lambda x, y, z: torch.maximum(x, y),
    "minimum": lambda x, y, z: torch.minimum(x, y),
    "fmax": lambda x, y, z: torch.fmax(x, y),
    "fmin": lambda x, y, z: torch.fmin(x, y),
    "clamp": lambda x, y, z: x.clamp(-0.7, 0.7),
    "clamp_min": lambda x, y, z: x.clamp_min(0.1),
    "relu": lambda x, y, z: x.relu(),
    "sqrt": lambda x, y, z: x.sqrt(),
    "reciprocal": lambda x, y, z: x.reciprocal(),
    "floor": lambda x, y, z: x.floor(),
    "ceil": lambda x, y, z: x.ceil(),
    "trunc": lambda x, y, z: x.trunc(),
    "round": lambda x, y, z: x.round(),
    "sign": lambda x, y, z: x.sign(),
    "where": lambda x, y, z: torch.where(x > y, x, y),
    "masked_fill": lambda x, y, z: x.masked_fill(x > y, 0.1),
    "threshold": lambda x, y, z: torch.nn.functional.threshold(x, 0.1, 0.3),
    "compare": lambda x, y, z: (x < y, x == y, x.isnan(), x.isinf(), x.signbit()),
}


def numbers(dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    x = (
        torch.randn(1000, generator=generator)
        * torch.randn(1000, generator=generator).mul(6).exp2()
    )
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), (200,), generator=generator)]
    return torch.cat([x, special]).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_rounding_is_the_same_eager_and_compiled(dtype):
    """All ops in one graph: one compilation, and fusion is on trial as well."""
    operands = [numbers(dtype, seed) for seed in (1, 2, 3)]
    ops = {**PLAIN, **{f"{n} factor": op for n, op in (FACTORED | SPELLINGS).items()}}

    def every(x, y, z):
        return {name: op(x, y, z) for name, op in ops.items()}

    compiled = torch.compile(every, backend="batch_invariant", fullgraph=True)(*operands)
    with batch_invariant_mode():
        eager = every(*operands)
        made_in_place = operands[0].clone().add_(0.1)
    assert bits_equal(made_in_place, compiled["add scalar"])
    different = [
        name
        for name in ops
        if not all(
            bits_equal(a, b)
            for a, b in zip(tuples(eager[name]), tuples(compiled[name]), strict=True)
        )
    ]
    assert different == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_spelling_of_a_scaled_product_has_the_same_bits(dtype):
    x, y, z = (numbers(dtype, seed) for seed in (1, 2, 3))
    wanted = {"addcmul": x + y * z * 0.3, "addcdiv": x + y / z * 0.3}
    stock = [
        name
        for name, op in SPELLINGS.items()
        if not bits_equal(op(x, y, z), wanted[name.split()[0]])
    ]
    assert stock, "control too weak"

    with batch_invariant_mode():
        different = [
            name
            for name, op in SPELLINGS.items()
            if not bits_equal(op(x, y, z), wanted[name.split()[0]])
        ]
    assert different == []


def test_an_addcdiv_of_integers_is_refused_as_by_torch():
    x = torch.arange(1, 4)
    with batch_invariant_mode(), pytest.raises(RuntimeError, match="[Ii]nteger"):
        torch.addcdiv(x, x, x)


def tuples(made):
    return made if isinstance(made, tuple) else (made,)


def test_every_op_with_a_factor_is_on_trial():
    assert set(FACTORED | SPELLINGS) >= set(exact._FACTORS)


def test_a_product_of_complex_numbers_is_the_same_in_a_row_and_in_a_batch():
    x = torch.randn(17, 511, dtype=torch.complex64)

    def scaled(x):
        return torch.view_as_real(torch.add(x * (2.5 + 1j), x * x.conj(), alpha=0.3 + 2j))

    assert rows_that_change(scaled, [x], batches=(2, 17)), "control too weak"
    with batch_invariant_mode():
        assert rows_that_change(scaled, [x], batches=(2, 17)) == []
        ours = scaled(x)
    assert torch.allclose(ours, scaled(x), rtol=1e-4)


COMPLEX = {
    "mm": lambda x: x @ x.t(),
    "sum": lambda x: x.sum(-1),
    "scatter_add": lambda x: x.scatter_add(1, torch.zeros(x.shape, dtype=torch.int64), x),
    "index_put": lambda x: x.index_put((torch.tensor([0, 0]),), x[:2], accumulate=True),
    "div": lambda x: x / (2.5 + 1j),
    "abs": torch.abs,
}


@pytest.mark.parametrize("name", COMPLEX)
def test_sums_of_complex_numbers_are_not_taken_for_exact(name):
    with batch_invariant_mode(), pytest.raises(BatchInvariantError):
        COMPLEX[name](torch.randn(4, 8, dtype=torch.complex64))
