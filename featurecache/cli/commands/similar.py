"""``featurecache similar``: the images of a cache that are most similar to given images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurecache.cli.console.labels import sources
from featurecache.cli.console.options import CacheFile, MovedWeights, Tap, place_of, with_options
from featurecache.cli.console.output import Json, print_failures, print_table, say, show
from featurecache.cli.console.progress import progress
from featurecache.cli.console.reports import Format, ImageRoot, ReportFile, ReportPath, Thumbnails, tell
from featurecache.options import RunOptions
from featurecache.text import number

if TYPE_CHECKING:
    from heads import Originals, Similar


@with_options(RunOptions, only=("batch_size", "workers", "device", "engine"))
def similar(
    cache: CacheFile,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE]...", help="Image files, folders of images, or addresses."),
    ] = None,
    row: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="A row of the cache, by its path, in place of an image.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--count", min=1, help="Number of similar images for each image.")] = 9,
    tap: Tap = None,
    weights: MovedWeights = None,
    report: ReportPath = None,
    form: Format = None,
    root: ImageRoot = None,
    thumbnails: Thumbnails = True,
    json: Json = False,
    **options: Any,
) -> None:
    """Find the images of a cache that are most similar to given images, or to its own rows."""
    from featurecache import FeatureCache
    from heads import similar as find
    from heads import similar_report

    planned = ReportFile.planned(report, form, root, thumbnails=thumbnails)
    if not images and not row:
        raise typer.BadParameter("give image files, or rows of the cache with --row PATH")
    opened = FeatureCache.open(cache)
    given = {name: value for name, value in options.items() if value is not None}
    places = [place_of(image) for image in images or ()]
    with progress("comparing", "image") as update:
        found = find(
            opened, places, rows=row or (), k=k, tap=tap, weights=weights, progress=update, notify=say, **given
        )
    print_failures({path: failure.reason for path, failure in found.failures.items()}, "--json lists all")
    tell(
        found,
        print_similar,
        planned,
        lambda originals: similar_report(
            found,
            recipe=opened.recipe,
            originals=originals,
            given=_given(found) if originals else None,
            about=sources(cache, None),
        ),
        opened,
        json=json,
    )


def _given(found: "Similar") -> "Originals":
    """Return access to the images that were given."""
    from featurecache import FolderSource, open_source
    from heads import Originals

    scheme, mark, _ = next(iter(found.given), "").partition("://")  # all are at addresses, or none
    source = open_source(scheme + mark) if mark else FolderSource(Path(), confined=False)
    return Originals(source, found.given)


def print_similar(found: "Similar") -> None:
    """Print the similar images of each image."""
    for position, one in enumerate(found.found):
        if position:
            show()
        show(f"{one.path}:")
        print_table(
            ("similarity", "label", "split", "image"),
            [(number(image.similarity), image.label or "-", image.split or "-", image.path) for image in one.images],
            left=(1, 2, 3),
        )
