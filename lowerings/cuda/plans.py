"""What decides bits on CUDA, as plain data. A launcher refuses a number that its kernel cannot keep."""

from dataclasses import dataclass

import torch

from bi_inductor import templates as t
from bi_inductor.templates import Plan, PlanKey, Template

#: longer than the reduced extent of any model: one chain over K, as the tensor core adds it
CHAIN = 1 << 20
#: keys of one attention piece, counted from the first key that the row keeps
KEY_SPLIT = 512
#: keys that share one step of the running maximum; a piece is a whole number of them
KEY_BLOCK = 64
#: interleaved partial results of a row reduction, added up in pairs of neighbours
LANES = 4096

_HALVES = (torch.bfloat16, torch.float16)
_FLOATS = (torch.float32, *_HALVES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table: the first whose template and dtype fit gives the plan."""

    templates: tuple[type[Template], ...]
    dtypes: tuple[torch.dtype, ...]
    order: str
    split_size: int | None = None
    lanes: int | None = None

    def fits(self, key: PlanKey) -> bool:
        """Return whether this row is for the key."""
        return key.template in self.templates and key.dtype in self.dtypes


_PRODUCTS = (t.Matmul, t.GroupedMatmul)
_ROWS = (t.Reduction, t.VarMean, t.Softmax, t.LayerNorm, t.RmsNorm)

PLANS = (
    Row(templates=_PRODUCTS, dtypes=_HALVES, split_size=CHAIN, order="pieces-in-order"),
    # pieces make a float32 chain 4 times more accurate, and cost nothing where FMAs are the limit
    Row(templates=_PRODUCTS, dtypes=(torch.float32,), split_size=1024, order="pieces-in-order"),
    Row(templates=(t.Attention,), dtypes=_FLOATS, split_size=KEY_SPLIT, order="keys-in-pieces"),
    Row(templates=_ROWS, dtypes=_FLOATS, lanes=LANES, order="lanes-then-pairs"),
)


#: kinds of a reduction that have a kernel, or whose result has no order to keep
KINDS = ("sum", "mean", "norm", "amax", "amin", "any", "all", "argmax", "argmin")


def refusal(template: Template) -> str | None:
    """Return why a template has no kernel although its type has one, or None."""
    if isinstance(template, t.Reduction) and template.kind not in KINDS:
        return f"CUDA has no kernel for {template.kind}; there are {', '.join(KINDS)}"
    return None


def plan_for(key: PlanKey) -> Plan:
    """Return the plan of a key; ValueError for a template and dtype that have no row."""
    for row in PLANS:
        if row.fits(key):
            return Plan(
                order=row.order,
                accumulator=torch.float32,
                split_size=row.split_size,
                lanes=row.lanes,
            )
    raise ValueError(f"CUDA has no plan for {key.template.__name__} of {key.dtype}")
