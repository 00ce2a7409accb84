"""Does the size of a reduction tile change bits? After the study of nki-samples PR #105, with random data as well.

Two tile sizes (128 and 64) of the same matmul and RMS norm, in float32 and bfloat16, on linspace data as in that
study and on random normals. That study found bf16 results equal; here bf16 outputs follow the tile too, only more
rarely: the float32 sums differ just as often, and the rounding of the output hides most of it. How much it hides
is a property of the data, so equal outputs on one data set prove nothing. Runs on any CPU, in torch alone.

    python examples/tile_study.py                    # 1,000 repeats, about a minute
    python examples/tile_study.py --repeats 10 --plot tiles.png
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TILES = (128, 64)
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of the table."""

    op: str
    data: str
    dtype: str
    outputs: int
    differ: int
    sums_differ: int
    largest: float
    unsteady: int

    @property
    def percent(self) -> float:
        """Share of the outputs whose bits follow the tile."""
        return 100 * self.differ / self.outputs


def matmul(a_mk: Tensor, b_kn: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """Return the product, its K tiles added in float32 in ascending order, rounded and not rounded."""
    acc = torch.zeros(a_mk.shape[0], b_kn.shape[1])
    for k0 in range(0, a_mk.shape[1], tile):
        acc += a_mk[:, k0 : k0 + tile].float() @ b_kn[k0 : k0 + tile].float()
    return acc.to(a_mk.dtype), acc


def rms_norm(x_mh: Tensor, _weight: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """Return the norm and its float32 sums of squares, hidden tiles added in ascending order."""
    squares = x_mh.float().square()
    total = torch.zeros(len(x_mh), 1)
    for h0 in range(0, x_mh.shape[1], tile):
        total += squares[:, h0 : h0 + tile].sum(1, keepdim=True)
    rstd = torch.rsqrt(total / x_mh.shape[1] + 1e-6)
    return (x_mh.float() * rstd).to(x_mh.dtype), total


def linspace(*shape: int) -> Tensor:
    """The data of the study: neighbours are nearly equal, so sums are smooth."""
    count = torch.Size(shape).numel()
    return torch.linspace(-1, 1, count).reshape(shape)


def normal(*shape: int) -> Tensor:
    """Random normals with a fixed seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


CASES: tuple[
    tuple[str, Callable[..., tuple[Tensor, Tensor]], str, Callable[..., Tensor], int], ...
] = (
    ("matmul", matmul, "linspace, K = 512", linspace, 512),
    ("matmul", matmul, "normal, K = 512", normal, 512),
    ("matmul", matmul, "normal, K = 4096", normal, 4096),
    ("rms_norm", rms_norm, "linspace, H = 512", linspace, 512),
    ("rms_norm", rms_norm, "normal, H = 512", normal, 512),
    ("rms_norm", rms_norm, "normal, H = 4096", normal, 4096),
)


def study(repeats: int) -> list[Result]:
    """Run every case in both dtypes; ``repeats`` runs of each tile must give the bits of the first."""
    results = []
    for op, function, data, make, depth in CASES:
        for dtype in DTYPES:
            a, b = make(256, depth).to(dtype), make(depth, 512).to(dtype)
            (large, large_sums), (small, small_sums) = (function(a, b, tile) for tile in TILES)
            runs = (
                function(a, b, tile)[0].equal(first)
                for tile, first in zip(TILES, (large, small), strict=True)
                for _ in range(repeats)
            )
            results.append(
                Result(
                    op=op,
                    data=data,
                    dtype=str(dtype).removeprefix("torch."),
                    outputs=large.numel(),
                    differ=int((large != small).sum()),
                    sums_differ=int((large_sums != small_sums).sum()),
                    largest=(large.double() - small.double()).abs().max().item(),
                    unsteady=sum(not same for same in runs),
                )
            )
    return results


def table(results: list[Result], repeats: int) -> str:
    """Return the results as Markdown."""
    lines = [
        "| op | data | dtype | outputs that differ, tile 128 against 64 | float32 sums that differ | largest"
        f" | runs of 2 x {repeats} unlike the first |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.op} | {r.data} | {r.dtype} | {r.differ} of {r.outputs} ({r.percent:.3f}%) | {r.sums_differ}"
        f" | {r.largest:.1e} | {r.unsteady} |"
        for r in results
    ]
    return "\n".join(lines)


def plot(results: list[Result], path: str) -> None:
    """Write a bar chart of the shares, logarithmic, zero at the floor."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 4), layout="constrained")
    names = list(dict.fromkeys(f"{r.op}\n{r.data}" for r in results))
    for i, dtype in enumerate(DTYPES):
        chosen = [r for r in results if r.dtype == str(dtype).removeprefix("torch.")]
        at = [n + 0.4 * i - 0.2 for n in range(len(names))]
        bars = axes.bar(
            at, [max(r.percent, 1e-4) for r in chosen], width=0.38, label=chosen[0].dtype
        )
        axes.bar_label(bars, [str(r.differ) for r in chosen], fontsize=8)
    axes.set(
        yscale="log", ylim=(1e-4, 300), ylabel="outputs that differ (%)", xticks=range(len(names))
    )
    axes.set_xticklabels(names)
    axes.set_title("Reduction tile 128 against 64: a fixed tile is needed in bf16 too")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the table; write the plot when asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--plot", metavar="PNG")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = study(arguments.repeats)
    print(table(results, arguments.repeats))
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
