"""``featurecache serve``: answers requests over HTTP with heads, and shows a page."""

import os
import sys
import threading
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurecache.cli.console.options import MovedWeights, with_options
from featurecache.cli.console.output import say, show
from featurecache.options import DecodeOptions, RunOptions, ServiceOptions

if TYPE_CHECKING:
    from heads import Served


@with_options(ServiceOptions)
@with_options(DecodeOptions, RunOptions, only=("max_pixels", "device", "engine"))
def serve(
    head_dirs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="HEAD_DIR", readable=False, help="Heads, or directories of heads."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="CACHE", readable=False, help="A cache of the same recipe.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(readable=False, help="A file with the token that clients must send.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow other machines without a token.")] = False,
    certificate: Annotated[Path | None, typer.Option(readable=False, help="A PEM file for HTTPS.")] = None,
    key: Annotated[Path | None, typer.Option(readable=False, help="The key of the certificate.")] = None,
    content_cache_file: Annotated[
        Path | None, typer.Option(readable=False, help="Keep features of images that were seen in this file.")
    ] = None,
    weights: MovedWeights = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Write one line of JSON per request.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print address and heads as one JSON object.")] = False,
    **options: Any,
) -> None:
    """Serve heads over HTTP, with a page for people."""
    from heads import serve as run

    def listening(served: "Served") -> None:
        if json or log_json:  # a line at once: programs read it through a pipe
            show(dumps({"address": served.address, "heads": list(served.heads)}))
            return
        show(f"page: {served.address}")
        show(f"heads: {', '.join(served.heads)}" if served.heads else "heads: none yet; train one on the page")

    run(
        head_dirs or (),
        cache=cache,
        token_file=token_file,
        insecure=insecure,
        certificate=certificate,
        key=key,
        content_cache_file=content_cache_file,
        weights=weights,
        log=show if log_json else None,
        listening=listening,
        notify=say,
        **options,
    )
    if any(thread.daemon for thread in threading.enumerate()):  # in the network's code, where Python would abort
        sys.stdout.flush()
        os._exit(0)
