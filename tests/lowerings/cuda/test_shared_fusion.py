"""Products of one input become one op of the CUDA graph where rows may be few and nothing stands between them."""

import re

import pytest
import torch
from code_generation import generate, library_calls
from torch import Tensor, nn

_WIDTH = 48


class _Branches(nn.Module):
    """``count`` layers of one input; ``chained``: the second reads what the first made."""

    def __init__(self, count: int = 2, *, bias: bool = False, chained: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(_WIDTH, _WIDTH, bias=bias) for _ in range(count))
        self.chained = chained

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for layer in self.layers:
            out = out + layer(out if self.chained else x).relu()
        return out


class _Layer(nn.Module):
    """Attention and MLP of a decoder, with a norm between the projections as in Qwen3."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o, self.gate, self.up, self.down = (
            nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(7)
        )
        self.norm = nn.RMSNorm(_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.norm(self.q(x)), self.norm(self.k(x)), self.v(x)
        x = x + self.o(q * k + v)
        return x + self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def _products(
    module: nn.Module, rows: int = 3, dtype: torch.dtype = torch.bfloat16, *, dynamic: bool = False
) -> tuple[list[str], str]:
    with torch.no_grad():
        x = torch.randn(2, rows, _WIDTH).to(dtype)
        code = generate(module.to(dtype).eval(), (x,), dynamic=dynamic)
    return re.findall(r"bi_inductor\.(\w*mm)\b", " ".join(library_calls(code))), code


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dynamic", [False, True])
def test_projections_of_a_layer(dtype: torch.dtype, dynamic: bool) -> None:
    calls, code = _products(_Layer(), dtype=dtype, dynamic=dynamic)
    assert calls == ["shared_mm", "mm", "shared_mm", "mm"]
    weights = [
        call.count("arg") for call in re.findall(r"shared_mm\((.*)\)", code) if "arg" in call
    ]
    # the first reads the graph's input as well
    assert weights == [4, 2]


def test_three_at_most() -> None:
    assert _products(_Branches(7))[0] == ["shared_mm", "shared_mm", "mm"]


@pytest.mark.parametrize(
    ("module", "rows", "dtype"),
    [
        (_Branches(bias=True), 3, torch.bfloat16),
        (_Branches(chained=True), 3, torch.bfloat16),
        (_Branches(), 3, torch.float32),
        (_Branches(), 17, torch.bfloat16),
    ],
    ids=["bias", "chained", "float32", "many rows"],
)
def test_others_stay_apart(module: nn.Module, rows: int, dtype: torch.dtype) -> None:
    assert _products(module, rows, dtype)[0] == ["mm", "mm"]


def test_weights_that_are_made_in_the_graph_stay_apart() -> None:
    def fn(x: Tensor, w: Tensor, scale: Tensor) -> Tensor:
        return x @ (w * scale).t() + (x @ w.t()).relu()

    x, w = torch.randn(3, _WIDTH).bfloat16(), torch.randn(_WIDTH, _WIDTH).bfloat16()
    code = generate(fn, (x, w, torch.ones(()).bfloat16()))
    assert library_calls(code).count("bi_inductor.mm.default") == 2


class _Apart(_Branches):
    """As keys of the next layer's cross attention, which read the same input as this layer's."""

    def forward(self, x: Tensor) -> Tensor:
        first, between, second = self.layers
        return between(first(x).relu()) + second(x)


def test_results_that_would_live_longer_stay_apart() -> None:
    assert _products(_Apart(3))[0] == ["mm", "mm", "mm"]
