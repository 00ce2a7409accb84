"""Everything of ``torch._inductor`` that code generation needs, with every numeric choice pinned.

The only file of this package that imports private torch. Inductor stays the compiler of pointwise ops and data
movement; this file takes from it each decision that could let bits follow a shape, a hint or the hardware.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch._inductor import config as _config
from torch._inductor import ir, lowering
from torch._inductor.choices import InductorChoices
from torch._inductor.codegen import common as _common
from torch._inductor.codegen.cpp import (
    CppKernel,
    CppKernelProxy,
    CppOverrides,
    CppScheduling,
    CppTile2DKernel,
    CppTile2DOverrides,
    CppVecKernel,
    CppVecOverrides,
)
from torch._inductor.codegen.cpp_utils import cexpr
from torch._inductor.codegen.mps import MetalScheduling
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.fx_passes import joint_graph
from torch._inductor.virtualized import V, ops

from bi_inductor.errors import LoweringError
from bi_inductor.ops import FUSED, SCHEMAS

try:  # 2.13 and later
    from torch._inductor.codegen import custom_extern_kernel_codegen as _custom_calls
    from torch._inductor.codegen.wrapper import ExternKernelAllocLine
except ImportError:
    _custom_calls = None  # type: ignore[assignment]

_WANTED_PINS: dict[str, Any] = {
    # reductions never reach Inductor on a device with templates of its own; these hold where they do
    "split_reductions": False,
    "unroll_reductions_threshold": 1,
    "online_softmax": False,
    "deterministic": True,
    "batch_invariant": True,
    # no choice by timing
    "max_autotune": False,
    "max_autotune_gemm": False,
    "max_autotune_pointwise": False,
    "coordinate_descent_tuning": False,
    "benchmark_fusion": False,
    "benchmark_epilogue_fusion": False,
    "benchmark_combo_kernel": False,
    # rewrites that look at shapes
    "shape_padding": False,
    "batch_fusion": False,
    "b2b_gemm_pass": False,
    "layout_optimization": False,
    "conv_1x1_as_mm": False,
    "combo_kernels": False,
    # a half value is rounded where the graph says, fused or not
    "emulate_precision_casts": True,
    "use_joint_graph_passes": True,
    "dynamic_scale_rblock": False,
    "triton.multi_kernel": 0,
    "triton.cooperative_reductions": False,
    "triton.mix_order_reduction": False,
    "triton.nested_reduction": False,
    "triton.autotune_pointwise": False,
    "triton.coalesce_tiling_analysis": False,
    "cpp.enable_floating_point_contract_flag": "off",
    "cpp.enable_unsafe_math_opt_flag": False,
    "cpp.enable_loop_tail_vec": True,
    "cpp.gemm_max_k_slices": 1,
}


def pins() -> dict[str, Any]:
    """The Inductor settings that batch invariance needs, without those this torch does not have."""
    known = _config.get_config_copy()
    return {name: value for name, value in _WANTED_PINS.items() if name in known}


#: device -> settings that change no bit and that a user may override
_SCHEDULES: dict[str, dict[str, Any]] = {
    # an emulated rounding is two more ops: at the default of 30 what stock fuses would be stored (a rotated key)
    "cuda": {"realize_opcount_threshold": 90},
}


def schedule_settings(device: str) -> dict[str, Any]:
    """The Inductor settings of a device that decide speed alone."""
    return dict(_SCHEDULES.get(device, {}))


_HALVES = (torch.bfloat16, torch.float16)


def _keep_roundings() -> None:
    """Before 2.13 a joint pass drops the rounding of a cast to a half type and back; now it heeds the pin."""
    if hasattr(joint_graph, "_is_lossless_fp_widening_cast"):
        return
    for entries in joint_graph.patterns.patterns.values():
        for entry in entries:
            if getattr(entry, "handler", None) is joint_graph.pointless_convert:
                entry.extra_check = lambda match: not _config.emulate_precision_casts


def _round_casts() -> None:
    """Before 2.13 a cast to a half type that is fused on a GPU keeps float32: bits would follow the fusion."""
    if "use_compute_types" in inspect.signature(lowering.to_dtype).parameters:
        return
    convert = torch.ops.prims.convert_element_type.default
    stock = lowering.lowerings[convert]

    def cast(x: Any, dtype: torch.dtype) -> Any:
        source = x.get_dtype()
        if dtype not in _HALVES or source == dtype or not source.is_floating_point:
            return stock(x, dtype)
        if not _config.emulate_precision_casts:
            return stock(x, dtype)

        def rounded(value: Any) -> Any:
            half = ops.to_dtype(value, dtype, src_dtype=source, use_compute_types=False)
            return ops.to_dtype(half, dtype)

        return lowering.make_pointwise(rounded, override_return_dtype=dtype)(x)

    lowering.lowerings[convert] = cast


_keep_roundings()
_round_casts()


class PinnedChoices(InductorChoices):
    """No decision about the order of a reduction looks at anything but its length.

    Its presence as ``V.choices`` also marks a compilation as ours, for the scheduling below.
    """

    @staticmethod
    def should_use_cooperative_reduction(*args: Any, **kwargs: Any) -> bool:
        """Never: the number of cooperating blocks follows the row count (2.11 and 2.13 differ in arguments)."""
        return False

    @staticmethod
    def reduction_split_factor(*args: Any, **kwargs: Any) -> int:
        """One piece: the number of pieces would follow the row count."""
        return 1

    def uuid(self) -> str:
        """Asked for by the cache key from 2.13 on; the custom pass carries the digest that matters."""
        return "bi_inductor"


#: device -> import of its kernels as plain functions with the arguments of the ops
_KERNELS = {
    "cpu": "from lowerings.cpu import build as bi_build\nbi_kernels = bi_build.python_calls()",
    "cuda": "from lowerings.cuda import register as bi_register\nbi_launchers = bi_register.python_calls()",
}


def _call_directly(op: str, node: Any, writeline: Callable[[Any], None]) -> None:
    """Write a call of one of our ops past ``torch.ops``: 12 us on an H100's host, most of a short row on a CPU."""
    wrapper = V.graph.wrapper_code
    device = node.get_device()
    lines = _KERNELS.get(device.type, "") if device is not None else ""
    if isinstance(V.choices, PinnedChoices) and lines:
        for line in lines.splitlines():
            wrapper.add_import_once(line)
        kernels = lines.splitlines()[-1].partition(" = ")[0]
        node.set_python_kernel_name(f"{kernels}.{op}")
    writeline(ExternKernelAllocLine(wrapper, node))


