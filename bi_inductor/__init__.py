"""A ``torch.compile`` backend that gives every sample the same bits whatever shares its batch.

``torch.compile(model, backend="batch_invariant")`` needs no import of this package; the import is for the
tools: ``certificate()`` tells what was compiled and ``mark_batch`` names a batch dimension.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bi_inductor.certificates import Certificate, certificate
    from bi_inductor.eager import (
        batch_invariant_mode,
        is_batch_invariant_mode_enabled,
        set_batch_invariant_mode,
    )
    from bi_inductor.inspection.certify import certify, check_certificate
    from bi_inductor.inspection.diff import diff
    from bi_inductor.inspection.explain import explain
    from bi_inductor.marking import mark_batch

__version__ = "0.1.0"
__all__ = [
    "Certificate",
    "__version__",
    "batch_invariant_mode",
    "certificate",
    "certify",
    "check_certificate",
    "diff",
    "explain",
    "is_batch_invariant_mode_enabled",
    "mark_batch",
    "set_batch_invariant_mode",
]

# resolved on first use: importing this package costs nothing beyond torch
_HOME = {
    "Certificate": "bi_inductor.certificates",
    "batch_invariant_mode": "bi_inductor.eager",
    "certificate": "bi_inductor.certificates",
    "certify": "bi_inductor.inspection.certify",
    "check_certificate": "bi_inductor.inspection.certify",
    "diff": "bi_inductor.inspection.diff",
    "explain": "bi_inductor.inspection.explain",
    "is_batch_invariant_mode_enabled": "bi_inductor.eager",
    "mark_batch": "bi_inductor.marking",
    "set_batch_invariant_mode": "bi_inductor.eager",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bi_inductor' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
