"""The code that Inductor writes for an H100, generated without one: no library kernel, no constant that follows the batch."""

import functools
import re

import pytest
import torch
from code_generation import generate, kernels, library_calls
from torch import nn
from torch.nn import functional

from bi_inductor import templates
from bi_inductor.attention import attention
from bi_inductor.backend import batch_invariant
from bi_inductor.errors import LoweringError
from bi_inductor.templates import PlanKey
from lowerings import _inductor
from lowerings.table import plans_of

BATCHES = (1, 2, 3, 16, 17, 64, 1024, 4096)


class Block(nn.Module):
    """Every kind of op that a model adds up with."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.second = nn.LayerNorm(64), nn.Linear(64, 96), nn.Linear(96, 64)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.second(functional.silu(self.first(self.norm(x))))
        q = (x + y).unflatten(-1, (4, 16)).transpose(1, 2)
        out = functional.scaled_dot_product_attention(q, q, q, is_causal=True)
        z = out.transpose(1, 2).flatten(2).softmax(-1)
        return z, z.pow(2).mean(-1), z.cumsum(-1), z.argmax(-1), z.topk(3)[0]


def _inputs(batch: int) -> tuple[torch.Tensor]:
    return (torch.empty(batch, 5, 64, dtype=torch.bfloat16),)


@functools.cache
def _code(batch: int) -> str:
    return generate(Block().bfloat16(), _inputs(batch), backend=batch_invariant)


def _ops(code: str) -> list[tuple[str, ...]]:
    """Our calls with their plan numbers, without the buffers that they are given."""
    calls = re.findall(r"torch\.ops\.bi_inductor\.(\w+)\.default\((.*)\)", code)
    return [(name, *re.findall(r"(?:split_size|lanes)=\d+", args)) for name, args in calls]


@pytest.mark.parametrize("batch", BATCHES)
def test_only_our_kernels_and_pointwise(batch: int) -> None:
    code = _code(batch)
    assert all(name.startswith("bi_inductor.") for name in library_calls(code))
    assert kernels(code)
    for name, source in kernels(code).items():
        assert "@triton_heuristics.pointwise" in source, name
        assert "tl.sum" not in source
        assert "'enable_fp_fusion': False" in source
    _inductor.audit(code)


@pytest.mark.parametrize("batch", BATCHES[1:])
def test_plans_are_those_of_batch_1(batch: int) -> None:
    assert _ops(_code(batch)) == _ops(_code(1))


class Stock(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.bmm(x, x.transpose(-2, -1)).softmax(-1) @ x.sum(-1, keepdim=True)


def test_control_stock_calls_libraries_and_reduces() -> None:
    code = generate(Stock(), _inputs(2), backend="inductor", shape_padding=False)
    assert any("mm" in name for name in library_calls(code))
    assert any("reduction(" in source for source in kernels(code).values())
    with pytest.raises(LoweringError, match="library kernel"):
        _inductor.audit(code)


def test_an_unknown_dtype_names_device_op_and_remedy() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        return x.softmax(-1)

    with pytest.raises(Exception, match=r"Softmax of torch.float64 has no CUDA kernel; cast to"):
        generate(fn, (torch.empty(2, 8, dtype=torch.float64),), backend=batch_invariant)


def test_adding_by_atomics_is_refused() -> None:
    with pytest.raises(LoweringError, match="atomics"):
        _inductor.audit("tl.atomic_add(ptr, x)")


def test_tables_that_a_model_keeps_on_the_cpu_get_the_plans_of_the_cpu() -> None:
    def fn(x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(64.0, device="cpu")
        table = torch.outer(places, places).softmax(-1)
        return x @ table.to(x.device, x.dtype)

    code = generate(fn, _inputs(3), backend=batch_invariant)
    assert set(library_calls(code)) == {"bi_inductor.mm.default"}
    assert "bi_launchers = bi_register.python_calls()" in code
    softmax = re.search(r"bi_kernels\.softmax\(.*\)", code)
    key = {"template": templates.Softmax, "reduced": (64,), "dtype": torch.float32}
    lanes = {d: plans_of(d).plan_for(PlanKey(device=d, **key)).lanes for d in ("cpu", "cuda")}
    assert softmax
    assert f"lanes={lanes['cpu']}" in softmax.group()
    assert lanes["cpu"] != lanes["cuda"]


def test_a_half_result_is_rounded_before_what_is_fused_behind_it() -> None:
    """torch 2.11 and 2.12 kept float32 behind a group norm: eager code, and a graph cut there, had other bits."""

    def fn(x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(functional.group_norm(x, 5))

    (source,) = (
        k for k in kernels(generate(fn, _inputs(3), backend=batch_invariant)).values() if "erf" in k
    )
    assert ".to(tl.bfloat16)" in source[: source.index("erf")]


class RootMeanSquare(nn.Module):
    """As transformers' models spell it; ``dynamic=True`` makes an input of such a number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Decoder(nn.Module):
    """A decoder block with a cache that grows and key heads that are repeated for a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(RootMeanSquare(128) for _ in range(2))
        self.q, self.k, self.v, self.o = (nn.Linear(128, n, bias=False) for n in (128, 64, 64, 128))
        self.gate, self.up = nn.Linear(128, 256, bias=False), nn.Linear(128, 256, bias=False)
        self.down = nn.Linear(256, 128, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        rows, length, _ = x.shape
        y = self.norms[0](x)
        q, k, v = (
            f(y).view(rows, length, -1, 32).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        shape = (rows, 2, 2, keys.shape[2], 32)
        wide = [z.unsqueeze(2).expand(shape).reshape(rows, 4, -1, 32) for z in (keys, values)]
        # F.scaled_dot_product_attention asks a GPU that is not there
        out = attention(q, *wide, mask)
        x = x + self.o(out.transpose(1, 2).reshape(rows, length, -1))
        y = self.norms[1](x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y)), keys, values


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, -1)
    return x * cos.unsqueeze(1) + torch.cat((-right, left), -1) * sin.unsqueeze(1)


def test_a_decoder_block_has_no_launch_more_than_it_needs() -> None:
    sizes = ((8, 1, 128), (8, 2, 70, 32), (8, 2, 70, 32), (8, 1, 32), (8, 1, 32))
    inputs = [torch.empty(size, dtype=torch.bfloat16) for size in sizes]
    mask = torch.ones(8, 1, 1, 71, dtype=torch.bool)
    code = generate(Decoder().bfloat16(), (*inputs, mask), backend=batch_invariant, dynamic=True)
    calls = [
        name.removeprefix("bi_inductor.").removesuffix(".default") for name in library_calls(code)
    ]
    assert sorted(calls) == [
        "add_rms_norm", "add_rms_norm", "attention", "mm", "mm", "shared_mm", "shared_mm",
    ]  # fmt: skip
    # rotated q, keys, values, silu and product, the second sum
    assert len(re.findall(r"^\s+triton_poi\w+\.run\(", code, re.M)) == 5
    assert ".item()" not in code
