"""Every text that the launchers compile for float32, as (files, defines)."""

from lowerings.mps import library

_LIMITS = {"LOWEST": "(-INFINITY)", "HIGHEST": "INFINITY"}
_ROWS = {"T": "float", "A": "float", "O": "float", "W": "float", **_LIMITS}
_ATTENTION = {"T": "float", "D": 64, "DV": 64, "SPLIT": 256, "Q": 8, "THREADS": 64, "M": "float"}
LIBRARIES = [
    (("matmul",), {"T": "float", "M": 32, "N": 32, "K": 16, "SPLIT": 128}),
    (("gemv",), {"T": "float", "ROWS": 4, "SPLIT": 128}),
    (("matmul_simdgroup",), {"T": "float", "FRAGMENT": "float"}),
    *[(("rows", "reduction"), {**_ROWS, "WIDTH": width}) for width in (32, 256)],
    *[(("rows", "norm"), {**_ROWS, "WIDTH": width}) for width in (32, 256)],
    *[(("scan",), {"T": "float", "A": "float", "O": "float", "LOG": log}) for log in (0, 1)],
    (("scatter",), {"T": "float", "A": "float"}),
    (("pool",), {"T": "float"}),
    (("rank",), {"T": "float", "A": "float"}),
    (("grouped",), {"T": "float", "SPLIT": 128}),
    *[(("attention_span",), {"M": "float", "MASK": mask}) for mask in (1, 2)],
    *[
        (("attention",), {**_ATTENTION, "MASK": mask, "PIECES": pieces})
        for mask, pieces in ((0, 0), (1, 0), (2, 0), (0, 1))
    ],
]


def texts() -> list[tuple[str, str]]:
    """Name and text of each library."""
    return [("+".join(files), library.source(files, **defines)) for files, defines in LIBRARIES]
