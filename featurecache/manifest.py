"""Which images there are, in which order, with which label and split; names are read here, never pixels."""

import csv
import io
import os
import posixpath
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from featurecache.errors import ManifestError, NoImagesError

SPLITS = ("train", "valid", "test", "")
"""The splits in the order of rows; ``""`` is an image that belongs to none."""

_SPELLINGS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}
_EXTENSIONS = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_EXTENSION_BYTES = tuple(extension.encode() for extension in _EXTENSIONS)
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_COLUMNS = ("path", "label", "split")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_ESCAPE_LIKE = re.compile(r"%(?=[0-9A-Fa-f]{2})")
_UNDECODABLE = re.compile("[\udc80-\udcff]")
_KAGGLE_NAME = re.compile(r"([^.]+)\.[0-9]+\.[^.]+")
_FOLDER, _IMAGE = "folder", "image"
_NAMED = 5  # so many faults or files are named in a message; the others are counted
_TABLE_REMEDY = "list the images in a CSV file with the columns path,label,split"


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image of a manifest.

    Parameters
    ----------
    path
        Relative POSIX path, as `encode_name` writes it.
    label
        Index into the manifest's classes; -1 if the image is unlabelled.
    split
        One of `SPLITS`.
    """

    path: str
    label: int
    split: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something that was found and is not an image to extract, and why; a folder counts once, with all in it."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The images to extract.

    Parameters
    ----------
    root
        The folder that the entries' paths are relative to.
    entries
        One entry an image, sorted by split (in the order of `SPLITS`) and path; `from_files` keeps the caller's order.
    classes
        The names of the classes that have at least one image, sorted; a label is an index into them.
    ignored
        What was found and left out, sorted by path.

    Raises
    ------
    ManifestError
        If a label is no class's index, or a split is not one of `SPLITS`.
    """

    root: Path
    entries: tuple[ImageEntry, ...]
    classes: tuple[str, ...]
    ignored: tuple[Ignored, ...] = ()

    def __post_init__(self) -> None:
        k = len(self.classes)
        for entry in self.entries:
            if not -1 <= entry.label < k or entry.split not in SPLITS:
                raise ManifestError(
                    f"{entry.path!r} has label {entry.label} and split {entry.split!r}; "
                    f"expected a label from -1 to {k - 1} and a split out of {SPLITS}"
                )

    def __len__(self) -> int:
        return len(self.entries)

    def file(self, entry: ImageEntry) -> bytes:
        """Return the file's name as the operating system knows it, whatever bytes are in it."""
        return os.path.join(os.fsencode(self.root), decode_name(entry.path))  # noqa: PTH118 - pathlib takes no bytes


class _Found(NamedTuple):
    """An image whose class has no number yet."""

    path: str
    label: str | None
    split: str


def encode_name(name: bytes) -> str:
    """Return a file name as text; `decode_name` gives the same bytes back.

    UTF-8 stays as it is. A byte that is not UTF-8 becomes ``%HH``, and a ``%`` becomes ``%25`` where two hexadecimal
    digits follow it.
    """
    text = name.decode("utf-8", "surrogateescape")
    if "%" in text:
        text = _ESCAPE_LIKE.sub("%25", text)
    if text.isascii():
        return text
    return _UNDECODABLE.sub(lambda match: f"%{ord(match[0]) - 0xDC00:02X}", text)


def decode_name(text: str) -> bytes:
    """Return the bytes of a file name that `encode_name` wrote as ``text``."""
    name = text.encode("utf-8")
    return _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode("ascii")), name) if b"%" in name else name


