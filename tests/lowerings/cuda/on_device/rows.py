"""Norms, softmax and sums of rows; launches that overlap; scans, scatters, convolutions."""

from collections.abc import Callable

import torch
from torch import Tensor

from lowerings.cuda import convolution, norm, reduction, scan, scatter, softmax, topk
from lowerings.cuda.plans import CHAIN, FLOAT32_SPLIT, LANES
from tests.lowerings.cuda.on_device.attention import attend
from tests.lowerings.cuda.on_device.check import ROWS, chosen, report


def rows() -> None:
    makers: dict[str, Callable[[Tensor], Tensor]] = {
        "rms_norm": lambda x: norm.rms_norm(x, x.shape[-1:], None, 1e-6, lanes=LANES)[0],
        "layer_norm": lambda x: norm.layer_norm(x, x.shape[-1:], None, None, 1e-5, lanes=LANES)[0],
        "softmax": lambda x: softmax.softmax(x, -1, False, lanes=LANES),
        "log_softmax": lambda x: softmax.softmax(x, -1, True, lanes=LANES),
        "sum": lambda x: reduction.reduction(x, "sum", [-1], lanes=LANES),
        "mean_squares": lambda x: reduction.reduction(x, "mean_squares", [-1], lanes=LANES),
        "var": lambda x: reduction.var_mean(x, [-1], 1.0, lanes=LANES)[0],
    }
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        if not chosen(str(dtype)[6:]):
            continue
        for extent in (64, 128, 1000, 1024, 4096, 5001, 32000, 128256):
            x = torch.randn(1027 if extent < 10000 else 300, extent, device="cuda").to(dtype)
            shifted = torch.empty(x.numel() + 1, dtype=dtype, device="cuda")[1:].view_as(x).copy_(x)
            for name, make in makers.items():
                whole = make(x)
                pairs = [(make(x[:m]), whole[:m]) for m in ROWS if m <= len(x)] + [
                    (make(x[5:6]), whole[5:6]),
                    (make(shifted), whole),
                ]
                if name in ("sum", "mean_squares", "var"):
                    pairs.append((make(x.t().contiguous().t()), whole))
                    pairs.append((make(x.t().contiguous().t()[:1]), whole[:1]))
                if name == "sum":
                    pairs.append((make(torch.nn.functional.pad(x, (0, 777))), whole))
                report(f"{name} {str(dtype)[6:]} {extent}", pairs)
            report(f"add_rms_norm {str(dtype)[6:]} {extent}", _fused_norm(x))


def overlap() -> None:
    """Kernels that start before their predecessor has ended read what it wrote, and write after it has read."""
    for rows in (1, 64, 3000):
        x, residual = (torch.randn(rows, 4096, device="cuda").bfloat16() for _ in range(2))
        long = torch.randn(rows, 50000, device="cuda").bfloat16()
        k, v = (torch.randn(min(rows, 64), 8, 1100, 128, device="cuda").bfloat16() for _ in "kv")
        kept = torch.arange(1100, device="cuda") < 1000

        def chain(
            wait: Callable[[], None], x: Tensor = x, residual: Tensor = residual, long: Tensor = long,
            k: Tensor = k, v: Tensor = v, kept: Tensor = kept,
        ) -> list[Tensor]:  # fmt: skip
            y, total = x, residual
            for _ in range(20):
                y, total = norm.add_rms_norm(
                    y, total, None, 1e-6, fma=True, rounded=False, lanes=LANES
                )
                wait()
                y = norm.layer_norm(y, [4096], x[0], x[0], 1e-5, lanes=LANES)[0]
                wait()
                y = softmax.softmax(y, -1, True, lanes=LANES)
                wait()
                q = y[: len(k)].view(len(k), 32, 1, 128)
                for mask in (None, kept):
                    q = attend(q, k, v, mask)
                    wait()
                y[: len(k)] = norm.rms_norm(q.reshape(-1, 4096), [4096], None, 1e-6, lanes=LANES)[0]
                wait()
                total, long[:, :4096] = y + total, y
                long = softmax.softmax(long, -1, True, lanes=LANES)
                wait()
            return [y, total, long]

        expected = chain(torch.cuda.synchronize, long=long.clone())
        graph, again = torch.cuda.CUDAGraph(), long.clone()
        with torch.cuda.graph(graph):
            captured = chain(lambda: None, long=again)
        for turn in range(3):
            again.copy_(long)
            graph.replay()
            report(f"overlap {rows} graph {turn}", list(zip(captured, expected, strict=True)))
        alone = chain(lambda: None, long=long.clone())
        report(f"overlap {rows} stream", list(zip(alone, expected, strict=True)))


