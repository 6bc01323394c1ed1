"""Which images there are, in which order, with which label and split; names are read here, never pixels."""

import os
import posixpath
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from featurecache.errors import ManifestError, NoImagesError
from featurecache.names import decode_name, encode_name, listed
from featurecache.table import DELIMITERS, SPELLINGS, Found, read_table

SPLITS = ("train", "valid", "test", "")
"""The splits in the order of rows; ``""`` is an image that belongs to none."""

_EXTENSIONS = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_EXTENSION_BYTES = tuple(extension.encode() for extension in _EXTENSIONS)
_KAGGLE_NAME = re.compile(r"([^.]+)\.[0-9]+\.[^.]+")
_FOLDER, _IMAGE = "folder", "image"
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
    delimiter = DELIMITERS.get(images.suffix.lower())
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
        found = read_table(images, root, delimiter)
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


def _arrange(root: Path, images: Iterable[str]) -> list[Found]:
    """Read class and split off the folders that the images lie in."""
    parts = [path.split("/") for path in images]
    folders = {part[0] for part in parts if len(part) > 1}
    splits = {name: SPELLINGS[name.lower()] for name in folders if name.lower() in SPELLINGS}
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
            if not splits and part[1].lower() in SPELLINGS and len(part) > 2:  # noqa: PLR2004 - class, split, name
                raise ManifestError(
                    f"{root} has the split folder {'/'.join(part[:2])!r} below a folder that is no split; expected "
                    f"split folders at the top: give the folder that holds them, or {_TABLE_REMEDY}"
                )
        found.append(Found(path, label, splits.get(part[0], "") if depth else ""))
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
            f"in {root} some folders are splits ({listed(splits)}) and others are not ({listed(others)}); "
            f"move the others into a split, rename them all as classes, or {_TABLE_REMEDY}"
        )
    for split, count in Counter(splits.values()).items():
        if count > 1:
            names = listed(name for name in splits if splits[name] == split)
            raise ManifestError(f"{root} has several folders for the split {split}: {names}; put the images into one")


def _beside(folder: Path, loose: Sequence[str], folders: Iterable[str], kind: str) -> ManifestError:
    return ManifestError(
        f"{folder} has {len(loose):,} image(s) ({listed(loose)}) directly beside the {kind} folders "
        f"({listed(folders)}); move them into a {kind} folder, or {_TABLE_REMEDY}"
    )


def _label_from_names(images: Path, found: Sequence[Found]) -> list[Found]:
    labelled = next((item for item in found if item.label is not None), None)
    if labelled:
        raise ManifestError(
            f"{images} already gives labels ({labelled.path!r} is {labelled.label!r}); do not ask for labels from names"
        )
    matches = [_KAGGLE_NAME.fullmatch(posixpath.basename(item.path)) for item in found]
    if not any(matches):
        raise ManifestError(
            f"no file name in {images} has the form LABEL.NUMBER.EXTENSION, such as cat.123.jpg (found "
            f"{listed(item.path for item in found)}); do not ask for labels from names, or {_TABLE_REMEDY}"
        )
    return [item._replace(label=match[1] if match else None) for item, match in zip(found, matches, strict=True)]


def _number(root: Path, found: Iterable[Found], ignored: Iterable[Ignored]) -> Manifest:
    """Sort the rows and turn the names of classes into numbers."""
    order = {split: position for position, split in enumerate(SPLITS)}
    rows = sorted(found, key=lambda item: (order[item.split], item.path))
    classes = sorted({item.label for item in rows if item.label is not None})
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(classes)} | {None: -1}
    entries = tuple(ImageEntry(path, numbers[label], split) for path, label, split in rows)
    return Manifest(root, entries, tuple(classes), tuple(sorted(ignored, key=lambda item: item.path)))


def _nothing_in(place: object, ignored: Sequence[Ignored]) -> str:
    others = f" (found {len(ignored):,} other: {listed(item.path for item in ignored)})" if ignored else ""
    return f"no image files in {place}{others}; looked for {', '.join(_EXTENSIONS)} in it and in the folders below"
