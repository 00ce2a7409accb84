"""The public tests of other libraries, in our words; each is named after where it comes from.

All cases are outputs of one compiled function, so that the whole table costs two compilations: of one sample,
and of any number of them.
"""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bi_inductor
from bi_inductor.errors import LoweringError
from tests.rows import bits_equal

BATCHES = (2, 7, 33)
MOST = max(BATCHES)


def data(*shape, dtype=torch.float32, seed=0, spread=6):
    """Normals with exponents spread over +- ``spread`` powers of two, so that the accumulator must round."""
    generator = torch.Generator().manual_seed(seed + math.prod(shape))
    exponents = torch.randint(-spread, spread + 1, shape, generator=generator)
    return (torch.randn(shape, generator=generator) * 2.0**exponents).to(dtype)


BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64


def weight(k, n, dtype=F32):
    return data(k, n, dtype=dtype, seed=11)


class On(nn.Module):
    """``fn(x, *tensors)`` as a module of x: what it multiplies by is made beforehand, and moves with it."""

    def __init__(self, fn, *tensors):
        super().__init__()
        self.fn, self.names = fn, [f"tensor{i}" for i in range(len(tensors))]
        for name, tensor in zip(self.names, tensors, strict=True):
            self.register_buffer(name, tensor)

    def forward(self, x):
        return self.fn(x, *[getattr(self, name) for name in self.names])


def linear(k, n, dtype=F32):
    return On(torch.matmul, weight(k, n, dtype))


def conv1d_block(x, bias, w):
    """GPT-2's Conv1D is an addmm; then softmax into float32."""
    h = torch.addmm(bias, x.flatten(0, -2), w).view(*x.shape[:-1], 96)
    return F.softmax(h.to(BF16), -1, dtype=F32)


def moe(x, gate, table):
    """Top-2 of 8 experts, one matrix per row."""
    scores, experts = (x @ gate).softmax(-1).topk(2)
    out = torch.bmm(x.repeat_interleave(2, 0).unsqueeze(1), table[experts.reshape(-1)])
    return (out.view(-1, 2, 64) * scores.unsqueeze(-1)).sum(1)


def cancelling_row(n, dtype):
    row = data(n, 64, dtype=F32, spread=1, seed=9)
    row[:, 0], row[:, 63] = 2.0**60, -(2.0**60)
    return row.to(dtype)


#: source and subject -> what it computes, and the samples that it computes it of
CASES = {
    # vLLM: test_matmul_split_k_batch_invariant, and F20
    **{
        f"vllm_split_k_{k}x{n}": (linear(k, n), data(MOST, k))
        for k, n in ((4096, 64), (4096, 63), (1023, 64), (4104, 64), (512, 1024))
    },
    "vllm_split_k_bf16": (linear(4104, 64, BF16), data(MOST, 4104, dtype=BF16)),
    "vllm_split_k_bias": (
        On(F.linear, weight(64, 1024), data(64)), data(MOST, 1024),
    ),
    "vllm_softmax_vocabulary": (lambda x: x.softmax(-1), data(MOST, 4097)),
    "vllm_log_softmax_151936_f16": (lambda x: x.log_softmax(-1), data(MOST, 15193, dtype=F16, spread=2)),
    "vllm_rms_norm_4096": (On(lambda x, w: F.rms_norm(x, (4096,), w), data(4096)), data(MOST, 4096)),
    "vllm_bmm": (lambda x: torch.bmm(x, x.mT), data(MOST, 9, 1024)),
    "vllm_vector_operands": (On(torch.matmul, weight(4097, 1)[:, 0]), data(MOST, 4097)),
    "vllm_softmax_inner_dim": (lambda x: x.softmax(1), data(MOST, 409, 3)),
    # Thinking Machines' batch_invariant_ops: F1, F3, F4, F6
    "tm_mean_over_two_dims": (lambda x: x.mean((1, 2)), data(MOST, 64, 32)),
    "tm_mean_over_two_dims_bf16": (lambda x: x.mean((1, 2)), data(MOST, 33, 65, dtype=BF16)),
    "tm_mean_to_float": (lambda x: x.mean(1, dtype=F32), data(MOST, 4097, dtype=BF16)),
    "tm_addmm_alpha_beta": (
        On(lambda x, b, w: torch.addmm(b, x, w, alpha=0.5, beta=2), data(64), weight(512, 64)), data(MOST, 512),
    ),
    "tm_router_gate": (On(torch.matmul, weight(1024, 512)), data(MOST, 6, 1024)),
    # SGLang: F2, F8
    "sglang_mean_of_everything": (lambda x: x.mean((1, 2)) + 1, data(MOST, 5, 6)),
    "sglang_softmax_middle_dim": (lambda x: x.softmax(-2), data(MOST, 8, 16)),
    # deterministic-llm: F14
    "deterministic_llm_gpt2_block": (On(conv1d_block, data(96, seed=3), weight(64, 96)), data(MOST, 3, 64)),
    # Apple edition: F15
    "apple_float64_cancelling": (lambda x: x.sum(-1), cancelling_row(MOST, F64)),
    "apple_float32_cancelling": (lambda x: x.mean(-1), cancelling_row(MOST, F32)),
    # nki: F16
    "nki_rms_norm_of_zeros": (lambda x: F.rms_norm(x * 0, (100,), eps=1e-6) + x, data(MOST, 100)),
    # TransformerEngine: F18, F19
    "te_rms_norm_rows": (lambda x: F.rms_norm(x, (4096,)), data(MOST, 4096, dtype=BF16)),
    "te_gemm_2048": (linear(2048, 256, BF16), data(MOST, 2048, dtype=BF16)),
    # PyTorch issues 180832 and 181089: F21, F22
    "inductor_layer_norm_768": (lambda x: F.layer_norm(x, (768,)), data(MOST, 768, dtype=BF16)),
    "inductor_ghostnet_sum": (lambda x: x.sum((2, 3)), data(MOST, 8, 56, 56)),
    "inductor_long_sum": (lambda x: x.sum(-1), data(MOST, 65536)),
    # MLX: F23, F24
    "mlx_decode_attention": (
        On(
            lambda x, q: F.scaled_dot_product_attention(q.expand(x.shape[0], -1, -1, -1), x, x),
            data(1, 4, 1, 64, seed=1),
        ),
        data(MOST, 4, 333, 64),
    ),
    "mlx_bias_rounds_once": (
        On(
            lambda x, b, w: F.gelu(torch.addmm(b, x, w)) + x[:, :256],
            data(256, dtype=BF16), weight(512, 256, BF16),
        ),
        data(MOST, 512, dtype=BF16),
    ),
    # Megatron, vLLM: F25
    "moe_rows_of_experts": (On(moe, weight(256, 8), data(8, 256, 64, seed=5)), data(MOST, 256, spread=1)),
    # vLLM 57016: F26, the invariant half
    "vllm_scale_per_row": (lambda x: x / x.abs().amax(-1, keepdim=True), data(MOST, 300)),
    # vLLM: low-rank adapters
    "vllm_lora_shrink": (On(lambda x, a, b: x @ a @ b, weight(2560, 16, BF16), weight(16, 300, BF16)), data(MOST, 2560, dtype=BF16)),
    # sgemm-bi
    "sgemm_bi_rows": (linear(384, 384), data(MOST, 384)),
    # cuBLAS skinny N, K of one: F11, F12
    "tbik_k_of_one": (linear(1, 129), data(MOST, 1)),
    "tbik_odd_tails": (linear(1000, 63), data(MOST, 1000)),
}  # fmt: skip