def _fused_norm(x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The fused norm against its parts, run one by one, and rows of it alone."""
    residual, weight = torch.randn_like(x), torch.randn_like(x[0])
    out, total = norm.add_rms_norm(x, residual, weight, 1e-6, fma=False, rounded=True, lanes=LANES)
    wide = (x + residual).float()
    mean = reduction.reduction(wide.pow(2), "mean", [-1], True, lanes=LANES)
    parts = weight * (wide * torch.rsqrt(mean + 1e-6)).to(x.dtype)
    made = [(total, x + residual), (out, parts)]
    for rows in (slice(5, 6), slice(0, 17), slice(3, 100)):
        alone, _ = norm.add_rms_norm(
            total[rows], None, weight, 1e-6, fma=False, rounded=True, lanes=LANES
        )
        made.append((alone, out[rows]))
    once, _ = norm.add_rms_norm(x, residual, weight, 1e-6, fma=True, rounded=False, lanes=LANES)
    made.append((once, norm.rms_norm(total, x.shape[-1:], weight, 1e-6, lanes=LANES)[0]))
    return made


def orders() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype)[6:]
        if not chosen(name):
            continue
        for extent in (5, 1000, 1024, 4099, 50000):
            x = torch.randn(65, extent, device="cuda").to(dtype)
            for kind in ("cumsum", "cumprod", "logcumsumexp"):
                whole = scan.scan(x, kind, 1)
                pairs = [
                    (scan.scan(x[i : i + n], kind, 1), whole[i : i + n])
                    for i, n in ((0, 1), (5, 1), (7, 33), (64, 1))
                ]
                pairs.append(
                    (scan.scan(x[:, : extent // 2 + 1], kind, 1), whole[:, : extent // 2 + 1])
                )
                pairs.append((scan.scan(x.t().contiguous(), kind, 0).t(), whole))
                report(f"{kind} {name} {extent}", pairs)
        x, src = (
            torch.randn(50, 300, device="cuda").to(dtype),
            torch.randn(4000, 300, device="cuda").to(dtype),
        )
        index = torch.randint(0, 50, (4000,), device="cuda")
        whole = scatter.index_add(x, 0, index, src)
        exact = x.double().index_add(0, index, src.double())
        slow = x.cpu().float()
        for i, row in zip(index.tolist(), src.cpu().float(), strict=True):
            slow[i] += row
        report(
            f"index_add {name} twice and in order",
            [(scatter.index_add(x, 0, index, src), whole), (slow.to(dtype).cuda(), whole)],
        )
        print(f"        index_add {name} error {(whole.double() - exact).abs().max().item():.2e}")
        picked = index.view(-1, 1).expand(-1, 300)
        report(f"scatter_add {name} = index_add", [(scatter.scatter_add(x, 0, picked, src), whole)])
        report(f"index_put {name} = index_add", [(scatter.index_put_add(x, [index], src), whole)])
        images = torch.randn(33, 6, 20, 22, device="cuda").to(dtype)
        for groups in (1, 2, 6):
            weight, bias = (
                torch.randn(12, 6 // groups, 3, 3, device="cuda").to(dtype),
                torch.randn(12, device="cuda").to(dtype),
            )
            split = FLOAT32_SPLIT if dtype == torch.float32 else CHAIN

            def conv(
                y: Tensor, w: Tensor = weight, b: Tensor = bias, g: int = groups, split: int = split
            ) -> Tensor:
                return convolution.convolution(
                    y, w, b, [2], [1], [1], False, [0], g, split_size=split
                )

            whole = conv(images)
            exact = torch.nn.functional.conv2d(
                images.double(), weight.double(), bias.double(), 2, 1, 1, groups
            )
            report(
                f"convolution {name} groups {groups}",
                [
                    (conv(images[i : i + n]), whole[i : i + n])
                    for i, n in ((0, 1), (5, 1), (7, 17), (32, 1))
                ],
            )
            print(
                f"        convolution {name} error {(whole.double() - exact).abs().max().item():.2e}"
            )
        values, places = topk.topk(images.flatten(1), 5, 1, True, True)
        report(
            f"topk {name}", [(topk.topk(images[3:4].flatten(1), 5, 1, True, True)[1], places[3:4])]
        )
        bags = scatter.embedding_bag(
            src, index, torch.tensor([0, 10, 10, 3000], device="cuda"), None, "mean", False, -1
        )
        alone = scatter.embedding_bag(
            src, index[10:3000], torch.tensor([0], device="cuda"), None, "mean", False, -1
        )
        report(f"embedding_bag {name}", [(alone, bags[2:3])])
