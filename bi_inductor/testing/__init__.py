"""Test a model of your own for batch invariance: ``assert_batch_invariant``, and a pytest plugin.

Names are resolved on first use: the plugin lives in this package and must not import torch for users of pytest
who do not use it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bi_inductor.testing.check import assert_batch_invariant, run_negative_control
    from bi_inductor.testing.data import cancelling, normal, order_matters, wide
    from bi_inductor.testing.report import BatchVariantError, Cell, ControlTooWeakError, Report

__all__ = [
    "BatchVariantError",
    "Cell",
    "ControlTooWeakError",
    "Report",
    "assert_batch_invariant",
    "cancelling",
    "normal",
    "order_matters",
    "run_negative_control",
    "wide",
]

_HOME = {
    "BatchVariantError": "report",
    "Cell": "report",
    "ControlTooWeakError": "report",
    "Report": "report",
    "assert_batch_invariant": "check",
    "cancelling": "data",
    "normal": "data",
    "order_matters": "data",
    "run_negative_control": "check",
    "wide": "data",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bi_inductor.testing' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"bi_inductor.testing.{_HOME[name]}"), name)
    globals()[name] = value
    return value
