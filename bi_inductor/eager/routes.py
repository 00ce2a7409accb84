"""Which way an eager op goes, read from the compiler's own tables: an op added there is served here too.

Direct: torch's own kernel, for data movement and for arithmetic that rounds once. Planned: a one-op graph. Pointwise:
a kernel of the compiler. Opened: its decomposition, whose parts come back to the mode. Anything else is refused.
"""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch._ops import HigherOrderOperator, OpOverload

from bi_inductor import _torch, rules
from bi_inductor.attention import UNPLANNED
from bi_inductor.decompositions import decomposition_table, own
from bi_inductor.eager import exact, mutation, pointwise, recipes, whole
from bi_inductor.eager.origin import user_frame
from bi_inductor.errors import UnknownOpError, VariantOpError
from bi_inductor.flow import movement, views
from bi_inductor.options import OnVariant


class Mode(Protocol):
    """What a route needs of the mode: its setting, and to be entered for the parts of an opened op."""

    on_variant: OnVariant | None

    def __enter__(self) -> object: ...
    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> Any: ...


Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]
Route = Callable[[Mode, Any, Args, Kwargs], Any]

#: how an error of the mode says that it can be turned into a warning
ACCEPT = "batch_invariant_mode(on_variant='warn')"


@functools.cache
def route_of(func: OpOverload | HigherOrderOperator) -> Route:
    """Return the route of an op; decided once for each."""
    if isinstance(func, HigherOrderOperator):
        return _refused
    if func.namespace == "bi_inductor":
        return _planned_here if rules.rule_of(func) else _direct
    if func in whole.TAKEN:
        return _whole
    if exact.moves_data(func):
        return _direct
    if exact.draws_for_data(func):
        return _random
    if func._schema.is_mutable:
        functional = mutation.functional_of(func)
        route = _direct if functional is None and exact.rounds_once(func) else None
        if route or (functional and route_of(functional) is _direct):
            return _direct
        return _refused if functional is None else _mutating
    if func in rules.RANDOM:
        return _direct
    if rules.rule_of(func):
        return _planned
    return _route_of_rest(func)


def _route_of_rest(func: OpOverload) -> Route:
    transfer = rules.invariant().get(func)
    if exact.rounds_once(func):
        return _rounding_once
    if transfer is views.pointwise or (transfer is None and torch.Tag.pointwise in func.tags):
        return _pointwise
    opened = func in decomposition_table()
    if transfer is not None and not (opened and (func in own() or _computes(transfer))):
        return _direct
    if opened:
        return _opened
    if func in rules.BACKWARD_ONLY:
        return _backward
    if _torch.is_composite(func):
        return _composite
    return _refused


def _computes(transfer: object) -> bool:
    """Whether ops with this transfer do arithmetic as well: resampling, linspace, a fractional arange."""
    made = (views.made_of_shape, views.arange, views.halves)
    return transfer in made or getattr(transfer, "__qualname__", "").startswith(
        movement.windows.__qualname__
    )


def _direct(mode: Mode, func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    return func(*args, **kwargs)


def _rounding_once(mode: Mode, func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    if exact.agrees(func, args, kwargs):
        return func(*args, **kwargs)
    steps = exact.opened(func, args, kwargs)
    return pointwise.run(func, args, kwargs) if steps is None else steps


def _pointwise(mode: Mode, func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    return pointwise.run(func, args, kwargs)


def _planned(mode: Mode, func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    try:
        recipe = recipes.recipe_of(func, args, kwargs)
    except VariantOpError as error:
        return _reported(mode, error, func, args, kwargs)
    return func(*args, **kwargs) if recipe is None else recipe(args, kwargs)


def _planned_here(mode: Mode, func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    """An op of ours: written by a plan already, unless autograd's formula or the user calls it."""
    planned = kwargs.get("split_size") != UNPLANNED
    return (_direct if planned else _planned)(mode, func, args, kwargs)


def _opened(mode: Mode, func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    if (error := _normalises_over_batch(func, args, kwargs)) is not None:
        return _reported(mode, error, func, args, kwargs)
    with mode:
        return _table()[func](*args, **kwargs)


_table = functools.lru_cache(maxsize=1)(decomposition_table)


def _whole(mode: Mode, func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    """Inference mode, past the place where ``whole.watch`` asks."""
    with mode:
        return whole.TAKEN[func](*args, **kwargs)


def _composite(mode: Mode, func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    """Inference mode hands composite ops over whole."""
    with mode:
        return func.decompose(*args, **kwargs)


def _backward(mode: Mode, func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    return func(*args, **kwargs) if _torch.in_backward() else _refused(mode, func, args, kwargs)


def _random(mode: Mode, func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    if torch.is_grad_enabled() or not mutation.bound(func, args, kwargs).get("train", True):
        return func(*args, **kwargs)
    error = VariantOpError(
        str(func),
        user_frame(),
        "draws random numbers by position in the batch",
        "call model.eval(), pass the random numbers in, or sample with one seed for each row",
        accept=ACCEPT,
    )
    return _reported(mode, error, func, args, kwargs)


def _mutating(mode: Mode, func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    functional = mutation.functional_of(func)
    assert functional is not None
    route = route_of(functional)
    positional, named, outputs = mutation.split(func, args, kwargs)
    if route is _rounding_once and exact.agrees(functional, positional, named):
        return func(*args, **kwargs)
    if route is _planned and recipes.recipe_of(functional, positional, named) is None:
        return func(*args, **kwargs)
    made = route(mode, functional, positional, named)
    return mutation.write(func, outputs, made)


def _refused(mode: Mode, func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
    name = getattr(func, "_opname", None) or func.name()
    error = UnknownOpError(
        str(func),
        user_frame(),
        "has no rule, so nothing is known of its bits",
        rules.remedy_of(name),
        accept=ACCEPT,
    )
    return _reported(mode, error, func, args, kwargs)


def _reported(
    mode: Mode, error: VariantOpError, func: OpOverload, args: Args, kwargs: Kwargs
) -> Any:
    if mode.on_variant == "error":
        raise type(error)(error.op, user_frame(), error.reason, error.remedy, accept=ACCEPT)
    warnings.warn(
        f"bi_inductor goes on with a result that may follow its batch: {error.op}{user_frame()} {error.reason}",
        stacklevel=2,
    )
    return func(*args, **kwargs)


def _normalises_over_batch(func: OpOverload, args: Args, kwargs: Kwargs) -> VariantOpError | None:
    """Batch norm in training is the one op whose own definition, not its dims, adds up over the batch."""
    name = func._schema.name.split("::")[1]
    if "batch_norm" not in name or "backward" in name:
        return None
    given = mutation.bound(func, args, kwargs)
    if not given.get("training", given.get("train", "no_training" not in name)):
        return None
    return VariantOpError(
        str(func),
        user_frame(),
        "normalises over the batch",
        "call model.eval(), or use a norm over the features (GroupNorm, LayerNorm)",
        accept=ACCEPT,
    )
