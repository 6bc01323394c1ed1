"""What all tests share: where the real photographs are, and the rule that CI never goes without them."""

import os
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items):
    """Skip the tests of real data where there is none; in CI they run, and fail if it is missing."""
    if SHARED_DATA.is_dir() or os.environ.get("CI"):
        return
    skip = pytest.mark.skip(reason=f"no real data at {SHARED_DATA}")
    for item in items:
        if "real_data" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data():
    """Return the folder of real photographs and weights that lies beside the repository."""
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _no_home(tmp_path_factory, monkeypatch):
    """Keep tests away from the user's own weights and caches."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.getbasetemp() / "keras"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
