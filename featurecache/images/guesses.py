"""Guesses at why there is no file at a path of a table: separators, home folders, extensions, another folder."""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from featurecache.images.formats import EXTENSIONS

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE = re.compile(r"[A-Za-z]:(?=[\\/])")
_SUBFOLDERS = 100  # that are looked into
_ENTRIES = 10_000  # of a folder, that are compared without case


def guess_why_missing(root: Path, path: str) -> str:
    """Return what is likely wrong with a path below a folder, and what to do; empty if nothing can be guessed.

    Parameters
    ----------
    root
        The folder.
    path
        The path, as it stands in the table.
    """
    if _ADDRESS.match(path):
        return "addresses that are read begin with s3://, gs://, https:// or http://; copy the images to this machine"
    signs = {
        "it has backslashes": "\\" in path and not _DRIVE.match(path),
        "it begins with the letter of a Windows drive": _DRIVE.match(path),
        "~ does not stand for the home folder": path.startswith("~"),
    }
    wrong = [sign for sign, applies in signs.items() if applies]
    plain = _DRIVE.sub("", path).replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in {"", ".", "~"}]
    for folder in _folders(root):
        for start in range(len(parts)):
            found = _similar(folder, parts[start:])
            if found is None:
                continue
            if folder == root:
                return ": ".join([*wrong, f"there is {found}; write the paths like this"])
            if not wrong and start == 0:
                return f"there is {folder / found}; give the folder with --root {folder}"
    if wrong:
        return f"{wrong[0]}; write paths relative to the folder, with /"
    if Path(plain).suffix.lower() not in EXTENSIONS:
        return "it has no extension of an image; write the whole name of the file"
    return "give the folder that the paths are relative to with --root"


def _folders(root: Path) -> Iterator[Path]:
    """Yield a folder, the ones above it, the current one, and those directly in it."""
    yield root
    yield from root.absolute().parents
    yield Path.cwd()
    try:
        with os.scandir(root) as entries:
            yield from sorted(Path(entry) for entry in islice(entries, _SUBFOLDERS) if entry.is_dir())
    except OSError:
        return


def _similar(folder: Path, parts: Sequence[str]) -> str | None:
    """Return a path below a folder that is equal, or has an extension besides, or differs in case; None if none is."""
    path = folder.joinpath(*parts)
    for extension in ("", *EXTENSIONS, *map(str.upper, EXTENSIONS)):
        if os.path.lexists(f"{path}{extension}"):
            return "/".join(parts) + extension
    found = folder
    for part in parts:
        try:
            with os.scandir(found) as entries:
                names = (entry.name for entry in islice(entries, _ENTRIES))
                name = next((name for name in names if name.casefold() == part.casefold()), None)
        except OSError:
            return None
        if name is None:
            return None
        found /= name
    return found.relative_to(folder).as_posix()
