"""Bits of the portable tier as hashes. No torch arithmetic and no library RNG is in the inputs or outputs.

``python tests/lowerings/mps/golden.py`` rewrites ``golden.json`` after a change of ``PLAN_VERSION``.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch

from lowerings.mps import (
    attention,
    convolution,
    library,
    matmul,
    norm,
    order,
    plans,
    reduction,
    scan,
    scatter,
    softmax,
)

FILE = Path(__file__).with_name("golden.json")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SPLIT, LANES, KEYS = plans.MATMUL_SPLIT, plans.ROW_LANES, plans.ATTENTION_SPLIT


def numbers(shape: tuple[int, ...], seed: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    """Exact in every dtype: 7 bits of mantissa, exponents -6..1, from an integer hash of the index."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.int64) + seed * 1_000_003
    h = (i * 2_654_435_761 + 40_503) % 4_294_967_291
    h = (h ^ (h >> 13)) * 1_274_126_177 % 4_294_967_291
    mantissa, exponent = 64 + h % 64, (h >> 8) % 8 - 6
    value = mantissa.double() / 64 * torch.exp2(exponent.double())
    return torch.where((h >> 16) % 2 == 0, value, -value).to(dtype).reshape(shape).to(device)


def _matmul(rows: int, layout: str) -> Callable[..., torch.Tensor]:
    def run(x: Callable[..., torch.Tensor]) -> torch.Tensor:
        b = x(300, 70, seed=2)
        b = b.t().contiguous().t() if layout == "nt" else b
        return matmul.mm(x(rows, 300, seed=1), b, x(70, seed=3), split_size=SPLIT)

    return run


def _attention(queries: int, masked: bool) -> Callable[..., torch.Tensor]:
    def run(x: Callable[..., torch.Tensor]) -> torch.Tensor:
        q, k = x(2, 4, queries, 32, seed=1), x(2, 2, 300, 32, seed=2)
        v, mask = x(2, 2, 300, 32, seed=3), None
        if masked:
            mask = (torch.arange(300) % 7 > 1).expand(2, 1, queries, 300).contiguous().to(q.device)
        return attention.attention(q, k, v, mask, split_size=KEYS)[0]

    return run


def _rows(op: Callable[..., object], length: int) -> Callable[..., torch.Tensor]:
    def run(x: Callable[..., torch.Tensor]) -> torch.Tensor:
        out = op(x(5, length, seed=1))
        return out if isinstance(out, torch.Tensor) else out[0]

    return run


ROW_OPS = {
    "sum": lambda x: reduction.reduction(x, "sum", [1], lanes=LANES),
    "mean": lambda x: reduction.reduction(x, "mean", [1], lanes=LANES),
    "norm": lambda x: reduction.reduction(x, "norm", [1], param=2.0, lanes=LANES),
    "argmax": lambda x: reduction.reduction(x, "argmax", [1], lanes=LANES),
    "var": lambda x: reduction.var_mean(x, [1], 1, lanes=LANES),
    "softmax": lambda x: softmax.softmax(x, 1, False, lanes=LANES),
    "log_softmax": lambda x: softmax.softmax(x, 1, True, lanes=LANES),
    "layer_norm": lambda x: norm.layer_norm(x, [x.shape[1]], None, None, 1e-5, lanes=LANES),
    "rms_norm": lambda x: norm.rms_norm(x, [x.shape[1]], None, 1e-5, lanes=LANES),
    "cumsum": lambda x: scan.scan(x, "cumsum", 1),
    "logcumsumexp": lambda x: scan.scan(x, "logcumsumexp", 1),
}


def _conv(x: Callable[..., torch.Tensor]) -> torch.Tensor:
    args = ([2, 1], [1, 1], [1, 1], False, [0, 0], 1)
    image, weight = x(3, 5, 12, 9, seed=1), x(6, 5, 3, 3, seed=2)
    return convolution.convolution(image, weight, None, *args, split_size=SPLIT)


def _index(count: int, below: int, device: str) -> torch.Tensor:
    return (torch.arange(count) * 7919 % 104729 % below).to(device)


def _scattered(x: Callable[..., torch.Tensor]) -> torch.Tensor:
    src = x(90, 20, seed=2)
    return scatter.index_add(x(11, 20, seed=1), 0, _index(90, 11, src.device.type), src)


def _bags(x: Callable[..., torch.Tensor]) -> torch.Tensor:
    weight = x(50, 20, seed=1)
    index, starts = _index(90, 50, weight.device.type), torch.tensor([0, 17, 17, 60])
    return scatter.embedding_bag(weight, index, starts.to(weight.device), None, "mean", False, 3)


def _pooled(x: Callable[..., torch.Tensor]) -> torch.Tensor:
    return order.avg_pool(x(2, 3, 11, 8, seed=1), [3, 2], [2, 2], [1, 1], True, True, None)


def _grouped(x: Callable[..., torch.Tensor]) -> torch.Tensor:
    rows = x(9, 300, seed=1)
    stops = torch.tensor([4, 4, 8], dtype=torch.int32).to(rows.device)
    return order.grouped_mm(rows, x(3, 300, 10, seed=2), stops, split_size=SPLIT)


CASES: dict[str, Callable[..., torch.Tensor]] = {
    **{
        f"mm M={m} {layout}": _matmul(m, layout)
        for m in (1, 3, 16, 40, 70)
        for layout in ("nn", "nt")
    },
    **{f"{n} L={length}": _rows(op, length) for n, op in ROW_OPS.items() for length in (257, 3000)},
    **{f"attention Lq={q} mask={m}": _attention(q, m) for q in (1, 11) for m in (False, True)},
    "convolution": _conv,
    "index_add": _scattered,
    "embedding_bag": _bags,
    "avg_pool": _pooled,
    "grouped_mm": _grouped,
    "topk": lambda x: order.topk(x(5, 257, seed=1), 9, 1, True, True)[1],
}


def digest(case: str, dtype: str, device: str) -> str:
    """SHA-256 of the result's bytes."""

    def x(*shape: int, seed: int) -> torch.Tensor:
        return numbers(shape, seed, DTYPES[dtype], device)

    out = CASES[case](x).contiguous().cpu()
    return hashlib.sha256(out.view(torch.uint8).numpy().tobytes()).hexdigest()


def digests(device: str) -> dict[str, str]:
    """Every case in every dtype."""
    return {f"{case} {dtype}": digest(case, dtype, device) for case in CASES for dtype in DTYPES}


def main() -> None:
    """Write the file from the shim."""
    import msl_cpu

    library.compile_text = msl_cpu.compile_shader
    made = {"plan_version": plans.PLAN_VERSION, "digests": digests("cpu")}
    FILE.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
