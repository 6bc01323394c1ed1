"""What all tests share: real photographs and a real browser, and the rule that CI never goes without them."""

import os
import shutil
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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


@pytest.fixture(scope="module")
def browser():
    """Return a real Chromium."""
    if CHROMIUM is None:
        _unavailable("there is no chromium, chromium-browser or google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _unavailable("playwright is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def _unavailable(reason):
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI looks at reports in a real browser, and {reason}")
    pytest.skip(reason)


@pytest.fixture
def open_page(browser):
    """Open a page; whatever it then says on the console, asks for or throws is a fault."""
    contexts, faults = [], []

    def visit(url, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: faults.append(f"console: {message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("request", lambda request: faults.append(request.url) if _is_from_outside(request.url, url) else None)
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert faults == []


def _is_from_outside(url, page):
    return url != page and not url.startswith("data:")
