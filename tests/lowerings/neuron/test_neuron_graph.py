"""Graphs of ``torch.ops.bi_inductor`` on their way to the vendor's compiler, other backends standing in for it."""

import math
import subprocess
import sys

import pytest
import torch
from nki_emulator import machine
from torch.fx import symbolic_trace

import bi_inductor.ops
from bi_inductor.errors import LoweringError, UnsupportedDeviceError
from lowerings.neuron import device, graph, plans
from lowerings.neuron.graph import compile_graph, retarget

ops = torch.ops.bi_inductor
SEQ, HIDDEN = 3, 64  # at one sample stock torch meets matmuls of 3 rows and takes another path
SIZES = (1, 3, 64, 65, 129)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(x, w, b, g):
    """The same model in stock ops."""
    y = torch.rms_norm(x, (HIDDEN,), g, 1e-6)
    q = (y.reshape(-1, HIDDEN) @ w).view(x.shape[0], SEQ, 2, HIDDEN // 2).transpose(1, 2)
    out = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    h = 0.5 * (out.transpose(1, 2).reshape(-1, HIDDEN) @ w) + 2 * b
    h = torch.nn.functional.gelu(h).view(x.shape)
    h = torch.layer_norm(h + x, (HIDDEN,), g, b, 1e-5).log_softmax(-1)
    return h, h.var(-1) + h.mean(-1) + h.amin(-1)


def inputs(rows=150):
    return (
        normal(rows, SEQ, HIDDEN),
        normal(HIDDEN, HIDDEN, seed=1) / 8,
        normal(HIDDEN, seed=2),
        normal(HIDDEN, seed=3),
    )


def planned(name):
    """The overload, as AOTAutograd's graphs hold it."""
    return getattr(ops, name).default


class Block(torch.nn.Module):
    """``block`` with constant shapes, as Dynamo specialises them in a static compile."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, x, w, b, g):
        y = planned("rms_norm")(x, [HIDDEN], g, 1e-6, lanes=128)[0]
        q = planned("mm")(y.reshape(-1, HIDDEN), w, split_size=128)
        q = q.view(self.rows, SEQ, 2, HIDDEN // 2).transpose(1, 2)
        out = planned("attention")(q, q, q, is_causal=True, split_size=512)[0]
        out = out.transpose(1, 2).reshape(-1, HIDDEN)
        h = planned("mm")(out, w, b, alpha=0.5, beta=2, split_size=128)
        h = torch.nn.functional.gelu(h).view(self.rows, SEQ, HIDDEN)
        h = planned("layer_norm")(h + x, [HIDDEN], g, b, 1e-5, lanes=128)[0]
        h = planned("softmax")(h, -1, True, lanes=512)
        stats = planned("var_mean")(h, [-1], 1.0, lanes=128)
        return h, stats[0] + stats[1] + planned("reduction")(h, "amin", [-1], lanes=128)


def compiled(batch, inner):
    return compile_graph(symbolic_trace(Block(len(batch[0]))), batch, inner=inner)


def run(function, batch):
    return function(list(batch))  # boxed: one list


@pytest.mark.parametrize(("inner", "sizes"), [("eager", SIZES), ("aot_eager", (1, 65))])
def test_rows_of_a_handed_over_graph_do_not_depend_on_the_batch(neuron_ops, inner, sizes):
    full_batch = inputs()
    with machine(order="blas"):
        full = run(compiled(full_batch, inner), full_batch)
        for got, wanted in zip(full, plain(*full_batch), strict=True):
            assert torch.allclose(got, wanted, atol=1e-4)
        for m in sizes:
            batch = (full_batch[0][:m], *full_batch[1:])
            for part, whole in zip(run(compiled(batch, inner), batch), full, strict=True):
                assert torch.equal(part, whole[:m]), m


def test_the_control_of_the_graph_test_fails():
    full_batch = inputs()
    full = plain(*full_batch)[0]
    changed = [
        m for m in SIZES if not torch.equal(plain(full_batch[0][:m], *full_batch[1:])[0], full[:m])
    ]
    assert changed, "control too weak: stock torch agrees with itself on this data"


def test_every_node_is_retargeted_and_keeps_its_meta(neuron_ops):
    gm = symbolic_trace(Block(3))
    before = [n for n in gm.graph.nodes if str(n.target).startswith("bi_inductor.")]
    for node in before:
        node.meta["val"] = node.name
    names = [str(n.target) for n in retarget(gm).graph.nodes if n.meta.get("val")]
    assert len(names) == len(before) == 8
    assert all(name.startswith("bi_inductor.neuron_") for name in names)


def one_node(target, *args, **kwargs):
    g = torch.fx.Graph()
    x = g.placeholder("x")
    node = g.call_function(target, (x, *args), kwargs)
    node.meta["stack_trace"] = '  File "model.py", line 41, in forward\n    y = f(x)\n'
    g.output(node)
    return torch.fx.GraphModule({}, g)


@pytest.mark.parametrize(
    ("gm", "text"),
    [
        (
            one_node(ops.topk.default, 2, 0, True, True),
            r"bi_inductor.topk has no Neuron kernel.*line 41",
        ),
        (
            one_node(ops.softmax.default, -1, False, lanes=64),
            "lanes=64.*written for 512.*another device",
        ),
        (
            one_node(torch.ops.aten.sum.dim_IntList, [0]),
            "aten.sum.dim_IntList.*left to the Neuron compiler",
        ),
        (one_node(ops.reduction.default, "norm", [0], param=3.0, lanes=128), "takes a param"),
    ],
    ids=["no kernel", "plan of another device", "a sum left over", "a param"],
)
def test_what_has_no_kernel_is_refused_with_its_place(neuron_ops, gm, text):
    with pytest.raises(LoweringError, match=text):
        retarget(gm)


class Encoder(torch.nn.Module):
    """A model as users write it, less what has no NKI kernel."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out = torch.nn.Linear(HIDDEN, 3 * HIDDEN), torch.nn.Linear(HIDDEN, 7)
        self.norm = torch.nn.LayerNorm(HIDDEN)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 2, 3, HIDDEN // 2).unbind(3)
        heads = (t.transpose(1, 2) for t in (q, k, v))
        y = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        y = torch.nn.functional.gelu(y.transpose(1, 2).flatten(2)) + x
        return self.out(y).softmax(-1), y.mean(1)


@torch.no_grad()
def test_the_backend_hands_a_model_over(as_on_a_neuron_core, monkeypatch):
    model, x = Encoder().eval(), normal(9, SEQ, HIDDEN)
    seen = []
    stock = graph.retarget
    monkeypatch.setattr(graph, "retarget", lambda gm: seen.append(stock(gm)) or seen[-1])
    compiled = torch.compile(model, backend="batch_invariant", dynamic=False)
    with machine(order="blas"):
        full = compiled(x)
        assert all(map(torch.equal, compiled(x[4:5]), (part[4:5] for part in full)))
    for got, wanted in zip(full, model(x), strict=True):
        assert torch.allclose(got, wanted, atol=1e-5)
    assert len(seen) == 2
    targets = {str(n.target) for gm in seen for n in gm.graph.nodes if n.op == "call_function"}
    assert {"bi_inductor.neuron_mm.default", "bi_inductor.neuron_attention.default"} <= targets
    assert not any(name.startswith("aten.native_layer_norm") for name in targets)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"dynamic": True}, "dynamic=False.*"),
        ({"mode": "reduce-overhead"}, "Inductor does not compile for neuron"),
        ({"options": {"mps_tier": "simdgroup"}}, "mps_tier and mps_fallback are for mps"),
    ],
    ids=["dynamic shapes", "CUDA graphs", "an option of another device"],
)
@torch.no_grad()
def test_what_a_neuron_core_cannot_do_is_refused(as_on_a_neuron_core, change, text):
    compiled = torch.compile(torch.nn.ReLU(), backend="batch_invariant", **change)
    with pytest.raises(Exception, match=text):
        compiled(normal(5, 3))