def read_manifest(images: Path, *, root: Path | None = None, label_from_name: bool = False) -> Manifest:
    """List the images of a folder or of a table.

    A folder is laid out as ``<split>/<class>/…``, ``<split>/…`` (unlabelled), ``<class>/…``, or flat (unlabelled);
    below a class folder images may lie at any depth. Splits are spelt train, valid (or val, validation) and test, in
    any case of letters. Links to folders are not followed. A table (``.csv``, ``.tsv``, UTF-8) has the columns
    ``path`` and, if wanted, ``label`` and ``split``; other columns are not read. A ``path`` is the file's name as it
    is; if there is no such file it may also be in the form of `encode_name`.

    Parameters
    ----------
    images
        The folder or the table.
    root
        The folder that a table's paths are relative to; the table's own folder if not given.
    label_from_name
        Take labels from file names of the form ``LABEL.NUMBER.EXTENSION``; other names stay unlabelled.

    Raises
    ------
    ManifestError
        If it does not exist, cannot be read, or does not say which image has which label and split.
    NoImagesError
        If there is no image in it.
    """
    delimiter = _DELIMITERS.get(images.suffix.lower())
    mode = _mode(images)
    if stat.S_ISDIR(mode):
        if root is not None:
            raise ManifestError(f"{images} is a folder, so its images lie in it; leave out the root {root}")
        paths, ignored = _walk(os.fsencode(images))
        if not paths:
            raise NoImagesError(_nothing_in(images, ignored))
        found = _arrange(images, paths)
    elif delimiter is None or not stat.S_ISREG(mode):
        raise ManifestError(f"{images} is neither a folder of images nor a .csv or .tsv table; give one of these")
    else:
        root, ignored = images.parent if root is None else root, []
        if not _is_folder(root):
            raise ManifestError(f"the root {root} of {images} is not a folder; give the folder that holds the images")
        found = _read_table(images, root, delimiter)
    if label_from_name:
        found = _label_from_names(images, found)
    return _number(root or images, found, ignored)


def from_files(paths: Sequence[Path]) -> Manifest:
    """List loose files and the images in folders, unlabelled and without a split.

    Paths are shown as they were given, and what lies in a folder below that. The order is the caller's; within a
    folder it is sorted. What was named twice is listed once. A file that was named is listed whatever its extension
    is, and even if it does not exist, so that reading it says so.

    Raises
    ------
    ManifestError
        If a folder cannot be listed.
    NoImagesError
        If there is no image.
    """
    shown: dict[str, None] = {}
    ignored: list[Ignored] = []
    for path in paths:
        name = encode_name(os.fsencode(path))
        if not _is_folder(path):
            shown[name] = None
            continue
        inside, left_out = _walk(os.fsencode(path))
        prefix = "" if name == "." else name.rstrip("/") + "/"
        shown.update(dict.fromkeys(prefix + image for image in sorted(inside)))
        ignored += [Ignored(prefix + item.path, item.reason) for item in left_out]
        if not inside:
            ignored.append(Ignored(name, "a folder without image files"))
    if not shown:
        raise NoImagesError(_nothing_in(", ".join(map(str, paths)) or "an empty list", ignored))
    entries = tuple(ImageEntry(path, -1, "") for path in shown)
    return Manifest(Path.cwd(), entries, (), tuple(sorted(ignored, key=lambda item: item.path)))


def _walk(root: bytes) -> tuple[list[str], list[Ignored]]:
    """Return the paths, relative to ``root``, of the images below it and of what is ignored; both unsorted."""
    images: list[str] = []
    ignored: list[Ignored] = []
    pending = [(root, "")]
    while pending:
        folder, prefix = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    path = prefix + encode_name(entry.name)
                    kind = _kind(entry)
                    if kind == _IMAGE:
                        images.append(path)
                    elif kind == _FOLDER:
                        pending.append((entry.path, path + "/"))
                    else:
                        ignored.append(Ignored(path, kind))
        except OSError as e:
            reason = (e.strerror or str(e)).lower()
            name = encode_name(folder)
            raise ManifestError(f"cannot list the folder {name!r}: {reason}; make it readable or move it away") from e
    return images, ignored


def _kind(entry: os.DirEntry[bytes]) -> str:
    """Return `_IMAGE`, `_FOLDER`, or the reason why the entry is ignored."""
    if entry.name.startswith(b"."):
        return "hidden"
    if entry.is_dir(follow_symlinks=False):
        return _FOLDER
    if entry.is_symlink() and _is_folder(entry.path):
        return "a symbolic link to a folder, which is not followed"
    return _IMAGE if entry.name.lower().endswith(_EXTENSION_BYTES) else "not an image file by its extension"


