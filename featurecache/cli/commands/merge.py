"""``featurecache merge``: joins several caches."""

from pathlib import Path
from typing import Annotated

import typer

from featurecache.cli.console.output import Json, print_json, say, show
from featurecache.cli.console.progress import progress
from featurecache.text import counted


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", readable=False, help="The cache file to create.")],
    caches: Annotated[list[Path], typer.Argument(metavar="CACHE", readable=False, help="Caches of one recipe.")],
    parts: Annotated[
        bool, typer.Option("--parts", help="Make the files of the caches parts of the new one, and write no features.")
    ] = False,
    json: Json = False,
) -> None:
    """Join caches of one recipe into a new cache, without computing features again.

    With --parts, OUT is an index, and the folder beside it has the caches' files under a second name: no disk space is
    needed, and the caches can be removed. Without it, OUT is one file; so a cache in parts becomes one file.
    """
    from featurecache import merge as join

    with progress("merging", "part" if parts else "block") as update:
        merged = join(out, caches, parts=parts, progress=update, notify=say)
    if json:
        counts = {"rows": len(merged), "parts": len(merged.parts), "failures": len(merged.failures)}
        print_json(counts | {"classes": list(merged.classes)})
    else:
        in_parts = f" in {counted(len(merged.parts), 'part')}" if parts else ""
        show(f"{out}: {counted(len(merged), 'row')}{in_parts}, {counted(len(merged.failures), 'failure')}")
