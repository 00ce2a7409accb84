"""The whole of ``torch.compile`` for mps, up to the code that it would load: what that code calls and computes."""

import codegen
import pytest
import torch
from torch import nn

from tests.zoo import ZOO
from tests.zoo.case import build

OURS = ["attention", "convolution", "layer_norm", "mm", "reduction", "scan", "softmax", "topk"]
OURS += ["var_mean"]


class Block(nn.Module):
    """Everything that stock Inductor leaves to MPSGraph or reduces itself."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 7)
        self.conv = nn.Conv1d(32, 32, 3, padding=1)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 3, 4, 8).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = nn.functional.gelu(self.conv(y.transpose(1, 2).flatten(2).mT).mT + x)
        return self.out(y).log_softmax(-1), y.sum(-1), y.var(1), y.cumsum(1), y.topk(3).values


def code_of(model, x, **kwargs):
    return codegen.generated(model.eval(), (x,), **kwargs)


def test_only_our_kernels_are_called_and_they_do_not_follow_the_batch():
    codes = {b: code_of(Block().half(), torch.empty(b, 6, 32).half()) for b in (2, 64)}
    for code in codes.values():
        assert [call.split(".")[3] for call in codegen.calls(code)] == OURS
        text = "\n".join(codegen.kernels(code))
        assert "simd_" not in text
        assert "threadgroup" not in text
    assert codegen.kernels(codes[2]) == codegen.kernels(codes[64]) != []


def test_the_tier_and_the_fallback_are_in_the_code():
    x = torch.empty(2, 6, 32)
    for options, number in (
        ({"mps_tier": "simdgroup"}, "split_size=16)"),
        ({"mps_fallback": "cpu_float64"}, "split_size=1024)"),
        ({"tiling": "uniform"}, "split_size=128, uniform=True)"),
    ):
        assert number in code_of(nn.Linear(32, 4), x, options=options)


def test_control_stock_inductor_calls_a_library_and_splits_by_batch():
    code = code_of(nn.Linear(32, 4), torch.empty(3, 32), stock=True)
    assert codegen.calls(code) == ["extern_kernels.addmm"]

    class Sum(nn.Module):
        def forward(self, x):
            return x.sum(-1)

    rows = [code_of(Sum(), torch.empty(b, 9000), stock=True) for b in (3, 24)]
    assert codegen.kernels(rows[0]) != codegen.kernels(rows[1])
    ours = code_of(Sum(), torch.empty(3, 9000))
    assert codegen.calls(ours) == ["torch.ops.bi_inductor.reduction.default"]


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_models_of_the_zoo_become_code_without_a_library_call(name):
    case = build(ZOO[name])
    code = codegen.generated(case, case.inputs(3))
    foreign = [c for c in codegen.calls(code) if not c.startswith("torch.ops.bi_inductor.")]
    # tokens of each expert: whole numbers, exact in any order
    assert foreign == (["torch.ops.aten.histc.default"] if name == "mixtral" else [])