#: has a list of optional tensors
_NOT_DIRECT = frozenset({"index_put_add"})


def install_direct_calls() -> None:
    """Let generated code call our ops without ``torch.ops``, where this torch has a hook for it."""
    if _custom_calls is None:
        return
    for op in (SCHEMAS | FUSED).keys() - _NOT_DIRECT:
        _custom_calls.CUSTOM_EXTERN_KERNEL_CODEGEN.setdefault(
            f"torch.ops.bi_inductor.{op}.default",
            _custom_calls.CustomCodegen(python=functools.partial(_call_directly, op)),
        )


def compile_pinned(graph: Any, example_inputs: Any, **kwargs: Any) -> Any:
    """``compile_fx_inner`` with our choices, and an audit of the code that it wrote."""
    install_scheduling()
    install_direct_calls()
    with V.set_choices_handler(PinnedChoices()):
        compiled = compile_fx_inner(graph, example_inputs, **kwargs)
    source = getattr(compiled, "source_code", None)
    if source:
        audit(source)
    return compiled


# --- audit ------------------------------------------------------------------------------------------------------

#: ATen kernels that generated code may call: they move data, sort, or count, and read one sample at a time.
ALLOWED_EXTERN = frozenset(
    [
        "index",  # a table on a GPU by ids on the CPU
        "sort",
        "topk",
        "index_put_",
        "index_put",
        "nonzero",
        "masked_select",
        "masked_scatter",
        "bincount",
        "histc",
        "searchsorted",
        "bucketize",
        "unique_dim",
        "_unique2",
        "sym_size",
        "sym_stride",
        "sym_numel",
        "view",
        "slice",
        "select",
        "as_strided",
        "repeat_interleave",
        "randperm",
        "_local_scalar_dense",
        "set_",
        "resize_",
        "copy_",
        "fill_",
        "scatter",
        "scatter_",
        "scatter_reduce_",
        "index_fill",
        "roll",
        "flip",
        "max_pool2d_with_indices",
        "max_pool2d_with_indices_backward",
    ]
)
_EXTERN_CALL = re.compile(
    r"\bextern_kernels\.(\w+)\(|\btorch\.ops\.(?:aten|prims)\.(\w+)\.(\w+)\(|\baten\.(\w+)\("
)


