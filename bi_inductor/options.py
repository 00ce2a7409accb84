"""The backend's options: validated, frozen, and part of every cache key."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from bi_inductor.errors import OptionError

OnVariant = Literal["error", "warn"]
Tiling = Literal["auto", "uniform"]
MpsTier = Literal["portable", "simdgroup"]
MpsFallback = Literal["none", "cpu_float64"]

#: Modes of torch.compile. Autotuning chooses among kernels by timing, so it is accepted for graphs only.
MODES = ("default", "reduce-overhead")

#: the Inductor setting that holds ``pipeline.PlanPass``
PLAN_PASS = "joint_custom_pre_pass"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user may set in ``torch.compile(..., backend="batch_invariant", options={...})``.

    on_variant: ``"error"`` refuses an op that mixes samples or cannot be proved; ``"warn"`` goes on and
        records it in the certificate.
    tiling: ``"auto"`` lets the schedule follow the shape; ``"uniform"`` computes every product with one tile
        and one way through its operands (CPU). The bits are the same.
    batch_dims: input name -> its batch dimension, or ``None`` for an input that is shared by the batch.
        Inputs not named follow the default: dimension 0.
    mps_tier: on Apple GPUs, ``"portable"`` has the same bits on every one of them; ``"simdgroup"`` multiplies
        by simdgroup_matrix, whose order is the GPU's.
    mps_fallback: ``"cpu_float64"`` computes sums, products and attention of mps tensors on the CPU in float64.
    inductor: further Inductor settings, none of which may contradict a pin.
    """

    on_variant: OnVariant = "error"
    tiling: Tiling = "auto"
    batch_dims: tuple[tuple[str, int | None], ...] = ()
    mps_tier: MpsTier = "portable"
    mps_fallback: MpsFallback = "none"
    cudagraphs: bool = False
    inductor: tuple[tuple[str, Any], ...] = field(default=())

    def __post_init__(self) -> None:
        _choose("on_variant", self.on_variant, get_args(OnVariant))
        _choose("tiling", self.tiling, get_args(Tiling))
        _choose("mps_tier", self.mps_tier, get_args(MpsTier))
        _choose("mps_fallback", self.mps_fallback, get_args(MpsFallback))
        if self.mps_tier != "portable" and self.mps_fallback != "none":
            raise OptionError(
                f"mps_tier={self.mps_tier!r} computes on the GPU and mps_fallback={self.mps_fallback!r} on the CPU; "
                "give one of them"
            )

    def target(self, device: str) -> str:
        """The device whose plans to use, with its tier: ``"cpu"``, ``"mps"``, ``"mps/simdgroup"``.

        Raises:
            OptionError: an option of another device.
        """
        tier = self.mps_fallback if self.mps_fallback != "none" else self.mps_tier
        if tier == "portable":
            return device
        if device != "mps":
            raise OptionError(f"mps_tier and mps_fallback are for mps; this graph is on {device}")
        return f"{device}/{tier}"


def make_options(
    mode: str | None, options: Mapping[str, Any] | None, pins: Mapping[str, Any]
) -> Options:
    """Check what ``torch.compile`` was given.

    Args:
        mode: the ``mode`` of ``torch.compile``.
        options: ours, and names of ``torch._inductor.config`` that are passed on.
        pins: the Inductor settings that batch invariance needs; none may be overridden.

    Raises:
        OptionError: an unknown name, a value out of range, or a setting that contradicts a pin.
    """
    from bi_inductor._torch import inductor_setting_names

    if mode not in (None, *MODES):
        raise OptionError(
            f"mode={mode!r} chooses kernels by timing them, so two runs may use different ones; "
            f"use one of {', '.join(map(repr, MODES))}"
        )
    own = {f.name for f in fields(Options)} - {"inductor", "cudagraphs"}
    given = dict(options or {})
    inductor = {k: given.pop(k) for k in list(given) if k not in own}
    known = inductor_setting_names() if inductor else frozenset()
    for name, value in inductor.items():
        if name not in known:
            raise OptionError(
                f"unknown option {name!r}; the backend's own options are {', '.join(sorted(own))}, "
                "anything else must be a setting of torch._inductor.config"
            )
        if name == PLAN_PASS and value is not None:
            raise OptionError(
                f"option {name} is where this backend plans and rewrites a graph; give yours as "
                "post_grad_custom_pre_pass, which runs behind it"
            )
        if name in pins and pins[name] != value:
            raise OptionError(
                f"option {name}={value!r} would let a result follow its batch; the backend needs {pins[name]!r}"
            )
    if "batch_dims" in given:
        given["batch_dims"] = _batch_dims(given["batch_dims"])
    return Options(
        **given, cudagraphs=mode == "reduce-overhead", inductor=tuple(sorted(inductor.items()))
    )


def _batch_dims(value: object) -> tuple[tuple[str, int | None], ...]:
    if not isinstance(value, Mapping):
        raise OptionError(
            f"batch_dims must map input names to a dimension or None, got {value!r}; "
            'for example {"input_ids": 0, "position_ids": None}'
        )
    for name, dim in value.items():
        if not isinstance(name, str) or not (dim is None or type(dim) is int):
            raise OptionError(
                f"batch_dims[{name!r}] must be a dimension number or None, got {dim!r}"
            )
    return tuple(sorted(value.items()))


def _choose(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise OptionError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
