"""The one declarative table: every op that may appear in a graph, how it moves the batch, what plans it.

An op in no row is UNKNOWN: nothing is known of its bits, so nothing is promised. ``INVARIANT`` rows compute
each element from the elements at its place, or only move elements; ``RULES`` rows add things up.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

import bi_inductor.ops  # noqa: F401  (the schemas of torch.ops.bi_inductor)
from bi_inductor import templates as t
from bi_inductor.flow import indexing, mixing, movement, views
from bi_inductor.flow.axes import Coupled, Extent
from bi_inductor.flow.engine import Call, Flow, Result, Transfer, is_exact
from bi_inductor.templates import Template


class Verdict(Enum):
    """What is known of a node."""

    INVARIANT = "invariant"
    PLANNED = "planned"
    BATCH_COUPLED = "coupled"
    UNKNOWN = "unknown"
    UNSUPPORTED = "unsupported"  # has a template, and the device has no lowering for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict with its reason; PLANNED has a template and the extents it reduces.

    ``unless_equal``: BATCH_COUPLED only if these two sizes may differ in some call.
    """

    verdict: Verdict
    result: Result = None
    template: Template | None = None
    reduced: tuple[Extent, ...] = ()
    dtype: torch.dtype | None = None
    reason: str = ""
    remedy: str = ""
    blame: Node | None = None
    over_batch: bool = False
    unless_equal: tuple[Extent, Extent] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A row of ``RULES``: ``template`` may be None for a call that is exact (integers)."""

    transfer: Transfer
    template: Callable[[Call], Template | None]
    reduced: Callable[[Call], tuple[Extent, ...]]
    operand: str = "self"


def _ops(*names: str) -> list[OpOverload]:
    """Resolve ``"aten::sum.dim_IntList"`` or all overloads of ``"aten::sum"``; absent ones are of other releases."""
    found: list[OpOverload] = []
    for name in names:
        namespace, _, rest = name.partition("::")
        opname, _, overload = rest.partition(".")
        packet = getattr(getattr(torch.ops, namespace), opname, None)
        if packet is None:
            continue
        chosen = [overload] if overload else packet.overloads()
        found.extend(
            getattr(packet, o) for o in chosen if hasattr(packet, o) and not o.endswith("out")
        )
    return found


def _aten(names: str) -> list[OpOverload]:
    return _ops(*(f"aten::{name}" for name in names.split()))


def _prims(names: str) -> list[OpOverload]:
    return _ops(*(f"prims::{name}" for name in names.split()))


# ---- INVARIANT: pointwise ops (besides those with torch.Tag.pointwise), views and data movement

_POINTWISE = [
    *_aten(
        "where clamp clamp_min clamp_max masked_fill lerp addcmul addcdiv polar complex copysign"
        " bitwise_and bitwise_or bitwise_xor bitwise_not logical_and logical_or logical_xor logical_not"
        " erf erfc gelu silu mish softplus hardswish hardsigmoid leaky_relu elu celu prelu _prelu_kernel"
        " nan_to_num isnan isinf angle sgn remainder fmod floor_divide frexp digamma lgamma polygamma"
        " igamma igammac xlogy special_xlog1py special_i0 special_i0e special_i1 special_zeta"
        " threshold_backward gelu_backward silu_backward tanh_backward sigmoid_backward elu_backward"
        " leaky_relu_backward hardtanh_backward hardswish_backward hardsigmoid_backward softplus_backward"
        " mish_backward native_dropout_backward bucketize.Tensor searchsorted.Tensor heaviside"
    ),
    *_prims("fma frexp div"),
]
_CASTS = [
    *_aten("clone alias detach lift_fresh_copy lift_fresh _to_copy contiguous real imag"),
    *_prims("convert_element_type device_put view_of inductor_force_stride_order"),
]
_VIEWS = _aten(
    "view reshape _unsafe_view _reshape_alias view_copy flatten.using_ints unflatten.int"
)
_CONSTANTS = _aten(
    "full zeros ones empty full_like zeros_like ones_like empty_like new_full new_zeros new_ones new_empty"
    " empty_strided new_empty_strided empty_permuted scalar_tensor"
)
_SHAPED = _aten("eye tril_indices triu_indices linspace logspace hann_window bartlett_window")
_KEEP_BATCH = _aten("constant_pad_nd roll flip")
_RESAMPLING = {
    1: _aten("upsample_nearest1d _upsample_nearest_exact1d upsample_linear1d reflection_pad1d replication_pad1d"),
    2: [
        *_aten(
            "upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d reflection_pad2d"
            " replication_pad2d max_pool2d_with_indices pixel_shuffle pixel_unshuffle"
        ),
        *_prims("_low_memory_max_pool_with_offsets _low_memory_max_pool_offsets_to_indices"),
    ],
    3: _aten("upsample_nearest3d upsample_trilinear3d max_pool3d_with_indices reflection_pad3d replication_pad3d"),
}  # fmt: skip


def _no_value(call: Call) -> Result:
    return None


def _invariant_table() -> dict[Any, Transfer]:
    table: dict[Any, Transfer] = {}
    rows: list[tuple[list[OpOverload], Transfer]] = [
        (_POINTWISE, views.pointwise),
        (_aten("eq.Tensor"), views.pointwise),
        (_CASTS, views.unary),
        (_VIEWS, views.view),
        (_aten("view_as_real view_as_complex"), views.pairs),
        (_aten("glu"), views.halves),
        (_aten("kthvalue median mode"), mixing.reduction),
        (_prims("rev"), movement.keep_batch),
        (_aten("unsqueeze"), views.unsqueeze),
        (_aten("squeeze"), views.squeeze),
        (_aten("permute"), views.permute),
        (_aten("transpose.int"), views.transpose),
        (_aten("t numpy_T"), views.t),
        (_aten("expand broadcast_to"), views.expand),
        (_aten("repeat"), views.repeat),
        (_CONSTANTS, views.constant),
        (_aten("fill"), views.filled_like),
        (_aten("arange"), views.arange),
        (_prims("iota"), views.arange),
        (_SHAPED, views.made_of_shape),
        (_aten("select.int"), movement.select),
        (_aten("slice.Tensor"), movement.slice_),
        (_aten("select_scatter slice_scatter"), movement.write_part),
        (_aten("split split_with_sizes chunk unsafe_split unsafe_chunk"), movement.split),
        (_aten("unbind.int"), movement.unbind),
        (_aten("cat"), movement.cat),
        (_KEEP_BATCH, movement.keep_batch),
        (_aten("diagonal"), movement.diagonal),
        (_aten("unfold"), movement.unfold),
        (_aten("as_strided"), movement.as_strided),
        (_aten("as_strided_scatter"), movement.as_strided_scatter),
        (_aten("tril triu"), movement.triangle),
        (_aten("copy_ copy"), movement.copied),
        (_aten("embedding"), indexing.embedding),
        (_aten("index.Tensor _unsafe_index.Tensor"), indexing.index),
        (_aten("index_select"), indexing.take_rows),
        (_aten("gather"), indexing.gather),
        (_aten("scatter.src scatter.value"), indexing.scatter),
        (_aten("masked_scatter"), indexing.masked_scatter),
        (_aten("div.Tensor_mode div.Scalar_mode floor_divide"), indexing.divide),
        (_aten("remainder.Scalar remainder.Tensor"), indexing.remainder),
        (_aten("histc bincount"), mixing.counts),
        (_aten("cummax cummin"), mixing.along("scans")),
        (
            _aten(
                "_assert_async _assert_tensor_metadata _assert_scalar sym_constrain_range_for_size"
            ),
            _no_value,
        ),
        (_aten("sym_size.int sym_numel sym_stride.int sym_storage_offset"), _no_value),
        (_aten("_local_scalar_dense item"), movement.to_number),
    ]
    rows += [(ops, movement.windows(spatial)) for spatial, ops in _RESAMPLING.items()]
    for ops, transfer in rows:
        table.update(dict.fromkeys(ops, transfer))
    return table


# ---- RULES: ops that add things up, or compare in an order that must be fixed

_KINDS = {
    "sum": "sum", "mean": "mean", "prod": "prod", "amax": "amax", "amin": "amin", "any": "any", "all": "all",
    "argmax": "argmax", "argmin": "argmin", "max": "amax", "min": "amin", "linalg_vector_norm": "norm",
}  # fmt: skip


def _name(call: Call) -> str:
    return call.node.target._schema.name.split("::")[1]  # type: ignore[union-attr]


def _reduction(call: Call) -> Template:
    return t.Reduction(
        kind=_KINDS[_name(call)], dims=call.dims("dim"), keepdim=bool(call.get("keepdim"))
    )


def _extents(call: Call, dims: tuple[int, ...], of: str = "self") -> tuple[Extent, ...]:
    shape = call.extents(call.fake(of))
    return tuple(shape[d] for d in dims) if shape else ()


def _over_dims(call: Call) -> tuple[Extent, ...]:
    return _extents(call, call.dims("dim"))


def _over_dim(call: Call) -> tuple[Extent, ...]:
    return _extents(call, (call.dim("dim"),))


def _matmul(call: Call) -> Template | None:
    name = _name(call)
    if is_exact(call.dtype):
        return None
    return t.Matmul(batched="bmm" in name, bias=name.startswith(("add", "badd")))


def _contracted(call: Call) -> tuple[Extent, ...]:
    first = next(
        call.args[n]
        for n in ("mat1", "batch1", "mat", "self", "input")
        if call.args.get(n) is not None
    )
    return call.extents(first.meta["val"])[-1:]


def _conv(call: Call) -> Template:
    return t.Convolution(spatial=len(call.shape) - 2, transposed=bool(call.get("transposed")))


def _conv_reduced(call: Call) -> tuple[Extent, ...]:
    return call.extents(call.fake("weight"))[1:]


def _attention(call: Call) -> Template:
    mask = next(
        (call.get(n) for n in ("mask", "attn_mask", "attn_bias") if call.get(n) is not None), None
    )
    return t.Attention(is_causal=bool(call.get("is_causal")), mask=mask is not None)


def _attention_reduced(call: Call) -> tuple[Extent | None, ...]:
    # keys grow with the context: the plan cuts them at absolute positions instead
    return (call.extents(call.node.args[0].meta["val"])[-1], None)  # type: ignore[union-attr]


def _last(argument: str) -> Callable[[Call], tuple[Extent, ...]]:
    return lambda call: call.extents(call.fake("input"))[-len(call[argument]) :]


def _none(call: Call) -> tuple[Extent, ...]:
    return ()


def _rule(
    names: str,
    transfer: Transfer,
    template: Callable[[Call], Template | None],
    reduced: Callable[[Call], tuple[Extent, ...]],
    operand: str = "self",
) -> dict[OpOverload, Rule]:
    rule = Rule(transfer=transfer, template=template, reduced=reduced, operand=operand)
    return dict.fromkeys(_ops(*(n if "::" in n else f"aten::{n}" for n in names.split())), rule)


def _rules_table() -> dict[OpOverload, Rule]:
    return {
        **_rule("mm addmm mv addmv dot vdot", mixing.mm, _matmul, _contracted),
        **_rule("bmm baddbmm", mixing.mm, _matmul, _contracted),
        **_rule(
            "_grouped_mm transformers::grouped_mm_fallback",
            mixing.grouped_mm,
            lambda call: t.GroupedMatmul(),
            lambda call: call.extents(call.node.args[0].meta["val"])[-1:],  # type: ignore[union-attr]
        ),
        **_rule("convolution", mixing.convolution, _conv, _conv_reduced, "input"),
        **_rule("bi_inductor::attention", mixing.attention, _attention, _attention_reduced, "q"),
        **_rule(
            "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention"
            " _scaled_dot_product_flash_attention _scaled_dot_product_cudnn_attention"
            " _scaled_dot_product_fused_attention_overrideable",
            mixing.attention, _attention, _attention_reduced, "query",
        ),
        **_rule(
            "sum mean prod amax amin any all argmax argmin max.dim max.default min.dim min.default"
            " linalg_vector_norm",
            mixing.reduction, _reduction, _over_dims,
        ),
        **_rule(
            "var.correction var_mean.correction", mixing.reduction,
            lambda call: t.VarMean(dims=call.dims("dim"), keepdim=bool(call.get("keepdim"))), _over_dims,
        ),
        **_rule(
            "_softmax _log_softmax", mixing.along("normalises"),
            lambda call: t.Softmax(dim=call.dim("dim"), log="log" in _name(call)), _over_dim,
        ),
        **_rule(
            "native_layer_norm", mixing.norm_last("normalized_shape"),
            lambda call: t.LayerNorm(dims=len(call["normalized_shape"])), _last("normalized_shape"), "input",
        ),
        **_rule(
            "_fused_rms_norm", mixing.norm_last("normalized_shape"),
            lambda call: t.RmsNorm(dims=len(call["normalized_shape"])), _last("normalized_shape"), "input",
        ),
        **_rule(
            "cumsum cumprod logcumsumexp", mixing.along("adds up"),
            lambda call: t.Scan(kind=_name(call), dim=call.dim("dim")), _over_dim,
        ),
        **_rule("scatter_add scatter_reduce.two", indexing.scatter, _scatter, _none),
        **_rule("index_add", indexing.index_add, _scatter, _none),
        **_rule("index_put _unsafe_index_put", indexing.index_put, _index_put, _none),
        **_rule(
            "_embedding_bag _embedding_bag_forward_only", mixing.embedding_bag,
            lambda call: t.EmbeddingBag(mode=("sum", "mean", "max")[int(call["mode"])]), _none, "weight",
        ),
        **_rule("avg_pool2d", movement.windows(2), lambda call: t.AvgPool(spatial=2), _none),
        **_rule("avg_pool3d", movement.windows(3), lambda call: t.AvgPool(spatial=3), _none),
        **_rule("topk", mixing.topk, lambda call: t.TopK(dim=call.dim("dim"), largest=bool(call["largest"])), _over_dim),
        **_rule(
            "sort.default sort.stable", indexing.sort,
            lambda call: t.Sort(dim=call.dim("dim"), descending=bool(call["descending"])), _none,
        ),
    }  # fmt: skip


def _scatter(call: Call) -> Template | None:
    """Integers are exact in any order; so are comparisons."""
    if is_exact(call.dtype) or call.get("reduce") in ("amax", "amin"):
        return None
    return t.Scatter(kind="index_add" if _name(call) == "index_add" else "scatter_add")


def _index_put(call: Call) -> Template | None:
    adds = bool(call.get("accumulate")) and not is_exact(call.dtype)
    return t.Scatter(kind="index_put_add") if adds else None


#: Draws one number per position: allowed in training and recorded, refused in inference.
RANDOM = frozenset(
    [
        *_aten(
            "rand randn randint randperm rand_like randn_like randint_like bernoulli native_dropout uniform"
        ),
        *_aten(
            "normal normal_functional multinomial exponential geometric cauchy log_normal bernoulli_"
        ),
        *_prims(
            "inductor_random inductor_randint inductor_seed inductor_seeds inductor_lookup_seed"
        ),
    ]
)

#: Stock kernels that only a backward runs. Their sums over the batch are weight gradients by definition.
BACKWARD_ONLY = frozenset(
    [
        *_aten(
            "convolution_backward _scaled_dot_product_flash_attention_for_cpu_backward"
            " _scaled_dot_product_efficient_attention_backward _scaled_dot_product_flash_attention_backward"
            " max_pool2d_with_indices_backward avg_pool2d_backward avg_pool3d_backward embedding_dense_backward"
            " _adaptive_avg_pool2d_backward max_pool3d_with_indices_backward upsample_bilinear2d_backward"
            " upsample_nearest2d_backward upsample_bicubic2d_backward _embedding_bag_dense_backward"
            " _fused_rms_norm_backward native_layer_norm_backward native_group_norm_backward"
            " reflection_pad1d_backward reflection_pad2d_backward replication_pad2d_backward"
            " grid_sampler_2d_backward _unsafe_masked_index_put_accumulate"
        ),
        *_ops("transformers::grouped_mm_fallback_backward"),
    ]
)

#: Why an op that is often met has no rule.
_REMEDIES = {
    "nonzero": "keep every element in its place with torch.where or masked_fill",
    "masked_select": "keep every element in its place with torch.where or masked_fill",
    "_unique2": "use a fixed number of classes instead of the values that are present",
    "_transformer_encoder_layer_fwd": "turn it off with torch.backends.mha.set_fastpath_enabled(False)",
    "_native_multi_head_attention": "turn it off with torch.backends.mha.set_fastpath_enabled(False)",
    "mkldnn_rnn_layer": "turn it off with torch.backends.mkldnn.flags(enabled=False)",
    "flex_attention": "compile its caller with backend='batch_invariant', or use F.scaled_dot_product_attention",
}
_REMEDY = "use ops with a rule (bi_inductor.rules), or keep it out of the graph with torch.compiler.disable"


def remedy_of(name: str) -> str:
    """Return what to do about an op without a rule."""
    return _REMEDIES.get(name, _REMEDY)


@lru_cache(maxsize=1)
def rules() -> dict[OpOverload, Rule]:
    """Return RULES: op -> rule; made at the first use, when other packages have registered their ops."""
    return _rules_table()


@lru_cache(maxsize=1)
def invariant() -> dict[Any, Transfer]:
    """Return INVARIANT: op -> transfer."""
    return _invariant_table()


def judge(node: Node, flow: Flow, *, training: bool = False, backward: bool = False) -> Judgement:
    """Give one verdict to a ``call_function`` node whose inputs have values in ``flow``.

    ``training`` admits random numbers; ``backward`` admits stock backward kernels. The result's ``result``
    is the node's abstract value.
    """
    target: Any = node.target
    if target is operator.getitem:
        found = flow.values.get(node.args[0])  # type: ignore[arg-type]
        picked = found[node.args[1]] if isinstance(found, tuple) else None  # type: ignore[index]
        return Judgement(verdict=Verdict.INVARIANT, result=picked)
    if not isinstance(target, OpOverload):
        return _judge_other(node)
    call = Call(node, flow)
    if target in RANDOM:
        return _judge_random(call, training)
    if rule := rule_of(target):
        return _judged(call, rule.transfer, rule)
    transfer = invariant().get(target)
    if transfer is None and torch.Tag.pointwise in target.tags:
        transfer = views.pointwise
    if transfer is not None:
        return _judged(call, transfer, None)
    if target in BACKWARD_ONLY and backward:
        return Judgement(
            verdict=Verdict.INVARIANT,
            result=mixing.unproved(call),
            reason="runs a stock kernel that sums over the batch",
            over_batch=True,
        )
    name = target._schema.name.split("::")[1]
    return _unknown(remedy_of(name))


def rule_of(target: OpOverload) -> Rule | None:
    """Return the row of an op in RULES, or None."""
    found = rules().get(target)
    if found is None and target.namespace not in ("aten", "prims"):
        rules.cache_clear()  # registered after the table was made
        found = rules().get(target)
    return found


#: Arguments that are numbers or places, not sizes of the result: what they say goes into every value.
_NUMBERS = (
    "alpha", "beta", "correction", "end", "eps", "fill_value", "index", "k", "ord", "s", "start", "step", "value"
)  # fmt: skip
#: Reading to the end of a dim that the batch made long is reading all of it; so is counting up to its size.
_MAY_END_AT_BATCH = frozenset({*_aten("slice.Tensor slice_scatter arange"), *_prims("iota")})


def _refuse_batch_size(call: Call) -> None:
    """Raise Coupled if an op computes with the size of the batch: its result would follow it in every sample."""
    for name in _NUMBERS:
        if name == "end" and call.node.target in _MAY_END_AT_BATCH:
            continue
        if call.flow.is_batch_size(call.get(name)):
            raise Coupled(
                f"computes with the size of the batch ({name})",
                "use a number that does not follow the batch",
            )


def _judged(call: Call, transfer: Transfer, rule: Rule | None) -> Judgement:
    try:
        _refuse_batch_size(call)
        result = transfer(call)
        if transfer is not mixing.grouped_mm:
            result = views.tainted(result, call.tensors())
    except Coupled as coupled:
        return Judgement(
            verdict=Verdict.BATCH_COUPLED,
            result=mixing.unproved(call),
            template=rule.template(call) if rule else None,
            dtype=_operand_dtype(call, rule) if rule else None,
            reason=coupled.reason,
            remedy=coupled.remedy,
            blame=coupled.blame if isinstance(coupled.blame, Node) else None,
            over_batch=coupled.over_batch,
            unless_equal=coupled.unless_equal,
        )
    template = rule.template(call) if rule else None
    if rule is None or template is None:
        return Judgement(verdict=Verdict.INVARIANT, result=result)
    return Judgement(
        verdict=Verdict.PLANNED,
        result=result,
        template=template,
        reduced=rule.reduced(call),
        dtype=_operand_dtype(call, rule),
    )


def _operand_dtype(call: Call, rule: Rule) -> torch.dtype:
    operand = call.get(rule.operand)
    first = operand if isinstance(operand, Node) else call.node.all_input_nodes[0]
    dtype: torch.dtype = first.meta["val"].dtype
    return dtype


def _judge_random(call: Call, training: bool) -> Judgement:
    reason = "draws random numbers by position in the batch"
    if training or (_name(call) == "native_dropout" and not call.get("train", True)):
        return Judgement(verdict=Verdict.INVARIANT, result=mixing.random(call), reason=reason)
    return Judgement(
        verdict=Verdict.BATCH_COUPLED,
        result=mixing.random(call),
        reason=reason,
        remedy="call model.eval(), or pass the random numbers in as an input",
    )


_SCALAR_MODULES = ("_operator", "math", "builtins", "torch", "torch.utils._sympy.functions")


def _judge_other(node: Node) -> Judgement:
    """Arithmetic on sizes is free; anything else that is no op is unknown."""
    fake = node.meta.get("val")
    module = getattr(node.target, "__module__", "")
    if not isinstance(fake, (torch.Tensor, tuple, list)) and module in _SCALAR_MODULES:
        return Judgement(verdict=Verdict.INVARIANT)
    name = getattr(node.target, "__name__", str(node.target))
    return _unknown(remedy_of(name))


def _unknown(remedy: str) -> Judgement:
    return Judgement(
        verdict=Verdict.UNKNOWN,
        reason="has no rule, so nothing is known of its bits",
        remedy=remedy,
    )
