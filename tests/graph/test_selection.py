"""Elements selected by a mask: any sample may have any number of them, and only the same mask puts them back."""

import pytest
import torch
from harness import plan_of

from bi_inductor.errors import VariantOpError

X = torch.randn(4, 6, 8)
W = torch.randn(8, 8)


def masked(x):
    return x[..., 0] > 0


def spline(x):
    """VITS: the identity outside of an interval, something else inside."""
    inside = masked(x)
    out = torch.zeros_like(x)
    out[~inside] = x[~inside]
    out[inside] = (x[inside] @ W).tanh()
    return out


def pooled(x):
    mask = masked(x)
    scores = torch.zeros(x.shape[:2])
    scores[mask] = x[mask].softmax(-1).sum(-1)
    return scores


def numbers(x):
    out = x.clone()
    out[masked(x)] = 0.0
    return out


PROVED = {"spline": spline, "sums of selected rows": pooled, "numbers": numbers}


def leaves(x):
    return x[masked(x)]


def counted(x):
    rows = x[masked(x)]
    return x / rows.shape[0]


def over_rows(x):
    return x - x[masked(x)].sum(0)


def by_another_mask(x):
    out = torch.zeros_like(x)
    out[x[..., 1] > 0] = x[masked(x)]
    return out


def by_a_mask_of_the_same_numbers(x):
    """As many, and not in the same order."""
    square = x[:, :4, :4]
    mask, out = square > 0, torch.zeros_like(square)
    out[mask.transpose(0, 1)] = square[mask]
    return out


def filled_in_order(x):
    return x.masked_scatter(masked(x)[..., None], x * 2)


REFUSED = {
    "filled in order": (filled_in_order, "masks of those before it|adds up along the batch"),
    "leaves": (leaves, "leave the graph without their samples"),
    "counted": (counted, "size of the batch"),
    "over rows": (over_rows, "reduces over the batch"),
    "by another mask": (by_another_mask, "by the same mask"),
    "by the mask transposed": (by_a_mask_of_the_same_numbers, "by the same mask"),
}


@pytest.fixture(autouse=True)
def selections_in_graphs():
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        yield


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", PROVED)
@torch.no_grad()
def test_what_the_mask_selected_may_be_put_back_by_it(name, dynamic):
    assert plan_of(PROVED[name], X, dynamic=dynamic).output_batch == (0,)


@pytest.mark.parametrize("name", REFUSED)
@torch.no_grad()
def test_anything_else_is_refused(name):
    fn, reason = REFUSED[name]
    with pytest.raises(Exception, match=reason) as caught:
        plan_of(fn, X)
    assert isinstance(caught.value.inner_exception, VariantOpError)


@torch.no_grad()
def test_values_from_outside_are_refused_with_the_setting_that_proves_them():
    def put(x, values):
        out = torch.zeros_like(x)
        out[masked(x)] = values
        return out

    with pytest.raises(Exception, match="capture_dynamic_output_shape_ops"):
        plan_of(put, X, X[masked(X)])


@torch.no_grad()
def test_a_mask_that_all_samples_share_selects_the_same_places():
    keep = torch.tensor([True, False, True, True, False, True])

    def some(x):
        out = torch.zeros_like(x).transpose(0, 1)
        out[keep] = x.transpose(0, 1)[keep].cumsum(0)
        return out.transpose(0, 1)

    assert plan_of(some, X).output_batch == (0,)