#: device type -> cases whose dtype its kernels refuse; a test below holds them to that
REFUSED = {"cuda": ("apple_float64_cancelling",)}


def cases_on(device):
    refused = REFUSED.get(torch.device(device).type, ())
    return {name: case for name, case in CASES.items() if name not in refused}


class EveryCase(nn.Module):
    def __init__(self, cases):
        super().__init__()
        self.names = list(cases)
        self.cases = nn.ModuleList(
            fn if isinstance(fn, nn.Module) else On(fn) for fn, _ in cases.values()
        )

    def forward(self, *inputs):
        return {name: fn(x) for name, fn, x in zip(self.names, self.cases, inputs, strict=True)}


def compute(compiler, device):
    """``(batch, rows) -> outputs`` of every case: one graph for one sample, one for any number."""
    torch.compiler.reset()
    cases = cases_on(device)
    fn = compiler(EveryCase(cases).to(device))
    samples = [x.to(device) for _, x in cases.values()]
    for x in samples:
        assert x.shape[0] == MOST

    def call(rows):
        inputs = [x[rows].clone() for x in samples]
        for x in inputs:
            bi_inductor.mark_batch(x, 0)
        with torch.no_grad():
            return fn(*inputs)

    alone = {row: call([row]) for row in {r for n in BATCHES for r in (0, n // 2, n - 1)}}
    return alone, {n: call(list(range(n))) for n in BATCHES}


@pytest.fixture(scope="module")
def ours(device):
    return compute(partial(torch.compile, backend="batch_invariant"), device)


def rows_that_differ(name, results):
    alone, batched = results
    return [
        (n, row)
        for n in BATCHES
        for row in (0, n // 2, n - 1)
        if not bits_equal(batched[n][name][row : row + 1], alone[row][name])
    ]


@pytest.mark.parametrize("name", CASES)
def test_a_row_has_the_bits_it_has_alone(name, device, request):
    if name not in cases_on(device):
        fn, x = CASES[name]
        with pytest.raises(LoweringError, match="float64 has no CUDA kernel; cast"):
            torch.compile(fn, backend="batch_invariant")(x.to(device))
        return
    assert rows_that_differ(name, request.getfixturevalue("ours")) == []


def test_torch_kernels_fail_several_of_them(device):
    stock = compute(lambda module: module, device)
    assert len([name for name in cases_on(device) if rows_that_differ(name, stock)]) >= 5


def test_vllm_57016_a_scale_over_the_whole_batch_is_refused(device):
    fn = torch.compile(lambda x: x / x.abs().amax(), backend="batch_invariant")
    with pytest.raises(Exception, match=r"amax.*reduces over the batch"):
        fn(data(8, 30).to(device))


def test_sglang_mean_without_dims_is_a_mean(device):
    """F2: another library returned the sum."""
    x = (data(4, 5, 6) + 1).to(device)
    fn = torch.compile(
        lambda x: x.mean((1, 2)).mean(), backend="batch_invariant", options={"on_variant": "warn"}
    )
    with pytest.warns(UserWarning, match="goes on"):
        assert abs(fn(x) - x.double().mean()) < 1e-5


def test_tm_beta_zero_ignores_a_nan_bias(device):
    """F4."""
    bias = torch.full((64,), float("nan"), device=device)
    w = weight(512, 64).to(device)
    fn = torch.compile(lambda x: torch.addmm(bias, x, w, beta=0), backend="batch_invariant")
    assert fn(data(3, 512).to(device)).isfinite().all()
