"""``featurecache why``: reports what an extraction would reuse, compute or refuse."""

from typing import Any

from featurecache.cli.console.options import Cache, Images, Strict, with_options
from featurecache.cli.console.output import Json, print_json, print_table, say, show
from featurecache.options import DecodeOptions, ImageOptions, NetworkOptions, RunOptions
from featurecache.text import counted

_EXPLANATIONS = {
    "unchanged": "reused: path, size and modification time are unchanged",
    "touched": "reused: the content is the same, the modification time has changed",
    "moved": "reused: the content is known from another path",
    "duplicate": "reused: the same content comes earlier in this run",
    "new": "computed: a new path with new content",
    "changed": "computed: a known path with new content",
    "retried": "computed: the same bytes could not be decoded before; they are decoded again",
    "failed before": "failure: the same bytes could not be decoded before",
    "unreadable": "failure: the file cannot be read",
    "elsewhere": "left to another part: the content is in that one",
}


@with_options(NetworkOptions, DecodeOptions, ImageOptions, RunOptions)
def why(images: Images, cache: Cache, strict: Strict = False, json: Json = False, **options: Any) -> None:
    """Show what extract would reuse, compute or refuse with the same arguments, and why, without changing anything.

    It accepts every option of extract.
    """
    from featurecache import why as plan_of

    plan = plan_of(images, cache, **options, notify=say)
    summary = plan.to_dict()
    if json:
        print_json(summary)
        return
    if plan.refused:
        show(f"refused: {cache} has another recipe; choose another path, or extract with --replace")
        print_table(("field", "cache", "wanted"), [(d.field, d.ours, d.theirs) for d in plan.refused], left=(0, 1, 2))
        return
    show(f"{counted(summary['reuse'], 'image')} reused, {summary['compute']:,} computed, {summary['gone']:,} gone")
    print_table(
        ("images", "why", "first"),
        [(f"{len(paths):,}", _EXPLANATIONS[reason], paths[0]) for reason, paths in plan.reasons.items()]
        + (
            [(f"{len(plan.gone):,}", "gone: in the cache, but no longer among the images", plan.gone[0])]
            if plan.gone
            else []
        ),
        left=(1, 2),
    )
    if plan.columns:
        show(f"columns: {', '.join(f'{name} {what}' for name, what in plan.columns.items())}")
