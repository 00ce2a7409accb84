"""What decides bits on a NeuronCore, as plain data. Imports no toolchain; change a number, raise the version.

The size of every instruction belongs to the plan: no document gives the order of the additions inside one, so
a row must meet the same instructions, of the same shapes, in the same sequence at every batch. Rows are
therefore always padded to ``ROW_TILE`` and matmul columns to ``N_TILE`` on the chip; reduced extents are cut
into the tiles below from position 0, their last piece may be short, and pieces are added left to right.
"""

from dataclasses import dataclass

import torch

from bi_inductor import templates as t
from bi_inductor.templates import Plan, PlanKey, Template

PLAN_VERSION = 1

ROW_TILE = 128  # rows of the batch: the partitions of one tile
K_TILE = 128  # matmul: products in one pass of the tensor engine
N_TILE = 512  # matmul columns: one PSUM bank of float32
H_TILE = 128  # norms, variances and sums
V_TILE = 512  # softmax
KV_TILE = 512  # attention: keys in one softmax block
MAX_HEAD = 128  # attention: the head dim is one pass
NEG = -3.0e38  # score of a key that is not seen; finite, so that NEG - NEG is 0

EXECUTED = "NKI emulator on the CPU; not on Trainium"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table: the first whose template and dtype fit gives the plan."""

    templates: tuple[type[Template], ...]
    dtypes: tuple[torch.dtype, ...] = DTYPES
    order: str
    split_size: int | None = None
    lanes: int | None = None


_ROWS = (t.Reduction, t.VarMean, t.LayerNorm, t.RmsNorm)

PLANS = (
    Row(templates=(t.Matmul,), split_size=K_TILE, order="tiles-ascending"),
    Row(templates=(t.Attention,), split_size=KV_TILE, order="keys-in-blocks"),
    Row(templates=_ROWS, lanes=H_TILE, order="chunks-ascending"),
    Row(templates=(t.Softmax,), lanes=V_TILE, order="chunks-ascending"),
    # running counts of a mask, as a product with a triangle of ones: exact in float32
    Row(templates=(t.Scan,), dtypes=(torch.bool,), order="exact-counts"),
)

#: kinds of ``bi_inductor.reduction`` that have a kernel
REDUCTIONS = ("sum", "mean", "amax", "amin", "sum_squares", "mean_squares")

#: op of ``torch.ops.bi_inductor`` -> its template
TEMPLATES: dict[str, type[Template]] = {
    "mm": t.Matmul,
    "bmm": t.Matmul,
    "attention": t.Attention,
    "reduction": t.Reduction,
    "var_mean": t.VarMean,
    "layer_norm": t.LayerNorm,
    "rms_norm": t.RmsNorm,
    "softmax": t.Softmax,
    "scan": t.Scan,
}


def plan_for(key: PlanKey) -> Plan:
    """Return the plan of a key; ValueError for a template or dtype without an NKI kernel."""
    for row in PLANS:
        if key.template in row.templates and key.dtype in row.dtypes:
            return Plan(
                order=row.order,
                accumulator=torch.float32,
                split_size=row.split_size,
                lanes=row.lanes,
            )
    raise ValueError(f"neuron has no plan for {key.template.__name__} of {key.dtype}")


def refusal(template: Template) -> str | None:
    """Return why a template has no kernel although its type has one, or None."""
    if isinstance(template, t.Scan) and template.kind != "cumsum":
        return f"neuron has no kernel for {template.kind}; of the scans it has the cumsum of a mask"
    if isinstance(template, t.Reduction) and template.kind not in REDUCTIONS:
        return f"neuron has no kernel for {template.kind}; there are {', '.join(REDUCTIONS)}"
    return None


def plan_of(op: str, dtype: torch.dtype | None = None) -> Plan:
    """Return the plan of an op such as ``"mm"``; without a dtype, that of the first that it takes.

    Raises:
        ValueError: the op has no NKI kernel, or none for the dtype.
    """
    if op not in TEMPLATES:
        raise ValueError(
            f"bi_inductor.{op} has no Neuron kernel; there are kernels for "
            f"{', '.join(TEMPLATES)}. Keep this op on the host or out of the compiled region"
        )
    template = TEMPLATES[op]
    dtypes = next(row.dtypes for row in PLANS if template in row.templates)
    if dtype is not None and dtype not in dtypes:
        raise ValueError(
            f"bi_inductor.{op} of {dtype} has no Neuron kernel; the engines compute in float32: "
            f"use one of {', '.join(str(d).removeprefix('torch.') for d in dtypes)}"
        )
    key = PlanKey(template=template, reduced=(), dtype=dtype or dtypes[0], device="neuron")
    return plan_for(key)
