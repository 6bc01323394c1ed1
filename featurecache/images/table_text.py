"""The text of a table of images, line by line: CSV, TSV or a list, compressed or not, or a DataFrame of pandas."""

import codecs
import csv
import gzip
import io
import os
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from featurecache.errors import ManifestError, OptionError
from featurecache.images.failures import Ignored
from featurecache.images.formats import EXTENSIONS
from featurecache.images.names import split_frame

COLUMNS: Final = ("path", "label", "split")
"""The columns of a table that have a meaning."""
ORIGINAL_PATH: Final = "original_path"
"""The further column with the paths that files with images in them give for these."""
PATH_WORDS: Final = frozenset(
    [
        "path",
        "file",
        "filename",
        "filepath",
        "image",
        "imagename",
        "imagefile",
        "imagefilename",
        "imagepath",
        "img",
        "imgname",
        "imgpath",
        "photo",
    ]
)
"""Words for the first of them."""
_SEPARATORS: Final = {",": "commas", "\t": "tabs", ";": "semicolons"}
_LIST, _COMPRESSED = ".txt", ".gz"
_OF_A_LIST = ""  # the separator of a list
_SEPARATOR_OF: Final = {".csv": ",", ".tsv": "\t", _LIST: _OF_A_LIST}
_QUOTED = 60  # letters of a faulty text
_LINE_END: Final = re.compile("\r\n|\r|\n")


class DataFrame(Protocol):
    """What is asked of a DataFrame of pandas."""

    def to_csv(self, *, index: Literal[False]) -> str:
        """Return the frame as the text of a CSV table."""
        ...


class Table(ABC):
    """A table of images: rows of texts.

    Attributes
    ----------
    name
        What the table is called in messages, such as "the table photos.csv".
    dialect
        How its columns were found, for messages: ", separated by commas".
    not_read
        The names of columns that are no texts.
    ignored
        Files that were left out, once the rows were read.
    """

    name: str
    dialect: str
    not_read: tuple[str, ...] = ()
    ignored: tuple[Ignored, ...] = ()

    @abstractmethod
    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the first line number and the fields of every row; the first row has the names of columns."""


@dataclass(frozen=True)
class TableText(Table):
    """The text of a table, and how its fields are separated.

    Parameters
    ----------
    name
        What the table is called in messages, such as "the table photos.csv".
    text
        Its text.
    separator
        What stands between two fields; "" for a list, whose lines are a path and perhaps a label.
    """

    name: str
    text: str
    separator: str

    @property
    def dialect(self) -> str:  # type: ignore[override]
        """What stands between two fields, in words."""
        return f", separated by {_SEPARATORS.get(self.separator, 'blanks')}"

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the first line number and the fields of every non-empty row; the first row has the names of columns.

        A list has the columns ``path`` and ``label``.

        Raises
        ------
        ManifestError
            If the text cannot be divided into rows and fields.
        """
        if self.separator == _OF_A_LIST:
            yield 0, [*COLUMNS[:2]]
            for number, line in enumerate(_LINE_END.split(self.text), start=1):
                if line.strip() and not _is_comment(line):
                    yield number, self._path_and_label(line, number)
            return
        reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=self.separator, strict=True)
        line = 1
        try:
            for row in reader:
                if any(field.strip() for field in row):
                    yield line, row
                line = reader.line_num + 1
        except csv.Error as e:
            raise ManifestError(f"{self.name} cannot be read in line {line}: {e}") from e

    def _path_and_label(self, line: str, number: int) -> list[str]:
        """Divide a line of a list at a tab, or else at the last blank, unless all of it is the path of an image."""
        path, *labels = line.split("\t")
        if len(labels) > 1:
            raise ManifestError(
                f"{self.name}, line {number}: {len(labels) + 1} fields with tabs between them, expected a path and a "
                "label; write a table with names of columns for more"
            )
        if labels or _is_image(line):
            return [path, *labels, *([] if labels else [""])]
        path, _, label = line.strip().rpartition(" ")
        if not path:
            return [line, ""]
        if not _is_image(path) and _names_image(path):
            raise ManifestError(
                f"{self.name}, line {number}: more than one word follows the path in {line!r}; put a tab "
                "before the label, or write a CSV table with the columns path,label"
            )
        return [path, label]


