"""convolution: each sample by itself, in the order of a product over (channel, kernel position)."""

import gemm_library
import gemm_reference as reference
import pytest
import torch
import torch.nn.functional as F

gemm_library.load()
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# name: x, weight, stride, padding, dilation, transposed, output_padding, groups
CASES = {
    "1d": ((5, 3, 20), (7, 3, 5), [2], [3], [1], False, [0], 1),
    "1d dilated": ((5, 4, 33), (6, 2, 3), [1], [4], [3], False, [0], 2),
    "3 x 3": ((5, 20, 9, 11), (33, 20, 3, 3), [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    "strided": ((5, 3, 17, 15), (8, 3, 7, 5), [3, 2], [2, 3], [1, 2], False, [0, 0], 1),
    "patches": ((5, 3, 16, 16), (24, 3, 4, 4), [4, 4], [0, 0], [1, 1], False, [0, 0], 1),
    "pointwise": ((5, 40, 6, 7), (12, 40, 1, 1), [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
    "pointwise strided": ((5, 10, 6, 7), (12, 10, 1, 1), [2, 2], [0, 0], [1, 1], False, [0, 0], 1),
    "grouped": ((5, 12, 8, 8), (18, 4, 3, 3), [1, 1], [1, 1], [1, 1], False, [0, 0], 3),
    "depthwise": ((5, 10, 13, 9), (10, 1, 3, 3), [1, 1], [1, 1], [1, 1], False, [0, 0], 10),
    "depthwise strided": ((5, 6, 13, 9), (12, 1, 5, 5), [2, 2], [2, 2], [1, 1], False, [0, 0], 6),
    "depthwise 7 x 7": ((3, 5, 9, 40), (5, 1, 7, 7), [1, 1], [3, 3], [1, 1], False, [0, 0], 5),
    "few channels": ((3, 70, 8, 9), (3, 70, 4, 4), [1, 1], [2, 1], [1, 1], False, [0, 0], 1),
    "transposed depthwise": ((3, 4, 6, 7), (4, 1, 4, 4), [2, 2], [1, 1], [1, 1], True, [0, 0], 4),
    "transposed, gaps": ((3, 4, 6, 7), (4, 6, 2, 2), [3, 3], [0, 0], [2, 1], True, [1, 0], 1),
    "transposed": ((5, 6, 7, 5), (6, 9, 3, 4), [2, 3], [1, 0], [1, 1], True, [1, 2], 1),
    "transposed grouped": ((5, 6, 11), (6, 4, 4), [2], [1], [2], True, [0], 2),
    "3d": ((3, 4, 5, 6, 7), (6, 4, 3, 2, 3), [1, 2, 1], [1, 0, 1], [1, 1, 1], False, [0, 0, 0], 1),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def ours(x, weight, bias, *geometry):
    return torch.ops.bi_inductor.convolution(
        x, weight, bias, *geometry, split_size=reference.SPLIT_SIZE[x.dtype]
    )


def case(name: str, dtype: torch.dtype):
    x_shape, w_shape, *geometry = CASES[name]
    transposed, groups = geometry[3], geometry[5]
    bias = torch.randn(w_shape[1] * groups if transposed else w_shape[0]).to(dtype)
    return torch.randn(x_shape).to(dtype), torch.randn(w_shape).to(dtype), bias, geometry


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_and_error(name, dtype):
    x, weight, bias, geometry = case(name, dtype)
    exact = torch.ops.aten.convolution(x.double(), weight.double(), bias.double(), *geometry)
    stock = torch.ops.aten.convolution(x, weight, bias, *geometry)
    out = ours(x, weight, bias, *geometry)
    assert out.dtype == dtype
    assert out.shape == exact.shape
    if dtype is torch.float64:
        torch.testing.assert_close(out, exact, rtol=1e-12, atol=1e-12)
        return
    half_ulp = exact.abs().max() * torch.finfo(dtype).eps / 2
    budget = 2 * (stock.double() - exact).abs().max() + half_ulp
    assert (out.double() - exact).abs().max() <= budget


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sample_depends_on_itself_alone(name, dtype):
    x, weight, bias, geometry = case(name, dtype)
    whole = ours(x, weight, bias, *geometry)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(ours(x, weight, bias, *geometry), whole)
        for i in range(len(x)):
            assert torch.equal(ours(x[i : i + 1], weight, bias, *geometry)[0], whole[i])
    assert torch.equal(ours(x[2], weight, bias, *geometry), whole[2])
    spoiled = x.clone()
    spoiled[1] = torch.nan
    others = [i for i in range(len(x)) if i != 1]
    assert torch.equal(ours(spoiled, weight, bias, *geometry)[others], whole[others])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "name", ["3 x 3", "strided", "depthwise", "depthwise 7 x 7", "few channels"]
)
def test_the_order_is_the_one_of_mm_over_unfolded_patches(name, dtype):
    x, weight, bias, geometry = case(name, dtype)
    stride, padding, dilation, _, _, groups = geometry
    size = weight.shape[2:]
    patches = F.unfold(x[:1].float(), size, dilation, padding, stride).to(dtype)[0]
    out = ours(x[:1], weight, bias, *geometry)[0]
    per_group = weight.shape[0] // groups
    depth = weight[0].numel()
    for g in range(groups):
        rows = slice(g * per_group, (g + 1) * per_group)
        expected = reference.mm(
            weight[rows].reshape(per_group, depth),
            patches[g * depth : (g + 1) * depth],
            bias[rows, None],
        )
        assert torch.equal(out[rows].reshape(per_group, -1), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "name", [n for n in CASES if n[:2] not in ("1d", "3d") and "grouped" not in n]
)
def test_every_instruction_set_gives_the_same_bits(name, dtype):
    x, weight, _, (*geometry, output_padding, groups) = case(name, dtype)
    x[0, 0, 0, 0], x[1, 0, 1, 1] = torch.finfo(dtype).tiny / 4, -torch.finfo(dtype).tiny
    expected = ours(x, weight, None, *geometry, output_padding, groups)
    for isa in gemm_library.host_isas():
        out = torch.empty_like(expected)
        gemm_library.conv2d_of_isa(
            isa, x, weight, out, *geometry, groups, reference.SPLIT_SIZE[dtype]
        )
        assert torch.equal(out, expected), isa


def test_transposed_convolution_multiplies_no_zeros_between_the_inputs():
    x, weight = torch.randn(2, 3, 6, 6), torch.randn(3, 4, 2, 2)
    weight[:, :, 0, 1] = torch.inf
    geometry = [2, 2], [0, 0], [1, 1], True, [0, 0], 1
    out = ours(x, weight, None, *geometry)
    finite = torch.ops.aten.convolution(x, weight, None, *geometry).isfinite()
    assert finite.sum() == finite.numel() * 3 // 4
    assert torch.equal(out.isfinite(), finite)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layout_of_the_input_does_not_matter(dtype):
    x, weight, bias, geometry = case("3 x 3", dtype)
    expected = ours(x, weight, bias, *geometry)
    last = torch.channels_last
    assert torch.equal(
        ours(x.to(memory_format=last), weight.to(memory_format=last), bias, *geometry), expected
    )
    strided = torch.randn(5, 20, 9, 22).to(dtype)[..., ::2].copy_(x)
    assert torch.equal(ours(strided, weight, bias, *geometry), expected)


def test_empty_batch_and_errors():
    x, weight, bias, geometry = case("3 x 3", torch.float32)
    assert ours(x[:0], weight, bias, *geometry).shape == (0, 33, 9, 11)
    with pytest.raises(ValueError, match="groups=7"):
        ours(x, weight, bias, *geometry[:-1], 7)
    with pytest.raises(ValueError, match="too small"):
        ours(x[..., :1, :1], weight, bias, [1, 1], [0, 0], *geometry[2:])
