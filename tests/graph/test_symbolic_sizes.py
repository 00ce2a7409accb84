"""Sizes that are spelled in two ways: the batch is followed through windows of images whose size is a symbol.

torch keeps ``h // (h // 4)`` for the 4 that a view asked for, and a quotient of products for its -1.
"""

import pytest
import sympy
import torch
import torch.nn.functional as F
from harness import plan_of

from bi_inductor._torch import FloorDiv
from bi_inductor.errors import VariantOpError
from bi_inductor.flow.sizes import Sizes
from tests.windows import (
    FEATURES,
    SIDE,
    WINDOW,
    image_of,
    of_any_size,
    shifted,
    twice,
    windows_of,
)  # fmt: skip

IMAGES = torch.randn(3, SIDE, SIDE, FEATURES)


@pytest.mark.parametrize(
    ("fn", "static_batch"),
    [
        # torch traces nested sizes for a minute
        pytest.param(twice, False, id="twice", marks=pytest.mark.thorough),
        pytest.param(of_any_size, False, id="of any size"),
        pytest.param(shifted, False, id="shifted"),
        pytest.param(shifted, True, id="shifted, the batch a number"),
    ],
)
@torch.no_grad()
def test_windows_come_back_to_their_samples(fn, static_batch):
    x = IMAGES.clone()
    if static_batch:
        torch._dynamo.mark_static(x, 0)
    planned = plan_of(fn, x, dynamic=True)
    assert planned.output_batch == (0,)
    assert planned.text() == plan_of(fn, x, dynamic=False).text()


def by_position(x):
    """As many numbers as samples, by a computation that torch does not simplify."""
    count = (x.shape[0] * x.shape[1] + x.shape[1] - 1) // x.shape[1]
    return x * torch.arange(count)[:, None, None, None]


def keys_by_position(x):
    count = (x.shape[0] * x.shape[1] + x.shape[1] - 1) // x.shape[1]
    keys = torch.arange(float(SIDE))[:count, None, None, None].expand(-1, *x.shape[1:])
    return F.scaled_dot_product_attention(x, keys, keys)


def numbered(x):
    elements = (x.shape[0] * x.shape[1] * x.shape[2] * x.shape[3]) // FEATURES
    return x + torch.arange(elements).view(-1, x.shape[1], x.shape[2], 1)


def windows_of_neighbours(x):
    """Windows put back as if there were half as many images of twice the height."""
    _, h, w, _ = x.shape
    return image_of(windows_of(x), 2 * h, w)


def mask_of_a_window_count(x):
    """One mask for each window of the batch, not of an image."""
    windows = windows_of(x).view(-1, WINDOW * WINDOW, FEATURES)
    return windows * torch.arange(windows.shape[0])[:, None, None]


def sum_over_images(x):
    _, h, w, _ = x.shape
    return x + windows_of(x).view(-1, h // WINDOW, w // WINDOW, WINDOW, WINDOW, FEATURES).sum(
        (0, 1, 2)
    ).repeat(h // WINDOW, w // WINDOW, 1)


def windows_as_samples(x):
    """What one window of each image gets from the next one is not its own sample's."""
    windows = windows_of(x)
    return windows[1:] - windows[:-1]


REFUSED = [
    by_position, keys_by_position, numbered, windows_of_neighbours, mask_of_a_window_count, sum_over_images, windows_as_samples,
]  # fmt: skip


@pytest.mark.parametrize("fn", REFUSED, ids=lambda f: f.__name__)
@torch.no_grad()
def test_windows_that_meet_other_samples_are_refused(fn):
    with pytest.raises(Exception, match="on_variant") as caught:
        plan_of(fn, torch.randn(4, SIDE, SIDE, FEATURES), dynamic=True)
    assert isinstance(caught.value.inner_exception, VariantOpError)


B, H, W = sympy.symbols("b h w", integer=True, positive=True)


def test_a_size_is_written_in_the_shortest_way_that_was_proved():
    sizes = Sizes()
    kept = FloorDiv(H, FloorDiv(H, 4))
    assert sizes.of(kept) == kept
    sizes.learn(4, kept)
    assert sizes.of(kept) == 4
    assert sizes.of(FloorDiv(B * H * kept**2, H * 16)) == B
    assert sizes.of(FloorDiv(B * H, 16)) == FloorDiv(B * H, 16)


def test_products_of_a_view_may_be_exchanged():
    """``h`` cut into ``h // 4`` fours was a multiple of four, so the images are as many as the samples."""
    sizes, fours = Sizes(), 4 * FloorDiv(H, 4)
    assert sizes.divided(B * fours * W, H * W) is None
    sizes.learn_product(B * H * W, B * fours * W)
    assert sizes.divided(B * fours * W, H * W) == B
    assert sizes.divided(B * fours * W, 2 * H * W) is None
    assert sizes.divided(B * fours * W, W * W) is None


def test_what_may_be_zero_is_not_divided_out_of_a_product():
    """``h // 4 * b == h // 4 * w`` holds for an ``h`` of three, whatever ``b`` and ``w`` are."""
    sizes, none = Sizes(), FloorDiv(H, 4)
    sizes.learn_product(none * B, none * W)
    assert sizes.divided(B * H, W * H) is None
    assert sizes.divided(2 * none * B, none * W) == 2


def test_halves_of_sizes_are_left_as_they_are():
    """torch writes ``h/2 + 3/2`` for a half of a size that it knows to be odd."""
    sizes, half = Sizes(), H / 2 + sympy.Rational(3, 2)
    sizes.learn_product(sympy.expand(B * half**2), sympy.expand(B * half))
    assert sizes.divided(B * W, W) == B


@torch.no_grad()
def test_a_view_as_another_dtype_says_nothing_about_sizes():
    def fn(x):
        return x.view(torch.int32).sum(-1), x.view(-1, x.shape[1], 4)

    with pytest.raises(Exception, match="cuts the batch") as caught:
        plan_of(fn, torch.ones(3, 5, 8, dtype=torch.int16), dynamic=True)
    assert isinstance(caught.value.inner_exception, VariantOpError)
