"""Where this package keeps files between processes, and the digest that its keys carry."""

import functools
import hashlib
import importlib
import os
import re
from pathlib import Path


def cache_dir() -> Path:
    """The folder for kernels and plans: inside Inductor's cache when that is set, else the user's cache."""
    base = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if base:
        return Path(base) / "bi_inductor"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bi_inductor"


@functools.cache
def sources_digest() -> str:
    """Hash of the sources of both packages: a change of the compiler misses every cache."""
    digest = hashlib.sha256()
    for package in ("bi_inductor", "lowerings"):
        root = Path(next(iter(importlib.import_module(package).__path__)))
        for file in sorted(root.rglob("*")):
            if file.relative_to(root).parts[0] in ("testing", "inspection"):
                continue  # tools: they compile nothing
            if file.suffix in (".py", ".cpp", ".h", ".metal"):
                digest.update(
                    file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes()
                )
    return digest.hexdigest()


_DAMAGED = re.compile(r"(/[^:]+\.so): (?:file too short|invalid ELF header|ELF [^\n]*)")


def remove_damaged_library(error: BaseException) -> Path | None:
    """Delete the library of Inductor's cache that ``error`` failed to load, and return its path.

    A compiler that is killed leaves half a library under its final name; Inductor would try it for ever.
    None if the error is another one, or the library lies outside of the cache folder.
    """
    from bi_inductor._torch import inductor_cache_dir

    found: BaseException | None = error
    while found is not None:
        match = _DAMAGED.search(str(found))
        if match is not None:
            library = Path(match[1])
            if library.is_relative_to(inductor_cache_dir()):
                library.unlink(missing_ok=True)
                return library
        found = found.__cause__ or found.__context__
    return None
