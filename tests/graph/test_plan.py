"""Plans as text: the same at every batch size; traps of the peers; goldens of one-op graphs."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from expecttest import assert_expected_inline
from harness import plan_of
from torch import nn

from bi_inductor.batch import infer_batch_spec
from bi_inductor.decompositions import decomposition_table
from bi_inductor.errors import OptionError, UnknownOpError, VariantOpError
from bi_inductor.marking import mark_batch
from bi_inductor.plan import plan_key
from bi_inductor.rewrite import rewrite
from bi_inductor.templates import Matmul


class Block(nn.Module):
    """A decoder block in the spelling of the large models."""

    def __init__(self):
        super().__init__()
        self.norm, self.out = nn.RMSNorm(32), nn.Linear(32, 32)
        self.qkv, self.up, self.down = nn.Linear(32, 96), nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x):
        b, s, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, s, 3, 4, 8).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).reshape(b, s, 32))
        return x + self.down(F.gelu(self.up(F.layer_norm(x, (32,)))))


class Vision(nn.Module):
    """Convolution, norm in evaluation, pooling, classifier."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.gn = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.GroupNorm(2, 8),
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn(self.conv(x))), 2)
        return self.head(F.adaptive_avg_pool2d(self.gn(x), 1).flatten(1)).log_softmax(-1)


class Pooler(nn.Module):
    """Sentence embedding: masked mean over tokens, unit length."""

    def __init__(self):
        super().__init__()
        self.emb, self.proj = nn.Embedding(50, 16), nn.Linear(16, 16)

    def forward(self, ids):
        mask = (ids > 0).float().unsqueeze(-1)
        x = self.proj(self.emb(ids)) * mask
        return F.normalize(x.sum(1) / mask.sum(1).clamp(min=1e-9), dim=-1)


