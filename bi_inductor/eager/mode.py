"""``batch_invariant_mode``: a dispatch mode of the calling thread, below autograd and around every ATen call."""

import contextlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, get_args

from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from bi_inductor import _torch
from bi_inductor.eager import compiled, whole
from bi_inductor.eager.routes import route_of
from bi_inductor.errors import OptionError
from bi_inductor.options import OnVariant


class _Interceptor(TorchDispatchMode):
    """Sends each op the way that ``routes.py`` found for it. One per thread, however deep the nesting."""

    # flex_attention and the like: traced inside a compilation, refused outside
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on_variant: OnVariant | None = None

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Dynamo skips frames under any other mode: code compiled by our backend would run eagerly instead.

        What other backends compiled is kept out by ``compiled.py``, also where it was compiled before.
        """
        return True

    def __torch_dispatch__(
        self,
        func: OpOverload | HigherOrderOperator,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if self.on_variant is None or any(issubclass(t, _torch.TRACED) for t in types):
            return func(*args, **(kwargs or {}))  # a compilation has rules of its own
        if any(map(_torch.dispatches, types)):
            # a tensor subclass (quantised, nested): its own ops on the tensors inside come back to the mode
            return NotImplemented
        if isinstance(func, HigherOrderOperator) and _torch.has_fake(args, kwargs):
            return func(*args, **(kwargs or {}))
        return route_of(func)(self, func, tuple(args), kwargs or {})


@dataclass(slots=True)
class _Thread:
    """What one thread has switched on: ``interceptor`` is on its dispatch stack exactly if ``installed``."""

    interceptor: _Interceptor
    installed: bool = False


class _Threads(threading.local):
    def __init__(self) -> None:
        self.thread = _Thread(_Interceptor())


_LOCAL = _Threads()


def _switch(on_variant: OnVariant | None) -> OnVariant | None:
    """Set this thread's mode, None for off, and return what it was.

    Off, it leaves the dispatch stack, where even an idle mode costs every op. Under another mode's block it cannot
    yet: it idles until it is switched off with nothing above it.
    """
    thread = _LOCAL.thread
    interceptor = thread.interceptor
    if on_variant is not None and interceptor.on_variant is None:
        compiled.refuse_inside(on_variant)
        compiled.watch(is_batch_invariant_mode_enabled)
        whole.watch(is_batch_invariant_mode_enabled)
    previous, interceptor.on_variant = interceptor.on_variant, on_variant
    if on_variant is not None and not thread.installed:
        interceptor.__enter__()  # type: ignore[no-untyped-call]
        thread.installed = True
    elif on_variant is None and thread.installed and _torch.top_dispatch_mode() is interceptor:
        interceptor.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        thread.installed = False
    return previous


def is_batch_invariant_mode_enabled() -> bool:
    """Whether eager ops of the calling thread go through the templates."""
    return _LOCAL.thread.interceptor.on_variant is not None


class batch_invariant_mode(contextlib.ContextDecorator):
    """Run eager code of this thread with the templates, and the bits, of the compiled model.

    Reentrant and nestable: leaving a block restores what was on before it, also after an exception. Ops with
    ``out=``, in-place ops and the backward of what runs inside are covered. As a decorator it wraps each call.
    Code compiled by another backend of ``torch.compile`` runs eagerly inside, with a warning; kernels that neither
    the dispatcher nor ``torch.compile`` sees (AOTInductor packages, a Triton kernel called directly) are not covered.

    Args:
        enabled: False switches the mode off inside the block.
        on_variant: ``"error"`` refuses an op that is not known to be row-independent; ``"warn"`` warns once per op
            and runs torch's own kernel.

    Raises:
        OptionError: ``on_variant`` is neither.
        VariantOpError: it is switched on in the middle of code that another backend compiled.
        UnknownOpError: (inside) an op without a rule.
        VariantOpError: (inside) an op that mixes samples by definition.
    """

    def __init__(self, enabled: bool = True, *, on_variant: OnVariant = "error") -> None:
        if on_variant not in get_args(OnVariant):
            raise OptionError(
                f"on_variant must be one of {', '.join(map(repr, get_args(OnVariant)))}, got {on_variant!r}"
            )
        self._wanted: OnVariant | None = on_variant if enabled else None
        self._entered: list[OnVariant | None] = []

    def _recreate_cm(self) -> "batch_invariant_mode":
        # one object per call of a decorated function: threads must not share the list of what to restore
        return type(self)(self._wanted is not None, on_variant=self._wanted or "error")

    def __enter__(self) -> None:
        """Switch the mode for this thread."""
        self._entered.append(_switch(self._wanted))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore what was on before the block."""
        _switch(self._entered.pop())


class set_batch_invariant_mode:
    """Switch the mode of this thread on or off, as a call or as a context manager, like ``torch.set_grad_enabled``.

    The call takes effect at once; in a ``with`` statement the block's end restores what was on before. Inside
    a block of another dispatch mode, use ``batch_invariant_mode``, which ends with its block.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._previous = _switch("error" if enabled else None)

    def __enter__(self) -> None:
        """Nothing is left to do: the call has switched."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore what was on before the call."""
        _switch(self._previous)
