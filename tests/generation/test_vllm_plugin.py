"""The backend of the vLLM example, on a graph with an attention op of vLLM's namespace."""

import os

import pytest
import torch
from torch import nn

import bi_inductor
from examples import vllm_plugin


@torch.library.custom_op("vllm::unified_attention", mutates_args=())
def unified_attention(query: torch.Tensor, layer_name: str) -> torch.Tensor:
    return query * 2


@unified_attention.register_fake
def _(query, layer_name):
    return torch.empty_like(query)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.norm = nn.Linear(512, 512), nn.RMSNorm(512)

    def forward(self, x):
        return self.qkv(torch.ops.vllm.unified_attention(self.norm(x), "layers.0"))


def test_the_graph_is_ours_and_attention_is_named():
    torch.manual_seed(0)
    block, x = Block(), torch.randn(64, 512)
    with torch.no_grad():
        fn = torch.compile(block, backend=vllm_plugin.compile_graph, dynamic=True)
        with pytest.warns(UserWarning, match="unified_attention"):
            whole = fn(x)
        assert all(torch.equal(fn(x[:n]), whole[:n]) for n in (2, 3, 17))
    (graph,) = bi_inductor.certificate().graphs
    assert "unified_attention" in "".join(graph.variants)
    assert "Matmul" in graph.plan
    assert "RmsNorm" in graph.plan or "Reduction" in graph.plan
    torch.compiler.reset()
    assert bi_inductor.certificate().graphs == ()


def test_the_plugin_asks_for_an_invariant_attention(monkeypatch):
    monkeypatch.delenv("VLLM_BATCH_INVARIANT", raising=False)
    vllm_plugin.register()
    assert os.environ["VLLM_BATCH_INVARIANT"] == "1"