MODELS = {
    "block": (Block, lambda b: torch.randn(b, 6, 32)),
    "vision": (Vision, lambda b: torch.randn(b, 3, 8, 8)),
    "pooler": (Pooler, lambda b: torch.randint(0, 50, (b, 7))),
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_plan_reads_the_same_at_every_batch(name):
    make, inputs = MODELS[name]
    model = make().eval()
    texts = {(b, "static"): plan_of(model, inputs(b)).text() for b in (1, 2, 64)}
    for b in (2, 64):
        texts[b, "dynamic"] = plan_of(model, inputs(b), dynamic=True).text()
        texts[b, "marked"] = plan_of(model, mark_batch(inputs(b)), dynamic=None).text()
    assert len(set(texts.values())) == 1, texts
    assert texts[1, "static"]


@torch.no_grad()
def test_golden_of_a_block():
    planned = plan_of(Block().eval(), torch.randn(2, 6, 32))
    assert_expected_inline(
        planned.text(),
        """\
aten.mean.dim  planned  Reduction(kind=mean, dims=2, keepdim=True)  lanes=64 acc=float32 order=lanes-then-tree
aten.addmm.default  planned  Matmul(batched=False, bias=True)  split_size=1024 acc=float32 order=pieces-in-order
bi_inductor.attention.default  planned  Attention(is_causal=True, mask=False)  split_size=512 acc=float32 order=keys-in-pieces
aten.addmm.default  planned  Matmul(batched=False, bias=True)  split_size=1024 acc=float32 order=pieces-in-order
aten.native_layer_norm.default  planned  LayerNorm(dims=1)  lanes=64 acc=float32 order=lanes-then-tree
aten.addmm.default  planned  Matmul(batched=False, bias=True)  split_size=1024 acc=float32 order=pieces-in-order
aten.addmm.default  planned  Matmul(batched=False, bias=True)  split_size=1024 acc=float32 order=pieces-in-order""",
    )


GOLDENS = {
    "linear": lambda x: F.linear(x, torch.ones(4, 8), torch.ones(4)),
    "mean": lambda x: x.mean(1),
    "max": lambda x: x.max(-1),
    "logsumexp": lambda x: x.logsumexp(-1),
    "group norm": lambda x: F.group_norm(x, 2),
    "std": lambda x: x.std(-1),
    "norm": lambda x: x.norm(dim=-1),
    "cumsum": lambda x: x.cumsum(1),
    "topk": lambda x: x.topk(2).values,
    "sort": lambda x: x.sort(-1).values,
    "pool": lambda x: F.avg_pool1d(x, 2),
    "einsum": lambda x: torch.einsum("bij,bkj->bik", x, x),
}


@torch.no_grad()
def test_goldens_of_single_ops():
    x = torch.randn(2, 4, 8)
    lines = [f"{name}: {plan_of(fn, x).text()}" for name, fn in GOLDENS.items()]
    assert_expected_inline(
        "\n".join(lines),
        """\
linear: aten.addmm.default  planned  Matmul(batched=False, bias=True)  split_size=1024 acc=float32 order=pieces-in-order
mean: aten.mean.dim  planned  Reduction(kind=mean, dims=1, keepdim=False)  lanes=64 acc=float32 order=lanes-then-tree
max: aten.max.dim  planned  Reduction(kind=amax, dims=2, keepdim=False)  lanes=64 acc=float32 order=lanes-then-tree
logsumexp: aten.amax.default  planned  Reduction(kind=amax, dims=2, keepdim=True)  lanes=64 acc=float32 order=lanes-then-tree
aten.sum.dim_IntList  planned  Reduction(kind=sum, dims=2, keepdim=False)  lanes=64 acc=float32 order=lanes-then-tree
group norm: aten.var_mean.correction  planned  VarMean(dims=2x3, keepdim=True)  lanes=64 acc=float32 order=lanes-then-tree
std: aten.var.correction  planned  VarMean(dims=2, keepdim=False)  lanes=64 acc=float32 order=lanes-then-tree
norm: aten.linalg_vector_norm.default  planned  Reduction(kind=norm, dims=2, keepdim=False)  lanes=64 acc=float32 order=lanes-then-tree
cumsum: aten.cumsum.default  planned  Scan(kind=cumsum, dim=1)  acc=float32 order=chain
topk: aten.topk.default  planned  TopK(dim=2, largest=True)  acc=float32 order=exact-stable
sort: aten.sort.default  planned  Sort(dim=2, descending=False)  acc=float32 order=exact-stable
pool: aten.avg_pool2d.default  planned  AvgPool(spatial=2)  acc=float32 order=window-row-major
einsum: aten.bmm.default  planned  Matmul(batched=True, bias=False)  split_size=1024 acc=float32 order=pieces-in-order""",
    )


@pytest.mark.parametrize("name", GOLDENS)
@torch.no_grad()
def test_the_rewritten_graph_has_only_planned_sums(name):
    x = torch.randn(2, 4, 8)
    seen = []

    def then(gm, planned):
        shapes = [n.meta["val"] for n in gm.graph.find_nodes(op="output")[0].args[0]]
        rewrite(gm, planned)
        gm.graph.lint()
        made = [n.meta["val"] for n in gm.graph.find_nodes(op="output")[0].args[0]]
        assert [(v.shape, v.dtype) for v in made] == [(v.shape, v.dtype) for v in shapes]
        seen.extend(str(n.target) for n in gm.graph.nodes if n.op == "call_function")

    plan_of(GOLDENS[name], x, then=then)
    assert any(t.startswith("bi_inductor") or t == "aten.sort.stable" for t in seen), seen


TRAPS = {
    "F26: a dynamic scale over the whole batch": (lambda x: x / x.abs().amax(), "aten.amax"),
    "batch norm in training": (
        lambda x: F.batch_norm(x, torch.zeros(8), torch.ones(8), training=True),
        "aten.var_mean",
    ),
    "softmax over dim 0": (lambda x: x.softmax(0), "aten._softmax"),
    "cumsum over the batch": (lambda x: x.cumsum(0), "aten.cumsum"),
    "pairwise similarity": (lambda x: x @ x.T, "aten.mm"),
    "dropout outside training": (lambda x: F.dropout(x, 0.5), "aten"),
    "one number of the batch": (lambda x: x * x.mean().item(), "aten"),
}


@pytest.mark.parametrize("name", TRAPS)
@torch.no_grad()
def test_a_batch_coupled_op_is_refused_with_its_line(name):
    fn, op = TRAPS[name]
    torch._dynamo.config.capture_scalar_outputs = True
    with pytest.raises(Exception, match="test_plan.py") as caught:
        plan_of(fn, torch.randn(4, 8))
    error = caught.value.inner_exception
    assert isinstance(error, VariantOpError)
    assert error.op.startswith(op)
    assert "on_variant" in str(error)


@torch.no_grad()
def test_a_scale_per_row_is_planned():
    planned = plan_of(lambda x: x / x.abs().amax(-1, keepdim=True), torch.randn(8, 16))
    assert "Reduction(kind=amax, dims=1, keepdim=True)" in planned.text()


@torch.no_grad()
def test_warn_goes_on_and_records():
    planned = plan_of(lambda x: x / x.abs().amax(), torch.randn(8, 16), on_variant="warn")
    (step,) = planned.variants
    assert "reduces over the batch" in step.text()


@torch.no_grad()
def test_an_op_without_a_rule_is_refused():
    with pytest.raises(Exception, match="has no rule") as caught:
        plan_of(lambda x: torch.linalg.svdvals(x), torch.randn(2, 4, 4))
    assert isinstance(caught.value.inner_exception, UnknownOpError)


def test_weight_gradients_may_sum_over_the_batch():
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 4))

    def step(x):
        return F.cross_entropy(model(x), torch.zeros(x.shape[0], dtype=torch.long))

    planned = plan_of(step, torch.randn(6, 8))
    assert planned.allowed_backward
    assert not planned.variants


