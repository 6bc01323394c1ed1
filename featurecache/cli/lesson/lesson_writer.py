"""Writes a lesson: text and tables to standard output, figures to a folder."""

from collections.abc import Collection, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from featurecache.cli.console.output import print_table, show
from featurecache.cli.console.pictures import write_picture

if TYPE_CHECKING:
    from heads.figures.canvas import ReportFigure

_WIDTH = 80
_INDENT = " " * 4


class LessonWriter:
    """Prints the text and tables of a lesson and saves its figures.

    Parameters
    ----------
    out
        The folder for figures; the first figure creates it.
    silent
        Print nothing; figures are saved all the same.

    Attributes
    ----------
    pictures : list of Path
        The figures saved so far.
    """

    def __init__(self, out: Path, *, silent: bool = False) -> None:
        self._out = out
        self._silent = silent
        self.pictures: list[Path] = []

    def require_place(self) -> None:
        """Raise `OutputError` if the folder cannot take figures; called before any other work."""
        from featurecache.errors import OutputError
        from featurecache.storage.output_errors import output_error, require_place

        try:
            if self._out.exists() and not self._out.is_dir():
                raise OutputError(f"cannot put figures into {self._out}: it is not a folder; choose one with --out")
            require_place(self._out / "picture.png" if self._out.is_dir() else self._out)
        except PermissionError as e:
            raise output_error(self._out, e) from e

    def say(self, text: str) -> None:
        """Print a paragraph, in lines of at most 80 columns; white space is collapsed."""
        self._print(wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False))

    def code(self, text: str) -> None:
        """Print lines unchanged, indented."""
        self._print([f"{_INDENT}{line}".rstrip() for line in text.splitlines()])

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]], *, left: Collection[int] = (0,)) -> None:
        """Print columns; those whose indices are in ``left`` are aligned to the left, the others to the right."""
        if not self._silent:
            print_table(header, rows, left=left)
            show()

    def draw(self, name: str, figure: "ReportFigure") -> None:
        """Save a figure as ``NAME.png`` in the folder, and print its path.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        from featurecache.storage.publish import make_directory

        self.require_place()
        make_directory(self._out)
        path = self._out / f"{name}.png"
        write_picture(path, figure)
        self.pictures.append(path)
        self._print([f"figure: {path}"])

    def _print(self, lines: Sequence[str]) -> None:
        """Print lines, and an empty one after them."""
        if not self._silent:
            for line in (*lines, ""):
                show(line)
