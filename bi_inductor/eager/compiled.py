"""Compiled code inside the mode: its kernels do not pass the dispatcher, so only our own backend's may run.

What another backend compiled, before or inside the mode, runs as the Python that it was compiled from, through the
templates. Other threads, and this one outside of the mode, are left alone.
"""

import warnings
from collections.abc import Callable

from bi_inductor import _torch
from bi_inductor.backend import batch_invariant
from bi_inductor.eager.origin import user_frame
from bi_inductor.eager.routes import ACCEPT
from bi_inductor.errors import VariantOpError
from bi_inductor.options import OnVariant

_REMEDY = "compile it with backend='batch_invariant'"


def watch(is_on: Callable[[], bool]) -> None:
    """Have every call of a compiled function ask first; ``is_on`` tells whether this thread is in the mode.

    Raises:
        UnsupportedTorchError: this torch has no place to ask at.
    """

    def may_run(backend: object) -> bool:
        if backend is batch_invariant or not is_on():
            return True
        warnings.warn(
            f"code compiled by the backend {_torch.name_of(backend)}{user_frame()} runs eagerly inside "
            f"batch_invariant_mode, with the same bits as any eager code there; {_REMEDY} to run it compiled",
            stacklevel=2,
        )
        return False

    _torch.ask_before_compiled_code(may_run)


def refuse_inside(on_variant: OnVariant) -> None:
    """Refuse to switch the mode on in the middle of code that another backend compiled; or warn of it.

    Raises:
        VariantOpError: this thread is there; the rest of that code would run the other backend's kernels.
    """
    running = _torch.running_backend()
    if running is None or running is batch_invariant:
        return
    error = VariantOpError(
        "batch_invariant_mode",
        user_frame(),
        f"is switched on inside code compiled by the backend {_torch.name_of(running)}, whose kernels it cannot see",
        "switch it on around the call of the compiled code, put torch.compiler.disable on the function that switches "
        f"it on, or {_REMEDY}",
        accept=ACCEPT,
    )
    if on_variant == "error":
        raise error
    warnings.warn(str(error), stacklevel=2)