def test_gradients_are_refused(as_on_a_neuron_core):
    compiled = torch.compile(torch.nn.Linear(3, 4), backend="batch_invariant", dynamic=False)
    with pytest.raises(Exception, match=r"no Neuron kernels.*no_grad"):
        compiled(normal(5, 3))


@torch.no_grad()
def test_an_op_without_a_kernel_is_refused_with_device_place_and_remedy(as_on_a_neuron_core):
    compiled = torch.compile(torch.nn.Conv1d(3, 4, 1), backend="batch_invariant", dynamic=False)
    with pytest.raises(Exception, match=r"aten.convolution.*neuron has no plan.*keep it out"):
        compiled(normal(5, 3, 8))


def test_dynamic_shapes_are_refused():
    def backend(gm, example_inputs):
        return compile_graph(gm, example_inputs, inner="eager")

    f = torch.compile(lambda x: x * 2, backend=backend, dynamic=True)
    with pytest.raises(Exception, match="dynamic=False") as caught:
        f(torch.ones(5, 3))
    assert "every shape is a program of its own" in str(caught.value)
    torch.compiler.reset()


def test_a_cpu_graph_and_a_missing_backend_are_refused():
    gm = symbolic_trace(lambda x: x + 1)
    with pytest.raises(UnsupportedDeviceError, match=r"found cpu; use .to\('neuron'\)"):
        compile_graph(gm, [torch.ones(2)])
    with pytest.raises(UnsupportedDeviceError, match=r"no backend 'neuron'.*import torch_neuronx"):
        graph.find_backend("neuron")


# ---- ops


def test_arguments_that_no_kernel_takes_are_refused(neuron_ops):
    q = normal(1, 2, 4, 160)
    refused = [
        (lambda: ops.neuron_attention(q, q, q, None, True, None), "head dims 160 and 160"),
        (
            lambda: ops.neuron_mm(normal(2, 3).double(), normal(3, 2).double(), None, 1.0, 1.0),
            "float64",
        ),
        (lambda: ops.neuron_mm(normal(2, 0), normal(0, 2), None, 1.0, 1.0), "K is 0"),
        (
            lambda: ops.neuron_reduction(normal(2, 3), "prod", [0], False, None),
            "no kernel for 'prod'",
        ),
        (lambda: ops.neuron_reduction(normal(2, 0), "sum", [1], False, None), "no values"),
    ]
    for call, text in refused:
        with pytest.raises(LoweringError, match=text):
            call()


