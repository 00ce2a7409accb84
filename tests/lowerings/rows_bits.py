"""Prints one hash per row op and dtype, by the instruction set on the command line or the product's library."""

import hashlib
import math
import sys

import torch
from rows_data import FLOATS, normals
from rows_library import load

load(*sys.argv[1:])
OPS = torch.ops.bi_inductor


def samples(dtype):
    """Rows of all magnitudes of the type, denormals, zeros and infinities included."""
    torch.manual_seed(0)
    x = normals(6, 333, dtype=dtype) * 4
    wide = (normals(6, 333) * 30).exp().to(dtype) * normals(6, 333).sign().to(dtype)
    special = x.clone()
    tiny = torch.finfo(dtype).tiny
    special[0, :6] = torch.tensor([0.0, -0.0, tiny, -tiny / 3, tiny / 2, 1.0], dtype=dtype)
    special[1, 100], special[2, 200], special[3] = math.inf, math.nan, -math.inf
    return x, wide, special


def results(x):
    n, rows = x.shape[-1], x.shape[0]
    for kind in ("sum", "mean", "prod", "amax", "sum_squares", "norm", "argmin", "any"):
        for dims in ([0], [1], [0, 1]):
            yield kind, OPS.reduction(x, kind, dims, param=2.0, lanes=64)
    yield from zip(("var", "mean"), OPS.var_mean(x, [0], 1.0, lanes=64), strict=True)
    for log in (False, True):
        for dim in (0, 1):
            yield f"softmax {log}", OPS.softmax(x, dim, log, lanes=64)
    for name, outputs in (
        ("layer_norm", OPS.layer_norm(x, [n], x[0], x[4], 1e-5, lanes=64)),
        ("rms_norm", OPS.rms_norm(x, [n], x[0], 1e-5, lanes=64)),
        ("topk", OPS.topk(x, 7, 1, True, True)),
    ):
        yield from ((name, t) for t in outputs)
    for kind in ("cumsum", "cumprod", "logcumsumexp"):
        for dim in (0, 1):
            yield kind, OPS.scan(x, kind, dim)
    index = torch.arange(rows) % 2
    yield "index_add", OPS.index_add(x, 0, index, x, alpha=0.3)
    yield "scatter_add", OPS.scatter_add(x, 0, index[:, None].expand_as(x).contiguous(), x)
    offsets = torch.tensor([0, 1, 4])
    yield "bag", OPS.embedding_bag(x, torch.arange(rows), offsets, None, "mean", False, -1)
    yield "pool", OPS.avg_pool(x, [5], [2], [2], True, False, None)


for dtype in FLOATS:
    hashes: dict[str, "hashlib._Hash"] = {}
    for x in samples(dtype):
        for name, y in results(x):
            if y.is_floating_point():
                y = y.masked_fill(y.isnan(), math.nan)  # one payload
            data = y.flatten().contiguous().view(torch.uint8).numpy().tobytes()
            hashes.setdefault(name, hashlib.sha256()).update(data)
    for name, digest in hashes.items():
        print(dtype, name, digest.hexdigest()[:16])
