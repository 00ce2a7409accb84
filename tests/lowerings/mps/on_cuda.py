"""Runs the Metal kernels on an NVIDIA GPU, where threads race for real: ``python tests/lowerings/mps/on_cuda.py``.

Golden bits, canaries, every batch size of both tiers, and each barrier deleted in turn. Prints a table, exit status 1
if a bit differs or a kernel does not compile. ``--racecheck`` only runs the kernels that share memory, for
``compute-sanitizer --tool racecheck``; with ``--without-barriers`` it must find hazards. It says nothing about Apple's compiler.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[3])]

import golden  # noqa: E402
import msl_cuda  # noqa: E402
import on_device  # noqa: E402
import test_mps_barriers as barriers  # noqa: E402
import torch  # noqa: E402
from properties import same  # noqa: E402

from lowerings.mps import library, schedules  # noqa: E402

REPEATS = 20


def goldens() -> tuple[str, list[str]]:
    """Every recorded digest, again and again."""
    bad = [name for _ in range(REPEATS) for name in on_device.golden_differences("cpu")]
    count = len(golden.CASES) * len(golden.DTYPES)
    return f"{count} digests of golden.json, {REPEATS} times each", sorted(set(bad))


def canaries() -> tuple[str, list[str]]:
    """Contraction, roundings, subnormals."""
    found = on_device.canaries("cpu")
    return f"{len(found)} canaries", [name for name, good in found.items() if not good]


def batches() -> tuple[str, list[str]]:
    """Rows alone against rows in a batch, and repeats."""
    return "every batch of 1..130, 100 repeats, 5 ops, 3 dtypes", on_device.sweeps("cpu")


def jobs_share_memory() -> tuple[str, list[str]]:
    """The barrier jobs with all their barriers, rows in whole threadgroups from here on."""
    schedules.row_width = lambda extent: 256
    bad = []
    for name, job in barriers.JOBS.items():
        first = job()
        bad += [name for _ in range(REPEATS) if not all(map(same, job(), first))]
    return f"{len(barriers.JOBS)} jobs that share memory, {REPEATS} repeats", bad


def deleted_barriers() -> tuple[str, list[str]]:
    """The control: deleted barriers that change bits. A race may pass without a trace, but not every one."""
    noticed = []
    for name, site in barriers.SITES:
        job, text = barriers.JOBS[name], (library.KERNELS / f"{name}.metal").read_text()
        right, barrier = job(), list(barriers.BARRIER.finditer(text))[site]
        without = text[: barrier.start()] + text[barrier.end() :]

        def compile_shader(source: str, text: str = text, without: str = without) -> object:
            return msl_cuda.compile_shader(source.replace(text, without))

        library.compile_text = compile_shader
        if not all(same(a, b) for _ in range(REPEATS) for a, b in zip(job(), right, strict=True)):
            noticed.append(f"{name}:{site}")
        library.compile_text = msl_cuda.compile_shader
    what = f"control: {len(noticed)} of {len(barriers.SITES)} deleted barriers noticed"
    return what, [] if noticed else ["a GPU that loses no race proves nothing"]


def main() -> int:
    """Run every part; a part that raises is reported and the others still run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--racecheck", action="store_true")
    parser.add_argument("--without-barriers", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("on_cuda.py needs an NVIDIA GPU and a PyTorch built for CUDA", file=sys.stderr)
        return 1
    library.compile_text = msl_cuda.compile_shader
    if arguments.without_barriers:
        library.compile_text = lambda text: msl_cuda.compile_shader(barriers.BARRIER.sub("", text))
    if arguments.racecheck:
        jobs_share_memory()
        return 0
    parts: tuple[Callable[[], tuple[str, list[str]]], ...] = (
        goldens, canaries, batches, jobs_share_memory, deleted_barriers
    )  # fmt: skip
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| what | differences | seconds |\n|---|---|---|")
    failed = False
    for part in parts:
        start = time.perf_counter()
        try:
            what, bad = part()
        except Exception as error:
            what, bad = part.__name__, [f"{type(error).__name__}: {error}"]
        failed |= bool(bad)
        seconds = time.perf_counter() - start
        print(f"| {what} | {len(bad)} {'; '.join(bad[:5])} | {seconds:.1f} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
