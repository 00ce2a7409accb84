"""The emulator refuses what the hardware or its compiler refuses, and says why."""

import gc

import nki_emulator as nki
import numpy as np
import pytest
import torch

VECTOR, TENSOR = nki.engine.vector, nki.engine.tensor


def tile(parts, columns, dtype="float32", buffer="sbuf"):
    return nki.ndarray((parts, columns), dtype=dtype, buffer=buffer)


def copy(dst, src, engine=VECTOR):
    nki.tensor_copy(dst=dst, src=src, engine=engine)


def matmul(dst, stationary, moving, accumulate=False):
    nki.nc_matmul(dst=dst, stationary=stationary, moving=moving, accumulate=accumulate)


REFUSED = {
    "more than 128 partitions": (lambda: tile(129, 1), "129"),
    "a PSUM tile over its bank": (lambda: tile(128, 513, buffer="psum"), "exceeds a bank"),
    "more than eight banks": (lambda: [tile(128, 512, buffer="psum") for _ in range(9)], "9 banks"),
    "more SBUF than there is": (lambda: tile(128, 50_000), "gen2 has 196608"),
    "float64": (lambda: tile(1, 1, "float64"), "outside the subset"),
    "an engine left open": (lambda: copy(tile(1, 1), tile(1, 1), None), "name the engine"),
    "accumulate left open": (
        lambda: matmul(tile(8, 8, buffer="psum"), tile(4, 8), tile(4, 8), None),
        "must be a bool",
    ),
    "a matmul into SBUF": (lambda: matmul(tile(8, 8), tile(4, 8), tile(4, 8)), "PSUM"),
    "a matmul of 513 columns": (
        lambda: matmul(tile(8, 8, buffer="psum"), tile(4, 8), tile(4, 513)),
        "at most 512",
    ),
    "float32 with bfloat16": (
        lambda: matmul(tile(8, 8, buffer="psum"), tile(4, 8), tile(4, 8, "bfloat16")),
        "pairs with float32",
    ),
    "DMA to PSUM": (
        lambda: nki.dma_copy(dst=tile(1, 1, buffer="psum"), src=tile(1, 1)),
        "cannot touch PSUM",
    ),
    "a DMA that casts": (
        lambda: nki.dma_copy(dst=tile(1, 1, "bfloat16"), src=tile(1, 1)),
        "casts",
    ),
    "an engine on HBM": (lambda: copy(tile(1, 1), tile(1, 1, buffer="hbm")), "HBM"),
    "a slice past the end": (lambda: tile(4, 4)[0:5, 0:4], "does not fit"),
    "an integer on the partition dim": (lambda: tile(4, 4)[0, 0:4], "partition dim"),
    "a transpose into another dtype": (
        lambda: nki.nc_transpose(
            dst=tile(4, 4, "float32", "psum"), data=tile(4, 4, "bfloat16"), engine=TENSOR
        ),
        "dtypes differ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses(name):
    call, text = REFUSED[name]
    with pytest.raises(nki.NkiError, match=text):
        call()
    gc.collect()  # the traceback keeps tiles alive
    assert nki.MACHINE.sbuf_bytes == nki.MACHINE.psum_banks == 0


def test_names_and_arguments_outside_the_subset_do_not_exist():
    with nki.emulated_nki():
        import nki.isa as nisa

        assert not hasattr(nisa, "select_reduce")
        with pytest.raises(TypeError, match="perf_mode"):
            nisa.nc_matmul(dst=None, stationary=None, moving=None, accumulate=True, perf_mode="x")


def test_memory_that_was_not_written_is_nan():
    assert np.isnan(tile(2, 3).data).all()


def test_bfloat16_rounds_as_torch_does():
    values = torch.randn(10_000) * torch.logspace(-30, 30, 10_000)
    values[:4] = torch.tensor([float("inf"), float("-inf"), float("nan"), 3.4e38])
    ours = torch.from_numpy(nki.to_dtype(values.numpy(), "bfloat16"))
    assert torch.equal(ours.nan_to_num(7.0), values.bfloat16().float().nan_to_num(7.0))


def test_the_orders_differ_and_the_adversarial_one_follows_the_shape():
    a, b = (torch.randn(128, n, generator=torch.Generator().manual_seed(n)) for n in (128, 512))
    found = {}
    for order in nki.ORDERS:
        with nki.machine(order=order):
            found[order] = nki._product(a.numpy(), b.numpy())
            short = nki._product(a[:, :64].numpy(), b.numpy())
        if order == "adversarial":
            assert not np.array_equal(short, found[order][:64])
        elif order == "sequential":
            assert np.array_equal(short, found[order][:64])
    bits = {value.tobytes() for value in found.values()}
    assert len(bits) == len(nki.ORDERS)
