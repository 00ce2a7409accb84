"""The support matrix of the README, made from the lowering table: ``python -m lowerings.support``."""

from types import ModuleType
from typing import Any

import torch

from bi_inductor import templates
from bi_inductor.templates import Template
from lowerings.table import LOWERINGS, plans_of

_NAMES = {
    torch.float32: "f32",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.float64: "f64",
}


def support_matrix() -> str:
    """A Markdown table of templates and devices: in which pieces, in which order, and where it was executed."""
    devices = sorted(LOWERINGS)
    plans = [plans_of(device) for device in devices]
    rows = [["template", *devices], ["---"] * (1 + len(devices))]
    rows += [[kind.__name__, *(_cell(p, kind) for p in plans)] for kind in _templates()]
    types = [[n for n in _NAMES.values() if n in _all_types(p)] for p in plans]
    rows.append(["floating types", *map(", ".join, types)])
    rows.append(["executed on", *(p.EXECUTED for p in plans)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _templates() -> list[type[Template]]:
    found = [kind for kind in vars(templates).values() if isinstance(kind, type)]
    return [kind for kind in found if issubclass(kind, Template) and kind is not Template]


def _cell(plans: ModuleType, kind: type[Template]) -> str:
    """Pieces and order; the floating types where they are fewer than the device has."""
    merged: dict[str, str] = {}
    for row in plans.PLANS:
        if kind in row.templates:
            merged[_pieces(row)] = ", ".join(filter(None, (merged.get(_pieces(row)), _types(row))))
    everything = _all_types(plans)
    shown = (
        pieces if set(types.split(", ")) == everything else f"{pieces} ({types})"
        for pieces, types in merged.items()
    )
    return "; ".join(shown) or "-"


def _types(row: Any) -> str:
    names = [_NAMES[dtype] for dtype in row.dtypes or _NAMES if dtype in _NAMES]
    return ", ".join(names or [str(dtype).removeprefix("torch.") for dtype in row.dtypes])


def _all_types(plans: ModuleType) -> set[str]:
    return {name for row in plans.PLANS for name in _types(row).split(", ")} & {*_NAMES.values()}


def _pieces(row: Any) -> str:
    number = f"{row.split_size} elements, " if row.split_size else ""
    number = number or (f"{row.lanes} lanes, " if row.lanes else "")
    tier = getattr(row, "tier", None)
    return f"{f'tier {tier}: ' if tier else ''}{number}{row.order}"


if __name__ == "__main__":
    print(support_matrix())