def text_of_frame(frame: DataFrame) -> TableText:
    """Return the text of a DataFrame: that of the CSV file that it would be saved as, without its index.

    Raises
    ------
    OptionError
        If it is no DataFrame of pandas.
    ManifestError
        If it has text that no file can hold.
    """
    if not hasattr(frame, "to_csv"):
        raise OptionError(
            f"images are of type {type(frame).__name__}; expected a path, a manifest or a DataFrame of pandas: make "
            "manifests with from_memory, from_source or read_manifest"
        )
    try:
        text = frame.to_csv(index=False)
        text.encode()
    except UnicodeEncodeError as e:
        raise ManifestError(f"the DataFrame has text that is not UTF-8, {e.object[:_QUOTED]!a}; remove it") from e
    return TableText("the DataFrame", text, ",")


def open_table(path: Path) -> TableText | None:
    """Return the text of a ``.csv``, ``.tsv`` or ``.txt`` file, perhaps with ``.gz`` after it; None for other paths.

    Raises
    ------
    ManifestError
        As `read_text`.
    """
    is_file = _separator_by_name(path) is not None and os.path.isfile(path)  # noqa: PTH113 - pathlib needs permission
    return read_text(path) if is_file else None


def read_text(path: Path) -> TableText:
    """Return the text of a table whatever its name; a ``.txt`` file is a list, others are CSV unless they are TSV.

    The names of columns decide: a single one with tabs or semicolons in it is divided there.

    Raises
    ------
    ManifestError
        If the file cannot be read, is not UTF-8 nor UTF-16 with a mark, or is compressed and damaged, or if a list
        begins with the names of columns.
    """
    text = _decoded(path)
    separator = _separator_by_name(path)
    if separator == _OF_A_LIST:
        return _checked_list(TableText(f"the list {path}", text, _OF_A_LIST))
    expected = separator or ","
    header = _first_line(text)
    others = [other for other in _SEPARATORS if other in header and expected not in header]
    return TableText(f"the table {path}", text, next(iter(others), expected))


def _separator_by_name(path: Path) -> str | None:
    """Return the separator that a file's name stands for; None if it is not the name of a table."""
    suffix = path.suffix.lower()
    if suffix == _COMPRESSED:
        suffix = Path(path.stem).suffix.lower()
    return _SEPARATOR_OF.get(suffix)


def _decoded(path: Path) -> str:
    """Return the text of a file."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise ManifestError(f"cannot read the table {path}: {(e.strerror or str(e)).lower()}") from e
    if path.suffix.lower() == _COMPRESSED:
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as e:
            raise ManifestError(f"the table {path} is not a whole gzip file: {str(e).lower()}; copy it again") from e
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1
        raise ManifestError(f"the table {path} is not UTF-8 in line {line}; save it as UTF-8") from e


def _checked_list(table: TableText) -> TableText:
    """Return a list; raise `ManifestError` if it begins with the names of columns."""
    lines = (line for line in _LINE_END.split(table.text) if line.strip() and not _is_comment(line))
    header = next(lines, "")
    words = {word.lower() for word in re.split(r"[\s;,]+", header)}
    if words & PATH_WORDS and not _names_image(header):
        raise ManifestError(
            f"{table.name} begins with the names of columns, {header!r}; give it the extension .csv or .tsv"
        )
    return table


def _first_line(text: str) -> str:
    """Return the first line that is not empty."""
    return _LINE_END.split(text.lstrip(), maxsplit=1)[0]


def _is_comment(line: str) -> bool:
    return line.startswith("#") and not _names_image(line)


def _names_image(line: str) -> bool:
    """Return whether a word of a line ends as the name of an image does."""
    return any(map(_is_image, line.split()))


def _is_image(name: str) -> bool:
    return split_frame(name.strip())[0].lower().endswith(EXTENSIONS)
