"""What the rewritten graph computes, where a template could read more than the op does."""

import operator

import pytest
import torch
from harness import plans_of
from torch._subclasses.fake_tensor import FakeTensorMode

from bi_inductor.batch import BatchSpec
from bi_inductor.plan import make_plan
from bi_inductor.rewrite import rewrite

PRODUCTS = {
    "addmm": (lambda b, x, y: torch.addmm(b, x, y, beta=0), [(6,), (4, 5), (5, 6)]),
    "baddbmm": (
        lambda b, x, y: torch.baddbmm(b, x, y, beta=0, alpha=2),
        [(1, 1, 6), (3, 4, 5), (3, 5, 6)],
    ),
}


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_bias_times_zero_is_not_read(name, device):
    """A NaN in it would become one in the result, where torch promises none."""
    fn, shapes = PRODUCTS[name]
    seen = []

    def keep(gm, planned):
        made = rewrite(gm, planned)
        nodes = [n for n in made.graph.nodes if getattr(n.target, "namespace", "") == "bi_inductor"]
        seen.extend((n.args[2], n.kwargs.get("beta")) for n in nodes)

    inputs = [torch.randn(shape) for shape in shapes]
    names = {"b": None} if name == "baddbmm" else {"b": None, "y": None}
    plans_of(fn, *inputs, batch_dims=names, device=device, then=keep)
    assert seen == [(None, None)]


@pytest.mark.parametrize("given", [torch.int32, torch.int64, torch.bool])
@pytest.mark.parametrize("op", ["sum", "cumsum", "prod"])
def test_an_integer_sum_has_the_dtype_that_was_asked_for(op, given):
    """int32 into int32, which offsets of grouped_mm must have, and not the default int64."""
    x = torch.ones(3, 4).to(given)

    def fn(x):
        method = getattr(x, op)
        return method(1, dtype=torch.int32), method(1)

    found, seen = fn(x), []

    def keep(gm, planned):
        (output,) = rewrite(gm, planned).graph.find_nodes(op="output")
        seen.extend(node.meta["val"].dtype for node in output.args[0])

    plans_of(fn, x, then=keep)
    assert seen == [y.dtype for y in found] == [torch.int32, torch.int64]


@pytest.mark.parametrize("op", ["cudnn", "flash"])
def test_attention_of_a_library_of_cuda_keeps_the_shapes_of_its_outputs(op):
    """What eager mode meets in half precision; the logsumexp of cuDNN's op is [B, H, L, 1]."""
    target = getattr(torch.ops.aten, f"_scaled_dot_product_{op}_attention").default
    graph = torch.fx.Graph()
    with FakeTensorMode():
        q = graph.placeholder("q")
        q.meta["val"] = torch.empty(2, 4, 9, 16, device="cuda", dtype=torch.bfloat16)
        rest = (None, True) if op == "cudnn" else ()
        call = graph.call_function(target, (q, q, q, *rest))
        call.meta["val"] = target(*[q.meta["val"]] * 3, *rest)
        items = [graph.call_function(operator.getitem, (call, i)) for i in range(2)]
        for i, item in enumerate(items):
            item.meta["val"] = call.meta["val"][i]
        graph.output(tuple(items))
        gm = torch.fx.GraphModule(torch.nn.Module(), graph)
        planned = make_plan(
            gm, device="cuda", batch=BatchSpec((0,)), backward=lambda _: False, on_variant="error"
        )
        (output,) = rewrite(gm, planned).graph.find_nodes(op="output")
    found = [node.meta["val"].shape for node in output.args[0]]
    assert found == [item.meta["val"].shape for item in items]
