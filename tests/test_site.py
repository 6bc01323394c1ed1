"""The site: it builds without a warning, shows every public name, and loads nothing from another host."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import featurecache
import heads
from scripts.site_hooks import PAGES, from_root, to_root

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site; CI does so here alone."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_decision_has_a_number_and_is_in_the_navigation_and_the_list():
    """`mkdocs build --strict` fails for a page outside the navigation, but is slow."""
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert len(pages) >= 25
    for number, page in enumerate(pages, 1):
        assert page.name.startswith(f"{number:04}-")
        heading = page.read_text("utf-8").partition("\n")[0]
        assert heading.startswith(f"# {number}. "), page
        assert f"- decisions/{page.name}\n" in navigation, page
        assert f"- [{heading.partition('. ')[2]}](decisions/{page.name})\n" in listed, page


def test_a_strict_build_counts_warnings():
    """`--quiet` hides warnings, and `--strict` counts only those that are shown."""
    for path in ("justfile", "tests/test_site.py"):
        commands = re.findall(r"mkdocs\W+build\b.*", (ROOT / path).read_text("utf-8"))
        assert commands, path
        assert all("--strict" in command and "--quiet" not in command for command in commands), path


@pytest.mark.slow
def test_every_public_name_is_in_the_python_reference(site):
    shown = set(re.findall(r'<h\d id="([\w.]+)"', (site / "reference" / "api" / "index.html").read_text("utf-8")))
    public = {f"{package.__name__}.{name}" for package in (featurecache, heads) for name in package.__all__}
    assert public <= shown, public - shown


@pytest.mark.slow
def test_pages_load_nothing_from_another_host(site):
    for path in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link|iframe)[^>]*(?:src|href)="((?:https?:)?//[^"]+)"', path.read_text("utf-8")
        )
        assert loaded == [], path


@pytest.mark.slow
def test_every_page_of_the_root_is_a_page_of_the_site(site):
    for page in PAGES.values():
        folder = page.removesuffix(".md").removesuffix("index")
        assert (site / folder / "index.html").exists(), page


def test_links_follow_documents_to_their_pages():
    assert from_root("[a](docs/format.md#rules) [b](README.md) [c](https://x.org/)") == (
        "[a](format.md#rules) [b](index.md) [c](https://x.org/)"
    )
    assert to_root("[a](../README.md) [b](format.md)", 0) == "[a](index.md) [b](format.md)"
    assert to_root("[a](../../SECURITY.md#heads) [b](../format.md)", 1) == "[a](../SECURITY.md#heads) [b](../format.md)"
