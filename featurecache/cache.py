"""Opens caches: a cache is read-only, its index is in memory, its features are memory-mapped or lie in parts."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from featurecache import labelling
from featurecache.arrow_tables import arrow_table, data_frame
from featurecache.errors import CacheFormatError, OptionError, UnknownNameError
from featurecache.feature_set import FeatureSet
from featurecache.format import layout
from featurecache.format.feature_file import FeatureFile, RowPlaces
from featurecache.format.header import REMEDY
from featurecache.format.layout import BLOCK_ROWS, CacheIndex, Part, Places
from featurecache.format.mapped_file import MappedFile
from featurecache.images.classes import class_warnings
from featurecache.images.names import shown_names
from featurecache.images.splits import split_named
from featurecache.images.table import LabelsTable
from featurecache.images.views import View, are_views, images_of
from featurecache.notices import Notice
from featurecache.provenance import Provenance
from featurecache.recipe import Recipe
from featurecache.rows import PartFiles, Parts, Rows, as_float32
from featurecache.storage.files import open_regular
from featurecache.storage.platform import IS_WINDOWS
from featurecache.text import counted

if TYPE_CHECKING:
    import pandas
    import pyarrow

_ALL = slice(None)


class FeatureCache:
    """An immutable cache file, or the index of a cache in parts: no lock, safe to share between threads and processes.

    Open one with `FeatureCache.open`. If its file is replaced on disk, an open cache keeps reading the old file. A
    pickled cache is the name of its file: a process that unpickles it maps the same file, or raises `CacheFormatError`
    if the file was replaced. Feature sets are pickled in the same way as long as they view the file.

    Examples
    --------
    >>> cache.taps
    {'features': 16, 'predictions': 4}
    >>> cache.splits
    {'train': 32, 'valid': 16}
    >>> cache.features("features", "train").X.shape
    (32, 16)
    """

    def __init__(self, path: Path, index: CacheIndex, mapped: MappedFile, features: FeatureFile | Parts) -> None:
        self.path = path
        self.index = index
        self._mapped = mapped
        self._features = features
        self.given_labels: Mapping[str, str | None] = {}
        """The labels that `with_labels` has been given: by path, or by what no row has."""
        self._given_columns: Mapping[str, NDArray[np.object_]] = {}
        self.group_column: str | None = None
        """The column that `with_groups` has been given."""
        self.weight_column: str | None = None
        """The column that `with_weights` has been given."""

    @classmethod
    def open(cls, path: str | PathLike[str]) -> Self:
        """Open a cache file and check its structure; no feature is read.

        Raises
        ------
        CacheFormatError
            If the file does not exist, is damaged, or is not a cache, or a part of it is missing.
        """
        cache = cls._open(Path(path))
        if isinstance(cache._features, Parts):
            cache._features.files.require()
        return cache

    @classmethod
    def open_sound_parts(cls, path: Path) -> Self:
        """Open a cache as `open` does, but of a cache in parts only the rows of those parts that are there."""
        cache = cls._open(path)
        if not isinstance(cache._features, Parts):
            return cache
        left, rows = cache._features.sound()
        images = {name: column[rows] for name, column in cache.index.images.items()}
        columns = {name: column[rows] for name, column in cache.index.columns.items()}
        places = Places(left.files.parts, left.positions)
        index = replace(cache.index, images=images, columns=columns, places=places)
        return cls(path, index, cache._mapped, left)

    @classmethod
    def _open(cls, path: Path) -> Self:
        try:
            with open_regular(path) as stream:
                index, blocks = layout.read_cache(stream)
                descriptor = os.dup(stream.fileno())
        except FileNotFoundError as e:
            if work_directory(path).is_dir():
                raise CacheFormatError(
                    f"there is no cache {path} yet, but {work_directory(path)} has the results of an unfinished run; "
                    "run its command again to finish it"
                ) from e
            raise CacheFormatError(f"there is no cache {path}; make it with: featurecache extract IMAGES {path}") from e
        except OSError as e:
            reason = (e.strerror or str(e)).lower()
            raise CacheFormatError(f"{path} cannot be opened: {reason}; give another path") from e
        file = FeatureFile(path, blocks, descriptor, REMEDY)
        if index.places is None:
            return cls(path, index, file.map, file)
        try:
            files = PartFiles(file.map.path, index.places.parts)
        except OptionError as e:
            raise CacheFormatError(f"{path} is the index of a cache in parts: {e}") from e
        positions: NDArray[np.int64] = blocks["positions"].mapped(file.map)[:, 0]  # stays in the file
        if IS_WINDOWS:  # does not replace the file while an array needs it
            positions = positions.copy()
        index = replace(index, places=Places(index.places.parts, positions))
        return cls(path, index, file.map, Parts(files, index.recipe, positions))

    def release(self) -> None:
        """Close the files, before another one takes the place of this cache; only its index can be used afterwards.

        Arrays that were taken from it stay as they are. Where they are views of the file, it stays open for them.
        """
        self._features.close()
        with suppress(BufferError):
            self._mapped.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle path and identity, not the features: another process maps the same file."""
        given = (self.given_labels, self._given_columns, (self.group_column, self.weight_column))
        return _reopened, (self._mapped.path, self._mapped.identity, *given)

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        taps = ", ".join(f"{tap} ({width})" for tap, width in self.taps.items())
        return f"<FeatureCache {str(self.path)!r}: {len(self)} rows, {self.recipe.backbone} {taps}>"

    @property
    def recipe(self) -> Recipe:
        """What determined the features."""
        return self.index.recipe

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Versions, device and counts of the run that made this file; the fingerprint does not depend on them."""
        provenance: dict[str, Any] = json.loads(self.index.provenance)
        return provenance

    @property
    def made_by(self) -> Provenance:
        """The provenance with typed fields; a field that is not recorded is None."""
        return Provenance.from_dict(self.provenance)

    @property
    def taps(self) -> Mapping[str, int]:
        """Maps the names of the cached layers to their widths."""
        return self.recipe.taps

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self.index.classes

    @property
    def parts(self) -> tuple[Path, ...]:
        """The files that hold the features of a cache in parts; empty for a cache in one file."""
        return (
            tuple(source.path for source in self._features.files.sources) if isinstance(self._features, Parts) else ()
        )

    @property
    def splits(self) -> dict[str, int]:
        """Number of rows of each split that has rows; ``""`` stands for rows in no split."""
        names, counts = np.unique(self.index.images["split"], return_counts=True)
        return {name.decode("ascii"): int(count) for name, count in zip(names, counts, strict=True)}

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of rows of each class."""
        labels = self.index.images["label"]
        counts = np.bincount(labels[labels >= 0], minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, counts, strict=True)}

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """Warnings about the names of the classes; ``docs/reports.md`` defines their codes."""
        return tuple(class_warnings(self.classes))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the further columns: of the table that was extracted, and of that of `with_labels`."""
        return tuple(self.index.columns)

    def column(self, name: str) -> NDArray[np.object_]:
        r"""Return the text of each row in a further column, shape (n,), `str` objects; "" for a row that has none.

        Raises
        ------
        UnknownNameError
            If there is no such column.

        Examples
        --------
        >>> _ = (folder / "rooms.csv").write_text("path,label,room\ntrain/dark/00.png,dark,attic\n")
        >>> furnished = cache.with_labels(featurecache.read_labels(folder / "rooms.csv"))
        >>> furnished.columns
        ('room',)
        >>> furnished.column("room")[:3]
        array(['attic', '', ''], dtype=object)
        """
        if name not in self.index.columns:
            known = self.columns or ("none; extract a table that has it, which takes no forward pass",)
            raise UnknownNameError("column", name, known)
        return self.index.columns[name]

    @property
    def paths(self) -> NDArray[np.object_]:
        """The path of each row, as files are named; shape (n,), `str` objects."""
        return self._shown[0]

    @cached_property
    def _shown(self) -> tuple[NDArray[np.object_], list[str]]:
        """The paths of rows and of failures, as files are named; the cache file has the form of `encode_name`."""
        rows, failures = self.index.images["path"], self.index.failures["path"]
        names = shown_names([*rows, *failures])
        return np.array(names[: len(rows)], dtype=object), names[len(rows) :]

    @cached_property
    def is_view(self) -> NDArray[np.bool_]:
        """Which rows are augmented views of images, shape (n,); see `FeatureSet.is_view`."""
        return are_views(self.paths)

    @cached_property
    def contents(self) -> NDArray[np.object_]:
        """The SHA-256 of each row's image, shape (n,), `str` objects: of a view, that of the image it shows."""
        sha256: NDArray[np.object_] = self.index.images["sha256"].astype(str).astype(object)
        if not self.is_view.any():
            return sha256
        return np.array(images_of(self.paths.tolist(), sha256.tolist())[1], dtype=object)

    @property
    def failures(self) -> dict[str, str]:
        """Maps the path of each image without features to the reason."""
        return dict(zip(self._shown[1], self.index.failures["reason"], strict=True))

    @property
    def leaks(self) -> list[tuple[str, ...]]:
        """Groups of paths with the same content in different splits, in order of their first paths."""
        images = self.index.images
        groups: dict[bytes, list[int]] = {}
        for row, sha256 in enumerate(images["sha256"].tolist()):
            groups.setdefault(sha256, []).append(row)
        return [
            tuple(self.paths[rows].tolist())
            for rows in groups.values()
            if len(rows) > 1 and len(set(images["split"][rows].tolist())) > 1
        ]

    def features(self, tap: str | None = None, split: str | None = None) -> FeatureSet:
        """Return the features of a tap, of all rows or of one split, memory-mapped or in parts.

        Parameters
        ----------
        tap
            A cached layer; optional if the cache has only one.
        split
            ``"train"``, ``"valid"``, ``"test"``, or ``""`` for rows in no split; None for all rows.

        Raises
        ------
        UnknownNameError
            If the cache has no such tap or split.
        """
        tap = self.require_tap(tap)
        rows = self.rows_of(split)
        images = self.index.images
        return FeatureSet(
            X=as_float32(self._features.view(tap, rows, self.recipe.stored_dtype(tap))),
            y=images["label"][rows].astype(np.int64),
            paths=self.paths[rows],
            splits=images["split"][rows].astype(str).astype(object),
            sha256=self.contents[rows],
            classes=self.classes,
            split=split and (split_named(split) or split),
            tap=tap,
            recipe=self.recipe,
            groups=None if self.groups is None else self.groups[rows],
            weights=None if self.weights is None else self.weights[rows],
        )

    def text_columns(self, rows: slice = _ALL) -> dict[str, NDArray[np.object_]]:
        """Return a text for each row by column: path, label (``""`` for none), split, sha256 and further columns.

        A cache with views has the column image before the further ones, the path of the image that a row shows, unless
        a further column has this name.
        """
        images = self.index.images
        names = np.array([*self.classes, ""], dtype=object)
        of_views: dict[str, NDArray[np.object_]] = {}
        if self.is_view.any():
            of_views["image"] = np.array([View.split_path(path)[0] for path in self.paths[rows]], dtype=object)
        return {
            "path": self.paths[rows],
            "label": names[images["label"][rows]],
            "split": images["split"][rows].astype(str).astype(object),
            "sha256": images["sha256"][rows].astype(str).astype(object),
            **of_views,
            **{name: column[rows] for name, column in self.index.columns.items()},
        }

    def to_arrow(self, taps: str | Iterable[str] | None = None, *, rows: slice = _ALL) -> "pyarrow.Table":
        """Return rows as a table of Arrow: path, label, split, sha256, further columns, and the features of each tap.

        Features are lists of fixed size, as they are stored; those of a cache in one file are not copied. Labels are
        a dictionary of the classes, in their order, which pandas reads as categories.

        Parameters
        ----------
        taps
            Cached layers; all if None.
        rows
            The rows.

        Raises
        ------
        UnknownNameError
            If the cache has no such tap.
        OptionError
            If pyarrow is not installed, or a further column has the name of a tap.

        Examples
        --------
        >>> table = cache.to_arrow(["features"])
        >>> table.num_rows, table.column_names
        (48, ['path', 'label', 'split', 'sha256', 'features'])
        """
        given = [taps] if isinstance(taps, str) else taps
        names = self.taps if given is None else [self.require_tap(tap) for tap in given]
        labels = self.index.images["label"][rows]
        features = {tap: self.mapped(tap)[rows] for tap in names}
        about = {"featurecache.fingerprint": self.recipe.fingerprint, "featurecache.backbone": self.recipe.backbone}
        return arrow_table(self.text_columns(rows), labels, self.classes, features, about)

    def to_pandas(self, tap: str | None = None) -> "pandas.DataFrame":
        """Return all rows as a DataFrame of pandas: path, label, split, sha256, further columns, and a column a number.

        The columns of numbers are named by the tap, ``fc2_0`` and so on; the features are not copied.

        Parameters
        ----------
        tap
            A cached layer; optional if the cache has only one.

        Raises
        ------
        UnknownNameError
            If the cache has no such tap.
        OptionError
            If pandas is not installed.

        Examples
        --------
        >>> frame = cache.to_pandas("features")
        >>> frame.groupby("label", observed=True)["features_0"].count().to_dict()
        {'dark': 24, 'light': 24}
        """
        return data_frame(
            self.text_columns(), self.index.images["label"], self.classes, self.require_tap(tap), self.features(tap).X
        )

    def mapped(self, tap: str) -> NDArray[Any] | Rows:
        """Return the features of a tap as they are stored, memory-mapped or in parts, shape (n, d), float32 or float16.

        Parameters
        ----------
        tap
            A cached layer.

        Examples
        --------
        >>> cache.mapped("features").shape
        (48, 16)
        """
        return self._features.view(tap, slice(None), self.recipe.stored_dtype(tap))

    def with_labels(self, labels: Mapping[str, str | None] | Sequence[str] | NDArray[np.object_]) -> Self:
        """Return the same rows and features with other labels; this cache and its file stay as they are.

        Parameters
        ----------
        labels
            Maps paths of rows, or the SHA-256 of their contents, to names of classes, or to None for no label, such as
            `featurecache.read_labels` returns. Other rows keep their label. What is not in the cache changes nothing.
            The further columns of a `featurecache.LabelsTable` are columns of the result, in the place of those of the
            same name; rows that the table lacks keep their text.

            Or the name of the class of each row, such as a column of the cache; "" for no label.

            Classes are ordered as in the cache, by name or by number; where it has another order, new ones come last.
            Names that differ only in Unicode form or blanks at the ends are one class.

        Raises
        ------
        OptionError
            If the names are not as many as the rows.

        Examples
        --------
        >>> cache.with_labels({"train/dark/00.png": "night", "train/dark/04.png": None}).class_counts
        {'dark': 22, 'light': 24, 'night': 1}
        """
        if isinstance(labels, Mapping):
            if not isinstance(labels, LabelsTable):
                return self._relabelled(labels, {})
            table = labelling.with_slashes(labels, set(self.paths))
            return self._relabelled(table, labelling.columns_of(table, self.index, self.paths))
        if len(labels) != len(self):
            raise OptionError(f"got {len(labels):,} labels for {counted(len(self), 'row')}; expected one for each row")
        texts = ((str(text).strip() or None) for text in labels)
        return self._relabelled(dict(zip(self.paths.tolist(), texts, strict=True)), {})

    def _relabelled(self, labels: Mapping[str, str | None], columns: Mapping[str, NDArray[np.object_]]) -> Self:
        """Return the same rows and features with other labels and further columns."""
        index, given = labelling.relabelled(self.index, self.paths, labels)
        relabelled = self._copy(replace(index, columns={**index.columns, **columns}))
        relabelled.given_labels = {**self.given_labels, **given}
        relabelled._given_columns = {**self._given_columns, **columns}
        return relabelled._checked()

    def with_groups(self, column: str) -> Self:
        r"""Return the same rows and features in groups; this cache and its file stay as they are.

        Rows of one group belong together, such as the images of one patient or of one camera. All use cases of `heads`
        keep a group on one side of a holdout, in one fold, and together in the resamples of intervals.

        Parameters
        ----------
        column
            The column whose values name the groups; see `column`. Every labelled row needs a value.

        Raises
        ------
        UnknownNameError
            If there is no such column.
        OptionError
            If a labelled row has no value, or all of them have the same one.

        Examples
        --------
        >>> lines = [f"{path},{path.split('/')[1]},{path[-5]}" for path in cache.paths]
        >>> _ = (folder / "days.csv").write_text("\n".join(["path,label,day", *lines]))
        >>> grouped = cache.with_labels(featurecache.read_labels(folder / "days.csv")).with_groups("day")
        >>> heads.train(grouped, "centroid", tap="features").training.groups
        TrainingGroups(column='day', n_train=10, n_valid=10)
        """
        grouped = self._copy(self.index)
        grouped.group_column = column
        return grouped._checked()

    def with_weights(self, column: str) -> Self:
        r"""Return the same rows and features with weights for training; this cache and its file stay as they are.

        A row of weight 2 trains as two such rows do, one of weight 0 as none. Only heads with ``spec.weighted`` can be
        trained with weights. Scores count every row once.

        Parameters
        ----------
        column
            The column with the weights; see `column`. Every labelled row needs a number of at least 0.

        Raises
        ------
        UnknownNameError
            If there is no such column.
        OptionError
            If a labelled row has no finite number of at least 0, or all are 0.

        Examples
        --------
        >>> lines = [f"{path},{path.split('/')[1]},{1 + number % 3}" for number, path in enumerate(cache.paths)]
        >>> _ = (folder / "trust.csv").write_text("\n".join(["path,label,trust", *lines]))
        >>> weighted = cache.with_labels(featurecache.read_labels(folder / "trust.csv")).with_weights("trust")
        >>> weighted.features("features").weights[:4]
        array([1., 2., 3., 1.])
        >>> heads.train(weighted, "logreg", tap="features").training.weight
        'trust'
        """
        weighted = self._copy(self.index)
        weighted.weight_column = column
        return weighted._checked()

    def _checked(self) -> Self:
        """Return this cache if its labelled rows have groups and weights, where it was asked for them."""
        labelled = self.index.images["label"] >= 0
        if self.groups is not None:
            labelling.require_groups(str(self.group_column), self.groups, labelled, self.paths)
        if self.weights is not None:
            column = str(self.weight_column)
            labelling.require_weights(column, self.column(column), self.weights, labelled, self.paths)
        return self

    @cached_property
    def groups(self) -> NDArray[np.object_] | None:
        """The group of each row, shape (n,), `str` objects; None unless `with_groups` was called."""
        if self.group_column is None:
            return None
        return np.array([text.strip() for text in self.column(self.group_column)], dtype=object)

    @cached_property
    def weights(self) -> NDArray[np.float64] | None:
        """The weight of each row, shape (n,), float64, 0 for an empty field; None unless `with_weights` was called."""
        if self.weight_column is None:
            return None
        return labelling.weights(self.column(self.weight_column), self.index.images["label"] >= 0)

    def _copy(self, index: CacheIndex) -> Self:
        """Return the same features with another index, and what this cache was given."""
        copy = type(self)(self.path, index, self._mapped, self._features)
        copy.given_labels, copy._given_columns = self.given_labels, self._given_columns
        copy.group_column, copy.weight_column = self.group_column, self.weight_column
        return copy

    def require_tap(self, tap: str | None) -> str:
        """Return ``tap`` if the cache has it, or the only tap if None; otherwise raise `UnknownNameError`."""
        if tap is None and len(self.taps) == 1:
            return next(iter(self.taps))
        if tap is None:
            raise UnknownNameError("tap", "(none given)", self.taps)
        if tap not in self.taps:
            raise UnknownNameError("tap", tap, self.taps)
        return tap

    def read(self, tap: str, start: int, count: int) -> NDArray[Any]:
        """Return a copy of ``count`` rows of a tap from row ``start`` on, as stored, shape (count, d).

        The first read of a block compares it with its checksum.

        Raises
        ------
        CacheFormatError
            If a block is damaged.
        """
        return self._features.read(tap, start, count)

    def places(self) -> RowPlaces:
        """Return where the features of each row lie: in this file, or in parts."""
        return self._features.places(0, len(self))

    def as_part(self) -> Part:
        """Describe the file of this cache, which is not in parts itself, as a part under its own name."""
        if isinstance(self._features, Parts):
            raise CacheFormatError(f"{self.path} is in parts itself, and cannot be a part")
        return self._features.as_part(self.path.name)

    def problems(self, progress: Callable[[int, int], object] = lambda *_: None) -> list[str]:
        """Return one line for each block that does not match its checksum; reads every feature once.

        Parameters
        ----------
        progress
            Called after every block with the number of blocks that are done, and of all.
        """
        if isinstance(self._features, FeatureFile):
            return self._features.problems(progress)
        found: list[str] = []
        files, positions = self._features.files, self._features.positions
        sizes = [len(self.taps) * -(-part.rows // BLOCK_ROWS) for part in files.parts]
        for number, source in enumerate(files.sources):
            before = sum(sizes[:number])
            try:
                file = files.file(number)
                part = FeatureCache.open(source.path)
            except CacheFormatError as e:
                found.append(str(e))
                continue
            if part.recipe != self.recipe:
                found.append(f"{source.path} has another recipe than {self.path}")
            rows = np.flatnonzero((positions >= files.starts[number]) & (positions < files.starts[number + 1]))
            contents = part.index.images["sha256"][positions[rows] - files.starts[number]]
            wrong = int((contents != self.index.images["sha256"][rows]).sum())
            if wrong:
                found.append(f"{source.path} has other images than {self.path} says for {counted(wrong, 'row')}")
            for problem in file.problems(partial(_shifted, progress, before, sum(sizes))):
                found.append(f"{source.path}: {problem}")
        return found

    def rows_of(self, split: str | None) -> slice:
        """Return the rows of a split, which are contiguous."""
        if split is None:
            return slice(0, len(self))
        rows = np.flatnonzero(self.index.images["split"] == (split_named(split) or split).encode())
        if not len(rows):
            raise UnknownNameError("split", split, (name or "(in no split)" for name in self.splits))
        first, last = int(rows[0]), int(rows[-1])
        if last - first + 1 != len(rows):
            raise CacheFormatError(f"{self.path} is damaged: the rows of the split {split!r} are not contiguous")
        return slice(first, last + 1)


def _shifted(progress: Callable[[int, int], object], before: int, total: int, done: int, _: int) -> None:
    """Report the progress of a part as that of all."""
    progress(before + done, total)


def _reopened(
    path: Path,
    identity: str,
    labels: Mapping[str, str | None],
    columns: Mapping[str, NDArray[np.object_]],
    roles: tuple[str | None, str | None],
) -> FeatureCache:
    """Open a cache that was pickled; raise `CacheFormatError` if its file is another one now."""
    cache = FeatureCache.open(path)
    cache._mapped.require(identity)
    reopened = cache._relabelled(labels, columns) if labels or columns else cache
    group, weight = roles
    grouped = reopened if group is None else reopened.with_groups(group)
    return grouped if weight is None else grouped.with_weights(weight)


def work_directory(cache_path: Path) -> Path:
    """Return the directory where an unfinished run of ``cache_path`` keeps its results."""
    return cache_path.with_name(f"{cache_path.name}.work")
