"""What goes wrong around a compiler: threads, processes that share a cache, killed compiles, folders that refuse."""

import hashlib
import os
import shutil
import signal
import threading
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.rows import bits_equal
from tests.suite.processes import finish, run, start, with_kernels

#: prints the hash of a softmax whose sum stock torch adds up in another order for another batch
_SOFTMAX = """
import hashlib, torch
torch.manual_seed(0)
x = torch.randn(5, 3001)
f = torch.compile(lambda x: (x * 3).softmax(-1) + 1, backend="batch_invariant", dynamic=False)
print(hashlib.sha256(f(x).numpy().tobytes()).hexdigest())
"""


class Small(nn.Module):
    def __init__(self, width=40):
        super().__init__()
        self.up, self.down = nn.Linear(width, 90), nn.Linear(90, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(x)))


def in_threads(count, work):
    """Run ``work(i)`` in threads that start together; the first exception of any is raised."""
    gate, errors = threading.Barrier(count), []

    def body(i):
        gate.wait()
        try:
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@torch.no_grad()
def test_two_hundred_threads_share_one_compiled_model():
    model = Small().eval()
    x = torch.randn(8, 40)
    ours = torch.compile(model, backend="batch_invariant", dynamic=False)
    expected, alone = ours(x), ours(x[:1].clone())
    assert bits_equal(expected[:1], alone)

    def work(i):
        with torch.no_grad():
            for n in (8, 1):
                assert bits_equal(ours(x[:n].clone()), expected[:n])

    in_threads(200, work)


@torch.no_grad()
def test_two_hundred_threads_over_models_that_are_compiled_at_the_same_time():
    """Nothing is compiled when they start: the first call of each model, and of each size, is one of theirs."""
    x = torch.randn(6, 40)
    models = [Small().eval() for _ in range(2)]
    shared = [torch.compile(m, backend="batch_invariant", dynamic=False) for m in models]
    found = {}

    def work(i):
        with torch.no_grad():
            at = i // 2 % 2
            # two compile the same model once more, each for itself
            ours = shared[at] if i >= 2 else torch.compile(models[at], backend="batch_invariant", dynamic=False)  # fmt: skip
            found[i] = ours(x.clone() if i % 2 else x[:1].clone())

    in_threads(200, work)
    for i in range(200):
        expected = shared[i // 2 % 2](x.clone())
        assert bits_equal(found[i], expected if i % 2 else expected[:1]), i


@torch.no_grad()
def test_a_thousand_runs_are_identical():
    model = Small().eval()
    x = torch.randn(7, 40)
    ours = torch.compile(model, backend="batch_invariant", dynamic=False)
    hashes = {hashlib.sha256(ours(x).numpy().tobytes()).digest() for _ in range(1000)}
    assert len(hashes) == 1


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A cache folder that two processes filled at the same time, and what each printed."""
    folder = with_kernels(tmp_path_factory.mktemp("shared"))
    both = [start(_SOFTMAX, TORCHINDUCTOR_CACHE_DIR=str(folder)) for _ in range(2)]
    return folder, [finish(process) for process in both]


@pytest.fixture
def expected(shared):
    return shared[1][0]


@pytest.fixture
def filled(shared, tmp_path):
    """A copy of what they left: this test may break it."""
    return shutil.copytree(shared[0], tmp_path / "filled")


def test_two_processes_share_one_cache_folder(shared):
    """What a third finds there is the tests' below."""
    _, (first, second) = shared
    assert first == second


def test_a_library_cut_short_is_built_again(filled, expected):
    """A killed compiler leaves half a library under its final name: of a kernel, or of a probe for AVX."""
    libraries = [p for p in filled.rglob("*.so") if p.parent.name != "bi_inductor"]
    whole = {library: library.read_bytes() for library in libraries}
    assert whole, "Inductor compiled nothing"
    for at, library in enumerate(libraries):
        library.write_bytes(whole[library][: 0 if at == 0 else len(whole[library]) // 2])
    assert run(_SOFTMAX, TORCHINDUCTOR_CACHE_DIR=str(filled)) == expected
    for library, content in whole.items():
        # a probe that was not needed again is gone; none is cut. The path of the folder is in it
        assert not library.exists() or abs(library.stat().st_size - len(content)) < 500


#: a limit on the size of files stands for the disk
_FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
"""


def test_a_full_disk_and_then_a_killed_compile_do_not_poison_the_cache(tmp_path, expected):
    """The first names the disk, the second dies while a kernel is compiled; a third works in the same folder."""
    folder = with_kernels(tmp_path)
    process = start(_FULL + _SOFTMAX, TORCHINDUCTOR_CACHE_DIR=str(folder))
    out, err = process.communicate(timeout=300)
    if process.returncode == 0:
        assert out == expected
    else:
        assert "set TORCHINDUCTOR_CACHE_DIR" in err, err[-2000:]

    killed = start(_SOFTMAX, TORCHINDUCTOR_CACHE_DIR=str(folder))
    while not any(folder.rglob("*.main.cpp")):
        assert killed.poll() is None, "it ended before it compiled a kernel"
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL

    assert run(_SOFTMAX, TORCHINDUCTOR_CACHE_DIR=str(folder)) == expected


def test_a_cache_folder_that_is_a_file_is_named(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    process = start(_SOFTMAX, TORCHINDUCTOR_CACHE_DIR=str(blocked))
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert str(blocked) in err


#: permissions do not stop root, unless it gives that up (CAP_DAC_OVERRIDE) and starts anew
_UNPRIVILEGED = """
import ctypes, os, sys
if os.geteuid() == 0 and os.environ.pop("PRIVILEGED", ""):
    assert ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) == 0
    os.execv(sys.executable, [sys.executable, "-c", os.environ["CODE"]])
"""


def unprivileged(code, folder):
    code = _UNPRIVILEGED + code
    return start(code, CODE=code, PRIVILEGED="yes", TORCHINDUCTOR_CACHE_DIR=str(folder))


def test_a_read_only_cache_folder_serves_what_is_in_it_and_is_named_for_what_is_not(
    filled, expected
):
    folders = [filled, *(p for p in filled.rglob("*") if p.is_dir())]
    for each in folders:
        each.chmod(0o555)
    try:
        process = unprivileged(_SOFTMAX + _SOFTMAX.replace("x * 3", "x * 5"), filled)
        out, err = process.communicate(timeout=300)
    finally:
        for each in folders:
            each.chmod(0o755)
    assert out == expected, err[-2000:]
    assert process.returncode != 0
    assert "CacheFolderError" in err
    assert "set TORCHINDUCTOR_CACHE_DIR" in err


@torch.no_grad()
@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda: torch.randn(4, 41), "shape|size|mat"),
        (lambda: torch.randn(4, 40).double(), "dtype|Double|double|float"),
        (lambda: torch.randn(40, 4).t()[:, :39], "shape|size|mat"),
        (lambda: torch.tensor(1.0), "shape|dim|size|input"),
        (lambda: torch.randn(4, 40, device="meta"), "device|meta"),
    ],
    ids=["width", "dtype", "stride", "rank", "device"],
)
def test_inputs_that_do_not_fit_are_errors_and_leave_the_model_usable(wrong, text):
    model = Small().eval()
    x = torch.randn(4, 40)
    ours = torch.compile(model, backend="batch_invariant", dynamic=False)
    expected = ours(x)
    with pytest.raises(Exception, match=text):
        ours(wrong())
    assert bits_equal(ours(x), expected)
