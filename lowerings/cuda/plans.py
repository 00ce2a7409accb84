"""What decides bits on CUDA, as plain data. A launcher refuses a number that its kernel cannot keep."""

from dataclasses import dataclass

import torch

from bi_inductor import templates as t
from bi_inductor.errors import LoweringError
from bi_inductor.templates import Plan, PlanKey, Template

#: where the kernels were run, for the support matrix
EXECUTED = "H100 and H200"

#: longer than the reduced extent of any model: one chain over K, as the tensor core adds it
CHAIN = 1 << 20
#: levels of a float32 product: multiply-adds of a chain, elements of a piece, pieces of a run
FLOAT32_CHAIN, FLOAT32_SPLIT, FLOAT32_RUN = 16, 64, 8
#: keys of one attention piece, counted from the first key that the row keeps
KEY_SPLIT = 512
#: keys that share one step of the running maximum; a piece is a whole number of them
KEY_BLOCK = 64
#: interleaved partial results of a row reduction, added up in pairs of neighbours
LANES = 4096
#: elements of one block of a scan: a tree inside, a chain from block to block
SCAN_BLOCK = 1024

_HALVES = (torch.bfloat16, torch.float16)
_FLOATS = (torch.float32, *_HALVES)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table: the first whose template and dtype fit gives the plan."""

    templates: tuple[type[Template], ...]
    dtypes: tuple[torch.dtype, ...] | None
    order: str
    split_size: int | None = None
    lanes: int | None = None

    def fits(self, key: PlanKey) -> bool:
        """Return whether this row is for the key."""
        return key.template in self.templates and (self.dtypes is None or key.dtype in self.dtypes)


_PRODUCTS = (t.Matmul, t.GroupedMatmul, t.Convolution)
_ROWS = (t.Reduction, t.VarMean, t.Softmax, t.LayerNorm, t.RmsNorm)

PLANS = (
    Row(templates=_PRODUCTS, dtypes=_HALVES, split_size=CHAIN, order="pieces-in-order"),
    # four levels are what makes a float32 sum more accurate than cuBLAS's at every size
    Row(
        templates=_PRODUCTS,
        dtypes=(torch.float32,),
        split_size=FLOAT32_SPLIT,
        order="chains-pieces-runs",
    ),
    Row(templates=(t.Attention,), dtypes=_FLOATS, split_size=KEY_SPLIT, order="keys-in-pieces"),
    Row(templates=_ROWS, dtypes=_FLOATS, lanes=LANES, order="lanes-then-pairs"),
    # sums of integers, and comparisons of any type, are exact in any order
    Row(
        templates=(t.Reduction,),
        dtypes=(torch.float64, *_INTEGERS),
        lanes=LANES,
        order="exact-or-refused",
    ),
    Row(templates=(t.Scan,), dtypes=(*_FLOATS, *_INTEGERS), order="blocks-in-order"),
    Row(templates=(t.Scatter,), dtypes=(*_FLOATS, *_INTEGERS), order="ascending-source"),
    Row(templates=(t.EmbeddingBag,), dtypes=_FLOATS, order="ascending-source"),
    Row(templates=(t.AvgPool,), dtypes=_FLOATS, order="window-row-major"),
    Row(templates=(t.TopK, t.Sort), dtypes=None, order="exact-stable"),
)


#: kinds of a reduction that have a kernel, or whose result has no order to keep
KINDS = ("sum", "mean", "norm", "amax", "amin", "any", "all", "argmax", "argmin")


def refusal(template: Template) -> str | None:
    """Return why a template has no kernel although its type has one, or None."""
    if isinstance(template, t.Reduction) and template.kind not in KINDS:
        return f"CUDA has no kernel for {template.kind}; there are {', '.join(KINDS)}"
    return None


def plan_for(key: PlanKey) -> Plan:
    """Return the plan of a key.

    Raises:
        LoweringError: no row fits: names template, dtype and what to do.
    """
    for row in PLANS:
        if row.fits(key):
            return Plan(
                order=row.order,
                accumulator=torch.float32 if key.dtype.is_floating_point else torch.int64,
                split_size=row.split_size,
                lanes=row.lanes,
            )
    raise LoweringError(
        f"{key.template.__name__} of {key.dtype} has no CUDA kernel; cast to torch.float32, torch.bfloat16 "
        "or torch.float16, or compile this part of the model on the CPU"
    )
