"""``featurecache export-features``: writes the rows of a cache for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from featurecache.cli.console.labels import Labels, open_labelled
from featurecache.cli.console.options import CacheFile, Tap
from featurecache.cli.console.output import Json, print_json, show
from featurecache.cli.console.progress import progress


def export_features(
    cache: CacheFile,
    path: Annotated[
        Path, typer.Argument(metavar="OUT", readable=False, help="The file to write, or the folder for the projector.")
    ],
    form: Annotated[
        str | None,
        typer.Option("--format", help="parquet, npy, csv or projector.", show_default="by the suffix of OUT"),
    ] = None,
    tap: Tap = None,
    split: Annotated[str | None, typer.Option(help="The rows of one split.", show_default="all rows")] = None,
    labels: Labels = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="ROOT", readable=False, help="The folder of the image files that the projector shows."),
    ] = None,
    json: Json = False,
) -> None:
    """Write the rows of a cache as Parquet, NumPy, CSV, or for the projector of TensorBoard."""
    from featurecache import export_features as write

    opened = open_labelled(cache, labels, None, None)
    with progress("exporting", "row") as update:
        written = write(opened, path, form=form, tap=tap, split=split, images=images, progress=update)
    if json:
        print_json({"files": [str(file) for file in written]})
        return
    for file in written:
        show(str(file))
