"""What decides bits on Apple GPUs, as plain data. Change a number and ``PLAN_VERSION`` and the goldens change.

Operands are widened to float32 on load (integers to int64), and there is one rounding, at the store.
The launchers refuse a number that the kernels were not built for.
"""

from dataclasses import dataclass, replace

import torch

from bi_inductor import templates as t
from bi_inductor.templates import Plan, PlanKey, Template
from lowerings.cpu import plans as cpu

PLAN_VERSION = 1
#: K is cut here: one fma chain a piece, pieces added in order.
MATMUL_SPLIT = 128
#: The opt-in tier: simdgroup_matrix steps in order, the order inside a step is the hardware's.
SIMDGROUP_SPLIT = 16
#: Keys of one attention partial; inside it, blocks of ``KEY_BLOCK`` share a maximum.
ATTENTION_SPLIT = 256
KEY_BLOCK = 32
#: Interleaved partial results of a row.
ROW_LANES = 256

EXECUTED = "C++ shim of Metal on Linux; not on an Apple GPU"
#: portable: the same bits on every Apple GPU. simdgroup: products by simdgroup_matrix. cpu_float64: tensors go to
#: the CPU's kernels in float64 and back, as the Apple Silicon edition of the batch-invariant ops does.
TIERS = ("portable", "simdgroup", "cpu_float64")
#: kinds of ``bi_inductor.reduction``
REDUCTIONS = (
    *("sum", "mean", "prod", "amax", "amin", "any", "all", "argmax", "argmin"),
    *("norm", "sum_squares", "mean_squares"),
)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table: the first whose template, dtype and tier fit gives the plan."""

    templates: tuple[type[Template], ...]
    dtypes: tuple[torch.dtype, ...] = _FLOATS
    tier: str | None = None
    order: str
    split_size: int | None = None
    lanes: int | None = None

    def fits(self, key: PlanKey, tier: str) -> bool:
        """Return whether this row is for the key."""
        return (
            key.template in self.templates
            and key.dtype in self.dtypes
            and self.tier in (None, tier)
        )


_PRODUCTS = (t.Matmul, t.Convolution)
_NORMS = (t.VarMean, t.Softmax, t.LayerNorm, t.RmsNorm)

#: ops that carry no plan number to tell a tier by: one kernel serves every tier
METAL_ONLY = (t.Scan, t.Scatter, t.EmbeddingBag, t.AvgPool, t.TopK, t.Sort)

PLANS = (
    Row(
        templates=_PRODUCTS,
        tier="simdgroup",
        split_size=SIMDGROUP_SPLIT,
        order="simdgroup-steps-in-order",
    ),
    Row(templates=_PRODUCTS, split_size=MATMUL_SPLIT, order="pieces-in-order"),
    Row(templates=(t.Attention,), split_size=ATTENTION_SPLIT, order="keys-in-pieces"),
    Row(templates=_NORMS, lanes=ROW_LANES, order="lanes-then-tree"),
    Row(
        templates=(t.Reduction,),
        dtypes=_FLOATS + _INTEGERS,
        lanes=ROW_LANES,
        order="lanes-then-tree",
    ),
    Row(templates=(t.GroupedMatmul,), split_size=MATMUL_SPLIT, order="pieces-in-order"),
    Row(templates=(t.Scan,), dtypes=_FLOATS + _INTEGERS, order="compensated-chain"),
    Row(templates=(t.Scatter,), dtypes=_FLOATS + _INTEGERS, order="ascending-source"),
    Row(templates=(t.EmbeddingBag,), order="ascending-source"),
    Row(templates=(t.AvgPool,), order="window-row-major"),
    Row(templates=(t.TopK, t.Sort), dtypes=_FLOATS + _INTEGERS, order="exact-ranks"),
)


def plan_for(key: PlanKey) -> Plan:
    """Return the plan of a key, whose device is ``"mps"`` or ``"mps/<tier>"``.

    Raises:
        ValueError: an unknown tier, or a template and dtype without a row.
    """
    tier = key.device.partition("/")[2] or "portable"
    if tier not in TIERS:
        raise ValueError(f"the tier of mps must be one of {', '.join(TIERS)}, got {tier!r}")
    if tier == "cpu_float64" and key.template not in METAL_ONLY:
        return _on_the_cpu(key)
    for row in PLANS:
        if row.fits(key, tier):
            accumulator = torch.float32 if key.dtype.is_floating_point else torch.int64
            return Plan(
                order=row.order,
                accumulator=accumulator,
                split_size=row.split_size,
                lanes=row.lanes,
            )
    raise ValueError(f"mps has no plan for {key.template.__name__} of {key.dtype}")


def refusal(template: Template) -> str | None:
    """Return why a template has no kernel although its type has one, or None."""
    if isinstance(template, t.Reduction) and template.kind not in REDUCTIONS:
        return f"mps has no kernel for {template.kind}; there are {', '.join(REDUCTIONS)}"
    return None


def _on_the_cpu(key: PlanKey) -> Plan:
    dtype = torch.float64 if key.dtype.is_floating_point else key.dtype
    plan = cpu.plan_for(replace(key, dtype=dtype, device="cpu"))
    return replace(plan, order=f"cpu-{plan.order}")
