"""How the backend is reached and configured: entry point, options, limits, caches, graph breaks."""

import subprocess
import sys
import textwrap
import threading
import warnings

import pytest
import torch
from torch import nn

import bi_inductor
from tests.rows import bits_equal, rows_that_change


def run_python(code: str, **env: str) -> str:
    import os

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


class Small(nn.Module):
    def __init__(self, width=96):
        super().__init__()
        self.up, self.down = nn.Linear(width, 200), nn.Linear(200, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(x + self.down(torch.nn.functional.gelu(self.up(x))))


def test_a_process_that_never_imports_the_package_finds_the_backend():
    out = run_python(
        """
        import sys, torch
        f = torch.compile(lambda x: x.softmax(-1), backend="batch_invariant")
        y = f(torch.randn(3, 40))
        assert "bi_inductor" in sys.modules
        print(torch.ops.bi_inductor.softmax.default.name())
        """
    )
    assert out.strip() == "bi_inductor::softmax"


def test_importing_the_package_loads_no_toolchain_and_no_inductor():
    run_python(
        """
        import sys, torch
        before = set(sys.modules)
        import bi_inductor
        new = set(sys.modules) - before
        assert not {m for m in new if m.split(".")[0] in ("triton", "nki", "lowerings")}, new
        assert not {m for m in new if m.startswith("torch._inductor")}, new
        """
    )


def test_stock_fails_where_ours_holds():
    model = Small().eval()
    x = torch.randn(64, 96)
    with torch.no_grad():
        stock = torch.compile(model, backend="inductor", dynamic=False)
        assert rows_that_change(stock, [x], batches=(2, 17)), "control too weak"
        torch.compiler.reset()
        ours = torch.compile(model, backend="batch_invariant", dynamic=False)
        assert rows_that_change(ours, [x], batches=(2, 17)) == []


@pytest.mark.parametrize("dynamic", [None, True, False])
def test_every_way_of_compiling_gives_the_same_bits(dynamic):
    model = Small().eval()
    x = torch.randn(64, 96)
    with torch.no_grad():
        first = torch.compile(model, backend="batch_invariant", dynamic=False)(x[:5].clone())
        torch.compiler.reset()
        ours = torch.compile(model, backend="batch_invariant", dynamic=dynamic, fullgraph=True)
        assert rows_that_change(ours, [x]) == []
        assert bits_equal(ours(x[:5].clone()), first)


def test_the_ninth_static_batch_size_is_not_left_to_eager():
    f = torch.compile(lambda x: x.softmax(-1), backend="batch_invariant", dynamic=False)
    x = torch.randn(40, 3000)
    alone = f(x[:1].clone())
    compiled = len(bi_inductor.certificate().graphs)
    for batch in range(2, 14):
        assert bits_equal(f(x[:batch].clone())[:1], alone)
    assert len(bi_inductor.certificate().graphs) == compiled + 12


def test_a_frame_at_the_recompile_limit_of_another_backend_is_still_compiled():
    """In a fresh process: this backend lifts the limit only once it has been named."""
    code = """
import torch, bi_inductor
def f(x):
    return x.softmax(-1)
x = torch.randn(40, 3000)
stock = torch.compile(f, backend="eager", dynamic=False)
for batch in range(1, 9):
    stock(x[:batch])
ours = torch.compile(f, backend="batch_invariant", dynamic=False)
for batch in range(20, 23):
    ours(x[:batch])
print(len(bi_inductor.certificate().graphs))
"""
    assert run_python(code).split()[-1] == "3"


def test_strided_and_offset_inputs_give_the_bits_of_contiguous_ones():
    model = Small().eval()
    base = torch.randn(96, 80)
    with torch.no_grad():
        ours = torch.compile(model, backend="batch_invariant", dynamic=False)
        expected = ours(base.t()[3:20].contiguous())
        assert bits_equal(ours(base.t()[3:20]), expected)
        wide = torch.randn(17, 200)
        wide[:, 7:103] = base.t()[3:20]
        assert bits_equal(ours(wide[:, 7:103]), expected)


def test_uniform_tiling_is_in_the_graph_and_changes_no_bit():
    model = Small().eval()
    x = torch.randn(300, 96)
    seen = []
    with torch.no_grad():
        auto = torch.compile(model, backend="batch_invariant", dynamic=True)
        uniform = torch.compile(
            model,
            backend="batch_invariant",
            dynamic=True,
            options={"tiling": "uniform", "post_grad_custom_post_pass": seen.append},
        )
        for batch in (1, 2, 3, 4, 5, 17, 129, 300):
            assert bits_equal(uniform(x[:batch]), auto(x[:batch])), batch
    products = [n for graph in seen for n in graph.nodes if "bi_inductor.mm" in str(n.target)]
    assert products
    assert all(n.kwargs["uniform"] for n in products)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_thread_count_changes_no_bit(threads):
    model = Small().eval()
    x = torch.randn(33, 96)
    with torch.no_grad():
        torch.set_num_threads(2)
        expected = torch.compile(model, backend="batch_invariant", dynamic=False)(x)
        torch.compiler.reset()
        torch.set_num_threads(threads)
        assert bits_equal(
            torch.compile(model, backend="batch_invariant", dynamic=False)(x), expected
        )


def test_caches_hit_and_keep_stock_and_ours_apart():
    code = """
        import torch
        from torch._dynamo.utils import counters
        torch.manual_seed(0)
        x = torch.randn(4, 5000)
        def f(x): return (x * 2).softmax(-1).sum(-1)
        def run(backend):
            torch.compiler.reset()
            counters.clear()
            y = torch.compile(f, backend=backend)(x)
            inductor, aot = counters["inductor"], counters["aot_autograd"]
            hit = inductor["fxgraph_cache_hit"] + aot["autograd_cache_hit"]
            bypass = inductor["fxgraph_cache_bypass"] + aot["autograd_cache_bypass"]
            import hashlib
            return hit, bypass, hashlib.sha256(y.numpy().tobytes()).hexdigest()
        import bi_inductor
        stock, ours = run("inductor"), run("batch_invariant")
        plan = bi_inductor.certificate().graphs[-1].plan
        print(stock[0], stock[1], ours[0], ours[1], stock[2], ours[2], "Reduction" in plan)
    """
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        # the kernels themselves are taken from the run's own folder
        import os
        import shutil

        kernels = os.path.join(os.environ["TORCHINDUCTOR_CACHE_DIR"], "bi_inductor")
        if os.path.isdir(kernels):
            shutil.copytree(kernels, os.path.join(folder, "bi_inductor"))
        first = run_python(code, TORCHINDUCTOR_CACHE_DIR=folder).split()
        second = run_python(code, TORCHINDUCTOR_CACHE_DIR=folder).split()
    assert first[:4] == ["0", "0", "0", "0"]
    assert int(second[0]) >= 1
    assert int(second[2]) >= 1, "our graphs must hit the caches"
    assert (second[1], second[3]) == ("0", "0")
    assert first[4:] == second[4:]
    assert first[4] != first[5], "control: stock's sum of this data has other bits"
    assert first[6] == "True"


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"options": {"on_variants": "warn"}}, "unknown option 'on_variants'"),
        ({"options": {"on_variant": "ignore"}}, "on_variant must be one of"),
        ({"options": {"split_reductions": True}}, "would let a result follow its batch"),
        ({"options": {"joint_custom_pre_pass": print}}, "give yours as post_grad_custom_pre_pass"),
        ({"options": {"batch_dims": 0}}, "batch_dims must map input names"),
        ({"mode": "max-autotune"}, "chooses kernels by timing"),
    ],
)
def test_a_wrong_option_is_named(kwargs, text):
    with pytest.raises(Exception, match=text):
        torch.compile(lambda x: x + 1, backend="batch_invariant", **kwargs)(torch.ones(3))


