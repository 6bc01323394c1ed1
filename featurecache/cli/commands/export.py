"""``featurecache export``: writes a head, with or without its network, for Keras or scikit-learn."""

from pathlib import Path
from typing import Annotated

import typer

from featurecache.cli.console.options import HeadDir, MovedWeights
from featurecache.cli.console.output import Json, print_json, say, show
from featurecache.cli.console.progress import progress

_NAMED = 20  # classes that are listed


def export(
    head_dir: HeadDir,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            readable=False,
            help="OUT.keras: network and head as one Keras model; OUT.joblib: the head as a scikit-learn object.",
        ),
    ],
    weights: MovedWeights = None,
    json: Json = False,
) -> None:
    """Write a head as a file for Keras (with its network) or scikit-learn (without)."""
    from heads import TrainedHead
    from heads import export as write

    head = TrainedHead.load(head_dir)
    with progress("exporting", bar=False):
        write(head, path, weights=weights, notify=say)
    backbone = head.recipe.backbone if path.suffix == ".keras" else None
    if json:
        print_json(
            {
                "path": str(path),
                "head": head.name,
                "tap": head.tap,
                "classes": list(head.classes),
                "backbone": backbone,
                "size": path.stat().st_size,
                "warnings": [warning.to_dict() for warning in head.training.warnings],
            }
        )
        return
    inputs = f"{backbone} up to {head.tap} and " if backbone else ""
    show(f"{path}: {inputs}{head.name}; classes in this order: {', '.join(head.classes[:_NAMED])}")
