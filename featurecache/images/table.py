"""Reads tables of images with the columns path, label and split; checks each row.

`read_table` makes a manifest of a table; `read_labels` reads the labels of images that a cache has already.
"""

import os
import posixpath
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from featurecache.errors import ManifestError, NoImagesError
from featurecache.images.addresses import address_of, checked, is_address, normal_path
from featurecache.images.flags import join_flags
from featurecache.images.names import decode_name, encode_name, has_escapes, shown_name
from featurecache.images.splits import spellings_read, split_named
from featurecache.images.table_text import COLUMNS, PATH_WORDS, Table, read_text
from featurecache.options import ImageOptions
from featurecache.storage.platform import is_absolute, with_slashes
from featurecache.text import counted, listed

_FAULTS = 5  # faults that a message lists; it counts the others
_OTHER_NAMES = {
    "label": "class classes classname classid classindex classidx classlabel cls labelname labelid labelindex labelidx "
    "labeltext labelstr truelabel imagelabel category categories categoryname categoryid target targetname targetlabel "
    "species breed diagnosis tag gt groundtruth groundtruthlabel truth",
    "split": "subset set partition phase usage purpose dataset part",
}
_MEANING = {name: column for column, names in _OTHER_NAMES.items() for name in names.split()}
_MEANING |= dict.fromkeys(PATH_WORDS - {"path"}, "path")
_FLAGS = frozenset({"0", "1", "0.0", "1.0", "true", "false", "yes", "no", "t", "f", "y", "n", ""})
OWN_COLUMNS = frozenset({*COLUMNS, "sha256"})
"""Names that no further column of a table can have."""
_OTHER_COLUMN = "if the labels have another column, name it: --labels FILE:COLUMN"
_VALUES = 50  # a column with more different values has no splits


class Found(NamedTuple):
    """An image with the name of its class, before classes are numbered."""

    path: str
    label: str | None
    split: str


def read_table(
    table: Table, root: Path, options: ImageOptions, has_file: Callable[[bytes], bool]
) -> tuple[list[Found], list[str], dict[str, list[str]]]:
    """Return the rows of a table, notes on how it was read, and its further columns; one error lists several faults."""
    rows = table.rows()
    _, header = next(rows, (0, None))
    if header is None:
        raise NoImagesError(f"{table.name} is empty; expected a header with the column path and one row per image")
    columns = _columns(table, header, options)
    further = _further_columns(table, header, columns.values())
    roots = _spellings(root)
    found: list[Found] = []
    faults: list[str] = []
    lines: dict[str, int] = {}
    texts: dict[str, list[str]] = {name: [] for name in further}
    shared: dict[str, str] = {}  # each text once
    values = {place: set[str]() for place in range(len(header)) if place not in columns.values()}
    spellings: set[str] = set()
    for line, row in rows:
        try:
            item = _read_row(row, len(header), columns, roots, has_file)
            _check_once(item.path, line, lines)
            found.append(item)
        except ManifestError as e:
            faults.append(f"line {line}: {e}")
            continue
        for name, place in further.items():
            texts[name].append(shared.setdefault(row[place], row[place]))
        if "split" in columns:
            spellings.add(row[columns["split"]].strip())
        else:
            for place, seen in values.items():
                if len(seen) <= _VALUES:
                    seen.add(row[place].strip().lower())
    if faults:
        more = f"; and {len(faults) - _FAULTS:,} more" if len(faults) > _FAULTS else ""
        raise ManifestError(f"{table.name} has {counted(len(faults), 'fault')}: {'; '.join(faults[:_FAULTS])}{more}")
    if not found:
        raise NoImagesError(f"{table.name} has no rows; expected one row per image")
    if "split" not in columns:
        _refuse_splits(table, {header[place].strip(): seen for place, seen in values.items()})
    unread = [header[place].strip() or "(without a name)" for place in values if place not in further.values()]
    unread += table.not_read
    columns_of = {"further columns": [*further], "columns not read": unread}
    notes = [f"{what}: {listed(names, sort=False, quoted=False)}" for what, names in columns_of.items() if names]
    return found, [*spellings_read(spellings), *notes], texts


