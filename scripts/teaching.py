"""``featurecache lesson, filters``: what the project does, shown to a learner."""

from pathlib import Path
from typing import Annotated

import typer

from scripts.options import Weights
from scripts.output import Json, counted, print_json, print_table, say, show


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
        print_json(
            {
                name: {"summary": each.summary, "needs_cache": each.needs_cache, "takes_cache": bool(each.cache)}
                for name, each in LESSONS.items()
            }
        )
        return
    print_table(
        ("lesson", "cache", "what it shows"),
        [(name, each.cache, each.summary) for name, each in LESSONS.items()],
        left=(0, 1, 2),
    )
    show()
    show("Give one with: featurecache lesson NAME, or featurecache lesson NAME CACHE")


def filters(
    backbone: Annotated[str, typer.Argument(metavar="[BACKBONE]", help="A network of the catalogue.")] = "vgg16",
    weights: Weights = "imagenet",
    out: Annotated[Path, typer.Option(readable=False, help="The picture to make, a PNG file.")] = Path("filters.png"),
    json: Json = False,
) -> None:
    """Draw the filters of a network's first layer: what it looks for in an image."""
    from featurecache.backbones.catalog import application
    from featurecache.backbones.filters import first_filters
    from featurecache.backbones.weights import resolve_weights
    from heads.figures.filters import filter_grid
    from scripts.pictures import require_picture, write_picture

    require_picture(out)
    row = application(backbone)
    found = resolve_weights(weights, row, notify=say)
    kernel = first_filters(row, found)
    write_picture(out, filter_grid({f"{row.name}, {_named(found.source)}": kernel}))
    *size, _, count = kernel.shape
    if json:
        values = kernel.transpose(3, 0, 1, 2).tolist()
        print_json({"backbone": row.name, "weights": found.source, "filters": values, "picture": str(out)})
        return
    sides = " x ".join(map(str, size))
    show(
        f"{out}: {counted(count, 'filter')} of {sides} places and 3 colours, of {row.name} with {found.source} weights"
    )


def _named(source: str) -> str:
    """Return the name of weights, without the folder of a file."""
    return Path(source).name


COMMANDS = (lesson, filters)
