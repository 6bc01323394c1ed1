"""``--labels FILE.csv[:COLUMN]``: opens a cache with labels of a table, and says what the table has for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurecache.cli.console.output import say
from featurecache.errors import ManifestError
from featurecache.text import counted, listed

if TYPE_CHECKING:
    from featurecache import FeatureCache


@dataclass(frozen=True, slots=True)
class LabelsFile:
    """A table of labels.

    Parameters
    ----------
    path, column
        The file, and its column with the labels.
    """

    path: Path
    column: str = "label"

    @classmethod
    def parse(cls, text: str) -> "LabelsFile":
        """Read ``FILE`` or ``FILE:COLUMN``; both may have colons, so the first part that is a file decides."""
        parts = text.split(":")
        for number in (len(parts), *range(1, len(parts))):
            path = Path(":".join(parts[:number]))
            if path.exists() and not path.is_dir():
                return cls(path, ":".join(parts[number:])) if number < len(parts) else cls(path)
        return cls(Path(text))

    def __str__(self) -> str:
        return self.path.name if self.column == "label" else f"{self.path.name}, column {self.column}"


Labels = Annotated[
    LabelsFile | None,
    typer.Option(
        parser=LabelsFile.parse,
        metavar="FILE.csv[:COLUMN]",
        help="Labels that replace those of the cache: a table with the columns path, or sha256, and label, or COLUMN.",
    ),
]


def open_labelled(path: Path, labels: LabelsFile | None) -> "FeatureCache":
    """Open a cache with the labels of a table, if there is one; say for how many rows it has some.

    Raises
    ------
    ManifestError
        If the table cannot be read, or has no row of the cache.
    """
    from featurecache import FeatureCache, read_labels

    cache = FeatureCache.open(path)
    if labels is None:
        return cache
    relabelled = cache.with_labels(read_labels(labels.path, labels.column))
    given, paths = relabelled.given_labels, cache.paths.tolist()
    matched = [given[row] for row in paths if row in given]
    unmatched = given.keys() - set(paths)
    if not matched:
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
    say("; ".join(facts))
    return relabelled


def sources(cache: Path, labels: LabelsFile | None) -> dict[str, str]:
    """Return what a report shows as the source of features and labels."""
    return {"cache": cache.name} | ({} if labels is None else {"labels": str(labels)})
