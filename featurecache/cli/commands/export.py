"""``featurecache export``: writes a head, with or without its network, for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from featurecache.cli.console.options import HeadDir, MovedWeights
from featurecache.cli.console.output import Json, print_json, say, show
from featurecache.cli.console.progress import progress

_NAMED = 20  # classes that are listed
_OUTPUTS = {"class": "classes", "labels": "labels"}


def export(
    head_dir: HeadDir,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            readable=False,
            help="OUT.keras: network and head as one Keras model; OUT.onnx: for ONNX; OUT.xml: for OpenVINO; "
            "OUT.tflite: for LiteRT; OUT.joblib: the head as a scikit-learn object.",
        ),
    ],
    head_only: Annotated[
        bool, typer.Option("--head-only", help="Write the head alone, from features (.onnx, .xml and .joblib).")
    ] = False,
    weights: MovedWeights = None,
    json: Json = False,
) -> None:
    """Write a head, with its network or alone, for Keras, ONNX, OpenVINO, LiteRT or scikit-learn."""
    from heads import TrainedHead
    from heads import export as write

    head = TrainedHead.load(head_dir)
    with progress("exporting", bar=False):
        write(head, path, weights=weights, head_only=head_only, notify=say)
    backbone = None if head_only or path.suffix == ".joblib" else head.recipe.backbone
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    if json:
        print_json(
            {
                "path": str(path),
                "head": head.name,
                "tap": head.tap,
                "classes": list(head.classes),
                "backbone": backbone,
                "size": sum(each.stat().st_size for each in files),
                "warnings": [warning.to_dict() for warning in head.training.warnings],
            }
        )
        return
    inputs = f"{backbone} up to {head.tap} and " if backbone else ""
    names = f"; {_OUTPUTS[head.target]} in this order: {', '.join(head.classes[:_NAMED])}" if head.classes else ""
    show(f"{path}: {inputs}{head.name}{names}")
