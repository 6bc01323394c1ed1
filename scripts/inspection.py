"""``featurecache info, backbones, heads, summary``: what there is."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any

import typer

from scripts.output import Json, counted, print_failures, print_json, print_table, say, show

_WIDTH, _LABEL_WIDTH = 80, 26
_LEAKS = 10


def info(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", readable=False, help="A cache file.")],
    json: Json = False,
) -> None:
    """Show what is in a cache and what made it."""
    from featurecache import FeatureCache

    opened = FeatureCache.open(cache)
    description: dict[str, Any] = {
        "rows": len(opened),
        "taps": dict(opened.taps),
        "classes": list(opened.classes),
        "class_counts": opened.class_counts,
        "splits": opened.splits,
        "failures": [{"path": path, "reason": reason} for path, reason in opened.failures.items()],
        "leaks": [list(paths) for paths in opened.leaks],
        "fingerprint": opened.recipe.fingerprint,
        "recipe": opened.recipe.to_dict(),
        "provenance": dict(opened.provenance),
    }
    if json:
        print_json(description)
        return
    show(f"{cache}: {counted(len(opened), 'row')}, {counted(len(opened.failures), 'failure')}")
    show()
    print_table(("tap", "width"), list(opened.taps.items()))
    show()
    print_table(("split", "rows"), [(name or "(none)", f"{count:,}") for name, count in opened.splits.items()])
    show()
    if opened.classes:
        print_table(("class", "rows"), [(name, f"{count:,}") for name, count in opened.class_counts.items()])
        show()
    print_table(
        ("recipe", ""), list(_lines(description["recipe"] | {"fingerprint": opened.recipe.fingerprint})), left=(0, 1)
    )
    show()
    earlier = description["provenance"].pop("earlier", [])
    merged = [part["path"] for part in description["provenance"].pop("merged", [])]
    print_table(("provenance", ""), list(_lines(description["provenance"])), left=(0, 1))
    if merged:
        show(f"merged from {', '.join(merged)}: featurecache info {cache} --json")
    if earlier:
        show(f"and {counted(len(earlier), 'earlier run')}: featurecache info {cache} --json")
    for paths in opened.leaks[:_LEAKS]:
        say(f"warning: the same image in several splits: {', '.join(paths)}")
    if len(opened.leaks) > _LEAKS:
        say(f"warning: and {len(opened.leaks) - _LEAKS:,} more: featurecache info {cache} --json")
    print_failures(opened.failures, f"featurecache info {cache} --json")


def _lines(fields: Mapping[str, Any], indent: str = "  ") -> Iterator[tuple[str, str]]:
    """Yield name and value of every field, as text; the fields of a field follow it, further in."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}", "" if value else "-"
            yield from _lines(value, f"{indent}  ")
        else:
            yield f"{indent}{name}", "x".join(map(str, value)) if isinstance(value, list) else str(value)


def backbones(json: Json = False) -> None:
    """List the networks with their taps."""
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
        show(f"{row.name}: input {'x'.join(map(str, row.input_size))}, preprocessing {row.preprocessing}")
        default = ", ".join(f"{tap} ({row.taps[tap]:,})" for tap in row.default_taps)
        others = ", ".join(tap for tap in row.taps if tap not in row.default_taps)
        _print_beside("  default taps", default)
        _print_beside("  other taps", others)
        show()
    show("In brackets: features of an image. Others are cached with: --taps NAME,NAME")


def heads(
    head: Annotated[
        str | None, typer.Argument(metavar="[HEAD]", help="One of them.", show_default="all of them")
    ] = None,
    json: Json = False,
) -> None:
    """List the heads with their parameters, defaults and what values these take."""
    from heads.catalog import HEADS, head_spec

    shown = dict(HEADS) if head is None else {head: head_spec(head)}
    if json:
        print_json({name: spec.to_dict() for name, spec in shown.items()})
        return
    for name, spec in shown.items():
        for line in wrap(f"{name}: {spec.summary}", _WIDTH, subsequent_indent="  "):
            show(line)
        for parameter in spec.parameters:
            _print_beside(f"  -p {parameter.name}={_as_typed(parameter.default)}", parameter.help)
            _print_beside("", parameter.expected)
        show()
    show("Set them with: featurecache train CACHE HEAD_DIR --head NAME -p KEY=VALUE")


def _print_beside(label: str, text: str) -> None:
    """Print a text in as many lines as it needs, beside its label."""
    lines = wrap(text, _WIDTH - _LABEL_WIDTH)
    for beside, line in zip([label, *[""] * len(lines)], lines, strict=False):
        show(f"{beside:{_LABEL_WIDTH}}{line}")


def _as_typed(value: object) -> str:
    """Return a parameter's value as it is written on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def summary(
    backbone: Annotated[str, typer.Argument(metavar="[BACKBONE]", help="A network of the catalogue.")] = "vgg16",
    json: Json = False,
) -> None:
    """Show a network layer by layer: output shape, parameters, activation, and where it can be tapped."""
    from featurecache.backbones.catalog import application
    from featurecache.backbones.network import describe

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
        left=(0, 1, 2),
    )
    show()
    show(f"{len(layers)} layers, {total:,} parameters; * is cached by default, any other tap with --taps;")
    show("the tap logits is predictions before its softmax")


COMMANDS = (info, backbones, heads, summary)