@pytest.mark.parametrize("dims", [[0], [1], [0, 2], [-1], []])
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("kind", ["sum", "mean", "amax", "amin"])
def test_reductions_over_any_dims(neuron_ops, dims, keepdim, kind):
    x = normal(3, 5, 7)
    got = ops.neuron_reduction(x, kind, dims, keepdim, None)
    wanted = getattr(torch, kind)(x, dims if dims else (0, 1, 2), keepdim=keepdim)
    assert got.shape == wanted.shape
    assert torch.allclose(got, wanted, atol=1e-5)


def test_softmax_over_the_first_dim_and_empty_batches(neuron_ops):
    x = normal(5, 4, 3)
    assert torch.allclose(ops.neuron_softmax(x, 0, False, None), x.softmax(0), atol=1e-6)
    assert ops.neuron_softmax(x[:0], -1, False, None).shape == (0, 4, 3)
    assert ops.neuron_mm(x[0, :0], x[0].t(), None, 1.0, 1.0).shape == (0, 4)


def test_running_counts_of_a_mask_are_exact(neuron_ops):
    mask = normal(3, 700, 2) > 0
    for dim in (0, 1, -1):
        assert torch.equal(ops.neuron_scan(mask, "cumsum", dim, None), mask.cumsum(dim))
    with pytest.raises(LoweringError, match="float32 has no Neuron kernel.*use one of bool"):
        ops.neuron_scan(normal(3, 4), "cumsum", 0, None)


@pytest.mark.parametrize(
    "shape", [(1, 1, 9, 11), (2, 1, 9, 11), (1, 4, 9, 11), (2, 4, 1, 11), (9, 11)]
)
@pytest.mark.parametrize("additive", [False, True])
def test_masks_of_every_broadcast_agree_with_torch(neuron_ops, shape, additive):
    q, k, v = normal(2, 4, 9, 16), normal(2, 2, 11, 16, seed=1), normal(2, 2, 11, 16, seed=2)
    mask = normal(*shape, seed=3) > 0
    mask[..., 0] = True
    if additive:
        mask = torch.where(mask, 0.5, -math.inf)
    out, lse = ops.neuron_attention(q, k, v, mask, False, None)
    wide = (q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
    wanted = torch.nn.functional.scaled_dot_product_attention(*wide, attn_mask=mask)
    assert torch.allclose(out, wanted, atol=1e-5)
    assert lse.isfinite().all()


def test_a_row_that_sees_no_key_is_zero(neuron_ops):
    q = normal(1, 1, 3, 16)
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[1] = False
    out, lse = ops.neuron_attention(q, q, q, mask, False, None)
    assert out[0, 0, 1].abs().max() == 0
    assert lse[0, 0, 1] == -math.inf
    assert lse[0, 0, [0, 2]].isfinite().all()


# ---- device, boundaries


@pytest.mark.parametrize(
    "environ",
    [
        {"NEURON_RT_STOCHASTIC_ROUNDING_EN": "1"},
        {"XLA_USE_BF16": "1"},
        {"NEURON_CC_FLAGS": "--model-type transformer --auto-cast all"},
        {"TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION": "0"},
    ],
    ids=lambda environ: next(iter(environ)),
)
def test_an_environment_that_changes_bits_is_refused(environ):
    with pytest.raises(UnsupportedDeviceError, match=next(iter(environ))):
        device.check_environment(environ)
    device.check_environment({"NEURON_CC_FLAGS": "--auto-cast=none"})


def test_a_missing_toolchain_and_an_old_torch_are_named(tmp_path, monkeypatch):
    with pytest.raises(UnsupportedDeviceError, match=r"no package bi_no_such.*AWS Neuron SDK"):
        device.import_vendor("bi_no_such")
    (tmp_path / "bi_placeholder.py").write_text("raise ImportError('placeholder')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UnsupportedDeviceError, match=r"cannot be imported.*placeholder.*Neuron SDK"
    ):
        device.import_vendor("bi_placeholder")
    with pytest.raises(
        RuntimeError, match=r"torch 2\.12\.1\+cpu has no TorchNeuron; install torch 2.13"
    ):
        device.check_torch("2.12.1+cpu")


def test_devices():
    assert device.neuron_kind(torch.device("cpu")) is None
    assert device.neuron_kind(torch.device("xla")) is None


def test_importing_the_lowering_imports_no_toolchain():
    code = (
        "import sys, lowerings.neuron;"
        "bad = {'nki', 'neuronxcc', 'torch_neuronx', 'torch_xla'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plans_fit_together():
    assert plans.KV_TILE % plans.ROW_TILE == 0
    for row in plans.PLANS:
        assert (row.split_size or row.lanes or 0) % 16 == 0
    for op in plans.TEMPLATES:
        assert all(
            f"int {name}" in bi_inductor.ops.SCHEMAS[op] for name in plans.plan_of(op).numbers()
        )
