"""What the suite's tests share."""

import pytest


@pytest.fixture(scope="session")
def device(pytestconfig):
    """``--bi-device``: where models under test run; the plugin has refused one that is absent."""
    return pytestconfig.getoption("--bi-device") or "cpu"