def test_a_plan_that_sees_the_batch_is_an_error():
    import sympy

    from bi_inductor.errors import PlanError

    batch = sympy.Symbol("s7")
    node = torch.fx.Graph().call_function(torch.ops.aten.mm.default)
    with pytest.raises(PlanError, match="s7"):
        plan_key(
            Matmul(), (8 * batch,), torch.float32, "cpu", symbols=frozenset({batch}), node=node
        )


def test_the_table_of_decompositions_pickles_to_its_factory():
    assert set(pickle.loads(pickle.dumps(decomposition_table()))) == set(decomposition_table())


SPECS = {
    "ids and shared positions": ([(4, 9), (1, 9)], (0, None)),
    "hidden states and tables": ([(4, 9, 16), (9, 16), (9, 16)], (0, None, None)),
    "one sample and tables": ([(1, 9, 16), (9, 16), (9, 16)], (0, None, None)),
    "mask shared by samples": ([(1, 1, 9, 9), (4, 9, 16)], (None, 0)),
    "all ones": ([(1, 9, 16), (1, 1, 9, 9)], (0, 0)),
    "a vector of lengths": ([(4, 9, 16), (4,), (7,)], (0, 0, None)),
    "a vector alone": ([(5,)], (0,)),
    "caches": ([(4, 1, 16), (4, 2, 32, 8), (4, 2, 32, 8)], (0, 0, 0)),
}


@pytest.mark.parametrize("name", SPECS)
def test_the_default_batch_dims(name):
    shapes, dims = SPECS[name]
    inputs = [torch.empty(shape) for shape in shapes]
    assert infer_batch_spec(inputs, is_param=[False] * len(inputs)).dims == dims


def test_marks_and_options_win():
    inputs = [torch.empty(9, 4, 16), torch.empty(4, 4)]
    spec = infer_batch_spec(
        inputs, is_param=[False, False], marked={0: (1,)}, named=["x", "y"], option={"y": None}
    )
    assert spec.dims == (1, None)
    with pytest.raises(OptionError, match="batch dim 5 of x"):
        infer_batch_spec(inputs, is_param=[False] * 2, named=["x", "y"], option={"x": 5})
