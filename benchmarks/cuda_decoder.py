"""Decode step and prefill of the four-layer decoder on a GPU: ours beside stock ``mode="reduce-overhead"``.

    python -m benchmarks.cuda_decoder [OUT.md]

Variants are interleaved round by round; medians of 30 rounds in milliseconds; ratio = stock's time / ours.
"""

import functools
import statistics
import sys
from collections.abc import Callable, Mapping

import torch

from benchmarks.decoder import OPTIONS, Shape, make_cache, make_decoder
from benchmarks.timing import markdown
from bi_inductor.backend import batch_invariant


def milliseconds(
    variants: Mapping[str, Callable[[], object]], rounds: int = 30
) -> dict[str, float]:
    """Median device time of one call of each variant, 5 calls between two events."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        for _ in range(4):
            call()
    for _ in range(rounds):
        for name, call in variants.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(5):
                call()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end) / 5)
    return {name: statistics.median(values) for name, values in times.items()}


def compiled(model: torch.nn.Module, variant: str) -> Callable[..., object]:
    if variant == "stock":
        return torch.compile(model, mode="reduce-overhead", dynamic=False)
    backend = functools.partial(batch_invariant, options=OPTIONS, mode="reduce-overhead")
    return torch.compile(model, backend=backend, dynamic=False)


def heaviest(call: Callable[[], object], count: int = 14) -> str:
    """The kernels that take most of the device's time in three calls, one a line."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(3):
            call()
        torch.cuda.synchronize()
    rows = sorted(profile.key_averages(), key=lambda e: -e.self_device_time_total)[:count]
    return "\n".join(
        f"  {e.self_device_time_total / 3:9.1f} us {e.count // 3:4} x {e.key[:90]}" for e in rows
    )


def main() -> None:
    shape, length = Shape(), 512
    model = make_decoder(shape, torch.bfloat16, "cuda")
    lines = []
    for work, batch, tokens in (
        ("decode", 1, 1), ("decode", 8, 1), ("decode", 64, 1), ("prefill", 16, 256),
    ):  # fmt: skip
        calls = {}
        for variant in ("stock", "ours"):
            if not calls:
                torch.compiler.reset()
            fn = compiled(model, variant)
            cache = make_cache(shape, batch, length, torch.bfloat16, "cuda")
            ids = torch.randint(0, shape.vocab, (batch, tokens), device="cuda")
            positions = (
                torch.arange(256, 256 + tokens, device="cuda")
                if tokens == 1
                else torch.arange(tokens, device="cuda")
            )

            def call(fn=fn, cache=cache, ids=ids, positions=positions) -> object:
                torch.compiler.cudagraph_mark_step_begin()
                with torch.no_grad():
                    return fn(ids, positions, cache, 1)

            calls[variant] = call
        times = milliseconds(calls)
        lines.append(
            [
                f"{work} {batch}x{tokens}",
                *(f"{times[v]:.3f}" for v in calls),
                f"{times['stock'] / times['ours']:.2f}",
            ]
        )
        print(lines[-1], flush=True)
        for variant, call in calls.items():
            print(f"{variant}:\n{heaviest(call)}", flush=True)
    table = markdown(("work", "stock ms", "ours ms", "ratio"), lines)
    print(table)
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w") as file:
            file.write(table + "\n")


if __name__ == "__main__":
    main()
