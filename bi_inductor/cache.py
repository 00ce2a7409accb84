"""Where this package keeps files between processes, and the digest that its keys carry."""

import contextlib
import errno
import functools
import hashlib
import importlib
import logging
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from bi_inductor.errors import CacheFolderError

log = logging.getLogger("bi_inductor")


def cache_dir() -> Path:
    """The folder for kernels and plans: inside Inductor's cache when that is set, else the user's cache."""
    base = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if base:
        return Path(base) / "bi_inductor"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bi_inductor"


#: a folder without permission, room or a place: what another folder would cure
_NOT_WRITABLE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR}
)
#: the same from g++, in the words of the C library
_SAID = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "Read-only file system",
)


@contextlib.contextmanager
def writable() -> Iterator[None]:
    """Name the cache folder where compiling fails because it cannot be written.

    Raises:
        CacheFolderError: it cannot.
    """
    from bi_inductor import _torch

    try:
        yield
    except Exception as error:
        cause = _why_not_written(_torch.root_cause(error))
        if cause is None:
            raise
        raise CacheFolderError(
            f"compiled code cannot be written: {cause}. The cache is in {_torch.inductor_cache_dir()} and "
            f"{cache_dir()}; set TORCHINDUCTOR_CACHE_DIR to a folder that this process may write, with some room"
        ) from error


def _why_not_written(cause: BaseException) -> str | None:
    if isinstance(cause, OSError):
        return str(cause) if cause.errno in _NOT_WRITABLE else None
    # a compiler that failed, with what it printed
    printed = getattr(cause, "output", None) or ""
    text = printed.decode(errors="replace") if isinstance(printed, bytes) else str(printed)
    lines = (line for line in text.splitlines() if any(said in line for said in _SAID))
    return next(lines, None)


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


def remove_unfinished_libraries() -> list[Path]:
    """Delete libraries in Inductor's cache that a killed compiler left unfinished, and return their paths.

    They lie under their final names, so Inductor would load them for ever. A cut kernel is an error at least; a
    cut probe of the vector instructions makes it believe, without a word, that the processor has none.
    A library that another process is building now is left alone.
    """
    from bi_inductor._torch import file_lock, inductor_cache_dir

    root = Path(inductor_cache_dir())
    removed = []
    for library in root.glob("*/*.so") if sys.platform == "linux" else ():
        if _is_complete(library):
            continue
        lock = root / "locks" / f"{library.name.partition('.')[0]}.lock"
        with contextlib.suppress(TimeoutError, OSError), file_lock(str(lock), timeout=0):
            if not _is_complete(library):
                library.unlink(missing_ok=True)
                removed.append(library)
                log.warning("%s was unfinished (a killed compile?) and is built again", library)
    return removed


@functools.cache
def clean_once() -> None:
    """``remove_unfinished_libraries``, once per process: before its first compilation."""
    remove_unfinished_libraries()


def _is_complete(library: Path) -> bool:
    """Whether an ELF file reaches to the end of its section headers, which linkers write last."""
    try:
        with library.open("rb") as file:
            header = file.read(64)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return True  # removed by another process
    if len(header) < 64 or header[:4] != b"\x7fELF":
        return False
    (offset,) = struct.unpack_from("<Q", header, 0x28)
    each, count = struct.unpack_from("<HH", header, 0x3A)
    return bool(offset) and size >= offset + each * count
