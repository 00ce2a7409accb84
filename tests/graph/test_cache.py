"""Files between processes: what a killed compiler leaves behind is found and removed."""

import fcntl
import logging
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from torch._inductor.exc import CppCompileError

from bi_inductor import _torch, cache
from bi_inductor.errors import CacheFolderError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(_torch, "inductor_cache_dir", lambda: str(tmp_path))
    (tmp_path / "ab").mkdir()
    (tmp_path / "locks").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def whole():
    """Any library of this machine."""
    import _hashlib

    assert sysconfig.get_config_var("EXT_SUFFIX")
    return Path(_hashlib.__file__).read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_cut_library_is_removed_and_a_whole_one_kept(folder, whole, share, caplog):
    cut, kept = folder / "ab" / "cut.main.so", folder / "ab" / "kept.so"
    cut.write_bytes(whole[: int(len(whole) * share)])
    kept.write_bytes(whole)
    with caplog.at_level(logging.WARNING, "bi_inductor"):
        assert cache.remove_unfinished_libraries() == [cut]
    assert not cut.exists()
    assert kept.exists()
    assert str(cut) in caplog.text


def test_a_library_that_is_being_built_is_left_alone(folder, whole):
    cut = folder / "ab" / "key.main.so"
    cut.write_bytes(whole[:1000])
    with (folder / "locks" / "key.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert cache.remove_unfinished_libraries() == []
    assert cut.exists()


@pytest.mark.parametrize(
    "printed",
    ["g++: fatal error: error writing to /x.s: No space left on device", "x: File too large"],
)
def test_a_compiler_that_finds_no_room_names_the_folder(folder, printed):
    failed = subprocess.CalledProcessError(1, ["g++"], f"in file x.cpp\n{printed}\n".encode())
    named = rf"{re.escape(printed)}.*TORCHINDUCTOR_CACHE_DIR"
    with pytest.raises(CacheFolderError, match=named), cache.writable():
        raise CppCompileError(["g++"], failed.output) from failed


def test_a_compiler_that_finds_a_fault_is_left_alone(folder):
    with pytest.raises(CppCompileError), cache.writable():
        raise CppCompileError(["g++"], "error: expected ';'")
