"""Each name of ``bi_inductor.compat`` in the example of its original documentation."""

import pytest
import torch
from torch.nn import functional as F

from bi_inductor import compat
from tests.rows import rows_that_change


def test_every_name_is_there():
    for name in compat.__all__:
        assert callable(getattr(compat, name)), name


def difference_of_a_row(rows=64, width=4096):
    a = torch.linspace(-100, 100, rows * width).reshape(rows, width)
    b = torch.linspace(-100, 100, width * 256).reshape(width, 256)
    return (torch.mm(a[:1], b) - torch.mm(a, b)[:1]).abs().max().item()


def test_batch_invariant_ops_quick_start():
    """https://github.com/thinking-machines-lab/batch_invariant_ops, at a smaller size."""
    with compat.set_batch_invariant_mode(False):
        assert difference_of_a_row() != 0, "control too weak"
    with compat.set_batch_invariant_mode(True):
        assert compat.is_batch_invariant_mode_enabled()
        assert difference_of_a_row() == 0
    assert not compat.is_batch_invariant_mode_enabled()


def test_batch_invariant_ops_switches():
    compat.enable_batch_invariant_mode()
    try:
        assert compat.is_batch_invariant_mode_enabled()
        assert difference_of_a_row() == 0
    finally:
        compat.disable_batch_invariant_mode()
    assert not compat.is_batch_invariant_mode_enabled()


def test_batch_invariant_ops_functions():
    x, w, bias = torch.randn(33, 4096), torch.randn(4096, 64), torch.randn(64)
    for op, stock in (
        (lambda x: compat.matmul_persistent(x, w, bias), lambda x: x @ w + bias),
        (lambda x: compat.log_softmax(x, dim=-1), lambda x: x.log_softmax(-1)),
        (lambda x: compat.mean_dim(x, [-1]), lambda x: x.mean(-1)),
    ):
        assert rows_that_change(op, (x,), batches=(2, 33)) == []
        torch.testing.assert_close(op(x), stock(x), rtol=1e-4, atol=1e-4)
    assert compat.mean_dim(x.bfloat16(), 1, dtype=torch.float32).dtype == torch.float32


def test_the_block_size_is_a_pair():
    block_m, block_n = compat.get_batch_invariant_attention_block_size()
    assert (block_m, block_n) == compat.AttentionBlockSize(16, 16)


def test_attention_called_directly():
    query, key, value = (torch.randn(9, 4, 33, 16) for _ in range(3))
    output = compat.batch_invariant_scaled_dot_product_attention(
        query, key, value, dropout_p=0.0, is_causal=False
    )
    torch.testing.assert_close(output, F.scaled_dot_product_attention(query, key, value))
    ours = compat.batch_invariant_scaled_dot_product_attention
    assert rows_that_change(ours, (query, key, value), batches=(2, 9)) == []
    with pytest.raises(ValueError, match="dropout_p=0.1"):
        ours(query, key, value, dropout_p=0.1)


def test_attention_registered_for_the_process():
    stock = F.scaled_dot_product_attention
    compat.register_batch_invariant_attention()
    try:
        ours = compat.batch_invariant_scaled_dot_product_attention
        assert F.scaled_dot_product_attention is ours
        compat.register_batch_invariant_attention()
    finally:
        compat.unregister_batch_invariant_attention()
    assert F.scaled_dot_product_attention is stock


def test_deterministic_llm_single_operations():
    """docs/USAGE_GUIDE.md of https://github.com/ngaut/deterministic-llm."""
    x = torch.randn(4, 128, 768)
    weight = torch.randn(768, 768)
    for op, stock in (
        (lambda x: compat.batch_invariant_layernorm(x, (768,)), lambda x: F.layer_norm(x, (768,))),
        (lambda x: compat.batch_invariant_rmsnorm(x), lambda x: F.rms_norm(x, (768,), eps=1e-6)),
        (lambda x: compat.batch_invariant_gelu(x), F.gelu),
        (lambda x: compat.batch_invariant_matmul(x, weight), lambda x: x @ weight),
    ):
        assert rows_that_change(op, (x,), batches=(2, 4)) == []
        torch.testing.assert_close(op(x), stock(x), rtol=1e-4, atol=1e-4)


def test_deterministic_llm_contexts():
    compat.register_batch_invariant_ops()
    with compat.deterministic_inference_mode():
        assert compat.get_batch_invariant_mode()
        assert difference_of_a_row() == 0
    assert not compat.get_batch_invariant_mode()
