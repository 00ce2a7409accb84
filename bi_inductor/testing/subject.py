"""The model under test: its samples, its compiled forms, and one sample alone."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bi_inductor import _torch
from bi_inductor.eager import batch_invariant_mode

Model = Callable[..., Any]


def flat(out: object) -> list[Tensor]:
    """Return the tensors of a model's output, in order; anything else in it is not compared."""
    if isinstance(out, Tensor):
        return [out]
    if isinstance(out, Mapping):
        return [t for value in out.values() for t in flat(value)]
    if isinstance(out, (tuple, list)):
        return [t for value in out for t in flat(value)]
    return []


@dataclass(slots=True)
class Subject:
    """A model or function, a batch of samples for it, and the backend it is compiled with.

    ``samples``: tensors with the batch on dimension 0; ``names``: their keywords, or None for positions.
    ``inside_mode``: it is called inside ``batch_invariant_mode``, for what Dynamo leaves out of its graphs.
    ``alone_in_mode``: one sample alone is computed in that mode, uncompiled.
    """

    model: Model
    samples: tuple[Tensor, ...]
    names: tuple[str, ...] | None
    backend: str
    options: Mapping[str, Any] | None
    dynamic: bool | None
    batch_sizes: tuple[int, ...]
    generator: torch.Generator
    inside_mode: bool = False
    alone_in_mode: bool = False
    _fn: Model | None = None
    _alone: dict[int, list[Tensor]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many samples there are."""
        return len(self.samples[0])

    def take(self, rows: Sequence[int]) -> tuple[Tensor, ...]:
        """Return a batch of the given samples, as fresh contiguous tensors."""
        return tuple(x[list(rows)] for x in self.samples)

    def compiled(self) -> Model:
        """Return the compiled model, made at the first use."""
        if self._fn is None:
            self._fn = self._compile(self.dynamic)
        return self._fn

    def recompiled(self, dynamic: bool | None) -> Model:
        """Forget what Dynamo compiled in this process, and return the model compiled anew."""
        torch.compiler.reset()
        self._fn = self._compile(dynamic)
        return self._fn

    def _compile(self, dynamic: bool | None) -> Model:
        if self.backend == "eager":
            return self.model
        options = dict(self.options) if self.options else None
        fn: Model = torch.compile(
            self.model, backend=self.backend, options=options, dynamic=dynamic
        )
        return fn

    def call(self, inputs: Sequence[Tensor], model: Model | None = None) -> list[Tensor]:
        """Run the model on a batch; no gradients.

        Raises:
            BatchInvariantError: the backend refuses the model; out of Dynamo's wrapping.
        """
        fn = model or self.compiled()
        named = self.names or ()
        mode = batch_invariant_mode() if self.inside_mode else contextlib.nullcontext()
        with torch.no_grad(), _torch.unwrapped(), mode:
            out = fn(**dict(zip(named, inputs, strict=True))) if named else fn(*inputs)
        # a clone: CUDA graphs reuse the memory of their outputs
        made = [t.detach().clone() for t in flat(out)]
        if not made:
            raise ValueError("the model returned no tensor, so there is nothing to compare")
        return made

    def alone(self, row: int) -> list[Tensor]:
        """Return the outputs of one sample by itself."""
        if row not in self._alone:
            inputs = self.take([row])
            if self.alone_in_mode:
                with batch_invariant_mode():
                    self._alone[row] = self.call(inputs, self.model)
            else:
                self._alone[row] = self.call(inputs)
        return self._alone[row]
