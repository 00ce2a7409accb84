"""Deletes each barrier in turn: some thread order must then change the bits or stop the shim."""

import re
import shutil

import pytest
import torch
from msl_cpu import model
from properties import KEYS, LANES, SPLIT, data, same

from lowerings.mps import attention, library, matmul, reduction, schedules
from lowerings.mps.schedules import AttentionSchedule, Gemv, Tile

BARRIER = re.compile(r"(threadgroup|simdgroup)_barrier\(mem_flags::mem_threadgroup\);")
ORDERS = [("forward", 1), ("reverse", 1), *[("random", seed) for seed in range(1, 7)]]


def gemv():
    a, b = (
        data(3, 5000),
        data(5000, 40, seed=1),
    )  # more than 32 pieces: the second round reuses memory
    schedule = Gemv(rows=4)
    by_k = b.t().contiguous().t()
    return [matmul.bmm_with(schedule, a[None], w[None], split_size=SPLIT) for w in (b, by_k)]


def tile():
    a, b = data(1, 37, 300), data(1, 300, 40, seed=1)
    return [matmul.bmm_with(Tile(block_m=32, block_n=32), a, b, split_size=SPLIT)]


def simdgroup():
    return [matmul.mm(data(37, 50), data(50, 40, seed=1), split_size=16)]


def rows():
    x = data(3, 700)
    return [*reduction.var_mean(x, [1], 1, lanes=LANES)]


def arg():
    return [reduction.reduction(data(3, 700), "argmax", [1], lanes=LANES)]


def attend():
    q, k, v = data(1, 1, 8, 16), data(1, 1, 600, 16, seed=1), data(1, 1, 600, 16, seed=2)
    schedule = AttentionSchedule(queries=8, by_piece=False, threads=64)
    return list(attention.attention_with(schedule, q, k, v, split_size=KEYS))


JOBS = {
    "gemv": gemv,
    "matmul": tile,
    "matmul_simdgroup": simdgroup,
    "rows": rows,
    "reduction": arg,
    "attention": attend,
}
SITES = [
    (path.stem, i)
    for path in sorted(library.KERNELS.glob("*.metal"))
    for i, _ in enumerate(BARRIER.finditer(path.read_text()))
]


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    monkeypatch.setattr(schedules, "row_width", lambda extent: 256)
    folder = tmp_path / "kernels"
    shutil.copytree(library.KERNELS, folder)
    monkeypatch.setattr(library, "KERNELS", folder)
    library._compiled.cache_clear()
    yield folder
    library._compiled.cache_clear()


def test_every_file_with_a_barrier_has_a_job():
    assert {name for name, _ in SITES} == set(JOBS)


@pytest.mark.parametrize(("name", "site"), SITES)
def test_deleting_a_barrier_is_noticed(name, site, kernels):
    right = JOBS[name]()
    path = kernels / f"{name}.metal"
    text = path.read_text()
    match = list(BARRIER.finditer(text))[site]
    path.write_text(text[: match.start()] + text[match.end() :])
    library._compiled.cache_clear()
    for order, seed in ORDERS:
        try:
            with model(order=order, seed=seed):
                wrong = JOBS[name]()
        except RuntimeError:
            return
        if not all(same(a, b) for a, b in zip(wrong, right, strict=True)):
            return
    pytest.fail(f"{name}.metal: barrier {site} can be deleted and nobody notices")


def test_jobs_do_not_depend_on_the_order(kernels):
    for job in JOBS.values():
        right = job()
        for order, seed in ORDERS[1:4]:
            with model(order=order, seed=seed):
                assert all(same(a, b) for a, b in zip(job(), right, strict=True))
    assert torch.is_tensor(right[0])
