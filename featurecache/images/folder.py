"""Finds the images in a folder, with splits and classes from the names of its subfolders."""

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path

from featurecache.errors import ManifestError
from featurecache.images.failures import Ignored
from featurecache.images.formats import EXTENSIONS
from featurecache.images.names import encode_name, shown_name, shown_names
from featurecache.images.splits import spellings_read, split_named
from featurecache.images.table import Found
from featurecache.text import counted, listed

_EXTENSION_BYTES = tuple(extension.encode() for extension in EXTENSIONS)
_LOOKED_AT = 1000  # names in a folder, to find out what it holds
_FOLDER, _IMAGE = "folder", "image"
TABLE_REMEDY = "list the images in a CSV file with the columns path,label,split"


def walk(root: bytes) -> tuple[list[str], list[Ignored]]:
    """Return the paths of the images below ``root`` and of ignored files, relative to it and unsorted.

    Raises
    ------
    ManifestError
        If a folder cannot be listed.
    """
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
            name = shown_name(encode_name(folder))
            raise ManifestError(f"cannot list the folder {name!r}: {reason}; make it readable or move it away") from e
    return images, ignored


def _kind(entry: os.DirEntry[bytes]) -> str:
    """Return `_IMAGE`, `_FOLDER`, or the reason why the entry is ignored."""
    if not entry.name.startswith(b"."):
        if entry.is_dir(follow_symlinks=False):
            return _FOLDER
        if entry.is_symlink() and is_folder(entry.path):
            return "a symbolic link to a folder, which is not followed"
    return why_ignored(entry.name) or _IMAGE


def why_ignored(name: bytes) -> str:
    """Return why a file is no image by its name, which may have folders; empty if it is one."""
    if name.startswith(b".") or b"/." in name:
        return "hidden"
    return "" if name.lower().endswith(_EXTENSION_BYTES) else "not an image file by its extension"


def holds_only(folder: Path, suffixes: tuple[str, ...], *, below: bool = False) -> bool:
    """Return whether a folder has files with these suffixes and no images, as far as its first names tell.

    Parameters
    ----------
    below
        Whether to look into the folders in it, too; if not, it must have none. Hidden ones do not count.
    """
    pending, found, left = [folder], False, _LOOKED_AT
    try:
        while pending and left:
            with os.scandir(pending.pop(0)) as entries:
                some = [entry for entry in islice(entries, left) if not entry.name.startswith(".")]
            left -= len(some)
            folders = [Path(entry) for entry in some if entry.is_dir(follow_symlinks=False)]
            if (folders and not below) or any(not why_ignored(os.fsencode(entry.name)) for entry in some):
                return False
            found = found or any(entry.name.lower().endswith(suffixes) for entry in some)
            pending += folders
    except OSError:
        return False
    return found and not pending


def is_folder(path: bytes | Path) -> bool:
    """Return whether a path is a folder, following links; False if access is denied."""
    return os.path.isdir(path)  # noqa: PTH112 - pathlib raises where permission is missing


def require_folder(path: Path) -> None:
    """Raise `ManifestError` unless a path that the user gave is a folder."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as e:
        raise ManifestError(
            f"{path} does not exist; expected a folder of images, a .csv or .tsv table, a .txt list, a .zip, .tar "
            "or .parquet file, or an address such as s3://BUCKET/FOLDER"
        ) from e
    except OSError as e:
        raise ManifestError(f"{path} cannot be accessed: {(e.strerror or str(e)).lower()}") from e
    if not stat.S_ISDIR(mode):
        raise ManifestError(f"{path} is neither a folder of images nor a .csv, .tsv, .txt, .zip, .tar or .parquet file")


def arrange(root: Path | str, images: Collection[str]) -> tuple[list[Found], list[str]]:
    """Return the images with the class and the split from their folder names, and notes on how these were read.

    Images share the objects of their paths and classes, since there may be millions.

    Raises
    ------
    ManifestError
        If the layout of the folders is ambiguous.
    """
    folders = {path.partition("/")[0] for path in images if "/" in path}
    splits = {name: split for name in folders if (split := split_named(name))}
    _check_splits(root, folders, splits)
    depth = 1 if splits else 0  # of the class folders
    loose: dict[str, list[str]] = defaultdict(list)
    classes: dict[str, dict[str, str]] = defaultdict(dict)
    found = []
    for path in images:
        part = path.split("/", 2)  # what matters are the first two folders
        parent = part[0] if len(part) > depth and depth else ""
        label = part[depth] if len(part) > depth + 1 else None
        if label is None:
            loose[parent].append(path)
        else:
            label = classes[parent].setdefault(label, label)
            if not splits and len(part) > 2 and split_named(part[1]):  # noqa: PLR2004 - class, split, name
                raise ManifestError(
                    f"{root} has the split folder {'/'.join(part[:2])!r} below a folder that is not a split; expected "
                    f"split folders at the top: give the folder that holds them, or {TABLE_REMEDY}"
                )
        found.append(Found(path, label, splits.get(part[0], "") if depth else ""))
    if splits and loose.get(""):
        raise _beside(root, loose[""], splits, "split")
    for parent in sorted(classes):
        if parent in loose:
            raise _beside(f"{root}/{parent}" if parent else root, loose[parent], classes[parent], "class")
    names = sorted(set().union(*classes.values()))
    shown = dict(zip(names, shown_names(names), strict=True))
    if any(name != other for name, other in shown.items()):
        found = [item if item.label is None else item._replace(label=shown[item.label]) for item in found]
    notes = spellings_read(splits)
    if len(names) == 1 and not splits:
        below = {part[1] if len(part) > 2 else "" for part in (path.split("/", 2) for path in images)}  # noqa: PLR2004
        if len(below) > 1 and "" not in below:  # as in archives of one folder
            notes = [*notes, f"for the classes {listed(map(shown_name, below))} give {root}/{names[0]}"]
    return found, notes


def _check_splits(root: Path | str, folders: set[str], splits: dict[str, str]) -> None:
    """Raise `ManifestError` unless all top folders are splits, each once, or none is."""
    if splits and (others := folders - splits.keys()):
        raise ManifestError(
            f"in {root} some folders are splits ({listed(splits)}) and others are not ({listed(others)}); "
            f"move the others into a split, rename them all as classes, or {TABLE_REMEDY}"
        )
    for split, count in Counter(splits.values()).items():
        if count > 1:
            names = listed(name for name in splits if splits[name] == split)
            raise ManifestError(f"{root} has several folders for the split {split}: {names}; put the images into one")


def _beside(folder: Path | str, loose: Sequence[str], folders: Iterable[str], kind: str) -> ManifestError:
    return ManifestError(
        f"{folder} has {counted(len(loose), 'image')} ({listed(map(shown_name, loose))}) directly beside the {kind} "
        f"folders ({listed(folders)}); move them into a {kind} folder, or {TABLE_REMEDY}"
    )


def nothing_in(place: object, ignored: Sequence[Ignored]) -> str:
    """Return the error message for a place without images."""
    others = f" (found {len(ignored):,} other: {listed(shown_name(item.path) for item in ignored)})" if ignored else ""
    return f"no image files in {place}{others}; looked for {', '.join(EXTENSIONS)} in it and in the folders below"
