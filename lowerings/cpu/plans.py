"""What decides bits on the CPU, as plain data. The C++ refuses a number that it was not built for."""

from dataclasses import dataclass

import torch

from bi_inductor import templates as t
from bi_inductor.templates import Plan, PlanKey, Template

EXECUTED = "AVX-512, AVX2 and portable builds"
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table: the first whose template and dtype fit gives the plan."""

    templates: tuple[type[Template], ...]
    dtypes: tuple[torch.dtype, ...] | None = None
    order: str
    split_size: int | None = None
    lanes: int | None = None

    def fits(self, key: PlanKey) -> bool:
        """Return whether this row is for the key."""
        return key.template in self.templates and (self.dtypes is None or key.dtype in self.dtypes)


_PRODUCTS = (t.Matmul, t.GroupedMatmul, t.Convolution)
_ROWS = (t.Reduction, t.VarMean, t.Softmax, t.LayerNorm, t.RmsNorm)

PLANS = (
    Row(templates=_PRODUCTS, dtypes=(torch.float32,), split_size=1024, order="pieces-in-order"),
    Row(templates=_PRODUCTS, dtypes=(torch.float16,), split_size=1024, order="pieces-in-order"),
    Row(templates=_PRODUCTS, dtypes=(torch.bfloat16,), split_size=1024, order="pieces-in-order"),
    Row(templates=_PRODUCTS, dtypes=(torch.float64,), split_size=1024, order="pieces-in-order"),
    Row(templates=(t.Attention,), dtypes=_FLOATS, split_size=512, order="keys-in-pieces"),
    Row(templates=_ROWS, lanes=64, order="lanes-then-tree"),
    Row(templates=(t.Scan,), order="chain"),
    Row(templates=(t.Scatter,), order="ascending-source"),
    Row(templates=(t.EmbeddingBag,), order="ascending-source"),
    Row(templates=(t.AvgPool,), order="window-row-major"),
    Row(templates=(t.TopK, t.Sort), order="exact-stable"),
)


def plan_for(key: PlanKey) -> Plan:
    """Return the plan of a key.

    Raises:
        ValueError: a template and dtype that have no row; no kernel adds up complex numbers.
    """
    for row in PLANS:
        if row.fits(key) and not key.dtype.is_complex:
            return Plan(
                order=row.order,
                accumulator=accumulator_of(key.dtype),
                split_size=row.split_size,
                lanes=row.lanes,
            )
    raise ValueError(f"the CPU has no plan for {key.template.__name__} of {key.dtype}")


def accumulator_of(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for the half types, int64 for integers and bool, the type itself otherwise."""
    if dtype in (torch.bfloat16, torch.float16):
        return torch.float32
    return dtype if dtype.is_floating_point else torch.int64
