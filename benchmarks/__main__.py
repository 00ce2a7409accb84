"""Writes ``benchmarks/results/cpu.md``: every table, with the machine, the versions and the command above it.

python -m benchmarks
"""

import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.timing import processor

TABLES = {
    "GEMM": "benchmarks.gemm",
    "Attention": "benchmarks.attention",
    "Rows": "benchmarks.rows",
    "Whole models": "benchmarks.models",
}
RESULTS = Path(__file__).parent / "results" / "cpu.md"


def main() -> None:
    from lowerings.cpu import build

    parts = [
        "# CPU: time against stock torch",
        f"{processor()}, {torch.get_num_threads()} threads, kernels for {build.host_isa()}; "
        f"torch {torch.__version__}, {build.compiler()[1]}. `speed / stock` above 1: ours is faster. "
        "Variants take turns in one process; medians; CPU time of the thread for one thread, else wall time.",
    ]
    for title, module in TABLES.items():
        command = [sys.executable, "-m", module]
        print(f"{title}: python -m {module}", file=sys.stderr)
        table = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        parts.append(f"## {title}\n`python -m {module}`\n\n{table.strip()}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n\n".join(parts) + "\n")
    print(f"wrote {RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    main()