def test_an_op_that_mixes_samples_is_refused_with_its_line():
    def scaled(x):
        return x / x.abs().amax()

    with pytest.raises(Exception, match="amax") as caught:
        torch.compile(scaled, backend="batch_invariant")(torch.randn(4, 8))
    assert "test_plumbing.py" in str(caught.value)
    torch.compiler.reset()
    with pytest.warns(UserWarning, match="amax"):
        torch.compile(scaled, backend="batch_invariant", options={"on_variant": "warn"})(
            torch.randn(4, 8)
        )
    assert not bi_inductor.certificate().is_invariant


def test_a_graph_break_is_announced_and_counted():
    def f(x):
        y = x.softmax(-1)
        print(end="")
        return y.sum(-1)

    with pytest.warns(UserWarning, match="graph break"):
        torch.compile(f, backend="batch_invariant")(torch.randn(4, 8))
    certificate = bi_inductor.certificate()
    assert certificate.graph_breaks == 1
    assert not certificate.is_invariant
    assert len(certificate.graphs) == 2


def test_training_gradients_are_right_and_rows_invariant():
    torch.manual_seed(1)
    model = Small()
    x = torch.randn(16, 96, dtype=torch.float32)

    def gradients(module, rows):
        rows = rows.clone().requires_grad_()
        module.zero_grad()
        module(rows).square().sum(-1).backward(torch.ones(len(rows)))
        return [rows.grad, *(p.grad.clone() for p in model.parameters())]

    exact = gradients(model.double(), x.double())
    eager = gradients(model.float(), x)
    compiled = torch.compile(model, backend="batch_invariant")
    ours = gradients(compiled, x)
    for a, b, c in zip(ours, eager, exact, strict=True):
        assert (a - c).abs().max() <= 4 * (b - c).abs().max() + 1e-6
    assert bits_equal(gradients(compiled, x[:1])[0], ours[0][:1])
    assert "sum" in " ".join(
        s for g in bi_inductor.certificate().graphs for s in g.backward_batch_sums
    )


def test_plain_inductor_is_untouched_in_the_same_process():
    def f(x):
        return torch.sin(x).softmax(-1)

    x = torch.randn(8, 300)
    before = torch.compile(f, backend="inductor")(x)
    torch.compiler.reset()
    torch.compile(f, backend="batch_invariant")(x)
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(torch.compile(f, backend="inductor")(x), before)


def test_threads_may_share_a_compiled_model():
    model = Small().eval()
    x = torch.randn(8, 96)
    with torch.no_grad():
        ours = torch.compile(model, backend="batch_invariant", dynamic=False)
        expected = ours(x)
        wrong = []

        def work():
            for _ in range(20):
                with torch.no_grad():
                    if not bits_equal(ours(x), expected):
                        wrong.append(1)

        workers = [threading.Thread(target=work) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []
