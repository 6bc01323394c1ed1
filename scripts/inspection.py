"""``featurecache info, backbones, heads, summary``: what there is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from scripts.output import Json, print_failures, print_json, print_table, printable


def info(
    cache: Annotated[Path, typer.Argument(help="A cache file.")],
    json: Json = False,
) -> None:
    """Show what is in a cache and what made it."""
    from featurecache.cache import FeatureCache

    opened = FeatureCache.open(cache)
    description: dict[str, Any] = {
        "rows": len(opened),
        "taps": dict(opened.taps),
        "classes": list(opened.classes),
        "class_counts": opened.class_counts,
        "splits": opened.splits,
        "failures": [{"path": path, "reason": reason} for path, reason in opened.failures.items()],
        "fingerprint": opened.recipe.fingerprint,
        "recipe": opened.recipe.to_dict(),
        "provenance": dict(opened.provenance),
    }
    if json:
        print_json(description)
        return
    print(f"{cache}: {len(opened):,} rows, {len(opened.failures):,} failures")
    print_table(("tap", "width"), list(opened.taps.items()))
    print()
    print_table(("split", "rows"), [(name or "(none)", f"{count:,}") for name, count in opened.splits.items()])
    print()
    if opened.classes:
        print_table(("class", "rows"), [(printable(name), f"{n:,}") for name, n in opened.class_counts.items()])
        print()
    for title, fields in (("recipe", description["recipe"]), ("provenance", description["provenance"])):
        print(title)
        for name, value in fields.items():
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"  {name}: {printable(str(shown))}")
    print(f"fingerprint: {opened.recipe.fingerprint}")
    print_failures(opened.failures, f"featurecache info {cache} --json")


def backbones(json: Json = False) -> None:
    """List the networks, their taps and where their weights come from."""
    from featurecache.backbones.catalog import APPLICATIONS

    if json:
        print_json(
            {
                row.name: {
                    "taps": dict(row.taps),
                    "default_taps": list(row.default_taps),
                    "input_size": list(row.input_size),
                    "preprocessing": row.preprocessing,
                    "weights_url": row.weights_url,
                }
                for row in APPLICATIONS.values()
            }
        )
        return
    for row in APPLICATIONS.values():
        height, width = row.input_size
        print(f"{row.name}: input {height}x{width}, preprocessing {row.preprocessing}")
        print(f"  default taps: {', '.join(f'{tap} ({row.taps[tap]})' for tap in row.default_taps)}")
        print(f"  all taps: {', '.join(row.taps)}")


def heads(json: Json = False) -> None:
    """List the heads with their parameters and defaults."""
    from heads.catalog import HEADS

    if json:
        print_json({name: spec.to_dict() for name, spec in HEADS.items()})
        return
    for name, spec in HEADS.items():
        print(f"{name}: {spec.summary}")
        for parameter in spec.parameters:
            print(f"  -p {parameter.name}={parameter.default}  {parameter.help} ({parameter.expected})")


def summary(
    backbone: Annotated[str, typer.Argument(help="A network of the catalogue.")] = "vgg16",
    json: Json = False,
) -> None:
    """Show a network layer by layer: output shape, parameters, activation, and where it can be tapped."""
    from featurecache.backbones.catalog import application
    from featurecache.backbones.engine import describe

    row = application(backbone)
    layers = describe(row)
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
        left=3,
    )
    print(f"\n{len(layers)} layers, {total:,} parameters; * is cached by default, any other tap with --taps")


COMMANDS = (info, backbones, heads, summary)
