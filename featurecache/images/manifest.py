"""Lists images in order, with label and split, without reading their pixels."""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import TypeAlias

from featurecache.errors import ManifestError, NoImagesError, OptionError
from featurecache.images.addresses import WEB, address_of, is_address
from featurecache.images.classes import class_warnings, numbers_are_sorted_as_text, ordered, same_classes
from featurecache.images.failures import Ignored
from featurecache.images.folder import TABLE_REMEDY, arrange, is_folder, nothing_in, walk, why_ignored
from featurecache.images.frames import with_frames
from featurecache.images.image_source import ImageSource
from featurecache.images.names import encode_name, shown_name, split_frame
from featurecache.images.remote import RemoteSource
from featurecache.images.sources import FolderSource, open_source
from featurecache.images.splits import SPLITS
from featurecache.images.table import OWN_COLUMNS, Found, read_table
from featurecache.images.table_text import DataFrame, Table, open_table, text_of_frame
from featurecache.images.views import View
from featurecache.notices import Notice
from featurecache.options import FRAMES, ImageOptions, Views
from featurecache.text import counted, listed

_KAGGLE_NAME = re.compile(r"([^.]+)\.[0-9]+\.[^.]+")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # HDF5 has no NUL in text, and UTF-8 no lone surrogates


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
class Manifest:
    """The ordered list of the images of a data set.

    Parameters
    ----------
    source
        The source of the images' bytes.
    entries
        One entry per image, sorted by split (in the order of `SPLITS`) and path; `from_files` keeps the caller's order.
    classes
        Names of the classes that have at least one image, in order; labels are indices into them.
    ignored
        Files and folders that were left out, sorted by path.
    notes
        How names and columns were read, where that is not evident; for people.
    columns
        The further columns that the cache keeps: names to a text for each entry, "" for none.
    views
        The views of images that are entries, such as ``"5:crop,flip"``; None if there are none. See `with_views`.
    frames
        ``"all"`` if further frames of files are entries; else None.

    Raises
    ------
    ManifestError
        If a label is not the index of a class, a split is not in `SPLITS`, or a path reads like that of a view, or if a
        further column has not one text for each entry, has a text with a NUL or a lone surrogate, or is named path,
        label, split or sha256.

    Examples
    --------
    >>> featurecache.read_manifest(images)
    <Manifest: 48 images: 2 classes (dark, light); train 32, valid 16>
    """

    source: ImageSource
    entries: tuple[ImageEntry, ...]
    classes: tuple[str, ...]
    ignored: tuple[Ignored, ...] = ()
    notes: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    views: str | None = None
    frames: str | None = None

    def __post_init__(self) -> None:
        k = len(self.classes)
        for entry in self.entries:
            if not -1 <= entry.label < k or entry.split not in SPLITS:
                raise ManifestError(
                    f"{shown_name(entry.path)!r} has label {entry.label} and split {entry.split!r}; "
                    f"expected a label from -1 to {k - 1} and a split in {SPLITS}"
                )
            if not self.views and View.split_path(entry.path)[1]:
                raise ManifestError(f"{shown_name(entry.path)!r} reads like the path of a view; rename the file")
        for name, texts in self.columns.items():
            if not name or name.lower() in OWN_COLUMNS or _UNSTORABLE.search(name):
                raise ManifestError(f"a further column cannot have the name {name!r}; give it another one")
            if len(texts) != len(self.entries):
                raise ManifestError(f"the column {name!r} has {len(texts):,} texts for {len(self.entries):,} images")
            faulty = next((text for text in set(texts) if _UNSTORABLE.search(text)), None)
            if faulty is not None:
                raise ManifestError(f"the column {name!r} has {faulty!r}, which is not text that a cache can store")

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"<Manifest: {self.summary()}>"

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """Warnings about the names of the classes; ``docs/reports.md`` defines their codes."""
        return tuple(class_warnings(self.classes))

    def summary(self) -> str:
        """Return what was understood in one line: numbers of images, classes and splits, and the notes.

        Examples
        --------
        >>> featurecache.read_manifest(images).summary()
        '48 images: 2 classes (dark, light); train 32, valid 16'
        """
        unlabelled = sum(entry.label < 0 for entry in self.entries)
        names = listed(self.classes, sort=False, quoted=False)
        labels = [f"{_classes(len(self.classes))} ({names})" if names else "no labels"]
        if self.classes and unlabelled:
            labels.append(f"{counted(unlabelled, 'image')} without a label")
        if numbers_are_sorted_as_text(self.classes):
            labels.append("sorted as text: sort by number with --class-order natural")
        counts = Counter(entry.split for entry in self.entries)
        splits = [f"{split or 'in no split'} {counts[split]:,}" for split in SPLITS if split in counts]
        parts = [", ".join(labels), ", ".join(splits) if counts.keys() != {""} else "no splits", *self.notes]
        return f"{counted(len(self), 'image')}: {'; '.join(parts)}"

    def with_classes(self, classes: Sequence[str]) -> "Manifest":
        """Return the same manifest with its classes in another order.

        Parameters
        ----------
        classes
            Exactly the classes of the manifest.
        """
        if tuple(classes) == self.classes:
            return self
        numbers = [tuple(classes).index(name) for name in self.classes] + [-1]
        entries = tuple(replace(entry, label=numbers[entry.label]) for entry in self.entries)
        return replace(self, entries=entries, classes=tuple(classes))

    @property
    def training_split(self) -> str | None:
        """The split whose images train heads: ``"train"``, or ``""``, as far as it has labels; None without either."""
        splits = {entry.split for entry in self.entries}, {entry.split for entry in self.entries if entry.label >= 0}
        return next((split for present in reversed(splits) for split in (SPLITS[0], "") if split in present), None)

    def with_views(self, views: str) -> "Manifest":
        """Return the same manifest with augmented views of the images that train heads, each an entry of its own.

        These are the images of the train split, or else those in no split (`training_split`). A view has the label,
        split and further columns of its image, and its path with ``#``, a number and the kinds after it, such as
        ``cats/1.jpg#2:crop,flip``. Heads train on images and views, and are judged on images alone.

        Parameters
        ----------
        views
            Their number for each image, and how they differ from it, such as ``"5:crop,flip,color"``; see
            `featurecache.options.Views`.

        Raises
        ------
        OptionError
            If ``views`` has another form.
        ManifestError
            If no image trains heads, or there are views already.

        Examples
        --------
        >>> manifest = featurecache.read_manifest(images).with_views("2:crop,flip")
        >>> len(manifest), manifest.entries[1].path
        (112, 'train/dark/00.png#1:crop,flip')
        """
        wanted = Views.read(views)
        if wanted is None:
            return self
        if self.views:
            raise ManifestError(
                f"the manifest has views already ({self.views}); begin with the one of the images alone"
            )
        split = self.training_split
        if split is None:
            raise ManifestError(
                "views are of images that train heads, and no image is in the train split or in no split"
            )
        all_views = [View(number, wanted.kinds) for number in range(1, wanted.count + 1)]
        rows = [
            (replace(entry, path=view.path_of(entry.path)) if view else entry, number)
            for number, entry in enumerate(self.entries)
            for view in (None, *(all_views if entry.split == split else ()))
        ]
        rows.sort(key=lambda row: _row_order(row[0].split, row[0].path))
        columns = {name: tuple(texts[number] for _, number in rows) for name, texts in self.columns.items()}
        return replace(
            self,
            entries=tuple(entry for entry, _ in rows),
            columns=columns,
            views=str(wanted),
        )


