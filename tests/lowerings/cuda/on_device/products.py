"""Every schedule of a product's plan has the same bits, every row alone too."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lowerings.cuda import matmul, matmul_hopper, norm, schedules, schedules_hopper, shared
from lowerings.cuda.plans import CHAIN, FLOAT32_SPLIT, LANES
from lowerings.cuda.schedules import Float32, Gemm
from tests.lowerings.cuda.on_device.check import ROWS, chosen, data, report

SHAPES = ((6144, 4096), (768, 3072), (2048, 8192), (1000, 1072), (1000, 1000), (333, 777))


def products() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype)[6:]
        for n, k in SHAPES:
            if chosen(f"{name}-{n}x{k}"):
                _gemm_shape(dtype, n, k)
        if chosen(f"{name}-shared"):
            _shared(dtype)
            _overlapping(dtype)
    for n, k in ((768, 3072), (333, 777), (4096, 4096)):
        if chosen(f"float32-{n}x{k}"):
            _float32_shape(n, k)
    if chosen("groups"):
        _groups()
        _control()


def _float32_shape(n: int, k: int) -> None:
    a, w = data("normal", 1000, k, torch.float32), data("normal", n, k, torch.float32)
    name = f"float32 {n}x{k}"

    def product(a: Tensor, b: Tensor, tile: Gemm | Float32 | None = None, **given: Any) -> Tensor:
        multiply = matmul.mm if a.dim() == 2 else matmul.bmm
        return multiply(a, b, split_size=FLOAT32_SPLIT, schedule=tile, **given)

    tiles = (*schedules.FLOAT32, *schedules.ALL_FLOAT32)
    whole = product(a, w.t(), tiles[0])
    report(f"{name} {len(tiles)} tiles", [(product(a, w.t(), tile), whole) for tile in tiles])
    report(f"{name} rows", [(product(a[:m], w.t()), whole[:m]) for m in ROWS])
    wt, at = w.t().contiguous(), a.t().contiguous().t()
    report(f"{name} [K, N]", [(product(a[:m], wt), whole[:m]) for m in ROWS])
    report(f"{name} a by columns", [(product(at[:m], w.t()), whole[:m]) for m in ROWS])
    shifted = torch.empty(a.numel() + 1, device="cuda")[1:].view_as(a).copy_(a)
    report(f"{name} misaligned", [(product(shifted[:m], w.t()), whole[:m]) for m in ROWS])
    for d in (1, 63, 128):
        first, *others = (product(a[:, :d], w.t()[:d], tile) for tile in tiles[::6])
        report(f"{name} first {d} of K", [(other, first) for other in others])
    batches = [a[: 4 * m].view(4, m, k) for m in (1, 7, 50, 250)]
    ws = w.expand(4, n, k).transpose(1, 2)
    pairs = [(product(x, ws).flatten(0, 1), whole[: 4 * x.shape[1]]) for x in batches]
    report(f"{name} bmm", pairs)
    bias, column = torch.randn(n, device="cuda"), torch.randn(1000, 1, device="cuda")
    for added, scales in ((bias, {}), (bias, {"alpha": 0.7, "beta": 1.3}), (column, {"beta": -2})):
        wanted = product(a, w.t(), tiles[0], bias=added, **scales)
        pairs = [(product(a, w.t(), tile, bias=added, **scales), wanted) for tile in tiles[::6]]
        for m in ROWS:
            part = added[:m] if added is column else added
            pairs.append((product(a[:m], w.t(), bias=part, **scales), wanted[:m]))
        report(f"{name} bias {tuple(added.shape)} {scales}", pairs)
    exact = a.double() @ w.double().t()
    ours, stock = ((x.double() - exact).abs().max().item() for x in (whole, a @ w.t()))
    print(f"        {name} max error ours {ours:.2e} cuBLAS {stock:.2e}")


def _control() -> None:
    a, w = data("normal", 1000, 4096, torch.bfloat16), data("normal", 4096, 4096, torch.bfloat16)
    report(
        "control: cuBLAS 4096x4096", [(a[:m] @ w.t(), (a @ w.t())[:m]) for m in ROWS], wanted=False
    )


def _groups() -> None:
    """Products of groups and of batches against each one alone."""
    a, b = (
        data("normal", 600, 512, torch.bfloat16),
        torch.randn(8, 512, 256, device="cuda").bfloat16(),
    )
    offs = torch.tensor([0, 3, 100, 228, 300, 301, 480, 600], device="cuda", dtype=torch.int32)
    out = matmul.grouped_mm(a, b, offs, split_size=CHAIN)
    lefts = [0, *offs.tolist()[:-1]]
    pairs = [
        (out[i:j], matmul.mm(a[i:j], b[g], split_size=CHAIN))
        for g, (i, j) in enumerate(zip(lefts, offs.tolist(), strict=False))
    ]
    report("grouped = mm of each group", pairs)
    x = torch.randn(16, 5, 64, device="cuda").bfloat16()
    y = torch.randn(16, 64, 100, device="cuda").bfloat16()
    whole = matmul.bmm(x, y, split_size=CHAIN)
    report("bmm = mm", [(whole[i], matmul.mm(x[i], y[i], split_size=CHAIN)) for i in range(16)])


def _gemm_shape(dtype: torch.dtype, n: int, k: int) -> None:
    aligned = n % 8 == 0 and k % 8 == 0
    tiles = [
        tile
        for tile in schedules.ALL_HALVES
        if (aligned or not tile.tma) and (k % 16 == 0 or not tile.stream)
    ]
    if aligned and matmul_hopper.is_hopper(0):
        tiles += [tile for tile, _ in schedules_hopper.TILES]
        tiles += [replace(tile, early=True) for tile in tiles[-3:]]
    for kind in ("normal", "wide", "cancelling"):
        a, w = data(kind, 1000, k, dtype), data(kind, n, k, dtype)
        bias = torch.randn(n, device="cuda").to(dtype)
        whole = matmul.mm(a, w.t(), bias, split_size=CHAIN, schedule=tiles[0])
        name = f"{str(dtype)[6:]} {n}x{k} {kind}"
        pairs = [
            (matmul.mm(a, w.t(), bias, split_size=CHAIN, schedule=tile), whole) for tile in tiles
        ]
        report(f"{name} {len(tiles)} tiles", pairs)
        report(
            f"{name} rows",
            [(matmul.mm(a[:m], w.t(), bias, split_size=CHAIN), whole[:m]) for m in ROWS],
        )
        if aligned and kind == "normal":
            _gemm_epilogues(name, a, w, bias, tiles)
        if kind == "normal":
            wt = w.t().contiguous()
            report(
                f"{name} [K, N]",
                [(matmul.mm(a[:m], wt, bias, split_size=CHAIN), whole[:m]) for m in ROWS],
            )
            shifted = torch.empty(a.numel() + 1, dtype=dtype, device="cuda")[1:].view_as(a).copy_(a)
            report(
                f"{name} misaligned",
                [(matmul.mm(shifted[:m], w.t(), bias, split_size=CHAIN), whole[:m]) for m in ROWS],
            )
            exact = torch.addmm(bias.double(), a.double(), w.double().t())
            errors = [
                (x.double() - exact).abs().mean().item()
                for x in (whole, torch.addmm(bias, a, w.t()))
            ]
            print(
                f"        {name} mean error ours {errors[0]:.3e} cuBLAS {errors[1]:.3e}", flush=True
            )


def _gemm_epilogues(name: str, a: Tensor, w: Tensor, bias: Tensor, tiles: list[object]) -> None:
    """A bias of its own for every row, factors, few rows, and weights by K, on every third tile."""
    full = torch.randn(len(a), len(w), device="cuda").to(a.dtype)
    wt = w.t().contiguous()
    for rows in (33, 77, 200):
        x, y = a[:rows], full[:rows]
        pairs = []
        for tile in tiles[::3]:
            for weights, added, factors in (
                (w.t(), y, {"alpha": 0.5, "beta": 2.0}),
                (w.t(), bias, {"beta": 0.25}),
                (wt, None, {}),
            ):
                if weights is wt and getattr(tile, "stream", False):
                    continue  # reads both operands along K
                made, plain = (
                    matmul.mm(x, weights, added, split_size=CHAIN, schedule=one, **factors)
                    for one in (tile, schedules.POINTERS[0])
                )
                pairs.append((made, plain))
        report(f"{name} epilogues of {rows} rows", pairs)


def _shared(dtype: torch.dtype) -> None:
    a = data("wide", 64, 1072, dtype)
    weights = [data("wide", n, 1072, dtype) for n in (1000, 72, 24)]
    pairs = []
    for m in (1, 2, 8, 9, 16, 17, 32, 33):
        for few in (weights[:2], weights):
            outs = shared.shared_mm(a[:m], *few, split_size=CHAIN)
            pairs += [
                (out, matmul.mm(a[:m], w.t(), split_size=CHAIN))
                for out, w in zip(outs, few, strict=False)
            ]
    report(f"{str(dtype)[6:]} products of one input = each alone", pairs)


def _overlapping(dtype: torch.dtype) -> None:
    """Launches that start before the one in front has ended, in a graph, against one at a time."""
    x = data("normal", 8, 4096, dtype)
    up, down = (data("normal", 4096, 4096, dtype) / 64 for _ in range(2))

    def chain(after: Callable[[], object]) -> Tensor:
        h = x
        for _ in range(20):
            normed, _ = norm.rms_norm(h, [4096], None, 1e-6, lanes=LANES)
            after()
            left, right, _ = shared.shared_mm(normed, up, down, split_size=CHAIN)
            after()
            h = matmul.mm(left + right, down.t(), split_size=CHAIN)
            after()
        return h

    wanted = chain(torch.cuda.synchronize)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = chain(lambda: None)
    outs = []
    for _ in range(100):
        graph.replay()
        outs.append(out.clone())
    report(f"{str(dtype)[6:]} overlapping launches in a graph", [(o, wanted) for o in outs])
    loose = [(chain(lambda: None), wanted) for _ in range(20)]
    report(f"{str(dtype)[6:]} overlapping launches", loose)
