"""Images in Parquet and Arrow files, as ``datasets`` and Hugging Face's hub keep them; pyarrow is imported on use."""

import json
import math
import os
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from featurecache.errors import ManifestError, OptionError
from featurecache.images.failures import Failure, Ignored, one_line
from featurecache.images.files import FileContent, Stat, content_of
from featurecache.images.folder import holds_only
from featurecache.images.image_source import ImageSource
from featurecache.images.names import decode_name, encode_name
from featurecache.images.splits import split_of_file
from featurecache.images.table_text import COLUMNS, ORIGINAL_PATH, Table
from featurecache.text import listed

if TYPE_CHECKING:
    import pyarrow

PARQUET, ARROW = ".parquet", ".arrow"
SUFFIXES = (PARQUET, ARROW)
"""The suffixes of the files, in lower case."""

INSTALL = "pip install 'featurecache[data]'"

_STATE, _SPLITS = "state.json", "dataset_dict.json"  # files of a folder that datasets has saved
_KEPT_ASIDE = ("cache-", "tmp")  # results that datasets keeps in such a folder
_LONGEST_NUMBER = 18  # digits
_DIGITS = 8  # of a row's number in its path
_IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "png")
_OPEN_FILES = 8
_GROUPS = 2  # row groups in memory
_ARROW_FILE = b"ARROW1"


@dataclass(frozen=True, slots=True)
class ArrowSource(ImageSource):
    """Images in a Parquet or Arrow file, or in all of those below a folder.

    The images are in a column of bytes, or of ``{bytes, path}``. A row's path is its number, after the name of its file
    where there are several: ``train-00000-of-00002.parquet/00000012``. The rows of a row group of Parquet are in memory
    together; Arrow files are mapped.

    Parameters
    ----------
    place
        The file, or the folder.

    Examples
    --------
    >>> import pyarrow, pyarrow.parquet
    >>> data = [(images / "train/dark/00.png").read_bytes()]
    >>> pyarrow.parquet.write_table(pyarrow.table({"image": data, "label": ["dark"]}), folder / "photos.parquet")
    >>> featurecache.read_manifest(folder / "photos.parquet")
    <Manifest: 1 image: 1 class (dark); no splits>
    """

    place: Path

    @classmethod
    def of_folder(cls, folder: Path) -> Self | None:
        """Return the source of a folder that ``datasets`` has saved, or of Parquet files alone; None for another.

        A folder with images or folders beside a Parquet file is a folder of images.
        """
        is_saved = any(os.path.lexists(folder / mark) for mark in (_STATE, _SPLITS))
        return cls(folder) if holds_only(folder, SUFFIXES if is_saved else (PARQUET,), below=True) else None

    @property
    def name(self) -> str:
        """The absolute path of the file or folder."""
        return str(self.place.absolute())

    def anywhere(self) -> Self:
        """Return the same source with an absolute path."""
        return replace(self, place=self.place.absolute())

    def exists(self) -> bool:
        """Return whether the file or folder exists."""
        return self.place.exists()

    def stat(self, path: str) -> Stat | None:
        """Return None: a change is detected by the bytes alone."""
        del path
        return None

    def read(self, path: str, *, max_bytes: int) -> FileContent | Failure:
        """Return the bytes of an image, or a failure."""
        file, row = self._file_and_row(decode_name(path))
        if file is None:
            return Failure("not_found", "no such row")
        try:
            found = _opened(file).image(row)
        except (ManifestError, OptionError, OSError, MemoryError, ValueError, TypeError, NotImplementedError) as e:
            return Failure("unreadable", one_line(str(e)) or "not enough memory for the rows beside this one")
        return found if isinstance(found, Failure) else content_of(found, max_bytes=max_bytes)

    def list_images(self) -> tuple[list[str], list[Ignored]]:
        """Return the paths of all rows."""
        return [row[0] for _, row in islice(self.table().rows(), 1, None)], []

    def has_file(self, name: bytes) -> bool:
        """Return whether there is a row of this path."""
        file, _ = self._file_and_row(name)
        return file is not None and file.is_file()

    def _file_and_row(self, path: bytes) -> tuple[Path | None, int]:
        """Return the file of a row and its number there; None and -1 if the path is that of no row here."""
        name, _, number = path.rpartition(b"/")
        is_row = number.isdigit() and len(number) <= _LONGEST_NUMBER
        if not is_row or path.startswith(b"/") or b".." in name.split(b"/") or b"\0" in name:
            return None, -1
        return self.place / os.fsdecode(name), int(number)

    def table(self) -> "ArrowTable":
        """Return the table of the rows: their paths, and all columns of text, numbers and classes.

        Raises
        ------
        ManifestError
            If there are no such files, or one cannot be read or has no images.
        OptionError
            If pyarrow is not installed.
        """
        if not self.place.is_dir():
            return ArrowTable(self.place, [""])
        below = sorted(
            path.relative_to(self.place) for path in self.place.rglob("*") if path.suffix.lower() in SUFFIXES
        )
        files = [path.as_posix() for path in below if not self._is_aside(path) and (self.place / path).is_file()]
        if not files:
            raise ManifestError(f"{self.place} has no {PARQUET} or {ARROW} files; give the folder that holds them")
        return ArrowTable(self.place, files)

    def _is_aside(self, path: Path) -> bool:
        """Return whether a file is hidden, or one that ``datasets`` keeps beside the rows that it has saved."""
        is_kept = path.name.startswith(_KEPT_ASIDE) and (self.place / path).with_name(_STATE).exists()
        return is_kept or any(part.startswith(".") for part in path.parts)


