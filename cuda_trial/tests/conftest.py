"""Fixtures for every test: one cache folder per run, a clean Dynamo and a fixed seed around each test."""

import os
import tempfile

os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), "bi_inductor-tests"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def _clean():
    torch._dynamo.reset()
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _limits():
    # a test that hits a limit of Dynamo would go on in eager; the backend must not need a raised one
    yield
    torch._dynamo.reset()
