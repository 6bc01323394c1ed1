"""``featurecache backbones``: the networks and their taps."""

from featurecache.cli.console.output import Json, print_beside, print_json, say, show


def backbones(json: Json = False) -> None:
    """List the networks with their taps."""
    from featurecache import NetworkSpec, load_networks

    networks, faults = load_networks()
    for fault in faults:
        say(f"warning: {fault}")
    if json:
        print_json(
            {
                row.name: {
                    "taps": dict(row.taps),
                    "default_taps": list(row.default_taps),
                    "input_size": list(row.input_size),
                    "preprocessing": row.preprocessing,
                    "weights_url": row.weights_url if isinstance(row, NetworkSpec) else None,
                }
                for row in networks.values()
            }
        )
        return
    for row in networks.values():
        show(f"{row.name}: input {'x'.join(map(str, row.input_size))}, preprocessing {row.preprocessing}")
        default = ", ".join(f"{tap} ({row.taps[tap]:,})" for tap in row.default_taps)
        others = ", ".join(tap for tap in row.taps if tap not in row.default_taps)
        print_beside("  default taps", default)
        print_beside("  other taps", others)
        show()
    show("In brackets: features per image. Other taps are cached with: --taps NAME,NAME")
