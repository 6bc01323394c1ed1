"""``--labels``: opens a cache with labels of a table or of one of its own columns, and says what is there for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurecache.cli.console.output import say
from featurecache.errors import ManifestError
from featurecache.text import counted, listed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from featurecache import FeatureCache


@dataclass(frozen=True, slots=True)
class LabelsOption:
    """Where labels come from.

    Parameters
    ----------
    path
        The file of a table; None for the cache itself.
    column
        The column with the labels.
    """

    path: Path | None
    column: str = "label"

    @classmethod
    def parse(cls, text: str) -> "LabelsOption":
        """Read ``FILE``, ``FILE:COLUMN`` or ``:COLUMN``; the first part that is a file decides where it ends."""
        parts = text.split(":")
        for number in (len(parts), *range(1, len(parts))):
            path = Path(":".join(parts[:number]))
            if path.exists() and not path.is_dir():
                return cls(path, ":".join(parts[number:])) if number < len(parts) else cls(path)
        return cls(None, text[1:]) if text.startswith(":") else cls(Path(text))

    def __str__(self) -> str:
        if self.path is None:
            return f"the column {self.column}"
        return self.path.name if self.column == "label" else f"{self.path.name}, column {self.column}"


Labels = Annotated[
    LabelsOption | None,
    typer.Option(
        parser=LabelsOption.parse,
        metavar="[FILE.csv][:COLUMN]",
        help="Labels that replace those of the cache: a table with the columns path, or sha256, and label, or COLUMN; "
        "without a file, a column of the cache. COLUMN,COLUMN,… hold 1 or 0 for each of several labels.",
    ),
]


Group = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Keep rows with the same value of this column together: in holdouts, folds and resamples.",
    ),
]


Weight = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Weigh training rows by this column: a row of weight 2 counts as two. Scores count every row once.",
    ),
]


def open_labelled(
    path: Path, labels: LabelsOption | None, group: str | None = None, weight: str | None = None
) -> "FeatureCache":
    """Open a cache with the labels of a table or a column, in groups and with weights, if given.

    Says for how many rows it has labels.

    Raises
    ------
    ManifestError
        If the table cannot be read, or has no row of the cache.
    UnknownNameError
        If the cache has no such column.
    """
    from featurecache import FeatureCache, read_labels

    cache = FeatureCache.open(path)
    if labels is None:
        return _asked(cache, group, weight)
    table = None if labels.path is None else read_labels(labels.path, labels.column)
    relabelled = cache.with_labels(_texts(cache, labels.column) if table is None else table)
    given, paths = relabelled.given_labels, cache.paths[~cache.is_view].tolist()
    matched = [given[row] for row in paths if row in given]
    unmatched = given.keys() - set(paths)
    if paths and not matched:
        there = f"its first image is {next(iter(given))!r}" if given else "it has a header and no rows"
        raise ManifestError(
            f"the table {labels.path} has no label for any row of {path}: {there}, and the first row of the cache is "
            f"{paths[0]!r}; write paths, or sha256, as they are in the cache"
        )
    empty, absent = matched.count(None), len(paths) - len(matched)
    facts = [f"found labels of {len(matched) - empty:,} of {counted(len(paths), 'row')} in {labels}"]
    if absent:
        facts.append(f"{counted(absent, 'row')} without a line kept the label of the cache, if any")
    if empty:
        facts.append(f"{counted(empty, 'row')} with an empty label became unlabelled")
    if unmatched:
        facts.append(
            f"{len(unmatched):,} of {len(given):,} given labels are of no row of the cache: {listed(unmatched)}"
        )
    if table is not None and table.ambiguous:
        facts.append(f"left out, with different texts for one image: {listed(table.ambiguous, quoted=False)}")
    say("; ".join(facts))
    return _asked(relabelled, group, weight)


def _texts(cache: "FeatureCache", column: str) -> "NDArray[np.object_]":
    """Return a column of a cache, or several with commas between them as several labels."""
    from featurecache import join_flags

    if column in cache.columns or "," not in column:
        return cache.column(column)
    return join_flags({name: cache.column(name).tolist() for name in map(str.strip, column.split(","))})


def _asked(cache: "FeatureCache", group: str | None, weight: str | None) -> "FeatureCache":
    grouped = cache if group is None else cache.with_groups(group)
    return grouped if weight is None else grouped.with_weights(weight)


def sources(cache: Path, labels: LabelsOption | None) -> dict[str, str]:
    """Return what a report shows as the source of features and labels."""
    return {"cache": cache.name} | ({} if labels is None else {"labels": str(labels)})
