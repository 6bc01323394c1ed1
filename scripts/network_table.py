"""``python -m scripts.network_table``: writes the table of networks in ``docs/backbones.md``.

It is made of the catalogue, and of the speeds that ``python -m scripts.bench networks --json`` has measured.
"""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from featurecache.backbones.catalog import NETWORKS, NetworkSpec
from featurecache.options import PRECISIONS

PAGE = Path(__file__).parents[1] / "docs" / "backbones.md"
SPEEDS = Path(__file__).with_name("network_speeds.json")
_TABLE = re.compile(r"(?<=<!-- python -m scripts\.network_table -->\n).*?(?=<!-- end -->)", re.DOTALL)


def network_page() -> str:
    """Return the page with the table that the catalogue makes."""
    header = "| network | input | parameters | preprocessing | taps and their widths | stages | images/s |"
    speeds = {row["network"]: row for row in json.loads(SPEEDS.read_text("utf-8"))["networks"]}
    rows = "\n".join(network_row(network, speeds.get(network.name, {})) for network in NETWORKS.values())
    return _TABLE.sub(f"\n{header}\n|---|---|---|---|---|---|---|\n{rows}\n\n", PAGE.read_text("utf-8"))


def network_row(network: NetworkSpec, speeds: Mapping[str, float]) -> str:
    """Return the row of a network, whose images per second are those of ``speeds`` by precision."""
    cells = (
        f"`{network.name}`",
        "x".join(map(str, network.input_size)),
        f"{network.parameters:,}",
        f"`{network.preprocessing}`",
        ", ".join(_taps(network)),
        ", ".join(f"`{stage}`" for stage in network.stages),
        ", ".join(f"{speeds[precision]:g}" for precision in PRECISIONS if precision in speeds) or "-",
    )
    return f"| {' | '.join(cells)} |"


def _taps(network: NetworkSpec) -> Iterator[str]:
    """Yield the taps with their widths, those of a block of VGG in one; the default ones in bold."""
    for block, taps in groupby(network.taps, lambda tap: tap.partition("_")[0] if tap.startswith("block") else tap):
        names = list(taps)
        if len(names) > 1:
            yield f"`{names[0]}` … `{names[-1]}` {network.taps[names[0]]:,}, the last {network.taps[names[-1]]:,}"
        else:
            bold = "**" if block in network.default_taps else ""
            yield f"{bold}`{block}`{bold} {network.taps[block]:,}"


if __name__ == "__main__":
    PAGE.write_text(network_page(), "utf-8")
