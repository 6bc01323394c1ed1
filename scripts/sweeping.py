"""``featurecache sweep``: heads x taps x parameters, tried on the same rows; a leaderboard, and the best head."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scripts.output import Json, number, print_json, print_table, say, show, steps_bar

if TYPE_CHECKING:
    from heads import Candidate, Entry, Sweep

_FAULTS = 10  # reasons of failures that are listed


def sweep(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", readable=False, help="A cache file.")],
    sweep_dir: Annotated[
        Path, typer.Argument(metavar="SWEEP_DIR", readable=False, help="The directory to make for what is found.")
    ],
    head: Annotated[
        list[str] | None, typer.Option(help="A head to try; may be repeated.", show_default="all of them")
    ] = None,
    tap: Annotated[
        list[str] | None, typer.Option(help="A layer to try; may be repeated.", show_default="all of the cache")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            "--param",
            metavar="[HEAD.]KEY=V1,V2,…",
            help="Values to try of a parameter, instead of the default grid's; of hidden, separated by semicolons.",
        ),
    ] = None,
    folds: Annotated[
        int, typer.Option(min=0, help="Judge by so many folds of the training rows.", show_default="by the valid rows")
    ] = 0,
    holdout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Part of the training rows to judge by, if there is no valid split.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="What all random choices follow from.")] = 0,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes that work at a time.", show_default="one a processor")
    ] = None,
    json: Json = False,
) -> None:
    """Try heads, taps and parameters; rank them on the valid rows, and keep the best head.

    Rows of the test split are not touched.

    An interrupted sweep goes on where it was when the same command is run again.
    """
    from featurecache import FeatureCache
    from heads import parse_grids
    from heads import sweep as run

    grids = parse_grids(param or [], head or [])
    with steps_bar("sweeping", shown=not json) as update:
        found = run(
            FeatureCache.open(cache),
            sweep_dir,
            heads=head or [],
            taps=tap or [],
            grids=grids,
            folds=folds,
            holdout=holdout,
            seed=seed,
            jobs=jobs,
            notify=say,
            progress=lambda each: update(each.done, each.total, each.doing),
        )
    if json:
        print_json(found.to_dict())
    else:
        _print_sweep(found, sweep_dir)


def _print_sweep(found: "Sweep", sweep_dir: Path) -> None:
    """Print the best candidate of each head and tap, the notes, and where everything is."""
    from heads.search import best_of_each

    seconds: dict[tuple[str, str], float] = {}
    for entry in found.leaderboard:
        key = (entry.candidate.head, entry.candidate.tap)
        seconds[key] = seconds.get(key, 0.0) + entry.seconds
    print_table(
        ("head", "tap", "parameters", "accuracy", "95 % interval", "loss", "seconds, all tried"),
        [
            (
                entry.candidate.head,
                entry.candidate.tap,
                _shown(entry.candidate) if not entry.error else "failed",
                number(entry.accuracy.value if entry.accuracy else None),
                _interval(entry),
                number(entry.loss),
                f"{seconds[entry.candidate.head, entry.candidate.tap]:.2f}",
            )
            for entry in best_of_each(found.leaderboard)
        ],
        left=(0, 1, 2),
    )
    show()
    failed = {f"{each.candidate.head}: {each.error}": each for each in found.leaderboard if each.error}
    for text in list(failed)[:_FAULTS]:
        show(f"failed: {text}")
    for note in found.notes:
        show(f"note: {note}")
    show()
    show(_spent(found.seconds))
    best = found.leaderboard[0].candidate
    show(f"{sweep_dir}: leaderboard.csv and leaderboard.json; best: {best.head} on {best.tap}")


def _shown(candidate: "Candidate") -> str:
    """Return the parameters that differ from the defaults."""
    from heads import head_spec

    defaults = {each.name: each.default for each in head_spec(candidate.head).parameters}
    differing = {name: value for name, value in candidate.params.items() if value != defaults[name]}
    texts = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in differing.items()}
    return ", ".join(f"{name}={text}" for name, text in texts.items()) or "-"


def _interval(entry: "Entry") -> str:
    return f"{entry.accuracy.low:.4f} to {entry.accuracy.high:.4f}" if entry.accuracy else "-"


def _spent(seconds: Mapping[str, Any]) -> str:
    """Return what the time went into, in one line."""
    heads = ", ".join(f"{head} {each:.1f}" for head, each in seconds["heads"].items())
    return (
        f"{seconds['total']:.1f} s: preparing rows {seconds['preparing']:.1f}, training the best again "
        f"{seconds['final']:.1f}; of all workers together: {heads}"
    )


COMMANDS = (sweep,)
