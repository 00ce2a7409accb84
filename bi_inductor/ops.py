"""Schemas of ``torch.ops.bi_inductor.*``: what the planner writes into a graph and every device implements.

Fake kernels live in ``fakes.py``, devices in ``lowerings/<device>/``. Each op carries its plan in the
keyword arguments after ``*`` (``split_size``, ``lanes``), so a rewritten graph can be read without a table.
Accumulation is float32 for half types, the input's own type otherwise, with one rounding at the end.
"""

import torch

_LIB = torch.library.Library("bi_inductor", "DEF")

#: op name -> schema. Shapes: ``a [M, K]``, ``b [K, N]`` with any strides; rows never see each other.
SCHEMAS: dict[str, str] = {
    # matmul family: out = alpha * (a @ b) + beta * bias, bias broadcastable to the product; `uniform` pins one tile
    # for every shape (CPU), which changes no bit
    "mm": (
        "(Tensor a, Tensor b, Tensor? bias=None, *, Scalar alpha=1, Scalar beta=1, int split_size, bool uniform=False)"
        " -> Tensor"
    ),
    "bmm": (
        "(Tensor a, Tensor b, Tensor? bias=None, *, Scalar alpha=1, Scalar beta=1, int split_size, bool uniform=False)"
        " -> Tensor"
    ),
    "grouped_mm": "(Tensor a, Tensor b, Tensor? offs=None, Tensor? bias=None, *, int split_size) -> Tensor",
    "convolution": (
        "(Tensor x, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation,"
        " bool transposed, SymInt[] output_padding, SymInt groups, *, int split_size) -> Tensor"
    ),
    # attention: q [B, H, Lq, D], k [B, Hk, Lk, D], v [B, Hk, Lk, Dv] with H % Hk == 0; mask bool (True keeps) or additive,
    # broadcastable to [B, H, Lq, Lk]; lse is float32 [B, H, Lq]
    "attention": (
        "(Tensor q, Tensor k, Tensor v, Tensor? mask=None, *, bool is_causal=False, float? scale=None,"
        " int split_size) -> (Tensor out, Tensor lse)"
    ),
    # reductions: kind in sum mean prod amax amin any all argmax argmin norm sum_squares mean_squares; param: the p of norm
    "reduction": (
        "(Tensor x, str kind, int[] dims, bool keepdim=False, *, float param=0.0, ScalarType? dtype=None, int lanes)"
        " -> Tensor"
    ),
    "var_mean": "(Tensor x, int[] dims, float correction, bool keepdim=False, *, int lanes) -> (Tensor var, Tensor mean)",
    "softmax": "(Tensor x, int dim, bool log, *, ScalarType? dtype=None, int lanes) -> Tensor",
    "layer_norm": (
        "(Tensor x, SymInt[] shape, Tensor? weight, Tensor? bias, float eps, *, int lanes)"
        " -> (Tensor out, Tensor mean, Tensor rstd)"
    ),
    "rms_norm": "(Tensor x, SymInt[] shape, Tensor? weight, float eps, *, int lanes) -> (Tensor out, Tensor rstd)",
    # scan: kind in cumsum cumprod logcumsumexp; one chain along dim
    "scan": "(Tensor x, str kind, int dim, *, ScalarType? dtype=None) -> Tensor",
    # scatter: adds in ascending source order, no atomics. index has the rank of src (scatter) or is 1-d (index_add)
    "scatter_add": "(Tensor x, int dim, Tensor index, Tensor src) -> Tensor",
    "index_add": "(Tensor x, int dim, Tensor index, Tensor src, *, Scalar alpha=1) -> Tensor",
    "index_put_add": "(Tensor x, Tensor?[] indices, Tensor values) -> Tensor",
    "embedding_bag": (
        "(Tensor weight, Tensor indices, Tensor offsets, Tensor? per_sample_weights, str mode,"
        " bool include_last_offset, int padding_idx) -> Tensor"
    ),
    "avg_pool": (
        "(Tensor x, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, bool ceil_mode, bool count_include_pad,"
        " int? divisor_override) -> Tensor"
    ),
    # order statistics with stable ties: the lower index wins
    "topk": "(Tensor x, SymInt k, int dim, bool largest, bool sorted) -> (Tensor values, Tensor indices)",
}

#: what a device may fuse ops of a rewritten graph into (``lowerings/cuda/fusion.py``); no plan asks for them
FUSED: dict[str, str] = {
    "add_rms_norm": "(Tensor x, Tensor? residual, Tensor? weight, float eps, *, bool fma, bool rounded, int lanes) -> (Tensor out, Tensor sum)",
    # a [M, K] @ w.t() for two or three weights w [N, K]; the third result is empty without its weight
    "shared_mm": "(Tensor a, Tensor first, Tensor second, Tensor? third=None, *, int split_size) -> (Tensor, Tensor, Tensor)",
}

for _name, _schema in (SCHEMAS | FUSED).items():
    _LIB.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout))
