"""``python -m scripts.notebook``: writes ``docs/lesson.ipynb`` from ``docs/lesson.md``.

Prose becomes text cells; each command of a console block becomes a cell that runs it. The printed output is left out,
because the notebook prints it again; where it names figures, cells show them.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

DOCUMENTS = Path(__file__).parents[1] / "docs"

_PREPARED = """\
import os
import sys
from pathlib import Path

from IPython.display import Image

os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # featurecache is beside this Python
os.environ["TERM"] = "dumb"  # print a progress bar once, when it is full"""
_CONSOLE = re.compile(r"^```console\n(.*?)^```$\n?", re.DOTALL | re.MULTILINE)
_COMMAND_OR_FIGURE = re.compile(r"^\$ ((?:.*\\\n)*.*)$|^(?:figure: )?(\S+\.png)(?:: .*)?$", re.MULTILINE)
_SHOWN_HERE = re.compile(r"^!\[.*\]\(.*\)$\n?", re.MULTILINE)


def write_notebook(path: Path) -> None:
    """Write the lesson's notebook, without any output."""
    import nbformat

    nbformat.write(notebook((DOCUMENTS / "lesson.md").read_text("utf-8")), path)


def notebook(text: str) -> "NotebookNode":
    """Return a document as a notebook: its title, a preparing cell, and its cells."""
    from nbformat import v4

    title, rest = re.split(r"^(?=## )", text, maxsplit=1, flags=re.MULTILINE)
    cells = [("markdown", title.strip()), ("code", _PREPARED), *_cells(rest)]
    made = {"markdown": v4.new_markdown_cell, "code": v4.new_code_cell}
    return v4.new_notebook(
        cells=[made[kind](source, id=f"cell-{number}") for number, (kind, source) in enumerate(cells)],
        metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    )


def _cells(text: str) -> Iterator[tuple[str, str]]:
    """Yield kind and source of each cell, in the order of the text."""
    for number, part in enumerate(_CONSOLE.split(text)):
        if number % 2:  # a console block
            yield from _code(part)
        elif prose := _SHOWN_HERE.sub("", part).strip():
            yield "markdown", prose


def _code(block: str) -> Iterator[tuple[str, str]]:
    """Yield one cell per command of a console block, and one per figure that its output names."""
    for command, figure in _COMMAND_OR_FIGURE.findall(block):
        yield "code", f"!{command}" if command else f'Image("{figure}")'


if __name__ == "__main__":
    write_notebook(DOCUMENTS / "lesson.ipynb")
