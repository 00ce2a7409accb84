"""Where this package keeps files between processes, and the digest that its keys carry."""

import functools
import hashlib
import importlib
import os
from pathlib import Path


def cache_dir() -> Path:
    """The folder for kernels and plans: inside Inductor's cache when that is set, else the user's cache."""
    base = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if base:
        return Path(base) / "bi_inductor"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bi_inductor"


@functools.cache
def sources_digest() -> str:
    """Hash of every source file of both packages: a change of the compiler misses every cache."""
    digest = hashlib.sha256()
    for package in ("bi_inductor", "lowerings"):
        root = Path(next(iter(importlib.import_module(package).__path__)))
        for file in sorted(root.rglob("*")):
            if file.suffix in (".py", ".cpp", ".h", ".metal"):
                digest.update(
                    file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes()
                )
    return digest.hexdigest()
