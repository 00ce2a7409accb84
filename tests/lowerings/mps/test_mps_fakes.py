"""A launcher returns what the fake kernel of its op promised: Inductor's code asserts shapes and strides."""

import pytest
import torch
from properties import data, same
from torch.utils import _pytree as pytree

import bi_inductor.fakes  # noqa: F401
import lowerings.mps
from lowerings.mps import fallback

HALF = torch.half
LANES = {"lanes": 256}
INDEX = torch.tensor([[0, 2, 2, 1], [1, 1, 0, 2]])
CONV = ([2, 2], [1, 1], [1, 1], False, [0, 0], 1)
CALLS = {
    "mm": lambda d: ((data(5, 40, dtype=d), data(40, 7, dtype=d)), {"split_size": 128}),
    "bmm": lambda d: ((data(2, 5, 40, dtype=d), data(2, 40, 7, dtype=d)), {"split_size": 128}),
    "convolution": lambda d: (
        (data(2, 3, 9, 9, dtype=d), data(4, 3, 3, 3, dtype=d), None, *CONV),
        {"split_size": 128},
    ),
    "attention": lambda d: (
        tuple(data(2, h, n, 16, dtype=d) for h, n in ((4, 3), (2, 9), (2, 9))),
        {"split_size": 256},
    ),
    "reduction": lambda d: ((data(3, 5, dtype=d), "sum", [1]), LANES),
    "var_mean": lambda d: ((data(3, 5, dtype=d), [0], 1.0, True), LANES),
    "softmax": lambda d: ((data(3, 5, dtype=d), 0, False), LANES),
    "layer_norm": lambda d: ((data(3, 5, dtype=d), [5], None, None, 1e-5), LANES),
    "rms_norm": lambda d: ((data(3, 5, dtype=d), [5], None, 1e-5), LANES),
    "scan": lambda d: ((data(3, 5, dtype=d), "cumsum", 1), {}),
    "grouped_mm": lambda d: (
        (data(7, 40, dtype=d), data(2, 40, 5, dtype=d), torch.tensor([3, 7], dtype=torch.int32)),
        {"split_size": 128},
    ),
    "avg_pool": lambda d: (
        (data(2, 3, 9, 9, dtype=d), [3, 2], [2, 2], [1, 0], True, False, None),
        {},
    ),
    "topk": lambda d: ((data(3, 5, dtype=d), 2, 0, True, True), {}),
    "scatter_add": lambda d: ((data(3, 5, dtype=d), 1, INDEX, data(3, 4, dtype=d)), {}),
    "index_add": lambda d: ((data(3, 5, dtype=d), 0, INDEX[0], data(4, 5, dtype=d)), {}),
    "index_put_add": lambda d: (
        (data(3, 5, 2, dtype=d), [None, INDEX[0]], data(3, 4, 2, dtype=d)),
        {},
    ),
    "embedding_bag": lambda d: (
        (data(6, 5, dtype=d), INDEX[0], torch.tensor([0, 1]), None, "mean", False, -1),
        {},
    ),
}


def layout(x):
    return x.shape, x.dtype, [s for s, n in zip(x.stride(), x.shape, strict=True) if n > 1]


def promised(name, args, kwargs):
    op = getattr(torch.ops.bi_inductor, name)
    return op(*pytree.tree_map_only(torch.Tensor, lambda x: x.to("meta"), args), **kwargs)


def test_every_op_is_called():
    assert set(CALLS) == set(lowerings.mps.implementations())


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_results_have_the_layout_of_the_fake_kernel(name, dtype):
    args, kwargs = CALLS[name](dtype)
    made = pytree.tree_leaves(lowerings.mps.implementations()[name](*args, **kwargs))
    wanted = pytree.tree_leaves(promised(name, args, kwargs))
    assert list(map(layout, made)) == list(map(layout, wanted))


CPU_NUMBERS = {128: 1024, 256: 64}
ON_THE_CPU = [name for name in CALLS if CALLS[name](HALF)[1]]


def widened(x: torch.Tensor) -> torch.Tensor:
    return x.double() if x.is_floating_point() else x


@pytest.mark.parametrize("name", ON_THE_CPU)
def test_the_fallback_has_the_layout_and_is_the_cpu_in_float64(name):
    args, kwargs = CALLS[name](HALF)
    numbers = {k: 512 if name == "attention" else CPU_NUMBERS[v] for k, v in kwargs.items()}
    run = fallback.routed(name, lowerings.mps.implementations()[name])
    made = pytree.tree_leaves(run(*args, **numbers))
    wanted = pytree.tree_leaves(promised(name, args, numbers))
    assert [x.dtype for x in made] == [x.dtype for x in wanted]
    op = getattr(torch.ops.bi_inductor, name)
    exact = op(*pytree.tree_map_only(torch.Tensor, widened, args), **numbers)
    assert all(same(m, e.to(m.dtype)) for m, e in zip(made, pytree.tree_leaves(exact), strict=True))
    assert pytree.tree_leaves(run(*args, **kwargs))[0].shape == made[0].shape
