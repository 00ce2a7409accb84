import pytest
import torch
from properties import SPLIT, data, same
from torch.nn import functional as F

from lowerings.mps.convolution import convolution

CASES = {
    "plain": ((7, 6, 9, 8), (4, 6, 3, 2), (1, 1), (0, 0), (1, 1), 1),
    "strided": ((7, 6, 9, 8), (4, 3, 3, 2), (2, 1), (1, 2), (1, 2), 2),
    "depthwise": ((7, 6, 9, 8), (6, 1, 3, 3), (1, 2), (1, 1), (1, 1), 6),
    "one_dim": ((7, 6, 20), (4, 6, 5), (3,), (2,), (2,), 1),
    "patches": ((7, 3, 16, 16), (8, 3, 4, 4), (4, 4), (0, 0), (1, 1), 1),
}


def run(x, w, b, stride, padding, dilation, groups, transposed=False, extra=None):
    extra = extra or [0] * len(stride)
    args = (stride, padding, dilation, transposed, extra, groups)
    return convolution(x, w, b, *args, split_size=SPLIT)


@pytest.mark.parametrize("case", CASES)
def test_images_do_not_depend_on_the_batch(case):
    shape, window, *rest = CASES[case]
    x, w, b = data(*shape), data(*window, seed=1), data(window[0], seed=2)
    full = run(x, w, b, *rest)
    op = F.conv1d if len(shape) == 3 else F.conv2d
    torch.testing.assert_close(
        full.double(), op(x.double(), w.double(), b.double(), *rest), rtol=1e-5, atol=1e-3
    )
    for n in range(1, 8):
        assert same(run(x[:n], w, b, *rest), full[:n])
        assert same(run(x[n - 1 : n], w, b, *rest), full[n - 1 : n])


def test_transposed():
    x, w = data(3, 6, 9, 8), data(6, 3, 3, 2, seed=1)
    full = run(x, w, None, [2, 1], [1, 0], [1, 2], 2, True, [1, 0])
    exact = F.conv_transpose2d(x.double(), w.double(), None, [2, 1], [1, 0], [1, 0], 2, [1, 2])
    torch.testing.assert_close(full.double(), exact, rtol=1e-5, atol=1e-3)
    assert same(run(x[1:2], w, None, [2, 1], [1, 0], [1, 2], 2, True, [1, 0]), full[1:2])