def _is_folder(path: bytes | Path) -> bool:
    """Follow links; what cannot be looked at is no folder, and reading it will say so."""
    return os.path.isdir(path)  # noqa: PTH112 - pathlib raises where permission is missing


def _mode(path: Path) -> int:
    """Return the type bits of a folder or table that was named by the user."""
    try:
        return path.stat().st_mode
    except FileNotFoundError as e:
        raise ManifestError(f"{path} does not exist; expected a folder of images or a .csv or .tsv table") from e
    except OSError as e:
        raise ManifestError(f"{path} cannot be looked at: {(e.strerror or str(e)).lower()}") from e


def _arrange(root: Path, images: Iterable[str]) -> list[_Found]:
    """Read class and split off the folders that the images lie in."""
    parts = [path.split("/") for path in images]
    folders = {part[0] for part in parts if len(part) > 1}
    splits = {name: _SPELLINGS[name.lower()] for name in folders if name.lower() in _SPELLINGS}
    _check_splits(root, folders, splits)
    depth = 1 if splits else 0  # of the class folders
    loose: dict[str, list[str]] = defaultdict(list)
    classes: dict[str, set[str]] = defaultdict(set)
    found = []
    for part in parts:
        path, parent = "/".join(part), part[0] if len(part) > depth and depth else ""
        label = part[depth] if len(part) > depth + 1 else None
        if label is None:
            loose[parent].append(path)
        else:
            classes[parent].add(label)
            if not splits and part[1].lower() in _SPELLINGS and len(part) > 2:  # noqa: PLR2004 - class, split, name
                raise ManifestError(
                    f"{root} has the split folder {'/'.join(part[:2])!r} below a folder that is no split; expected "
                    f"split folders at the top: give the folder that holds them, or {_TABLE_REMEDY}"
                )
        found.append(_Found(path, label, splits.get(part[0], "") if depth else ""))
    if splits and loose.get(""):
        raise _beside(root, loose[""], splits, "split")
    for parent in sorted(classes):
        if parent in loose:
            raise _beside(root / parent, loose[parent], classes[parent], "class")
    return found


def _check_splits(root: Path, folders: set[str], splits: dict[str, str]) -> None:
    """Raise `ManifestError` unless all top folders are splits, each spelt one way, or none is."""
    if splits and (others := folders - splits.keys()):
        raise ManifestError(
            f"in {root} some folders are splits ({_list(splits)}) and others are not ({_list(others)}); "
            f"move the others into a split, rename them all as classes, or {_TABLE_REMEDY}"
        )
    for split, count in Counter(splits.values()).items():
        if count > 1:
            names = _list(name for name in splits if splits[name] == split)
            raise ManifestError(f"{root} has several folders for the split {split}: {names}; put the images into one")


def _beside(folder: Path, loose: Sequence[str], folders: Iterable[str], kind: str) -> ManifestError:
    return ManifestError(
        f"{folder} has {len(loose):,} image(s) ({_list(loose)}) directly beside the {kind} folders ({_list(folders)}); "
        f"move them into a {kind} folder, or {_TABLE_REMEDY}"
    )


def _label_from_names(images: Path, found: Sequence[_Found]) -> list[_Found]:
    labelled = next((item for item in found if item.label is not None), None)
    if labelled:
        raise ManifestError(
            f"{images} already gives labels ({labelled.path!r} is {labelled.label!r}); do not ask for labels from names"
        )
    matches = [_KAGGLE_NAME.fullmatch(posixpath.basename(item.path)) for item in found]
    if not any(matches):
        raise ManifestError(
            f"no file name in {images} has the form LABEL.NUMBER.EXTENSION, such as cat.123.jpg (found "
            f"{_list(item.path for item in found)}); do not ask for labels from names, or {_TABLE_REMEDY}"
        )
    return [item._replace(label=match[1] if match else None) for item, match in zip(found, matches, strict=True)]


