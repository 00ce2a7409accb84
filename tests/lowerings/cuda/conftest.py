"""Helpers of these tests lie beside them and are imported by name; Triton's interpreter multiplies in one order."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _products_of_any_shape_agree(monkeypatch):
    """The interpreter leaves a block's product to numpy's BLAS, whose order of additions follows the shape on some CPUs.

    In float64 every order rounds to the same float32, so what is left to differ is the kernel's own order of blocks.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    from triton.runtime import interpreter

    def dot(self, a, b, acc, *_):
        product = np.matmul(a.data.astype(np.float64), b.data.astype(np.float64))
        return interpreter.TensorHandle(product.astype(acc.data.dtype) + acc.data, acc.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
