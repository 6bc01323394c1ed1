"""``featurecache sweep``: trains heads x taps x parameters on the same rows, and ranks them in a leaderboard."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurecache.cli.console.labels import Group, Labels, Weight, open_labelled
from featurecache.cli.console.output import Json, print_json, print_table, say, show
from featurecache.cli.console.progress import progress
from featurecache.text import number

if TYPE_CHECKING:
    from heads import Candidate, Entry, Sweep

_FAULTS = 10  # failures that are listed
_UNITS = {"s": 1, "m": 60, "h": 3600}


def _seconds(text: str) -> float:
    """Return the seconds of a time."""
    try:
        return float(text[:-1]) * _UNITS[text[-1:]]
    except (ValueError, KeyError):
        raise typer.BadParameter(f"{text!r} is no number with s, m or h, such as 90s, 2m or 1.5h") from None


def sweep(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", readable=False, help="A cache file.")],
    sweep_dir: Annotated[
        Path, typer.Argument(metavar="SWEEP_DIR", readable=False, help="The directory to create for the results.")
    ],
    head: Annotated[
        list[str] | None, typer.Option(help="A head to try; may be repeated.", show_default="all of them")
    ] = None,
    tap: Annotated[
        list[str] | None, typer.Option(help="A tap to try; may be repeated.", show_default="all of the cache")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            "--param",
            metavar="[HEAD.]KEY=V1,V2,…",
            help="Values of a parameter, instead of the default grid; separate values of hidden by semicolons.",
        ),
    ] = None,
    folds: Annotated[
        int,
        typer.Option(
            min=0, help="Rank by cross-validation with this number of folds.", show_default="rank on the valid rows"
        ),
    ] = 0,
    holdout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Part of the training rows to hold out, if there is no valid split.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="The seed of all random choices.")] = 0,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Number of parallel processes.", show_default="one per processor")
    ] = None,
    time: Annotated[
        float | None,
        typer.Option(
            metavar="N{s|m|h}",
            parser=_seconds,
            help="Time for trying heads, cheap ones first: 90s, 2m or 1.5h. Training the best one again comes on top.",
            show_default="no limit",
        ),
    ] = None,
    labels: Labels = None,
    group: Group = None,
    weight: Weight = None,
    json: Json = False,
) -> None:
    """Try heads, taps and parameters; rank them on the valid rows, and keep the best head.

    Rows of the test split are not used.

    Of parameters with long grids, few values are tried, then others around the best; values given with -p are all
    tried. With more than 4,000 training rows, costly heads are tried on a sample of them first, and the worse ones are
    stopped, unless --head names them.

    The same command continues an interrupted sweep, and one whose time was over.
    """
    from heads import parse_grids
    from heads import sweep as run

    grids = parse_grids(param or [], head or [])
    opened = open_labelled(cache, labels, group, weight)
    with progress("sweeping", "fit", limit=time) as update:
        found = run(
            opened,
            sweep_dir,
            heads=head or [],
            taps=tap or [],
            grids=grids,
            folds=folds,
            holdout=holdout,
            seed=seed,
            jobs=jobs,
            seconds=time,
            notify=say,
            progress=lambda state: update(state.done, state.total, state.doing),
        )
    if json:
        print_json(found.to_dict())
    else:
        _print_sweep(found, sweep_dir)


def _print_sweep(found: "Sweep", sweep_dir: Path) -> None:
    """Print the best candidate of each head and tap, the notices, and the names of the files."""
    from heads import best_of_each

    seconds: dict[tuple[str, str], float] = {}
    for entry in found.leaderboard:
        key = (entry.candidate.head, entry.candidate.tap)
        seconds[key] = seconds.get(key, 0.0) + entry.seconds
    best = best_of_each(found.leaderboard)
    sampled = len({entry.n_train for entry in best}) > 1
    print_table(
        (
            *("head", "tap", "parameters", "accuracy", "95 % interval", "loss", "seconds, all tried"),
            *(["trained on"] if sampled else []),
        ),
        [
            (
                entry.candidate.head,
                entry.candidate.tap,
                _shown(entry.candidate) if not entry.error else "failed",
                number(entry.accuracy.value if entry.accuracy else None),
                _interval(entry),
                number(entry.loss),
                f"{seconds[entry.candidate.head, entry.candidate.tap]:.2f}",
                *([f"{entry.n_train:,}"] if sampled else []),
            )
            for entry in best
        ],
        left=(0, 1, 2),
    )
    show()
    failed = {f"{entry.candidate.head}: {entry.error}": entry for entry in found.leaderboard if entry.error}
    for text in list(failed)[:_FAULTS]:
        show(f"failed: {text}")
    for notice in found.notes:
        show(f"notice: {notice}")
    show()
    show(_spent(found.seconds))
    first = found.leaderboard[0].candidate
    show(f"{sweep_dir}: leaderboard.csv and leaderboard.json; best: {first.head} on {first.tap}")


def _shown(candidate: "Candidate") -> str:
    """Return the parameters that differ from the defaults."""
    from heads import head_spec

    defaults = {parameter.name: parameter.default for parameter in head_spec(candidate.head).parameters}
    differing = {name: value for name, value in candidate.params.items() if value != defaults[name]}
    texts = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in differing.items()}
    return ", ".join(f"{name}={text}" for name, text in texts.items()) or "-"


def _interval(entry: "Entry") -> str:
    return f"{entry.accuracy.low:.4f} to {entry.accuracy.high:.4f}" if entry.accuracy else "-"


def _spent(seconds: Mapping[str, Any]) -> str:
    """Return how the time was spent, in one line."""
    heads = ", ".join(f"{head} {spent:.1f}" for head, spent in seconds["heads"].items())
    return (
        f"{seconds['total']:.1f} s: preparing rows {seconds['preparing']:.1f}, training the best head "
        f"{seconds['final']:.1f}; all workers together: {heads}"
    )