def audit(source: str) -> None:
    """Raise if the generated wrapper calls a library kernel whose order of additions is not ours.

    Raises:
        LoweringError: names the kernel; the planner should have refused or replaced the op.
    """
    if "tl.atomic_" in source:
        raise LoweringError(
            "the generated code adds by atomics, in an order that changes from run to run. "
            "This is a fault of bi_inductor: please report it with the model"
        )
    for match in _EXTERN_CALL.finditer(source):
        name = match.group(1) or match.group(2) or match.group(4)
        if name not in ALLOWED_EXTERN:
            raise LoweringError(
                f"the generated code calls the library kernel {name!r}, whose result may follow the batch: Inductor "
                "has no code of its own for this op with these dtypes. Compute it from other ops (complex numbers as "
                "pairs of real ones), or keep it out of the graph with torch.compiler.disable; "
                'options={"on_variant": "warn"} does not relax it'
            )


# --- C++ --------------------------------------------------------------------------------------------------------

#: Lane by lane equal to one another and to no libm: the scalar form below calls the vector form.
_LANEWISE = (
    *(
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "tanh",
        "sigmoid",
        "erf",
        "erfc",
        "erfinv",
    ),
    *("atan", "asin", "acos", "sinh", "cosh", "asinh", "acosh", "atanh", "lgamma", "rsqrt"),
)
_LANEWISE_BINARY = ("pow", "atan2", "hypot")
#: Sleef reduces a whole vector by another algorithm when one lane is large, so a lane follows its neighbours.
_LANES_MIX = ("sin", "cos", "tan")


def _lane_of(x: Any, call: str) -> str:
    """C++ expression: ``call`` on a vector full of ``x``, first lane."""
    scalar = f"std::decay_t<decltype({x})>"
    return (
        f"[&]{{ using bi_vec = at::vec::Vectorized<{scalar}>; {call} "
        f"__at_align__ {scalar} bi_out[bi_vec::size()]; bi_res.store(bi_out); return bi_out[0]; }}()"
    )


def _code(expression: Any) -> str:
    # some methods return a buffer of lines
    return str(expression.getvalue()) if hasattr(expression, "getvalue") else str(expression)


def _scalar_unary(name: str) -> staticmethod:  # type: ignore[type-arg]
    vector = getattr(CppVecOverrides, name)

    def scalar(x: Any) -> str:
        return _lane_of(
            x, f"const bi_vec bi_x({x}); const bi_vec bi_res = {_code(vector('bi_x'))};"
        )

    scalar.__name__ = name
    return staticmethod(scalar)


def _scalar_binary(name: str) -> staticmethod:  # type: ignore[type-arg]
    vector, plain = getattr(CppVecOverrides, name), getattr(CppOverrides, name)

    def scalar(x: Any, y: Any) -> str:
        dtypes = {getattr(v, "dtype", None) for v in (x, y)}
        if len(dtypes) != 1 or next(iter(dtypes), None) not in (torch.float32, torch.float64):
            return str(plain(x, y))
        call = _code(vector("bi_x", "bi_y"))
        return _lane_of(x, f"const bi_vec bi_x({x}), bi_y({y}); const bi_vec bi_res = {call};")

    scalar.__name__ = name
    return staticmethod(scalar)


class _ScalarOverrides(CppOverrides):
    """Scalar code gives the bits of one vector lane: which of the two runs follows the shape."""


for _name in _LANEWISE:
    setattr(_ScalarOverrides, _name, _scalar_unary(_name))
for _name in _LANEWISE_BINARY:
    setattr(_ScalarOverrides, _name, _scalar_binary(_name))