class ArrowTable(Table):
    """The rows of Parquet or Arrow files as a table of texts, file by file.

    Parameters
    ----------
    place
        The file, or the folder of the files.
    files
        Their paths below the folder; ``""`` for the file itself.
    """

    dialect = ""

    def __init__(self, place: Path, files: Sequence[str]) -> None:
        self.name = f"the table {place}"
        self._place = place
        self._files = files
        first = _opened(place / files[0])
        self._columns = list(first.text_columns)
        self.not_read = tuple(first.other_columns)
        self._named_classes = first.named_classes
        splits = {file: split_of_file(file) for file in files}
        has_splits = COLUMNS[2] in {name.lower() for name in first.text_columns}
        self._splits = splits if any(splits.values()) and not has_splits else {}

    def _header(self, file: "_File") -> list[str]:
        """Return the names of the columns of text; one that is named path has the paths that the file gives."""
        return [ORIGINAL_PATH if name.lower() == COLUMNS[0] else name for name in file.text_columns]

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the names of the columns, then the number and the texts of each row."""
        header = self._header(_opened(self._place / self._files[0]))
        yield 0, [COLUMNS[0], *header, *([COLUMNS[2]] if self._splits else [])]
        line = 0
        for name in self._files:
            file = _opened(self._place / name)
            if list(file.text_columns) != self._columns:
                found, first = (listed(names, sort=False) or "none" for names in (file.text_columns, self._columns))
                raise ManifestError(
                    f"{file.path} has the columns {found}, but {self._files[0]} has {first}; put files of different "
                    "columns into different folders"
                )
            if file.named_classes != self._named_classes:
                raise ManifestError(
                    f"{file.path} has names of classes for {listed(file.named_classes) or 'no column'}, but "
                    f"{self._files[0]} has them for {listed(self._named_classes) or 'none'}; give each folder by itself"
                )
            prefix = encode_name(os.fsencode(name)) + "/" if name else ""
            split = [self._splits[name]] if self._splits else []
            for number, texts in enumerate(file.texts()):
                line += 1
                yield line, [f"{prefix}{number:0{_DIGITS}d}", *texts, *split]


class _File(ABC):
    """An open Parquet or Arrow file, with the roles of its columns."""

    def __init__(self, path: Path, schema: "pyarrow.Schema") -> None:
        import pyarrow as pa

        self.path = path
        self._image = _image_column(path, schema)
        self._in_struct = pa.types.is_struct(schema.field(self._image).type)
        self._classes = _classes_of(schema)
        self.named_classes = sorted(self._classes)
        others = [field for field in schema if field.name != self._image]
        texts = [field.name for field in others if _is_text(field.type)]
        self._gives_path = (
            self._in_struct
            and _has_text(schema.field(self._image).type, COLUMNS[0])
            and not {ORIGINAL_PATH, COLUMNS[0]} & {name.lower() for name in texts}
        )
        self._texts = texts
        self.text_columns = [*texts, *([ORIGINAL_PATH] if self._gives_path else [])]
        self.other_columns = [field.name for field in others if field.name not in texts]

    @abstractmethod
    def tables(self) -> Iterator["pyarrow.Table"]:
        """Yield tables of the columns of texts, and of the paths of images if they are given; together all rows."""

    @abstractmethod
    def cell(self, row: int) -> Any:  # noqa: ANN401 - bytes, or what a struct is in Python
        """Return the value of the column of images in a row; raise `IndexError` if there is no such row."""

    def texts(self) -> Iterator[list[str]]:
        """Yield the texts of each row."""
        import pyarrow.compute

        for table in self.tables():
            columns = [self._as_texts(name, table[name]) for name in self._texts]
            if self._gives_path:
                paths = pyarrow.compute.struct_field(table[self._image], COLUMNS[0])
                columns.append([path or "" for path in _values(self.path, self._image, paths)])
            yield from map(list, zip(*columns, strict=True)) if columns else ([] for _ in range(table.num_rows))

    def image(self, row: int) -> bytes | Failure:
        """Return the bytes of an image, or a failure."""
        try:
            value = self.cell(row)
        except IndexError:
            return Failure("not_found", "no such row")
        data = (value or {}).get("bytes") if self._in_struct else value
        if data is None:
            place = (value or {}).get(COLUMNS[0]) if self._in_struct else None
            beside = f" but the path {place!r}; save the table with its images in it" if place else ""
            return Failure("not_found", f"the row has no bytes{beside}")
        return bytes(data)

    def _as_texts(self, name: str, column: "pyarrow.ChunkedArray") -> list[str]:
        """Return the texts of a column: the names of classes, or the values; "" for none."""
        values = _values(self.path, name, column)
        names = self._classes.get(name)
        if names is None:
            missing = (value is None or (isinstance(value, float) and math.isnan(value)) for value in values)
            return ["" if none else str(value) for value, none in zip(values, missing, strict=True)]
        unknown = next((value for value in values if value is not None and value >= len(names)), None)
        if unknown is not None:
            raise ManifestError(
                f"{self.path} has the class {unknown} in the column {name!r}, but names for {len(names)} classes alone"
            )
        return ["" if value is None or value < 0 else names[value] for value in values]


class _Parquet(_File):
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self._file = parquet.ParquetFile(path)
        super().__init__(path, self._file.schema_arrow)
        metadata = self._file.metadata
        counts = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._starts = list(accumulate(counts, initial=0))  # of row groups, and the number of rows

    def tables(self) -> Iterator["pyarrow.Table"]:
        """Yield a table for each row group."""
        columns = [*self._texts, *([f"{self._image}.{COLUMNS[0]}"] if self._gives_path else [])]
        for group in range(self._file.metadata.num_row_groups):
            yield self._file.read_row_group(group, columns=columns)

    def cell(self, row: int) -> Any:  # noqa: ANN401 - see `_File`
        """Return the value of the column of images in a row, with its row group if that is not in memory."""
        group = bisect_right(self._starts, row) - 1
        if row >= self._starts[-1]:
            raise IndexError
        with _reading:  # two threads would read the same group twice
            images = _images_of(self, group)
        return images[row - self._starts[group]].as_py()

    def images_of(self, group: int) -> "pyarrow.ChunkedArray":
        """Read the images of a row group."""
        return self._file.read_row_group(group, columns=[self._image])[self._image]


_reading = threading.Lock()


@lru_cache(_GROUPS)
def _images_of(file: _Parquet, group: int) -> "pyarrow.ChunkedArray":
    """Return the images of a row group; those of the last ones, of whatever file, are in memory."""
    return file.images_of(group)


class _Arrow(_File):
    """An Arrow file or stream, mapped into memory."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        mapped = pa.memory_map(str(path))
        is_file = mapped.read(len(_ARROW_FILE)) == _ARROW_FILE
        mapped.seek(0)
        self._table = (pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)).read_all()
        super().__init__(path, self._table.schema)

    def tables(self) -> Iterator["pyarrow.Table"]:
        """Yield the table."""
        import pyarrow as pa

        columns = self._table.select([*self._texts, *([self._image] if self._gives_path else [])])
        yield from (pa.Table.from_batches([batch]) for batch in columns.to_batches())

    def cell(self, row: int) -> Any:  # noqa: ANN401 - see `_File`
        """Return the value of the column of images in a row."""
        if row >= self._table.num_rows:
            raise IndexError
        return self._table[self._image][row].as_py()


