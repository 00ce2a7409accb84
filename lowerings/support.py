"""The support matrix of the README, made from the lowering table: ``python -m lowerings.support``."""

import torch

from bi_inductor.templates import Template
from lowerings.table import LOWERINGS, plans_of

_NAMES = {
    torch.float32: "f32",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.float64: "f64",
}


def support_matrix() -> str:
    """A Markdown table: template, device, dtypes, piece or lanes, order of addition."""
    lines = [
        "| device | templates | floating types | pieces | order |",
        "|---|---|---|---|---|",
    ]
    for device in sorted(LOWERINGS):
        merged: dict[tuple[type[Template], str, str], list[str]] = {}
        for row in plans_of(device).PLANS:
            pieces = f"{row.split_size} elements" if row.split_size else ""
            pieces = pieces or (f"{row.lanes} lanes" if row.lanes else "one chain")
            for template in row.templates:
                found = merged.setdefault((template, pieces, row.order), [])
                found += [_NAMES[t] for t in (row.dtypes or tuple(_NAMES)) if t in _NAMES]
        # templates that are alike share a line
        lines_of: dict[tuple[str, str, str], list[str]] = {}
        for (template, pieces, order), dtypes in merged.items():
            lines_of.setdefault((", ".join(dtypes), pieces, order), []).append(template.__name__)
        lines += [
            f"| {device} | {', '.join(names)} | {dtypes} | {pieces} | {order} |"
            for (dtypes, pieces, order), names in lines_of.items()
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(support_matrix())
