"""Packs caches: rows of other sources become one file, or the parts of a cache and its index."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featurecache.cache import FeatureCache, work_directory
from featurecache.format import layout
from featurecache.format.feature_file import FeatureFile, RowPlaces, pieces
from featurecache.format.layout import BLOCK_ROWS, CacheIndex, Part, Places
from featurecache.rows import PartFile, PartFiles, parts_folder
from featurecache.storage.publish import (
    is_linked,
    make_directory,
    publish_once,
    publishing,
    remove_directory,
    remove_files,
    sync_directory,
)
from featurecache.text import counted

NO_PLACES = RowPlaces.joined(())

_NUMBERED = re.compile(r"(\d{6,})\.h5")


def pack(
    path: Path,
    index: CacheIndex,
    places: RowPlaces,
    *,
    replace: bool,
    scratch: Path | None,
    progress: Callable[[int, int], object] = lambda *_: None,
    release: Callable[[], object] = lambda: None,
) -> None:
    """Write a cache file from rows of other sources, and publish it whole.

    Apart from the index, memory does not depend on the number of rows.

    Parameters
    ----------
    index
        Everything except the features.
    places
        Where the features of its rows lie; `NO_PLACES` if the index has places itself: then no feature is written.
    replace
        Whether to replace an existing file; programs that have it open keep reading the old one.
    scratch
        A directory on the same file system, for the temporary file; by default that of ``path``.
    progress
        Called after every block of rows of a tap with the number of blocks that are written, and of all.
    release
        Called when everything is written, before the file gets its name: closes the file that has it now.
    """
    with publishing(path, replace=replace, scratch=scratch) as draft:
        blocks = layout.encode_cache(draft, index)
        taps = [tap for tap in index.recipe.taps if tap in blocks]
        for position, tap in enumerate(taps):
            target, sums = blocks[tap], blocks[f"checksums/{tap}"]
            for number in range(sums.rows):
                digest = hashlib.sha256()
                end = min((number + 1) * BLOCK_ROWS, len(places))
                for first, count in pieces(number * BLOCK_ROWS, end, target):
                    piece = places[first : first + count].read(tap, target.width, target.dtype)
                    draft.write(piece.data.cast("B"), target.offset + first * target.row_bytes)
                    digest.update(piece.data)
                draft.write(digest.hexdigest().encode("ascii"), sums.offset + number * sums.row_bytes)
                progress(position * sums.rows + number + 1, len(taps) * sums.rows)
        release()


class PartsFolder:
    """The folder of a cache's parts, and the list of those that an unfinished run adds or may remove.

    The list lies in the work directory, a file for each name, and is written first. So the files that a killed run left
    are known, and no other file is removed: the folder may hold those of an index that was moved away.
    """

    def __init__(self, cache_path: Path) -> None:
        self._cache_path = cache_path
        self._list = work_directory(cache_path) / "parts"

    def leftovers(self, in_use: Iterable[str]) -> list[Path]:
        """Return the listed files that are there, without those in use."""
        return [path for path in map(self._path, self._listed(in_use)) if path.exists()]

    def add(self) -> Path:
        """Return a free path for a new part, and list it."""
        folder = parts_folder(self._cache_path)
        make_directory(folder)
        names = [path.name for path in folder.iterdir()] + self._listed(())
        numbers = [int(found[1]) for found in map(_NUMBERED.fullmatch, names) if found]
        name = f"{max(numbers, default=0) + 1:06}.h5"
        self.enter([name])
        return folder / name

    def enter(self, names: Iterable[str]) -> None:
        """List files that `remove_unused` may remove."""
        for name in names:
            make_directory(self._list)
            publish_once(self._list / name, b"")

    def remove_unused(self, in_use: Iterable[str]) -> None:
        """Remove the listed files that are not in use, with what is left of drafts, and the folder if it is empty."""
        names = self._listed(in_use)
        if not self._list.is_dir():
            return
        folder = parts_folder(self._cache_path)
        drafts = [path for name in self._listed(()) for path in folder.glob(f".{name}.*.tmp")]
        remove_files([*map(self._path, names), *drafts])
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            remove_directory(folder)

    def _listed(self, without: Iterable[str]) -> list[str]:
        known = set(without)
        return sorted(path.name for path in self._list.glob("*.h5") if path.name not in known)

    def _path(self, name: str) -> Path:
        return parts_folder(self._cache_path) / name


def pack_in_parts(
    path: Path,
    index: CacheIndex,
    places: RowPlaces,
    *,
    part_rows: int,
    in_use: Iterable[str],
    replace: bool,
    scratch: Path,
    release: Callable[[], object] = lambda: None,
) -> frozenset[str]:
    """Write a cache in parts: rows in parts of this path stay where they are, others go to new parts.

    A part has each content once. New parts are published before the index.

    Parameters
    ----------
    path, index, places, replace, scratch, release
        As in `pack`.
    part_rows
        The largest number of rows of a new part.
    in_use
        The file names of the parts of the existing cache, of any recipe.

    Returns
    -------
    frozenset of str
        The file names of the parts in use.
    """
    folder, own = PartsFolder(path), parts_folder(path.absolute())
    parts: dict[str, Part] = {}
    names = [""] * len(places.sources)  # of the part that each source is, if it is one of this path
    for number in np.unique(places.numbers).tolist():
        source = places.sources[number]
        if isinstance(source, PartFile) and source.files.folder == own:
            names[number] = source.part.file
            parts[source.part.file] = source.part
    numbers, rows = places.numbers.copy(), places.rows.copy()
    others = np.flatnonzero(np.array([not name for name in names])[numbers])
    _, first, which = np.unique(index.images["sha256"][others], return_index=True, return_inverse=True)
    order = np.argsort(first)  # new rows in the order of the images, each content once
    new, rank = others[first[order]], np.argsort(order)[which]
    numbers[others], rows[others] = len(names) + rank // part_rows, rank % part_rows
    for start in range(0, len(new), part_rows):
        chosen = new[start : start + part_rows]
        target = folder.add()
        pack(target, _of_rows(index, chosen), places[chosen], replace=False, scratch=None)
        parts[target.name] = FeatureCache.open(target).as_part()
        names.append(target.name)
    complete = _in_parts(index, parts, names, numbers, rows)
    if parts:
        sync_directory(own)  # a killed run may have named a part that is used now
    folder.enter(set(in_use) - set(parts))
    pack(path, complete, NO_PLACES, replace=replace, scratch=scratch, release=release)
    return frozenset(parts)


def pack_of_links(
    path: Path,
    index: CacheIndex,
    places: RowPlaces,
    *,
    scratch: Path,
    progress: Callable[[int, int], object] = lambda *_: None,
    notify: Callable[[str], None] = lambda _: None,
) -> frozenset[str]:
    """Write a cache in parts whose parts are the files that hold the rows, under a second name; none is in the way.

    Where a file cannot have a second name, it is copied.

    Parameters
    ----------
    path, index, places, scratch
        As in `pack`; the sources are open caches and parts of caches.
    progress
        Called after every part with the number of parts that are there, and of all.
    notify
        Called with a line on parts that were copied.

    Returns
    -------
    frozenset of str
        The file names of the parts in use.
    """
    folder, copied = PartsFolder(path), 0
    used = np.unique(places.numbers).tolist()
    names = [""] * len(places.sources)  # of the part that each source is
    parts: dict[str, Part] = {}
    for count, number in enumerate(used, 1):
        source = places.sources[number]
        if not isinstance(source, FeatureFile | PartFile):
            raise TypeError(f"{source} is no file that can be a part")
        wanted = source.as_part(source.path.name)
        same = next((part.file for part in parts.values() if part.sha256 == wanted.sha256), None)
        if same is None:
            target = folder.add()
            copied += not is_linked(source.path, target)
            same = target.name
            parts[same] = dataclasses.replace(wanted, file=same)
            PartFiles(path.absolute(), (parts[same],)).file(0)  # the file may have been replaced
        names[number] = same
        progress(count, len(used))
    complete = _in_parts(index, parts, names, places.numbers, places.rows)
    pack(path, complete, NO_PLACES, replace=False, scratch=scratch)
    if copied:
        notify(f"{copied:,} of {counted(len(parts), 'part')} had to be copied: the file system gives no second name")
    return frozenset(parts)


def _of_rows(index: CacheIndex, rows: NDArray[np.intp]) -> CacheIndex:
    """Return the index of some of the rows, without failures and further columns."""
    images = {name: column[rows] for name, column in index.images.items()}
    failures = {name: column[:0] for name, column in index.failures.items()}
    return dataclasses.replace(index, images=images, failures=failures, columns={})


def _in_parts(
    index: CacheIndex,
    parts: Mapping[str, Part],
    names: Sequence[str],
    numbers: NDArray[np.int32],
    rows: NDArray[np.int64],
) -> CacheIndex:
    """Add to an index the places of its rows: row ``rows[i]`` of the part ``names[numbers[i]]``."""
    ordered = sorted(parts.values(), key=lambda part: (len(part.file), part.file))
    starts = dict(zip((part.file for part in ordered), np.cumsum([0, *(part.rows for part in ordered)]), strict=False))
    positions = np.array([starts.get(name, 0) for name in names], dtype=np.int64)[numbers] + rows
    return dataclasses.replace(index, places=Places(tuple(ordered), positions))