def _opened(path: Path) -> _File:
    """Return a file as it is now; it is opened once, unless it changes.

    Raises
    ------
    ManifestError
        If it cannot be read, or has no images.
    OptionError
        If pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError as e:
        raise OptionError(f"Parquet and Arrow files need pyarrow: {INSTALL}") from e
    path = path.absolute()
    try:
        status = path.stat()
        return _open(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    except FileNotFoundError as e:
        raise ManifestError(f"{path} does not exist; expected a Parquet or Arrow file of images") from e
    except (OSError, pa.ArrowException) as e:
        raise ManifestError(f"{path} cannot be read: {one_line(str(e))}") from e


@lru_cache(_OPEN_FILES)
def _open(path: Path, identity: tuple[int, ...]) -> _File:
    del identity
    return _Parquet(path) if path.suffix.lower() == PARQUET else _Arrow(path)


def _image_column(path: Path, schema: "pyarrow.Schema") -> str:
    """Return the name of the column of images."""
    import pyarrow as pa

    def holds_bytes(kind: "pyarrow.DataType") -> bool:
        if pa.types.is_struct(kind):
            place = kind.get_field_index("bytes")
            return place >= 0 and holds_bytes(kind.field(place).type)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    found: list[str] = [field.name for field in schema if holds_bytes(field.type)]
    named = [name for name in found if name.lower() in _IMAGE_NAMES] or found
    if len(named) != 1:
        what = (
            f"several columns of bytes, {listed(found)}"
            if found
            else f"no column of bytes, only {listed(schema.names)}"
        )
        raise ManifestError(f"{path} has {what}; expected one with the images, such as 'image'")
    return named[0]


def _has_text(kind: "pyarrow.DataType", name: str) -> bool:
    """Return whether a struct has a field of text with this name."""
    import pyarrow as pa

    place = kind.get_field_index(name)
    return place >= 0 and bool(
        pa.types.is_string(kind.field(place).type) or pa.types.is_large_string(kind.field(place).type)
    )


def _values(path: Path, name: str, column: "pyarrow.ChunkedArray") -> list[Any]:
    """Return the values of a column in Python."""
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError, TypeError, NotImplementedError) as e:
        raise ManifestError(f"{path} has values that cannot be read in the column {name!r}: {one_line(str(e))}") from e
    return values


def _is_text(kind: "pyarrow.DataType") -> bool:
    """Return whether values of a type are texts, numbers or times."""
    import pyarrow as pa

    types = pa.types
    value = kind.value_type if types.is_dictionary(kind) else kind
    tests = (
        types.is_string,
        types.is_large_string,
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_temporal,
    )
    return any(test(value) for test in tests)


def _classes_of(schema: "pyarrow.Schema") -> dict[str, list[str]]:
    """Return the names of the classes of numbered columns, as Hugging Face's ``datasets`` writes them."""
    import pyarrow as pa

    numbered = {field.name for field in schema if pa.types.is_integer(field.type)}
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        of_classes = {
            name: it["names"]
            for name, it in features.items()
            if isinstance(it, dict) and it.get("_type") == "ClassLabel"
        }
        return {name: list(map(str, names)) for name, names in of_classes.items() if name in numbered}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
