"""``featurecache lesson``: what the project does, shown to a learner."""

from pathlib import Path
from typing import Annotated

import typer

from scripts.output import Json, print_json, print_table, say, show


def lesson(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One of the lessons.", show_default="lists them")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CACHE]", readable=False, help="A cache file, for lessons that use one.", show_default=False
        ),
    ] = None,
    out: Annotated[Path, typer.Option(readable=False, help="The folder for pictures.")] = Path("featurecache-lesson"),
    json: Json = False,
) -> None:
    """Give a lesson on transfer learning, computed now; without a name, list the lessons."""
    from scripts.lesson.board import Board
    from scripts.lesson.catalog import find_lesson, load_lesson

    if name is None:
        _list_lessons(json=json)
        return
    chosen = find_lesson(name)
    if chosen.needs_cache and cache is None:
        raise typer.BadParameter(
            f"the lesson {name!r} works on a cache: featurecache lesson {name} CACHE; one is made by "
            "featurecache extract IMAGES CACHE, or from handwritten digits by featurecache demo"
        )
    if cache is not None and not (chosen.needs_cache or chosen.takes_cache):
        say(f"the lesson {name!r} needs no cache; {cache} is not read")
    board = Board(out, silent=json)
    board.require_place()
    results = load_lesson(name)(board, cache)
    if json:
        print_json({"lesson": name, "results": results, "pictures": list(map(str, board.pictures))})


def _list_lessons(*, json: bool) -> None:
    from scripts.lesson.catalog import LESSONS

    if json:
        print_json({name: {"summary": each.summary, "needs_cache": each.needs_cache} for name, each in LESSONS.items()})
        return
    print_table(
        ("lesson", "cache", "what it shows"),
        [(name, each.cache, each.summary) for name, each in LESSONS.items()],
        left=(0, 1, 2),
    )
    show()
    show("Give one with: featurecache lesson NAME, or featurecache lesson NAME CACHE")


COMMANDS = (lesson,)
