"""Fresh interpreters for tests of caches, faults and other processes."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path


def start(code: str, **env: str) -> subprocess.Popen[str]:
    """Run Python code in a process of its own, without waiting for it."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: int = 600) -> str:
    """What it printed; an error there is an error here."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err[-3000:]
    return out


def run(code: str, **env: str) -> str:
    return finish(start(code, **env))


def with_kernels(folder: Path) -> Path:
    """A fresh cache folder that holds this run's kernel library, which takes minutes to build."""
    from lowerings import table

    table.load("cpu")
    kernels = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "bi_inductor"
    for file in kernels.glob("*.so"):
        (folder / "bi_inductor").mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, folder / "bi_inductor" / file.name)
    return folder
