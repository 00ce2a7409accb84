"""Writes ``benchmarks/results/cpu.md``: every table, with the machine, the versions and the command above it.

    python -m benchmarks [gemm] [attention] [rows] [convolution] [models] [--quick]

Named parts only are measured again; every other section keeps its text, notes written by hand as well. The file is
written after each part.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.timing import processor

#: part -> title, arguments of a run that checks the path and measures nothing worth keeping
PARTS = {
    "gemm": ("GEMM", "--models SmolLM2 --rows 1 16 --seconds 0.01"),
    "attention": ("Attention", "--seconds 0.01"),
    "rows": ("Rows", "--quick --rounds 5"),
    "convolution": ("Convolution", "--seconds 0.01"),
    "models": ("Whole models", "--dtype float32 --batches 1"),
}
RESULTS = Path(__file__).parent / "results" / "cpu.md"


def header() -> str:
    """The machine, the versions, and how to read the tables."""
    from lowerings.cpu import build

    return (
        "# CPU: speed against stock torch\n\n"
        f"{processor()}, {torch.get_num_threads()} cores, kernels for {build.host_isa()}; "
        f"torch {torch.__version__}, {build.compiler()[1]}. `speed / stock` above 1: ours is faster. "
        "Variants take turns in one process; medians; CPU time of the thread for one thread, else wall time."
    )


def sections(text: str) -> dict[str, str]:
    """Title -> section of a results file."""
    parts = text.split("\n## ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}


def measure(part: str, arguments: list[str]) -> str:
    """Run one part in a process of its own, and return its section."""
    command = ["-m", f"benchmarks.{part}", *arguments]
    shown = " ".join(["python", *command])
    print(shown, file=sys.stderr, flush=True)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True)
    return f"`{shown}`, {time.perf_counter() - start:.0f} s\n\n{done.stdout.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="minutes, figures without meaning")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    found = sections(args.output.read_text()) if args.output.exists() else {}
    for part in args.parts or PARTS:
        title, quick = PARTS[part]
        found[title] = measure(part, quick.split() if args.quick else [])
        kept = [f"## {title}\n{text}" for title, text in found.items()]
        args.output.parent.mkdir(exist_ok=True)
        args.output.write_text("\n\n".join([header(), *kept]) + "\n")
        print(f"wrote {part} to {args.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