def _spellings(root: Path) -> tuple[str, ...]:
    """Return the texts that paths below a root may begin with; the first one is shown."""
    if address := address_of(root):
        return (address,)
    # a purely textual comparison
    return with_slashes(os.path.abspath(root)), with_slashes(os.path.realpath(root))  # noqa: PTH100


class LabelsTable(dict[str, str | None]):
    r"""Labels from a table: maps each path, or each hash of a content, to the name of its class, or to None.

    Parameters
    ----------
    labels
        The labels, in the order of the table.
    columns
        Maps the names of the table's further columns to their texts, one for each label, in the same order; "" for an
        empty field.
    ambiguous
        The further columns that are left out, since they have different texts for one image.

    Examples
    --------
    >>> _ = (folder / "table.csv").write_text("path,label,room\na.png,cat,kitchen\nb.png,,\n")
    >>> featurecache.read_labels(folder / "table.csv").columns
    {'room': ('kitchen', '')}
    """

    def __init__(
        self,
        labels: Mapping[str, str | None],
        columns: Mapping[str, Sequence[str]],
        ambiguous: Iterable[str] = (),
    ) -> None:
        super().__init__(labels)
        self.columns = {name: tuple(texts) for name, texts in columns.items()}
        self.ambiguous = tuple(ambiguous)


def read_labels(table: str | os.PathLike[str], column: str = "label", key: str | None = None) -> LabelsTable:
    r"""Read labels from a table, to use them instead of those of a cache; see `featurecache.FeatureCache.with_labels`.

    Parameters
    ----------
    table
        A CSV or TSV file with a header, or a ``.txt`` list, see `featurecache.read_manifest`. Its column ``path`` has
        paths as the cache has them, or its column ``sha256`` the hashes of contents.
    column
        The column with the names of the classes. An empty field means that the image has no label. Several columns with
        commas between them, ``dog,indoors``, say 1 or 0 for each of several labels (`featurecache.join_flags`).
    key
        The column that says which image it is, ``"path"`` or ``"sha256"``; if None, ``"sha256"`` where there is no
        column ``path``.

    Returns
    -------
    LabelsTable
        Maps each path, or each hash, to the name of its class, or to None, in the order of the table. It has the
        further columns, too.

    Raises
    ------
    ManifestError
        If the table cannot be read, has not both columns, has an image twice with different labels, or has two further
        columns of one name.

    Examples
    --------
    >>> _ = (folder / "corrections.csv").write_text("path,label\ntrain/dark/00.png,light\n")
    >>> featurecache.read_labels(folder / "corrections.csv")
    {'train/dark/00.png': 'light'}
    """
    text = read_text(Path(table))
    rows = text.rows()
    _, header = next(rows, (0, []))
    names = [title.strip().lower() for title in header]
    by = key or ("sha256" if "sha256" in names and "path" not in names else "path")
    flags = () if column.strip().lower() in names else tuple(part.strip() for part in column.split(","))
    labels_in = [name.lower() for name in flags] if len(flags) > 1 else [column.strip().lower()]
    remedies = {by: "name the column of paths 'path', or that of hashes 'sha256'"}
    for wanted in (by, *labels_in):
        remedy = remedies.get(wanted, _OTHER_COLUMN)
        if names.count(wanted) != 1:
            found = listed(header, sort=False) or "nothing"
            raise ManifestError(
                f"{text.name} has {names.count(wanted)} columns {wanted!r}, expected one; found {found}; {remedy}"
            )
    key_at, labels_at = names.index(by), [names.index(name) for name in labels_in]
    further = _further_columns(text, header, {key_at, *labels_at})
    numbers: dict[str, int] = {}
    labels: list[str | None] = []
    texts: dict[str, list[str]] = {name: [] for name in further}
    shared: dict[str, str] = {}  # each text once
    ambiguous: set[str] = set()
    for line, row in rows:
        if len(row) != len(header):
            raise ManifestError(f"{text.name}, line {line}: {len(row)} fields, but the header has {len(header)}")
        image = normal_path(row[key_at]) if by == "path" else row[key_at].strip().lower()
        label = _label(flags, [row[place].strip() for place in labels_at], f"{text.name}, line {line}") or None
        number = numbers.setdefault(image, len(numbers))
        if number == len(labels):
            labels.append(label)
            for name, place in further.items():
                texts[name].append(shared.setdefault(row[place], row[place]))
        elif labels[number] != label:
            raise ManifestError(
                f"{text.name}, line {line}: {by} {image!r} has the labels {labels[number]!r} and {label!r}; keep one"
            )
        else:
            ambiguous.update(name for name, place in further.items() if texts[name][number] != row[place])
    columns = {name: column for name, column in texts.items() if name not in ambiguous}
    return LabelsTable(dict(zip(numbers, labels, strict=True)), columns, sorted(ambiguous))


