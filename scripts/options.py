"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

Images = Annotated[
    Path,
    typer.Argument(
        metavar="IMAGES", readable=False, help="A folder of images, or a CSV or TSV table: path[,label][,split]."
    ),
]
Cache = Annotated[
    Path, typer.Argument(metavar="CACHE", readable=False, help="The cache file to make or to bring up to date.")
]
Backbone = Annotated[str, typer.Option(help="The network: featurecache backbones lists them.")]
Weights = Annotated[str, typer.Option(help="imagenet, the path of a weight file, or random:SEED.")]
MovedWeights = Annotated[
    str | None, typer.Option("--weights", help="The network's weights, if they are no longer where they were.")
]
Taps = Annotated[
    str | None, typer.Option(help="Layers to keep, separated by commas.", show_default="the network's own")
]
_MOST_IMAGES = 4096
_OWN_BATCH_SIZE = "32, or 64 with numba"


def _number_or_auto(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_IMAGES:
        raise typer.BadParameter(f"{text!r} is neither auto nor a whole number from 1 to {_MOST_IMAGES}")
    return int(text)


BatchSize = Annotated[
    int | None, typer.Option(min=1, max=_MOST_IMAGES, help="Images in a forward pass.", show_default=_OWN_BATCH_SIZE)
]
BatchSizeOrAuto = Annotated[
    Any,
    typer.Option(
        "--batch-size",
        parser=_number_or_auto,
        metavar="N|auto",
        help="Images in a forward pass; auto: as many as are fastest here.",
        show_default=_OWN_BATCH_SIZE,
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, max=1024, help="Threads that read and decode.", show_default="one a processor")
]
Device = Annotated[str, typer.Option(help="auto, cpu or gpu.")]
Engine = Annotated[
    str, typer.Option(help="keras, numba (VGG on a CPU), or auto: Keras on a GPU, else the faster one installed.")
]
Precision = Annotated[str, typer.Option(help="float32, or mixed: half precision inside the network.")]
Dtype = Annotated[str, typer.Option(help="What features are stored in: float32 or float16.")]
Resize = Annotated[str, typer.Option(help="squash: the whole image; crop: its centre.")]
Filter = Annotated[str, typer.Option(help="bilinear, nearest, bicubic or lanczos.")]
Root = Annotated[
    Path | None,
    typer.Option(readable=False, help="The folder that a table's paths are relative to.", show_default="the table's"),
]
LabelFromName = Annotated[bool, typer.Option("--label-from-name", help="Take labels from names such as cat.123.jpg.")]
Rehash = Annotated[bool, typer.Option("--rehash", help="Read files that look unchanged, too.")]


def tap_names(text: str | None) -> list[str] | None:
    """Return the names in ``--taps``; None if it was not given."""
    return None if text is None else [name.strip() for name in text.split(",")]