def _number(root: Path, found: Iterable[_Found], ignored: Iterable[Ignored]) -> Manifest:
    """Sort the rows and turn the names of classes into numbers."""
    order = {split: position for position, split in enumerate(SPLITS)}
    rows = sorted(found, key=lambda item: (order[item.split], item.path))
    classes = sorted({item.label for item in rows if item.label is not None})
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(classes)} | {None: -1}
    entries = tuple(ImageEntry(path, numbers[label], split) for path, label, split in rows)
    return Manifest(root, entries, tuple(classes), tuple(sorted(ignored, key=lambda item: item.path)))


def _read_table(table: Path, root: Path, delimiter: str) -> list[_Found]:
    """Read the rows of a table, naming several faults at once."""
    rows = _rows(table, delimiter)
    _, header = next(rows, (0, None))
    if header is None:
        raise NoImagesError(f"the table {table} is empty; expected a header with the column path and one row an image")
    columns = _columns(table, header)
    roots = (os.path.abspath(root), os.path.realpath(root))  # noqa: PTH100 - a purely textual comparison
    found: list[_Found] = []
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
        more = f"; and {len(faults) - _NAMED:,} more" if len(faults) > _NAMED else ""
        raise ManifestError(f"the table {table} has {len(faults):,} fault(s): {'; '.join(faults[:_NAMED])}{more}")
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
    if "path" not in names:
        separator = "tabs" if table.suffix.lower() == ".tsv" else "commas"
        raise ManifestError(
            f"the table {table} has no column 'path'; found {_list(header, sort=False)}, separated by {separator}; "
            "expected path[,label][,split]"
        )
    for name, count in Counter(names).items():
        if count > 1 and name in _COLUMNS:
            raise ManifestError(f"the table {table} has {count} columns {name!r}; expected one")
        meant = get_close_matches(name, _COLUMNS, n=1, cutoff=0.75)
        if name not in _COLUMNS and meant and meant[0] not in names:
            raise ManifestError(f"the table {table} has a column {name!r}; rename it {meant[0]!r}, or otherwise")
    return {name: names.index(name) for name in _COLUMNS if name in names}


def _read_row(row: Sequence[str], width: int, columns: dict[str, int], roots: Sequence[str]) -> _Found:
    """Check one row; the errors do not name the table and the line."""
    if len(row) != width:
        raise ManifestError(f"{len(row)} fields where the header has {width}")
    if any("\0" in field for field in row):
        raise ManifestError("a NUL character")
    label = row[columns["label"]].strip() if "label" in columns else ""
    split = row[columns["split"]].strip() if "split" in columns else ""
    if split and split.lower() not in _SPELLINGS:
        raise ManifestError(f"split {split!r} is unknown (expected train, valid, test or nothing)")
    return _Found(_table_path(row[columns["path"]], roots), label or None, _SPELLINGS.get(split.lower(), ""))


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
    if _ESCAPE.search(literal):  # the file's own name, or as `encode_name` shows it: only the folder can tell
        base = os.fsencode(roots[0])
        decoded = decode_name(path)
        if b"\0" not in decoded and _is_there(base, decoded) and not _is_there(base, literal):
            return encode_name(decoded)
    return encode_name(literal)


def _is_there(base: bytes, name: bytes) -> bool:
    return os.path.lexists(os.path.join(base, name))  # noqa: PTH118 - pathlib takes no bytes


def _nothing_in(place: object, ignored: Sequence[Ignored]) -> str:
    others = f" (found {len(ignored):,} other: {_list(item.path for item in ignored)})" if ignored else ""
    return f"no image files in {place}{others}; looked for {', '.join(_EXTENSIONS)} in it and in the folders below"


def _list(names: Iterable[str], *, sort: bool = True) -> str:
    """Name a few, and count the others."""
    names = sorted(names) if sort else list(names)
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(repr(name) for name in names[:_NAMED]) + more
