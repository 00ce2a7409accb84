"""Machine code of the products of few rows for an H100, without one, and of what may overlap the launch in front."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import triton
from machine_code import H100, machine_code
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from lowerings.cuda import (
    attention_decode_kernels,
    attention_hopper_kernels,
    attention_kernels,
    matmul_float32_kernels,
    matmul_kernels,
    norm_kernels,
    order_kernels,
    row_kernels,
    schedules,
    softmax_kernels,
    softmax_shared_kernels,
    stream_kernels,
)

_TILES = tuple(dict.fromkeys(tile for _, *tiles in schedules.STREAMED for tile in tiles))
_MODULES = (
    attention_decode_kernels,
    attention_hopper_kernels,
    attention_kernels,
    matmul_float32_kernels,
    matmul_kernels,
    norm_kernels,
    order_kernels,
    row_kernels,
    softmax_kernels,
    softmax_shared_kernels,
    stream_kernels,
)


def _compile(
    kernel: JITFunction, tile: schedules.Gemm, *, even: bool
) -> triton.compiler.CompiledKernel:
    names = kernel.arg_names
    constants = {
        "BM": tile.m,
        "BN": tile.n,
        "BK": tile.k,
        "EVEN": even,
        "WIDEN": False,
        "OVERLAP": True,
    }
    constants |= {name: False for name in ("HAS_BIAS", "SCALED") if name in names}
    pointers = [n for n in names if n.endswith("_ptr") or re.fullmatch(r"(w|out)\d", n)]
    types = dict.fromkeys(names, "i32") | dict.fromkeys(pointers, "*bf16")
    types |= dict.fromkeys({"alpha", "beta"} & set(names), "fp32") | dict.fromkeys(
        constants, "constexpr"
    )
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(names)
        if types[name][0] in "*i" and name != "M"
    }
    source = ASTSource(
        fn=kernel,
        signature=types,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs=aligned,
    )
    options = {"num_warps": tile.warps, "num_stages": tile.stages, "launch_pdl": True}
    return triton.compile(source, target=H100, options=options)


@pytest.mark.parametrize("kernel", ["product_stream", "products_stream"])
@pytest.mark.parametrize("tile", _TILES, ids=lambda tile: tile.text())
def test_16_bytes_a_copy_and_nothing_before_the_wait(
    tile: schedules.Gemm, kernel: str, tmp_path: Path
) -> None:
    compiled = _compile(getattr(stream_kernels, kernel), tile, even=tile.stages != 5)
    ptx = compiled.asm["ptx"]
    copies = re.findall(r"cp\.async\.c[ag]\S* .*", ptx)
    # one step of both operands in each of the buffers but one, and the loop's own
    assert len(copies) >= tile.stages * (tile.m + tile.n) * tile.k // (32 * tile.warps * 8)
    assert all(", 0x10" in copy for copy in copies)
    assert "ld.global" not in ptx
    before, _, after = ptx.partition("griddepcontrol.wait")
    assert after.index("griddepcontrol.launch_dependents") < after.index("cp.async")
    assert not re.search(r"(ld|st)\.global|cp\.async|prefetch", before)
    wide = tile.n >= 64
    assert (
        f"wgmma.mma_async.sync.aligned.m64n{tile.m}k16" if wide else "mma.sync.aligned.m16n8k16"
    ) in ptx
    assert compiled.metadata.shared <= tile.shared_bytes(2)
    assert machine_code(ptx, tmp_path).spilled == 0


def _kernels() -> Iterator[tuple[str, JITFunction]]:
    for module in _MODULES:
        for name, kernel in vars(module).items():
            if isinstance(kernel, JITFunction) and kernel.fn.__module__ == module.__name__:
                yield name, kernel


def test_what_may_overlap_waits_first() -> None:
    found = []
    for name, kernel in _kernels():
        if "OVERLAP" not in kernel.arg_names:
            continue
        (function,) = ast.parse(inspect.getsource(kernel.fn)).body
        _docstring, first, *_ = function.body  # type: ignore[attr-defined]
        assert ast.unparse(first) == "follow(OVERLAP)", name
        found.append(name)
    assert {"product_stream", "products_stream", "norm_rows", "add_rms_rows"} <= set(found)
    assert {"norm_held", "add_rms_held", "softmax_long", "decode", "merge"} <= set(found)
