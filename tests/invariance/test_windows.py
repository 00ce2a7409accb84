"""Windows of images whose size is a symbol: one compiled graph for every batch and every image size."""

import pytest
import torch

from tests.one_library import one_library
from tests.rows import rows_that_change
from tests.windows import FEATURES, SIDE, WINDOW, image_of, there_and_back, windows_of


def windows_to_the_next_image(x):
    return image_of(windows_of(x).roll(1, 0), x.shape[1], x.shape[2])


@pytest.mark.thorough  # torch traces and compiles such sizes for minutes
@torch.no_grad()
def test_images_do_not_follow_their_batch_at_any_size(device):
    compiled = torch.compile(there_and_back, backend="batch_invariant", dynamic=True)
    images = torch.randn(5, SIDE, SIDE, FEATURES, device=device)
    larger = torch.randn(5, SIDE + WINDOW, SIDE + WINDOW, FEATURES, device=device)
    with one_library():
        for x in (images, larger):
            assert rows_that_change(compiled, (x,), (1, 2, 5)) == []
            torch.testing.assert_close(compiled(x), there_and_back(x))
    assert rows_that_change(windows_to_the_next_image, (images,), (2, 5)), "control too weak"