def _label(flags: Sequence[str], cells: Sequence[str], where: str) -> str:
    """Return the label in a row: the text of one column, or the joined names of several columns of flags."""
    if len(cells) == 1:
        return cells[0]
    try:
        (label,) = join_flags(dict(zip(flags, ([cell] for cell in cells), strict=True)))
    except ManifestError as e:
        raise ManifestError(f"{where}: {e}") from e
    return str(label)


def _further_columns(table: Table, header: Sequence[str], taken: Container[int]) -> dict[str, int]:
    """Return the positions of the columns that have neither a meaning nor an empty name, by name.

    Raises
    ------
    ManifestError
        If two of them have the same name, in upper or lower case.
    """
    places = {place: name.strip() for place, name in enumerate(header) if place not in taken}
    further = {name: place for place, name in places.items() if name and name.lower() not in OWN_COLUMNS}
    counts = Counter(name.lower() for name in places.values())
    twice = next((name for name in further if counts[name.lower()] > 1), None)
    if twice is not None:
        raise ManifestError(
            f"{table.name} has {counts[twice.lower()]} columns {twice!r}; expected one; rename the other"
        )
    return further


def _columns(table: Table, header: Sequence[str], options: ImageOptions) -> dict[str, int]:
    """Return the positions of the columns to read, by what they hold."""
    names = [name.strip().lower() for name in header]
    given = {"path": options.path_column, "label": options.label_column, "split": options.split_column}
    columns: dict[str, int] = {}
    for column in COLUMNS:
        name = given[column] or column
        count = names.count(name.strip().lower())
        if count > 1:
            raise ManifestError(f"{table.name} has {count} columns {name!r}; expected one")
        if count:
            columns[column] = names.index(name.strip().lower())
        elif given[column] or column == "path":
            meant = next((name.strip() for name in header if _meaning(name) == column), None)
            raise ManifestError(
                f"{table.name} has no column {name!r}; found {listed(header, sort=False)}{table.dialect}; "
                f"expected path[,label][,split]"
                f"{'' if meant is None else f', or {_option(column, meant)}'}"
            )
    if len(set(columns.values())) < len(columns):
        raise ManifestError(f"{table.name} has one column for two of {', '.join(columns)}; name different columns")
    sought = {*COLUMNS} - columns.keys() - ({"label"} if options.label_from_name else set())
    for place, name in enumerate(header):
        meant = _meaning(name)
        if place not in columns.values() and meant in sought and not (meant == "split" and _is_other_name(name)):
            raise ManifestError(
                f"{table.name} has a column {name.strip()!r}; rename it to {meant!r} or give "
                f"{_option(meant, name.strip())}; if it holds something else, give it a less similar name"
            )
    return columns


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _is_other_name(name: str) -> bool:
    """Return whether a column's name is a word for one of `COLUMNS`, and not a misspelling."""
    return _plain(name) in _MEANING


