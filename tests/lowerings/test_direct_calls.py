"""Generated code calls our ops past ``torch.ops``: the same arguments, bits and errors, at less cost."""

import pytest
import torch
from torch._inductor.utils import run_and_get_code

from bi_inductor import ops
from lowerings import _inductor
from lowerings.cpu import build

KERNELS = build.python_calls()
OPS = torch.ops.bi_inductor


def _calls():
    torch.manual_seed(0)
    x, w = torch.randn(3, 5, 70), torch.randn(70)
    a, b, bias = torch.randn(7, 70), torch.randn(70, 33), torch.randn(33)
    image, filters = torch.randn(2, 4, 9, 9), torch.randn(6, 2, 3, 3)
    q, k = torch.randn(2, 4, 5, 32), torch.randn(2, 2, 9, 32)
    index = torch.tensor([0, 2, 0])
    lanes, split = {"lanes": 64}, {"split_size": 1024}
    return {
        "mm": ((a, b, bias), {"alpha": 0.5, **split, "uniform": True}),
        "bmm": ((x, x.transpose(1, 2)), split),
        "grouped_mm": ((a, torch.randn(2, 70, 8), torch.tensor([3, 7], dtype=torch.int32)), split),
        "convolution": (
            (image, filters, None, [1, 2], [1], [1, 1], False, [0], 2),
            split,
        ),
        "attention": ((q, k, k), {"scale": 0.3, "is_causal": True, "split_size": 512}),
        "reduction": ((x.bfloat16(), "sum", (0, 2), True), {"dtype": torch.float32, **lanes}),
        "var_mean": ((x, [-1], 1), lanes),
        "softmax": ((x, 1, True), lanes),
        "layer_norm": ((x, [70], w, None, 1e-5), lanes),
        "rms_norm": ((x, [70], w, 1e-5), lanes),
        "scan": ((x, "cumsum", -1), {"dtype": torch.float64}),
        "topk": ((x, 3, -1, True, True), {}),
        "scatter_add": ((x[0], 0, index[:, None].expand(3, 70).contiguous(), x[1, :3]), {}),
        "index_add": ((x[0], 0, index, x[1, :3]), {"alpha": 2}),
        "embedding_bag": ((x[0], index, torch.tensor([0, 1]), None, "mean", False, -1), {}),
        "avg_pool": ((image, [2, 2], [], [0, 0], False, True, None), {}),
    }


@pytest.mark.parametrize("name", sorted(_calls()))
def test_a_direct_call_is_the_op(name):
    args, kwargs = _calls()[name]
    expected = getattr(OPS, name).default(*args, **kwargs)
    found = getattr(KERNELS, name)(*args, **kwargs)
    assert type(found) is type(expected)
    pairs = (
        [(found, expected)]
        if isinstance(found, torch.Tensor)
        else zip(found, expected, strict=True)
    )
    for ours, theirs in pairs:
        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()


def test_every_op_has_a_direct_call():
    assert set(_calls()) == ops.SCHEMAS.keys() - _inductor._NOT_DIRECT


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1, -1, False), {"lanes": 64}, "expected a tensor, got int"),
        ((torch.ones(3), -1, False), {}, "bi_inductor::softmax: argument lanes is missing"),
        ((torch.ones(3), -1, False), {"lane": 64}, "bi_inductor::softmax: unknown argument lane"),
        ((torch.ones(3), -1, False, None, 64, 1), {}, "at most 5 arguments, got 6"),
        ((torch.ones(3), "x", False), {"lanes": 64}, "integer"),
    ],
)
def test_wrong_arguments_are_named(args, kwargs, message):
    with pytest.raises(TypeError, match=message):
        KERNELS.softmax(*args, **kwargs)


def test_an_error_of_a_kernel_is_the_op_s():
    with pytest.raises(IndexError, match="bi_inductor::softmax: dim 7 is out of range"):
        KERNELS.softmax(torch.ones(3), 7, False, lanes=64)


def test_a_direct_call_records_no_history_and_shows_in_a_profile():
    x = torch.ones(3, 4, requires_grad=True)
    with torch.profiler.profile() as profile:
        assert not KERNELS.softmax(x, -1, False, lanes=64).requires_grad
    assert "bi_inductor::softmax" in {event.name for event in profile.events()}


@pytest.mark.parametrize("backend", ["batch_invariant", "inductor"])
def test_only_our_compilations_call_directly(backend):
    def f(x):
        return (
            OPS.softmax.default(x + 1, -1, False, lanes=64)
            if backend == "inductor"
            else (x + 1).softmax(-1)
        )

    with torch.no_grad():
        found, (code, *_) = run_and_get_code(torch.compile(f, backend=backend), torch.ones(3, 64))
    direct = backend == "batch_invariant" and _inductor._custom_calls is not None
    assert ("bi_kernels.softmax(" in code) == direct
    assert ("torch.ops.bi_inductor.softmax.default(" in code) != direct
    assert torch.equal(found, torch.full((3, 64), 1 / 64))
