"""``featurecache filters``: draws the filters of a network's first layer."""

from pathlib import Path
from typing import Annotated

import typer

from featurecache.cli.console.options import Weights
from featurecache.cli.console.output import Json, print_json, say, show
from featurecache.text import counted


def filters(
    backbone: Annotated[str, typer.Argument(metavar="[BACKBONE]", help="A network in the catalogue.")] = "vgg16",
    weights: Weights = "imagenet",
    out: Annotated[Path, typer.Option(readable=False, help="The PNG file to create.")] = Path("filters.png"),
    json: Json = False,
) -> None:
    """Draw the filters of a network's first layer."""
    from featurecache import find_network, first_filters, resolve_weights
    from featurecache.cli.console.pictures import require_picture, write_picture
    from heads.figures import filter_grid

    require_picture(out)
    row = find_network(backbone)
    found = resolve_weights(weights, row, notify=say)
    kernel = first_filters(row, found)
    write_picture(out, filter_grid({f"{row.name}, {_named(found.source)}": kernel}))
    *size, _, count = kernel.shape
    if json:
        values = kernel.transpose(3, 0, 1, 2).tolist()
        print_json({"backbone": row.name, "weights": found.source, "filters": values, "picture": str(out)})
        return
    sides = " x ".join(map(str, size))
    show(
        f"{out}: {counted(count, 'filter')} of {sides} places and 3 colours, of {row.name} with {found.source} weights"
    )


def _named(source: str) -> str:
    """Return the name of weights, without the folder of a file."""
    return Path(source).name