def _per_lane(name: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    def vector(x: Any) -> Any:
        if not getattr(x, "is_vec", False):
            return otherwise(x)
        return (
            f"[&]{{ using bi_vec = std::decay_t<decltype({x})>; using bi_num = typename bi_vec::value_type; "
            f"__at_align__ bi_num bi_t[bi_vec::size()]; {x}.store(bi_t); "
            f"for (auto& bi_e : bi_t) bi_e = std::{name}(bi_e); return bi_vec::loadu(bi_t); }}()"
        )

    return vector


class _VecOverrides(CppVecOverrides, _ScalarOverrides):
    """Vector code in which no lane looks at another."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self: Any = super().__new__(cls, *args, **kwargs)  # type: ignore[no-untyped-call]
        for name in _LANES_MIX:
            # an instance attribute, since the base class puts its own wrappers there
            setattr(self, name, _per_lane(name, getattr(self, name)))
        return self


class _Tile2DOverrides(CppTile2DOverrides, _VecOverrides):
    """The same for kernels that are tiled in two loops."""


class _AsIn213(CppKernel):
    """What 2.13 mended in the kernels of 2.11 and 2.12."""

    def cache_dtype_convert(self, *args: Any) -> None:
        """Keep no unrounded value in place of a half one, fused or not (pytorch/pytorch#185337)."""

    def check_bounds(self, expr: Any, *args: Any) -> None:
        """Check an index after the line that computes it: 2.11 writes the check before it, undeclared."""
        loads = self.loads
        if self.cse.try_get(cexpr(self.rename_indexing(expr))) is not None:
            self.loads = self.compute
        try:
            super().check_bounds(expr, *args)
        finally:
            self.loads = loads


class _ScalarKernel(_AsIn213):
    overrides = _ScalarOverrides  # type: ignore[assignment]


class _VecKernel(_AsIn213, CppVecKernel):
    overrides = _VecOverrides  # type: ignore[assignment]


class _Tile2DKernel(_AsIn213, CppTile2DKernel):
    overrides = _Tile2DOverrides  # type: ignore[assignment]


class _KernelProxy(CppKernelProxy):
    kernel_cls = _ScalarKernel
    vec_kernel_cls = _VecKernel
    tile2d_kernel_cls = _Tile2DKernel


#: Exact in any order: Inductor may generate these itself.
_ORDER_FREE = frozenset({"max", "min", "any", "argmax", "argmin", "xor_sum"})


class CpuScheduling(CppScheduling):
    """Inductor's C++ scheduling for pointwise kernels; refuses a reduction whose order matters."""

    kernel_proxy_cls = _KernelProxy

    def codegen_node(self, node: Any) -> None:
        """Generate one fused kernel.

        Raises:
            LoweringError: the kernel holds a sum, product, scan or Welford reduction.
        """
        _refuse_reductions(node, _ORDER_FREE)
        super().codegen_node(node)


class MpsScheduling(MetalScheduling):
    """Inductor's Metal scheduling for pointwise kernels."""

    def codegen_node(self, node: Any) -> None:
        """Generate one fused kernel.

        Raises:
            LoweringError: the kernel reduces floats: even Metal's maximum may lose a NaN, by the thread that met it.
        """
        _refuse_reductions(node, frozenset({"any"}))
        super().codegen_node(node)


def _refuse_reductions(node: Any, order_free: frozenset[str]) -> None:
    for part in node.get_nodes():
        data = getattr(part.node, "data", None)
        kind = getattr(data, "reduction_type", None) or type(data).__name__
        exact = isinstance(data, ir.Sort) or (
            isinstance(data, ir.Reduction)
            and (kind in order_free or not data.dtype.is_floating_point)
        )
        if part.is_reduction() and not exact:
            raise LoweringError(
                f"Inductor would generate a {kind} reduction for {part.get_name()}, in an order that can "
                "follow the batch. This is a fault of bi_inductor: please report it with the model"
            )


def _checked(scheduling: Any) -> Any:
    """Stock scheduling, for the GPU, that refuses a reduction whose order matters."""
    generate = scheduling.codegen_node

    def codegen_node(node: Any) -> Any:
        _refuse_reductions(node, _ORDER_FREE)
        return generate(node)

    scheduling.codegen_node = codegen_node
    return scheduling


_SCHEDULING: dict[str, type | None] = {"cpu": CpuScheduling, "cuda": None, "mps": MpsScheduling}


def install_scheduling() -> None:
    """Let code generation ask whose compilation it serves; ordinary Inductor is untouched."""
    _common.init_backend_registration()
    for name, ours in _SCHEDULING.items():
        device = _common.device_codegens.get(name)
        if device is not None and not getattr(device.scheduling, "_bi_inductor", False):
            chosen = _chooser(ours, device.scheduling)
            _common.device_codegens[name] = dataclasses.replace(device, scheduling=chosen)


def _chooser(ours: type | None, stock: Any) -> Any:
    """A class, because Inductor asks a device's scheduling what it is a subclass of."""

    def choose(cls: type, scheduler: Any) -> Any:
        if not isinstance(V.choices, PinnedChoices):
            return stock(scheduler)
        return _checked(stock(scheduler)) if ours is None else ours(scheduler)

    # 2.11 to 2.14 register a function for some devices
    base = stock if isinstance(stock, type) else object
    return type("Scheduling", (base,), {"__new__": choose, "_bi_inductor": True})
