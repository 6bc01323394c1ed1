"""Tables of images: CSV or TSV with the columns path, label and split, checked row by row."""

import csv
import io
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from featurecache.errors import ManifestError, NoImagesError
from featurecache.names import decode_name, encode_name, has_escapes, listed

SPELLINGS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}
DELIMITERS = {".csv": ",", ".tsv": "\t"}
_COLUMNS = ("path", "label", "split")
_FAULTS = 5  # so many are told; the others are counted


class Found(NamedTuple):
    """An image whose class has no number yet."""

    path: str
    label: str | None
    split: str


def read_table(table: Path, root: Path, delimiter: str) -> list[Found]:
    """Read the rows of a table, naming several faults at once."""
    rows = _rows(table, delimiter)
    _, header = next(rows, (0, None))
    if header is None:
        raise NoImagesError(f"the table {table} is empty; expected a header with the column path and one row an image")
    columns = _columns(table, header)
    roots = (os.path.abspath(root), os.path.realpath(root))  # noqa: PTH100 - a purely textual comparison
    found: list[Found] = []
    faults: list[str] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        try:
            item = _read_row(row, len(header), columns, roots)
            _check_once(item.path, line, lines)
            found.append(item)
        except ManifestError as e:
            faults.append(f"line {line}: {e}")
    if faults:
        more = f"; and {len(faults) - _FAULTS:,} more" if len(faults) > _FAULTS else ""
        raise ManifestError(f"the table {table} has {len(faults):,} fault(s): {'; '.join(faults[:_FAULTS])}{more}")
    if not found:
        raise NoImagesError(f"the table {table} has a header and no rows; expected one row an image")
    return found


def _rows(table: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line number and the fields of every row that is not blank."""
    try:
        data = table.read_bytes()
    except OSError as e:
        raise ManifestError(f"cannot read the table {table}: {(e.strerror or str(e)).lower()}") from e
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1
        raise ManifestError(f"the table {table} is not UTF-8 in line {line}; save it as UTF-8") from e
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in reader:
            if any(field.strip() for field in row):
                yield line, row
            line = reader.line_num + 1
    except csv.Error as e:
        raise ManifestError(f"the table {table} cannot be read in line {line}: {e}") from e


def _columns(table: Path, header: Sequence[str]) -> dict[str, int]:
    """Return the position of each column that is read."""
    names = [name.strip().lower() for name in header]
    if len(names) == 1 and ";" in names[0]:
        raise ManifestError(f"the table {table} is separated by semicolons; save it with commas, or as .tsv")
    if "path" not in names:
        separator = "tabs" if table.suffix.lower() == ".tsv" else "commas"
        raise ManifestError(
            f"the table {table} has no column 'path'; found {listed(header, sort=False)}, separated by {separator}; "
            "expected path[,label][,split]"
        )
    for name, count in Counter(names).items():
        if count > 1 and name in _COLUMNS:
            raise ManifestError(f"the table {table} has {count} columns {name!r}; expected one")
        meant = get_close_matches(name, _COLUMNS, n=1, cutoff=0.75)
        if name not in _COLUMNS and meant and meant[0] not in names:
            raise ManifestError(f"the table {table} has a column {name!r}; rename it {meant[0]!r}, or otherwise")
    return {name: names.index(name) for name in _COLUMNS if name in names}


def _read_row(row: Sequence[str], width: int, columns: dict[str, int], roots: Sequence[str]) -> Found:
    """Check one row; the errors do not name the table and the line."""
    if len(row) != width:
        raise ManifestError(f"{len(row)} fields where the header has {width}")
    if any("\0" in field for field in row):
        raise ManifestError("a NUL character")
    label = row[columns["label"]].strip() if "label" in columns else ""
    split = row[columns["split"]].strip() if "split" in columns else ""
    if split and split.lower() not in SPELLINGS:
        raise ManifestError(f"split {split!r} is unknown (expected train, valid, test or nothing)")
    return Found(_table_path(row[columns["path"]], roots), label or None, SPELLINGS.get(split.lower(), ""))


def _check_once(path: str, line: int, lines: dict[str, int]) -> None:
    if lines.setdefault(path, line) != line:
        raise ManifestError(f"path {path!r} is already in line {lines[path]}")


def _table_path(text: str, roots: Sequence[str]) -> str:
    """Return the path relative to the root, in the form of `encode_name`."""
    path = posixpath.normpath(text)
    if path.startswith("/"):
        under = next((root for root in roots if path.startswith(root.rstrip("/") + "/")), None)
        if under is None:
            raise ManifestError(f"path {text!r} is not below {roots[0]}; give the folder of all images with --root")
        path = path[len(under.rstrip("/")) + 1 :]
    if not text.strip() or path == ".":
        raise ManifestError(f"path {text!r} names no file")
    if path.split("/", 1)[0] == "..":
        raise ManifestError(f"path {text!r} leads out of {roots[0]}; give the folder of all images with --root")
    literal = path.encode("utf-8")
    if has_escapes(path):  # the file's own name, or as `encode_name` shows it: only the folder can tell
        base = os.fsencode(roots[0])
        decoded = decode_name(path)
        if b"\0" not in decoded and _is_there(base, decoded) and not _is_there(base, literal):
            return encode_name(decoded)
    return encode_name(literal)


def _is_there(base: bytes, name: bytes) -> bool:
    return os.path.lexists(os.path.join(base, name))  # noqa: PTH118 - pathlib takes no bytes
