"""``featurecache filters``: draws the filters of a network's first layer."""

from pathlib import Path
from typing import Annotated

import typer

from featurecache.cli.console.options import InputSize, Weights
from featurecache.cli.console.output import Json, print_json, say, show
from featurecache.text import counted


def filters(
    backbone: Annotated[
        str, typer.Argument(metavar="[BACKBONE]", help="A network, a .keras file, or a folder with a preset.")
    ] = "vgg16",
    weights: Weights = "imagenet",
    input_size: InputSize = None,
    out: Annotated[Path, typer.Option(readable=False, help="The PNG file to create.")] = Path("filters.png"),
    json: Json = False,
) -> None:
    """Draw the filters of a network's first layer."""
    from featurecache import find_network, first_filters, resolve_weights
    from featurecache.cli.console.pictures import require_picture, write_picture
    from featurecache.errors import OptionError
    from heads.figures import filter_grid

    require_picture(out)
    row = find_network(backbone, input_size=input_size)
    if row.is_own_model and weights != "imagenet":
        raise OptionError(f"the model {backbone} has weights of its own; leave out --weights")
    found = resolve_weights(row.weights_file if row.is_own_model else weights, row, notify=say)
    kernel = first_filters(row, found)
    write_picture(out, filter_grid({f"{row.name}, {_named(found.source)}": kernel}))
    *size, _, count = kernel.shape
    if json:
        values = kernel.transpose(3, 0, 1, 2).tolist()
        print_json({"backbone": row.name, "weights": found.source, "filters": values, "picture": str(out)})
        return
    sides = " x ".join(map(str, size))
    whose = found.source if row.is_own_model else f"{row.name} with {found.source} weights"
    show(f"{out}: {counted(count, 'filter')} of {sides} places and 3 colours, of {whose}")


def _named(source: str) -> str:
    """Return the name of weights, without the folder of a file."""
    return Path(source).name
