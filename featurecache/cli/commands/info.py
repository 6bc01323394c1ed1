"""``featurecache info``: content and provenance of a cache."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from featurecache.cli.console.options import CacheFile
from featurecache.cli.console.output import Json, print_failures, print_json, print_table, say, show
from featurecache.text import counted

_LEAKS = 10


def info(
    cache: CacheFile,
    json: Json = False,
) -> None:
    """Show the content and the provenance of a cache."""
    from featurecache import FeatureCache

    opened = FeatureCache.open(cache)
    views = int(opened.is_view.sum())
    description: dict[str, Any] = {
        "rows": len(opened),
        "views": views,
        "parts": len(opened.parts),
        "taps": dict(opened.taps),
        "classes": list(opened.classes),
        "class_counts": opened.class_counts,
        "warnings": [warning.to_dict() for warning in opened.warnings],
        "splits": opened.splits,
        "columns": {name: _description(opened.column(name).tolist()) for name in opened.columns},
        "failures": [{"path": path, "reason": reason} for path, reason in opened.failures.items()],
        "leaks": [list(paths) for paths in opened.leaks],
        "fingerprint": opened.recipe.fingerprint,
        "recipe": opened.recipe.to_dict(),
        "provenance": dict(opened.provenance),
    }
    if json:
        print_json(description)
        return
    of_views = f" ({views:,} of them views)" if views else ""
    in_parts = f" in {counted(len(opened.parts), 'part')}" if opened.parts else ""
    show(f"{cache}: {counted(len(opened), 'row')}{of_views}{in_parts}, {counted(len(opened.failures), 'failure')}")
    show()
    print_table(("tap", "width"), list(opened.taps.items()))
    show()
    print_table(("split", "rows"), [(name or "(none)", f"{count:,}") for name, count in opened.splits.items()])
    show()
    if opened.classes:
        print_table(("class", "rows"), [(name, f"{count:,}") for name, count in opened.class_counts.items()])
        show()
    if opened.columns:
        counts = [(name, *(f"{count:,}" for count in found.values())) for name, found in description["columns"].items()]
        print_table(("column", "rows", "different texts"), counts)
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
    for warning in opened.warnings:
        say(f"warning: {warning}")
    for paths in opened.leaks[:_LEAKS]:
        say(f"warning: the same image in several splits: {', '.join(paths)}")
    if len(opened.leaks) > _LEAKS:
        say(f"warning: and {len(opened.leaks) - _LEAKS:,} more: featurecache info {cache} --json")
    print_failures(opened.failures, f"featurecache info {cache} --json")


def _description(texts: Sequence[str]) -> dict[str, int]:
    """Return how many rows have a text in a further column, and how many different ones there are."""
    filled = [text for text in texts if text]
    return {"rows": len(filled), "texts": len(set(filled))}


def _lines(fields: Mapping[str, Any], indent: str = "  ") -> Iterator[tuple[str, str]]:
    """Yield name and value of every field as text; nested fields follow indented."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}", "" if value else "-"
            yield from _lines(value, f"{indent}  ")
        else:
            yield f"{indent}{name}", "x".join(map(str, value)) if isinstance(value, list) else str(value)
