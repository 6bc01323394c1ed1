"""Hooks of ``mkdocs build``: add documents of the repository's root to the site."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "README.zh-CN.md": "index.zh-CN.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
}
"""Maps documents of the repository's root to their pages of the site."""

_LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the documents of the repository's root to the site."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=from_root((ROOT / name).read_text("utf-8"))))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:  # noqa: ANN401 - mkdocs gives further arguments
    """Point links to the root's documents at their pages."""
    return to_root(markdown, page.file.src_uri.count("/"))


def from_root(text: str) -> str:
    """Return a document of the root with its links changed for the site."""
    return _LINK.sub(lambda link: f"]({_page(link[1].removeprefix('docs/'))}{link[2] or ''})", text)


def to_root(text: str, depth: int) -> str:
    """Return a page with its links to the root's documents changed for the site; ``depth`` counts its folders."""
    up = "../" * (depth + 1)

    def point(link: re.Match[str]) -> str:
        name = link[1].removeprefix(up)
        return f"]({'../' * depth}{PAGES[name]}{link[2] or ''})" if link[1] == up + name and name in PAGES else link[0]

    return _LINK.sub(point, text)


def _page(target: str) -> str:
    return PAGES.get(target, target)
