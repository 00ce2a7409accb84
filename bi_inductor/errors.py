"""Every error a user can meet: what was found, where, and what to do about it. Nothing falls back."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The place in the user's model that an op came from; empty strings where the graph does not say."""

    line: str = ""
    code: str = ""
    module: str = ""

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.code, self.line) if part)
        module = f" in {self.module}" if self.module else ""
        return f" ({place}{module})" if place or module else ""


class BatchInvariantError(RuntimeError):
    """Base of all errors of this package."""


class VariantOpError(BatchInvariantError):
    """An op whose bits follow the batch by definition: no kernel can help, the model has to change."""

    def __init__(
        self,
        op: str,
        where: Where,
        reason: str,
        remedy: str,
        *,
        accept: str = "options={'on_variant': 'warn'}",
    ) -> None:
        self.op, self.where, self.reason, self.remedy = op, where, reason, remedy
        super().__init__(f"{op}{where} {reason}; {remedy}, or accept it with {accept}")


class UnknownOpError(VariantOpError):
    """An op without a rule: nothing is known about its bits, so nothing is promised."""


class UnsupportedOpError(VariantOpError):
    """An op whose template has no lowering on the device of its graph."""


class PlanError(BatchInvariantError):
    """A plan that can see the batch: a bug of the planner, found before any code is made."""

    def __init__(self, op: str, where: Where, expression: str, symbols: str) -> None:
        super().__init__(
            f"the plan of {op}{where} depends on {expression}, which contains the batch symbol "
            f"{symbols}; this is a bug of bi_inductor, please report it with this message"
        )


class OptionError(BatchInvariantError, ValueError):
    """An option that is unknown, of the wrong type, or that contradicts batch invariance."""


class CompilerMissingError(BatchInvariantError):
    """No C++ compiler that can build the kernels of the CPU."""


class CacheFolderError(BatchInvariantError):
    """The folder for compiled code cannot be written, or has no room."""


class UnsupportedTorchError(BatchInvariantError):
    """A torch release outside the supported range, or without a hook that is needed."""


class UnsupportedDeviceError(BatchInvariantError):
    """A device without lowerings, or a graph that spans several devices."""


class NoPlanError(UnsupportedDeviceError):
    """A template or dtype that the plans of a device do not cover."""


class InspectionError(BatchInvariantError):
    """A model or an input that the inspection tools cannot work with: one sentence for the command line."""


class LoweringError(BatchInvariantError):
    """A kernel that refuses a call: a plan number or a dtype that it was not built for."""
