"""The same templates and bits outside of ``torch.compile``: ``with bi_inductor.batch_invariant_mode(): ...``.

``mode.py`` sits on the dispatcher, ``routes.py`` says which way each op goes by reading the compiler's own tables,
``recipes.py`` runs planned ops as one-op graphs, ``pointwise.py`` runs the rest as kernels of the compiler.
"""

from bi_inductor.eager.mode import (
    batch_invariant_mode,
    is_batch_invariant_mode_enabled,
    set_batch_invariant_mode,
)

__all__ = [
    "batch_invariant_mode",
    "is_batch_invariant_mode_enabled",
    "set_batch_invariant_mode",
]
