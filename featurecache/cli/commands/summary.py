"""``featurecache summary``: a network layer by layer."""

from typing import Annotated

import typer

from featurecache.cli.console.options import InputSize
from featurecache.cli.console.output import Json, print_json, print_table, show


def summary(
    backbone: Annotated[
        str, typer.Argument(metavar="[BACKBONE]", help="A network, a .keras file, or a folder with a preset.")
    ] = "vgg16",
    input_size: InputSize = None,
    json: Json = False,
) -> None:
    """Show a network layer by layer: output shape, parameters, activation and tap."""
    from featurecache import describe_network, find_network

    row = find_network(backbone, input_size=input_size)
    layers = describe_network(row)
    total = sum(layer.parameters for layer in layers)
    if json:
        listed = [{name: getattr(layer, name) for name in layer.__slots__} for layer in layers]
        print_json(
            {"backbone": row.name, "layers": listed, "parameters": total, "default_taps": list(row.default_taps)}
        )
        return
    print_table(
        ("layer", "kind", "tap", "output", "parameters", "activation"),
        [
            (
                layer.name,
                layer.kind,
                f"{layer.tap}{' *' if layer.tap in row.default_taps else ''}" if layer.tap else "",
                "x".join(map(str, layer.output_shape)),
                f"{layer.parameters:,}",
                layer.activation,
            )
            for layer in layers
        ],
        left=(0, 1, 2),
    )
    show()
    end = "" if row.is_own_model else ";"
    show(f"{len(layers)} layers, {total:,} parameters; * is cached by default, any other tap with --taps{end}")
    if not row.is_own_model:
        show("the tap logits is predictions before its softmax")
