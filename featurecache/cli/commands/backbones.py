"""``featurecache backbones``: the networks and their taps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurecache.cli.console.options import InputSize
from featurecache.cli.console.output import Json, print_beside, print_json, print_table, say, show

if TYPE_CHECKING:
    from featurecache import ExternalNetwork, NetworkSpec


def backbones(
    backbone: Annotated[
        str | None,
        typer.Argument(
            metavar="[BACKBONE]",
            help="A network, a .keras file, or a folder with a preset.",
            show_default="all of them",
        ),
    ] = None,
    input_size: InputSize = None,
    json: Json = False,
) -> None:
    """List the networks with their input, size and default taps; of one, also of your own, all taps."""
    from featurecache import find_network, load_networks
    from featurecache.errors import OptionError

    networks, faults = load_networks()
    for fault in faults:
        say(f"warning: {fault}")
    if backbone is not None:
        if input_size is not None or backbone not in networks:
            networks[backbone] = find_network(backbone, input_size=input_size)
        networks = {backbone: networks[backbone]}
    elif input_size is not None:
        raise OptionError("--input-size is for a model of your own; give its path")
    if json:
        print_json({name: _described(row) for name, row in networks.items()})
    elif backbone is not None:
        _show(backbone, networks[backbone])
    else:
        print_table(
            ("network", "input", "parameters", "features of the default taps"),
            [
                (row.name, _input(row), f"{_parameters(row):,}" if _parameters(row) else "-", _widths(row))
                for row in networks.values()
            ],
            left=(0, 1, 3),
        )
        show()
        show("All taps of a network: featurecache backbones NAME")


def _described(row: NetworkSpec | ExternalNetwork) -> dict[str, Any]:
    """Return what the catalogue says of a network, ready for JSON."""
    return {
        "taps": dict(row.taps),
        "default_taps": list(row.default_taps),
        "input_size": list(row.input_size),
        "preprocessing": row.preprocessing or None,
        "parameters": _parameters(row),
        "stages": list(getattr(row, "stages", ())),
        "weights_url": getattr(row, "weights_url", None) or None,
    }


def _show(name: str, row: NetworkSpec | ExternalNetwork) -> None:
    """Print one network with all of its taps."""
    show(f"{name}: input {_input(row)}, preprocessing {row.preprocessing or 'not known: give --preprocess'}")
    if parameters := _parameters(row):
        print_beside("  parameters", f"{parameters:,}")
    print_beside("  default taps", ", ".join(f"{tap} ({row.taps[tap]:,})" for tap in row.default_taps))
    others = [f"{tap} ({width:,})" for tap, width in row.taps.items() if tap not in row.default_taps]
    print_beside("  other taps", ", ".join(others) or "none")
    if stages := getattr(row, "stages", ()):
        print_beside("  stages", f"{', '.join(stages)}: for finetune --unfreeze")
    show()
    show("In brackets: features per image. Other taps are cached with: --taps NAME,NAME")


def _input(row: NetworkSpec | ExternalNetwork) -> str:
    return "x".join(map(str, row.input_size))


def _parameters(row: NetworkSpec | ExternalNetwork) -> int | None:
    """Return the number of weights of a network; None if it is not known."""
    return getattr(row, "parameters", 0) or None


def _widths(row: NetworkSpec | ExternalNetwork) -> str:
    return ", ".join(f"{tap} {row.taps[tap]:,}" for tap in row.default_taps)
