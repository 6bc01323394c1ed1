"""``featurecache backbones``: the networks and their taps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurecache.cli.console.output import Json, print_beside, print_json, print_table, say, show

if TYPE_CHECKING:
    from featurecache import ExternalNetwork, NetworkSpec


def backbones(
    backbone: Annotated[
        str | None, typer.Argument(metavar="[BACKBONE]", help="The name of a network.", show_default="all of them")
    ] = None,
    json: Json = False,
) -> None:
    """List the networks with their input, their size and their default taps; of one network all taps."""
    from featurecache import load_networks
    from featurecache.errors import UnknownNameError

    networks, faults = load_networks()
    for fault in faults:
        say(f"warning: {fault}")
    if backbone is not None:
        if backbone not in networks:
            raise UnknownNameError("backbone", backbone, networks)
        networks = {backbone: networks[backbone]}
    if json:
        print_json({row.name: _described(row) for row in networks.values()})
    elif backbone is not None:
        _show(networks[backbone])
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
        "preprocessing": row.preprocessing,
        "parameters": _parameters(row),
        "stages": list(getattr(row, "stages", ())),
        "weights_url": getattr(row, "weights_url", None),
    }


def _show(row: NetworkSpec | ExternalNetwork) -> None:
    """Print one network with all of its taps."""
    show(f"{row.name}: input {_input(row)}, preprocessing {row.preprocessing}")
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
