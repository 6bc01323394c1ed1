"""What a lesson writes on: text and tables on standard output, pictures in a folder."""

from collections.abc import Collection, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from scripts.output import print_table, show
from scripts.pictures import write_picture

if TYPE_CHECKING:
    from heads.figures.canvas import ReportFigure

_WIDTH = 80
_INDENT = " " * 4


class Board:
    """What a lesson says, in the order in which it says it.

    Parameters
    ----------
    out
        The folder for pictures; it is made when the first one is drawn.
    silent
        Print nothing; pictures are drawn all the same.

    Attributes
    ----------
    pictures : list of Path
        The pictures drawn so far.
    """

    def __init__(self, out: Path, *, silent: bool = False) -> None:
        self._out = out
        self._silent = silent
        self.pictures: list[Path] = []

    def require_place(self) -> None:
        """Raise `OutputError` if no picture could be put into the folder, before any work is spent on it."""
        from featurecache.errors import OutputError
        from featurecache.publish import output_error, require_place

        try:
            if self._out.exists() and not self._out.is_dir():
                raise OutputError(f"cannot put pictures into {self._out}: it is not a folder; choose one with --out")
            require_place(self._out / "picture.png" if self._out.is_dir() else self._out)
        except PermissionError as e:
            raise output_error(self._out, e) from e

    def say(self, text: str) -> None:
        """Print a paragraph, in lines of at most 80 columns; white space in it counts as one blank."""
        self._print(wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False))

    def code(self, text: str) -> None:
        """Print lines as they are, indented."""
        self._print([f"{_INDENT}{line}".rstrip() for line in text.splitlines()])

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]], *, left: Collection[int] = (0,)) -> None:
        """Print columns, those whose numbers are in ``left`` aligned to the left, the others to the right."""
        if not self._silent:
            print_table(header, rows, left=left)
            show()

    def draw(self, name: str, figure: "ReportFigure") -> None:
        """Save a figure as ``NAME.png`` in the folder, and say where it is.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        from featurecache.publish import make_directory

        self.require_place()
        make_directory(self._out)
        path = self._out / f"{name}.png"
        write_picture(path, figure)
        self.pictures.append(path)
        self._print([f"picture: {path}"])

    def _print(self, lines: Sequence[str]) -> None:
        """Print lines, and an empty one after them."""
        if not self._silent:
            for line in (*lines, ""):
                show(line)