def _meaning(name: str) -> str | None:
    """Return which of `COLUMNS` the name of a column means; None if none."""
    close = get_close_matches(name.strip().lower(), COLUMNS, n=1, cutoff=0.8)
    return _MEANING.get(_plain(name)) or (close[0] if close else None)


def _option(column: str, name: str) -> str:
    """Return the option that names a column."""
    return f"--{column}-column {shlex.quote(name)}"


def _refuse_splits(table: Table, columns: Mapping[str, set[str]]) -> None:
    """Raise `ManifestError` if one of the columns, given with their values, has splits under another name."""
    for name, values in columns.items():
        splits = {value for value in values if split_named(value)}
        are_all = len(set(map(split_named, splits))) > 1 and splits >= values - {""} and len(values) <= _VALUES
        if are_all or (splits and _meaning(name) == "split"):
            raise ManifestError(
                f"{table.name} has no column 'split', but the column {name!r} has values such as "
                f"{min(splits)!r}; give {_option('split', name)}, or rename it and its values if they are no splits"
            )
        if split_named(_plain(name).removeprefix("is")) and values <= _FLAGS:
            raise ManifestError(
                f"{table.name} has no column 'split', but {name!r} with {listed(values)}; write a column split "
                "with train, valid or test, or rename it if it is about something else"
            )


def _read_row(
    row: Sequence[str], width: int, columns: dict[str, int], roots: Sequence[str], has_file: Callable[[bytes], bool]
) -> Found:
    """Check one row; the caller adds the table and the line to error messages."""
    if len(row) != width:
        raise ManifestError(f"{len(row)} fields, but the header has {width}")
    if any("\0" in field for field in row):
        raise ManifestError("a NUL character")
    label = row[columns["label"]].strip() if "label" in columns else ""
    text = row[columns["split"]].strip() if "split" in columns else ""
    split = split_named(text)
    if text and not split:
        raise ManifestError(f"split {text!r} is unknown (expected train, valid, test or nothing)")
    return Found(_table_path(row[columns["path"]], roots, has_file), label or None, split or "")


def _check_once(path: str, line: int, lines: dict[str, int]) -> None:
    if lines.setdefault(path, line) != line:
        raise ManifestError(f"path {shown_name(path)!r} is already in line {lines[path]}; keep one of the two lines")


def _table_path(text: str, roots: Sequence[str], has_file: Callable[[bytes], bool]) -> str:
    """Return the path relative to the root, in the form of `encode_name`; an address elsewhere stays as it is."""
    if is_address(text.strip()):
        address = checked(text.strip())
        return encode_name(address.removeprefix(f"{roots[0]}/").encode("utf-8", "surrogateescape"))
    if text != text.strip() and not has_file(text.encode("utf-8")):
        text = text.strip()
    path = posixpath.normpath(with_slashes(text))
    if "\\" in path and not has_file(path.encode("utf-8")):
        other = posixpath.normpath(text.replace("\\", "/"))
        path = other if has_file(other.encode("utf-8")) else path
    if is_absolute(path):
        under = next((root for root in roots if path.startswith(root.rstrip("/") + "/")), None)
        if under is None:
            raise ManifestError(f"path {text!r} is not below {roots[0]}; give the folder of all images with --root")
        path = path[len(under.rstrip("/")) + 1 :]
    if not text.strip() or path == ".":
        raise ManifestError(f"path {text!r} names no file")
    if path.split("/", 1)[0] == "..":
        raise ManifestError(f"path {text!r} leads out of {roots[0]}; give the folder of all images with --root")
    literal = path.encode("utf-8")
    if path.isascii() and not has_escapes(path):
        return path
    if has_file(literal):
        return encode_name(literal)
    spellings = [unicodedata.normalize(form, path).encode("utf-8") for form in ("NFC", "NFD")]
    other_names = (name for name in (decode_name(path), *spellings) if has_file(name))
    return encode_name(next(other_names, literal))
