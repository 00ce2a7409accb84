"""A launch is repeated without Triton's look at the arguments only where nothing that it looks at has changed."""

import types

import pytest
import torch

from lowerings.cuda import launching


class _Kernel:
    """In the place of a JIT function ``kernel(x_ptr, out_ptr, n, scale, BLOCK, FAST)``."""

    arg_names = ("x_ptr", "out_ptr", "n", "scale", "BLOCK", "FAST")

    def __init__(self) -> None:
        self.compilations = 0
        self.repeated: list[tuple[object, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> object:
        def compile_and_launch(*args: object, **constants: object) -> object:
            self.compilations += 1
            return _Compiled(self)

        return compile_and_launch


class _Compiled:
    def __init__(self, kernel: _Kernel) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, int, int]) -> object:
        return lambda *args, stream: self.kernel.repeated.append((grid, stream, *args))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> _Kernel:
    active = types.SimpleNamespace(
        get_current_device=lambda: -1, get_current_stream=lambda device: "stream"
    )
    monkeypatch.setattr(launching, "driver", types.SimpleNamespace(active=active))
    monkeypatch.setattr(launching, "JITFunction", _Kernel)
    monkeypatch.setattr(launching, "_repeats", launching.Memory(3))
    return _Kernel()


def test_the_second_launch_is_the_compiled_kernel_with_constants_in_their_order(
    kernel: _Kernel,
) -> None:
    x, out = torch.zeros(8), torch.zeros(8)
    for _ in range(3):
        launching.launch(kernel, (4,), (x, out), (8, 0.5), FAST=True, BLOCK=128, num_warps=4)
    assert kernel.compilations == 1
    (grid, stream, *args), second = kernel.repeated
    assert (grid, stream) == ((4, 1, 1), "stream")
    assert args[0] is x
    assert args[2:] == [8, 0.5, 128, True]
    assert len(second) == len(args) + 2


@pytest.mark.parametrize("changed", ["dtype", "address", "number", "constant", "option"])
def test_whatever_triton_looks_at_is_looked_at_again(kernel: _Kernel, changed: str) -> None:
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
    assert not kernel.repeated


def test_what_is_remembered_has_an_end(kernel: _Kernel) -> None:
    x = torch.zeros(8)
    for n in range(10):
        launching.launch(kernel, (1,), (x,), (n, 1.0), BLOCK=1, FAST=True)
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