Images: TypeAlias = str | os.PathLike[str] | DataFrame | Manifest
"""What images are read from: a folder, archive, table or list, a DataFrame of pandas, or a manifest."""


def manifest_of(
    images: Images,
    options: ImageOptions | None = None,
    *,
    known_classes: Sequence[str] = (),
    known_paths: Iterable[str] = (),
    known_frames: str | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Return a given manifest, or read images as `read_manifest` does; say what was understood.

    Parameters
    ----------
    options
        How images are read.
    known_classes
        The classes of an existing cache or head, whose order holds if no other is given.
    known_paths
        The paths of the rows of an existing cache; see `featurecache.images.frames.with_frames`.
    known_frames
        The frames of an existing cache, ``"all"`` or None, which hold if none are given.
    notify
        Called with one line on the images, and one for each reason why files were left out and for each warning.

    Raises
    ------
    OptionError
        If an option is given with a manifest.
    ManifestError
        If entries are not sorted by split and path, or a path occurs twice; also as in `read_manifest`.
    NoImagesError
        If there are no images.
    """
    options = options or ImageOptions()
    if isinstance(images, Manifest):
        manifest = _checked(images, options)
    else:
        options = replace(options, frames=options.frames or known_frames)
        manifest = _read(images, options, known_classes, known_paths)
    for line in _said_of(manifest):
        notify(line)
    return manifest


def _said_of(manifest: Manifest) -> Iterator[str]:
    """Yield one line on the images, and one for each reason to leave files out and for each warning."""
    yield f"found {manifest.summary()}"
    first = {item.reason: item.path for item in reversed(manifest.ignored)}
    for reason, count in Counter(item.reason for item in manifest.ignored).items():
        more = f" and {count - 1} more" if count > 1 else ""
        yield f"left out: {reason}: {shown_name(first[reason])}{more}"
    for warning in manifest.warnings:
        yield f"warning: {warning}"


def _checked(images: Manifest, options: ImageOptions) -> Manifest:
    """Return a given manifest, if a cache can be made of it."""
    if options != ImageOptions():
        raise OptionError(
            "a manifest already has a source and labels; leave out root and label_from_name, the names of columns, "
            "frames and class_order"
        )
    if not images.entries:
        raise NoImagesError("the manifest has no images")
    for before, entry in pairwise(images.entries):
        if _row_order(before.split, before.path) >= _row_order(entry.split, entry.path):
            raise ManifestError(
                f"{shown_name(entry.path)!r} follows {shown_name(before.path)!r}; expected entries sorted by split and "
                "path, each path once: make the manifest with from_source"
            )
    return images


def from_source(source: ImageSource, rows: Iterable[tuple[str, str | None, str]]) -> Manifest:
    """Make the manifest of any image source.

    Parameters
    ----------
    source
        The source of the images' bytes.
    rows
        For each image its path, its class (None if unlabelled) and its split (one of `SPLITS`), in any order.

    Raises
    ------
    ManifestError
        If a path occurs twice, a path or a class cannot be stored as UTF-8 text, or a split is not one of `SPLITS`.
    NoImagesError
        If there are no rows.

    Examples
    --------
    >>> source = featurecache.FolderSource(images)
    >>> rows = [("valid/dark/02.png", "dark", ""), ("train/dark/00.png", "dark", "train")]
    >>> [(entry.path, entry.split) for entry in featurecache.from_source(source, rows).entries]
    [('train/dark/00.png', 'train'), ('valid/dark/02.png', '')]
    """
    found: dict[str, Found] = {}
    for path, label, split in rows:
        if path in found:
            raise ManifestError(f"path {path!r} occurs in two rows; expected one row per image")
        if not path or _UNSTORABLE.search(path):
            raise ManifestError(f"path {path!r} is not text that a cache can store; write it with encode_name")
        if label is not None and _UNSTORABLE.search(label):
            raise ManifestError(
                f"{path!r} has the class {label!r}, which is not text that a cache can store; rename it"
            )
        if split not in SPLITS:
            raise ManifestError(f"{path!r} has split {split!r}; expected one of {SPLITS}")
        found[path] = Found(path, label, split)
    if not found:
        raise NoImagesError(f"no images in {source.name}")
    return _number(source, found.values())


def read_manifest(
    images: str | os.PathLike[str] | DataFrame,
    *,
    root: str | os.PathLike[str] | None = None,
    label_from_name: bool = False,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    frames: str | None = None,
    class_order: str | None = None,
) -> Manifest:
    r"""Make the manifest of a folder, archive, table or list of images.

    A folder is laid out as ``<split>/<class>/…``, ``<split>/…`` (unlabelled), ``<class>/…``, or flat (unlabelled);
    below a class folder images may lie at any depth. Links to folders are not followed. A table (``.csv`` or ``.tsv``,
    perhaps with ``.gz`` after it, or a DataFrame of pandas) has the column ``path`` and optionally ``label`` and
    ``split``. It is refused if a column that reads like one of these has another name and is not given. Its other
    columns are further columns: the cache keeps their texts as they stand. Blanks around other values do not count. A
    ``path`` is the file name itself, or the name in the form of `encode_name`; ``\`` stands for ``/`` where there is
    such a file. A list (``.txt``) has a path in each line, and perhaps a label after a tab or the last blank; ``#``
    begins a comment.

    The splits are train (or training), valid (or validation, val, dev, eval) and test (or testing, holdout), in upper
    or lower case. Names of classes that differ only in Unicode form or in blanks at the ends are one class.

    Parameters
    ----------
    images
        The folder, the ``.zip``, ``.tar``, ``.tar.gz`` or ``.tgz`` file, a folder in it, the table or list, or a
        DataFrame, which is read as the CSV file that it would be saved as without its index.
    root
        The folder or archive that the paths of a table or list are relative to; if None, the folder of the table, or
        the current folder for a DataFrame.
    label_from_name
        Take labels from file names of the form ``LABEL.NUMBER.EXTENSION``; other names stay unlabelled.
    path_column, label_column, split_column
        The names of a table's columns, if they are not ``path``, ``label`` and ``split``.
    frames
        ``"all"`` makes each further frame of an animation and each further page of a TIFF file an image of its own,
        such as ``scan.tif#2``, and adds the further column ``file``; ``"first"`` takes the first one alone.
    class_order
        ``"name"`` (the default), ``"natural"`` (2 before 10), or the path of a text file with one class per line.

    Raises
    ------
    ManifestError
        If it does not exist, cannot be read, or is ambiguous about labels and splits, or if the class order cannot be
        read or lacks a class.
    NoImagesError
        If it has no images.

    Examples
    --------
    >>> manifest = featurecache.read_manifest(images)
    >>> len(manifest), manifest.classes
    (48, ('dark', 'light'))
    >>> manifest.entries[0]
    ImageEntry(path='train/dark/00.png', label=0, split='train')
    """
    options = ImageOptions(
        root=None if root is None else Path(root),
        label_from_name=label_from_name,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        frames=frames,
        class_order=class_order,
    )
    return _read(images, options)


def _read(
    images: str | os.PathLike[str] | DataFrame,
    options: ImageOptions,
    known_classes: Sequence[str] = (),
    known_paths: Iterable[str] = (),
) -> Manifest:
    """Make the manifest of a folder, archive, table or list, or of files that hold images in a table."""
    ignored: list[Ignored] = []
    further: Mapping[str, Sequence[str]] = {}
    table, place, source = _opened(images, options)
    name = (address_of(place) or str(images)) if table is None else table.name
    if table is not None:
        found, notes, further = read_table(table, place, options, source.has_file)
        source = _source_of_addresses(name, found, options) or source
        ignored = list(table.ignored)
    else:
        paths, ignored = source.list_images()
        if columns := [name for name in (options.path_column, options.label_column, options.split_column) if name]:
            raise ManifestError(f"{name} is not a table, so it has no column {listed(columns)}; leave it out")
        if not paths:
            raise NoImagesError(nothing_in(name, ignored))
        found, notes = arrange(address_of(place) or place, paths)
    if options.label_from_name:
        found = _label_from_names(name, found)
    if options.frames == FRAMES[1]:
        files = len(found)
        found, further, left_out = with_frames(source, found, further, known_paths)
        ignored += left_out
        notes = [*notes, f"{counted(len(found) - files, 'further frame')}"]
    manifest = _number(
        source, found, ignored, notes, further, class_order=options.class_order, known_classes=known_classes
    )
    return replace(manifest, frames=FRAMES[1] if options.frames == FRAMES[1] else None)


def _opened(
    images: str | os.PathLike[str] | DataFrame, options: ImageOptions
) -> tuple[Table | None, Path, ImageSource]:
    """Return the table of images, if there is one, the place that its paths are relative to, and the source there."""
    if isinstance(images, str | os.PathLike):
        location = Path(images)
        table: Table | None = open_table(location)
        place = location.parent
    else:
        table, place = text_of_frame(images), Path()
    if table is not None:
        place = options.root or place
        source = open_source(place)
        if not source.exists():
            where = address_of(place) or place
            raise ManifestError(
                f"the root {where} of {table.name} is neither a folder nor an archive; give what holds the images"
            )
        return table, place, source
    source = open_source(address_of(str(images)) or location)
    table = source.table()
    if options.root is not None:
        root = address_of(options.root) or options.root
        raise ManifestError(f"the images of {images} are in it; leave out the root {root}")
    if table is not None and options.path_column:
        raise ManifestError(f"paths in {location} are the numbers of its rows; leave out {options.path_column!r}")
    return table, location, source


def _source_of_addresses(name: str, found: Sequence[Found], options: ImageOptions) -> ImageSource | None:
    """Return the source of a table whose paths are addresses; None if none is one."""
    addresses = [item.path for item in found if is_address(item.path)]
    if not addresses:
        return None
    if options.root is not None:
        raise ManifestError(
            f"{name} has addresses that are not below {address_of(options.root) or options.root}, first "
            f"{shown_name(addresses[0])}; leave out the root, or give what all addresses begin with"
        )
    if len(addresses) < len(found):
        other = next(item.path for item in found if not is_address(item.path))
        raise ManifestError(
            f"{name} has addresses and other paths, such as {shown_name(addresses[0])} and {shown_name(other)}; write "
            "two tables, and merge their caches"
        )
    return RemoteSource.of_addresses(addresses)


def from_files(paths: Sequence[Path]) -> Manifest:
    """Make the manifest of single files and of the images in folders, without labels and splits.

    Files may be at addresses, and folders in buckets; then all are.

    Paths keep the form in which they were given. The order is the caller's; the images of a folder are sorted. A path
    that is given twice is listed once. A file is listed whatever its extension, and even if it does not exist: reading
    it then gives a failure.

    Raises
    ------
    ManifestError
        If a folder cannot be listed, or some are addresses and others are not.
    NoImagesError
        If there are no images.
    """
    addresses = [address for path in paths if (address := address_of(path))]
    if addresses:
        if len(addresses) < len(paths):
            raise ManifestError(f"some images are at addresses, such as {addresses[0]}, others are not; give one kind")
        return _at_addresses(addresses)
    shown: dict[str, None] = {}
    ignored: list[Ignored] = []
    empty: list[Ignored] = []
    for path in paths:
        name = encode_name(os.fsencode(path))
        if not is_folder(path):
            shown[name] = None
            continue
        inside, left_out = walk(os.fsencode(path))
        prefix = "" if name == "." else name.rstrip("/") + "/"
        shown.update(dict.fromkeys(prefix + image for image in sorted(inside)))
        ignored += [Ignored(prefix + item.path, item.reason) for item in left_out]
        if not inside:
            empty.append(Ignored(name, "a folder without image files"))
    if not shown:
        raise NoImagesError(nothing_in(", ".join(map(str, paths)) or "an empty list", ignored))
    entries = tuple(ImageEntry(path, -1, "") for path in shown)
    source = FolderSource(Path.cwd(), confined=False)
    return Manifest(source, entries, (), tuple(sorted(ignored + empty, key=lambda item: item.path)))


def _at_addresses(addresses: Sequence[str]) -> Manifest:
    """Make the manifest of single images at addresses, and of the images in folders of buckets."""
    shown: dict[str, None] = {}
    ignored: list[Ignored] = []
    for address in addresses:
        name = encode_name(address.encode("utf-8", "surrogateescape"))
        file, _ = split_frame(View.split_path(address)[0])
        if address.startswith(WEB) or not why_ignored(posixpath.basename(file).encode()):
            shown[name] = None
            continue
        inside, left_out = RemoteSource(address).list_images()
        shown.update(dict.fromkeys(f"{name}/{image}" for image in sorted(inside)))
        ignored += [Ignored(f"{name}/{item.path}", item.reason) for item in left_out]
    if not shown:
        raise NoImagesError(nothing_in(", ".join(addresses), ignored))
    entries = tuple(ImageEntry(path, -1, "") for path in shown)
    return Manifest(RemoteSource.of_addresses(addresses), entries, (), tuple(ignored))


def _label_from_names(images: str, found: Sequence[Found]) -> list[Found]:
    labelled = next((item for item in found if item.label is not None), None)
    if labelled:
        example = f"{shown_name(labelled.path)!r} is {labelled.label!r}"
        raise ManifestError(f"{images} already has labels ({example}); do not take labels from names")
    matches = [_KAGGLE_NAME.fullmatch(posixpath.basename(shown_name(item.path))) for item in found]
    if not any(matches):
        raise ManifestError(
            f"no file name in {images} has the form LABEL.NUMBER.EXTENSION, such as cat.123.jpg (found "
            f"{listed(shown_name(item.path) for item in found)}); do not take labels from names, or {TABLE_REMEDY}"
        )
    return [item._replace(label=match[1] if match else None) for item, match in zip(found, matches, strict=True)]


def _number(
    source: ImageSource,
    found: Collection[Found],
    ignored: Iterable[Ignored] = (),
    notes: Iterable[str] = (),
    columns: Mapping[str, Sequence[str]] | None = None,
    *,
    class_order: str | None = None,
    known_classes: Sequence[str] = (),
) -> Manifest:
    """Sort the rows and turn the names of classes into numbers; columns have a text for each row."""
    rows = sorted(found, key=attrgetter("path"))
    rows.sort(key=lambda item: SPLITS.index(item.split))  # keeps the order within a split
    spellings = {item.label for item in rows if item.label is not None}
    same = same_classes(spellings)
    classes = ordered({same.get(name, name) for name in spellings}, class_order, known_classes)
    numbers = {name: number for number, name in enumerate(classes)}
    labels: dict[str | None, int] = {name: numbers[same.get(name, name)] for name in spellings} | {None: -1}
    entries = tuple(ImageEntry(path, labels[label], split) for path, label, split in rows)
    joined = [f"spelled in several ways: {listed(set(same.values()), quoted=False)}"] if same else []
    at = {item.path: number for number, item in enumerate(found)} if columns else {}
    order = [at[item.path] for item in rows] if columns else []
    in_order = {name: tuple([texts[number] for number in order]) for name, texts in (columns or {}).items()}
    by_path = sorted(ignored, key=lambda item: item.path)
    return Manifest(source, entries, classes, tuple(by_path), (*notes, *joined), in_order)


def _classes(count: int) -> str:
    return f"{count:,} class{'' if count == 1 else 'es'}"


def _row_order(split: str, path: str) -> tuple[int, str]:
    """Return the sort key of rows."""
    return SPLITS.index(split), path
