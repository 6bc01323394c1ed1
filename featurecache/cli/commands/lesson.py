"""``featurecache lesson``: runs or lists the lessons on transfer learning."""

from pathlib import Path
from typing import Annotated

import typer

from featurecache.cli.console.output import Json, print_json, print_table, say, show


def lesson(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The name of a lesson.", show_default="lists them")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CACHE]", readable=False, help="A cache file, for lessons that use one.", show_default=False
        ),
    ] = None,
    out: Annotated[Path, typer.Option(readable=False, help="The folder for figures.")] = Path("featurecache-lesson"),
    json: Json = False,
) -> None:
    """Run a lesson on transfer learning; without a name, list the lessons."""
    from featurecache.cli.lesson.catalog import find_lesson, load_lesson
    from featurecache.cli.lesson.lesson_writer import LessonWriter

    if name is None:
        _list_lessons(json=json)
        return
    chosen = find_lesson(name)
    if chosen.needs_cache and cache is None:
        raise typer.BadParameter(
            f"the lesson {name!r} needs a cache: featurecache lesson {name} CACHE; make one with "
            "featurecache extract IMAGES CACHE, or from handwritten digits with featurecache demo"
        )
    if cache is not None and not (chosen.needs_cache or chosen.takes_cache):
        say(f"the lesson {name!r} uses no cache; {cache} is not read")
    writer = LessonWriter(out, silent=json)
    writer.require_place()
    results = load_lesson(name)(writer, cache)
    if json:
        print_json({"lesson": name, "results": results, "pictures": list(map(str, writer.pictures))})


def _list_lessons(*, json: bool) -> None:
    from featurecache.cli.lesson.catalog import LESSONS

    if json:
        print_json(
            {
                name: {"summary": row.summary, "needs_cache": row.needs_cache, "takes_cache": bool(row.cache)}
                for name, row in LESSONS.items()
            }
        )
        return
    print_table(
        ("lesson", "cache", "what it shows"),
        [(name, row.cache, row.summary) for name, row in LESSONS.items()],
        left=(0, 1, 2),
    )
    show()
    show("Run one with: featurecache lesson NAME, or featurecache lesson NAME CACHE")
