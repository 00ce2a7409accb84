"""A launch is repeated without Triton's look at the arguments only where nothing that it looks at has changed."""

import types
from typing import Any

import pytest
import torch
from torch._C._dynamo.guards import _empty_strided_cpu

from lowerings import _driver
from lowerings.cuda import attention, launching, matmul, matmul_float32, norm, shared, stream


class _Kernel:
    """In the place of a JIT function: notes what is compiled and what Triton's own runner is given."""

    def __init__(self, *names: str, **metadata: object) -> None:
        self.arg_names = names or ("x_ptr", "out_ptr", "n", "scale", "BLOCK", "FAST")
        self.metadata = {
            "num_ctas": 1,
            "num_warps": 4,
            "shared": 99,
            "global_scratch_size": 0,
        } | metadata
        self.compilations = 0
        self.through_triton: list[tuple[object, ...]] = []
        self.heard: list[tuple[object, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> object:
        def compile_and_launch(*args: object, **constants: object) -> object:
            self.compilations += 1
            return _Compiled(self, args)

        return compile_and_launch


class _Compiled:
    function, packed_metadata = 7, "packed"

    def __init__(self, kernel: _Kernel, args: tuple[object, ...]) -> None:
        self.kernel, self.metadata = kernel, types.SimpleNamespace(**kernel.metadata)
        kinds = [_signature(x) for x in args]
        kinds += ["constexpr"] * (len(kernel.arg_names) - len(kinds))
        self.src = types.SimpleNamespace(signature=dict(zip(kernel.arg_names, kinds, strict=True)))

    def __getitem__(self, grid: tuple[int, int, int]) -> object:
        def run(*args: object, stream: object) -> None:
            self.kernel.heard.append((grid, stream, *args))

        return run

    def run(self, x: int, y: int, z: int, stream: object, *rest: object) -> None:
        assert rest[:5] == (7, "packed", None, None, None)
        self.kernel.through_triton.append(((x, y, z), stream, *rest[5:]))


def _signature(x: object) -> str:
    if isinstance(x, torch.Tensor):
        return "*fp32"
    if hasattr(x, "base"):
        return "tensordesc<fp32[16, 16]>"
    # Triton makes a constant of a 1
    return "constexpr" if x == 1 else "fp32" if isinstance(x, float) else "i32"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What torch's launcher is given; a device -1 on which the CPU's tensors lie."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(_driver, "launch_kernel", lambda *args: calls.append(args))
    monkeypatch.setattr(_driver, "empty_strided", _empty_strided_cpu)
    monkeypatch.setattr(launching, "_current_device", lambda: -1)
    monkeypatch.setattr(launching, "_current_stream", lambda device: 5)
    monkeypatch.setattr(launching, "JITFunction", _Kernel)
    monkeypatch.setattr(launching, "_repeats", launching.Memory(3))
    return calls


@pytest.fixture
def kernel(launched: object) -> _Kernel:
    return _Kernel()


def test_the_second_launch_goes_to_the_driver_with_addresses_and_numbers(
    kernel: _Kernel, launched: list[tuple[Any, ...]]
) -> None:
    x, out = torch.zeros(8), torch.zeros(8)
    for _ in range(3):
        launching.launch(kernel, (4,), (x, out), (8, 0.5), FAST=True, BLOCK=128, num_warps=4)
    assert kernel.compilations == 1
    assert not kernel.through_triton
    # function, grid, warps, shared memory, types, arguments with a place for scratch memory, stream
    expected = (7, 4, 1, 1, 4, 99, "OOifO", (x.data_ptr(), out.data_ptr(), 8, 0.5, None), 5)
    assert launched == [expected] * 2


def test_a_number_that_triton_made_a_constant_is_left_out(
    kernel: _Kernel, launched: list[tuple[Any, ...]]
) -> None:
    x = torch.zeros(8)
    for _ in range(2):
        launching.launch(kernel, (4,), (x, x), (1, 0.5), BLOCK=128, FAST=True)
    assert launched[0][6:8] == ("OOfO", (x.data_ptr(), x.data_ptr(), 0.5, None))


@pytest.mark.parametrize(
    "why", ["num_ctas", "launch_pdl", "global_scratch_size", "descriptor", "grid", "hook", "torch"]
)
def test_what_only_triton_can_launch_it_launches(
    why: str, launched: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = _Kernel(
        **({why: 2} if why in ("num_ctas", "launch_pdl", "global_scratch_size") else {})
    )
    x = torch.zeros(8)
    first: Any = x
    if why == "descriptor":
        first = types.SimpleNamespace(base=x, block_shape=[1], shape=[8], strides=[1])
    if why == "torch":
        monkeypatch.setattr(_driver, "launch_kernel", None)
    grid = (1 << 16, 1 << 15) if why == "grid" else (4,)
    for i in range(2):
        if why == "hook" and i:
            chain = types.SimpleNamespace(calls=[print])
            monkeypatch.setattr(launching.knobs.runtime, "launch_enter_hook", chain)
        launching.launch(kernel, grid, (first, x), (8, 0.5), BLOCK=128, FAST=True)
    assert not launched
    ((found, stream, *args),) = kernel.heard if why == "hook" else kernel.through_triton
    assert (found, stream, args[2:]) == ((*grid, 1, 1)[:3], 5, [8, 0.5, 128, True]) or why == "grid"


@pytest.mark.parametrize("changed", ["dtype", "address", "number", "constant", "option"])
def test_whatever_triton_looks_at_is_looked_at_again(
    kernel: _Kernel, launched: list[tuple[Any, ...]], changed: str
) -> None:
    x, out = torch.zeros(8), torch.zeros(8)
    launching.launch(kernel, (4,), (x, out), (8, 0.5), BLOCK=128, FAST=True, num_warps=4)
    launching.launch(
        kernel,
        (4,),
        (x.half() if changed == "dtype" else x[1:] if changed == "address" else x, out),
        (16 if changed == "number" else 8, 0.5),
        BLOCK=64 if changed == "constant" else 128,
        FAST=True,
        num_warps=8 if changed == "option" else 4,
    )
    assert kernel.compilations == 2
    assert not launched


def test_what_is_remembered_has_an_end(kernel: _Kernel) -> None:
    x = torch.zeros(8)
    for n in range(10):
        launching.launch(kernel, (1,), (x, x), (n, 1.0), BLOCK=1, FAST=True)
    assert 0 < len(launching._repeats) <= 3


def test_launches_overlap_from_hopper_on(monkeypatch: pytest.MonkeyPatch) -> None:
    launching._overlaps.cache_clear()
    for index, capability in enumerate([(8, 0), (8, 9), (9, 0), (10, 0)]):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        new = capability >= (9, 0)
        wanted = {"OVERLAP": True, "launch_pdl": True} if new else {"OVERLAP": False}
        assert launching.overlap(index) == wanted
    # the interpreter's CPU
    assert launching.overlap(-1) == {"OVERLAP": False}
    launching._overlaps.cache_clear()


def _mm(rows: int) -> tuple[Any, ...]:
    a, b = torch.randn(rows, 64), torch.randn(96, 64)
    return matmul.mm, (a, b.t()), {"split_size": 1024}


def _shared(*columns: int) -> tuple[Any, ...]:
    a, *weights = (torch.randn(n, 64).bfloat16() for n in (8, *columns))
    return shared.shared_mm, (a, *weights), {"split_size": 1024}


def _norm(rows: int, *, residual: bool) -> tuple[Any, ...]:
    x, weight = torch.randn(rows, 1, 64), torch.randn(64)
    other = torch.randn(rows, 1, 64) if residual else None
    return (
        norm.add_rms_norm,
        (x, other, weight, 1e-6),
        {"fma": False, "rounded": True, "lanes": 4096},
    )


def _attention(rows: int, keys: int, *, masked: bool) -> tuple[Any, ...]:
    q, k = torch.randn(rows, 4, 1, 32), torch.randn(rows, 2, keys, 32)
    mask = torch.ones(rows, 1, 1, keys, dtype=torch.bool) if masked else None
    return attention.attention, (q, k, k.clone(), mask), {"split_size": 512}


CALLS = {
    "product": lambda: _mm(8),
    "two products": lambda: _shared(96, 96),
    "three products": lambda: _shared(96, 32, 32),
    "norm": lambda: _norm(8, residual=False),
    "norm and sum": lambda: _norm(8, residual=True),
    "decode": lambda: _attention(8, 70, masked=False),
    "decode of many pieces": lambda: _attention(1, 3000, masked=False),
    "masked decode": lambda: _attention(8, 70, masked=True),
}


KERNELS = (
    *("product", "product_float32", "product_stream", "products_stream"),
    *("add_rms_held", "add_rms_rows", "attend", "combine", "kept_range"),
)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_call_on_other_tensors_repeats_its_launches(
    name: str, launched: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launches of the second call have the first one's numbers, and addresses of its own operands and results."""
    monkeypatch.setattr(launching, "_repeats", launching.Memory())
    monkeypatch.setattr(attention, "_scripts", launching.Memory())
    for module in (matmul, shared, norm):
        monkeypatch.setattr(module, "_repeats", launching.Memory())
    monkeypatch.setattr(matmul, "_device", lambda index: (132, False, 227 << 10))
    monkeypatch.setattr(attention.schedules, "multiprocessors", lambda device: 132)
    made: dict[str, _Kernel] = {}
    modules = (matmul.kernels, matmul_float32, stream.kernels, norm.kernels, attention.kernels)
    for module in modules:
        for each in KERNELS:
            if hasattr(module, each):
                made[each] = _Kernel(*getattr(module, each).arg_names)
                monkeypatch.setattr(module, each, made[each])
    compiled, kinds = list[int](), list[object]()
    for _ in range(3):
        function, args, kwargs = CALLS[name]()
        made_now = function(*args, **kwargs)
        results = made_now if isinstance(made_now, tuple) else (made_now,)
        compiled.append(sum(kernel.compilations for kernel in made.values()))
        kinds.append([(x.shape, x.stride(), x.dtype) for x in results])
    assert compiled[0] == compiled[2] > 0
    assert made["products_stream"].compilations == ("products" in name)
    assert kinds[0] == kinds[1]
    assert len(launched) == 2 * compiled[0]
    once, twice = launched[: compiled[0]], launched[compiled[0] :]
    assert [call[:7] for call in once] == [call[:7] for call in twice]
    seen = {value for call in twice for value in call[7]}
    assert {x.data_ptr() for x in args if isinstance(x, torch.Tensor)} <= seen
    assert {x.data_ptr() for x in results if x.numel()} <= seen
