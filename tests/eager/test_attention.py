"""Attention in the mode has the compiled model's bits, whichever of its kernels torch would have chosen."""

import threading

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import bi_inductor
from bi_inductor.errors import VariantOpError
from tests.rows import bits_equal

CASES = {
    "grouped heads": {"enable_gqa": True},
    "causal": {"enable_gqa": True, "is_causal": True, "scale": 0.3},
    "masked": {"attn_mask": torch.ones(9, 9, dtype=torch.bool).tril(), "enable_gqa": True},
    "additive": {"attn_mask": torch.randn(1, 6, 9, 9), "enable_gqa": True},
}


def tensors(dtype=torch.float32):
    torch.manual_seed(1)
    return tuple(torch.randn(4, heads, 9, 32, dtype=dtype) for heads in (6, 2, 2))


@pytest.fixture(params=[SDPBackend.MATH, None], ids=["formula", "fused"])
def torch_prefers(request):
    """The formula is what float32 with ``enable_gqa`` gets on CUDA."""
    if request.param is None:
        yield
    else:
        with sdpa_kernel(request.param):
            yield


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference"])
def test_as_compiled(name, inference, torch_prefers):
    def fn(q, k, v):
        return functional.scaled_dot_product_attention(q, k, v, **CASES[name])

    x = tensors()
    with torch.inference_mode() if inference else torch.no_grad():
        compiled = torch.compile(fn, backend="batch_invariant", dynamic=False)(*x)
        stock = fn(*x)
        with bi_inductor.batch_invariant_mode():
            eager = fn(*x)
    assert bits_equal(eager, compiled)
    assert not bits_equal(stock, eager), "torch's own kernel has these bits: nothing is shown"


def test_gradients_as_compiled(torch_prefers):
    def gradients(fn):
        q, k, v = (t.requires_grad_() for t in tensors())
        fn(q, k, v).pow(2).sum().backward()
        return q.grad, k.grad, v.grad

    def fn(q, k, v):
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    compiled = gradients(torch.compile(fn, backend="batch_invariant", dynamic=False))
    with bi_inductor.batch_invariant_mode():
        eager = gradients(fn)
    assert all(bits_equal(a, b) for a, b in zip(eager, compiled, strict=True))


def test_dropout_is_refused_and_other_threads_are_left_alone():
    q, k, v = tensors()
    stock = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    elsewhere = []

    def other():
        elsewhere.append(functional.scaled_dot_product_attention(q, k, v, enable_gqa=True))

    with torch.no_grad(), bi_inductor.batch_invariant_mode():
        with pytest.raises(VariantOpError, match="random numbers"):
            functional.scaled_dot_product_attention(q, k, v, dropout_p=0.1, enable_gqa=True)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert bits_equal(elsewhere[0], stock)
    assert bits_equal(functional.scaled_dot_product_attention(q, k, v, enable_gqa=True), stock)
