"""The shim itself: number formats against torch, and the mistakes that it has to notice."""

from pathlib import Path

import pytest
import torch
from msl_cpu import compile_shader, model
from properties import data, same

from lowerings.mps import library

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
CONVERT = (
    HEAD
    + """
kernel void to_half(device const float* x [[buffer(0)]], device half* o [[buffer(1)]], uint t [[thread_position_in_grid]]) {
  o[t] = half(x[t]);
}
kernel void to_bfloat(device const float* x [[buffer(0)]], device bfloat* o [[buffer(1)]], uint t [[thread_position_in_grid]]) {
  o[t] = bfloat(x[t]);
}
kernel void from_half(device const half* x [[buffer(0)]], device float* o [[buffer(1)]], uint t [[thread_position_in_grid]]) {
  o[t] = float(x[t]);
}
"""
)


@pytest.fixture(scope="module")
def broken():
    return compile_shader(HEAD + Path(__file__).with_name("broken.metal").read_text())


def launch(kernel, x, out):
    kernel(x, out, threads=[64], group_size=[64])
    return out


def test_half_and_bfloat_convert_as_torch_does():
    lib = compile_shader(CONVERT)
    bits = torch.arange(2**16, dtype=torch.int32)
    halves = bits.to(torch.int16).view(torch.half)
    wide = torch.empty(2**16)
    lib.from_half(halves, wide, threads=[2**16], group_size=[64])
    assert torch.equal(wide.nan_to_num(7), halves.float().nan_to_num(7))
    x = torch.cat([data(2**15), (bits << 16).view(torch.float32)[: 2**15], wide])
    for kernel, dtype in ((lib.to_half, torch.half), (lib.to_bfloat, torch.bfloat16)):
        out = torch.empty(len(x), dtype=dtype)
        with model(flush=False):
            kernel(x, out, threads=[len(x)], group_size=[64])
        assert torch.equal(out.float().nan_to_num(7), x.to(dtype).float().nan_to_num(7))


def test_a_missing_barrier_shows_between_thread_orders(broken):
    seen = []
    for order in ("forward", "reverse", "random"):
        with model(order=order):
            seen.append(launch(broken.no_barrier, data(64), torch.zeros(64)))
    assert not same(seen[0], seen[1])


def test_memory_that_was_never_written_is_nan(broken):
    assert launch(broken.never_written, data(64), torch.zeros(64)).isnan().any()


def test_a_shuffle_from_an_inactive_lane_is_nan(broken):
    assert launch(broken.inactive_lane, data(64), torch.zeros(64)).isnan().any()


@pytest.mark.parametrize(
    ("name", "message"),
    [("divergent", "40 of 64 threads"), ("too_much_memory", "36000 bytes needed, 32768 allowed")],
)
def test_errors_of_the_machine(broken, name, message):
    with pytest.raises(RuntimeError, match=message):
        launch(getattr(broken, name), data(64), torch.zeros(64))


def test_a_read_past_the_end_is_caught(broken):
    with model(guard=True), pytest.raises(RuntimeError, match="out of bounds: thread 63"):
        launch(broken.past_the_end, data(64), torch.zeros(64))


def test_simd_sum_has_no_order_to_rely_on(broken):
    seen = []
    for order in range(4):
        with model(sum_order=order):
            seen.append(launch(broken.open_order, data(64), torch.zeros(64)))
    assert not all(same(s, seen[0]) for s in seen)


def test_argument_rules_of_compile_shader(broken):
    with pytest.raises(TypeError, match=r"torch.float64"):
        launch(broken.no_barrier, data(64).double(), torch.zeros(64))
    with pytest.raises(TypeError, match="8-byte numbers for a 4-byte type"):
        launch(broken.no_barrier, [1, 2], torch.zeros(64))
    with pytest.raises(SyntaxError, match="error"):
        compile_shader("kernel void f(device float* x [[buffer(0)]]) { x[0] = nothing; }")


def test_a_compile_error_names_the_kernel(monkeypatch):
    def refuse(text):
        raise SyntaxError("program_source:1: no")

    monkeypatch.setattr(library, "compile_text", refuse)
    with pytest.raises(RuntimeError, match=r"refused scan with .*'T': 'float'"):
        library.load("scan", T="float")
