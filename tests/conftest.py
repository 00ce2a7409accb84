"""Fixtures for every test: one cache folder per run, a clean Dynamo and a fixed seed around each test."""

import os
import tempfile

os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), "bi_inductor-tests")
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption(
        "--thorough", action="store_true", help="also what takes hours; what `make test-all` runs"
    )
    parser.addoption("--record", metavar="FILE", help="keep results; leave out what passed before")
    parser.addoption("--seconds", metavar="N", type=int, help="end after N seconds")


def pytest_configure(config):
    if config.getoption("--record") or config.getoption("--seconds"):
        from tests.suite.record import Recorder

        config.pluginmanager.register(Recorder(config), "recorder")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--thorough"):
        return
    thorough = [item for item in items if item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=thorough)
    items[:] = [item for item in items if not item.get_closest_marker("thorough")]


@pytest.fixture(scope="session")
def device(pytestconfig):
    """``--bi-device``: where models under test run; the plugin has refused one that is absent."""
    return pytestconfig.getoption("--bi-device") or "cpu"


@pytest.fixture(autouse=True)
def _clean():
    torch.compiler.reset()
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(name="one_library")
def _one_library():
    """For tests that compile much and whose subject is not how Inductor builds its files."""
    # not above: it imports Inductor, which some tests prepare first
    from tests.one_library import one_library

    with one_library():
        yield
