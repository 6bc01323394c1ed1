"""What several reports are made of: numbers as words, figures as pictures, rows of a predictions table as shots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heads.report import Gallery, Picture, Shot, Tone
from heads.thumbnails import Thumbnail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurecache.recipe import Recipe
    from heads.figures import ReportFigure
    from heads.galleries import Choice
    from heads.intervals import Interval
    from heads.table import PredictionsTable
    from heads.thumbnails import Originals

A_NETWORK = "the network"
"""How a network is called whose name is not known."""

_UNASKED = Thumbnail(None, 0, 0, "no pictures were asked for")
_ORDER = ("incorrect", "most_incorrect", "most_uncertain", "most_correct", "correct")  # what matters most first
_FEW_CLASSES = 6  # galleries of as many classes stand under headings of their own


def share(value: float | None) -> str:
    """Return a proportion in percent; a dash where there is none.

    Examples
    --------
    >>> share(0.972), share(None)
    ('97.20 %', '-')
    """
    return "-" if value is None else f"{100 * value:.2f} %"


def share_range(interval: Interval | None) -> str:
    """Return the 95 % interval of a proportion in percent; nothing where there is none."""
    return "" if interval is None else f"{100 * interval.low:.2f} to {100 * interval.high:.2f} %"


def number(value: float | None) -> str:
    """Return a number; a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"


def number_range(interval: Interval | None) -> str:
    """Return the 95 % interval of a number; a dash where there is none."""
    return "-" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"


def counted(count: int, noun: str) -> str:
    """Return how many there are of what, the noun in the plural where it must be."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def picture(figure: ReportFigure) -> Picture:
    """Return a figure as part of a report."""
    from heads.figures import to_svg

    return Picture(to_svg(figure), figure.caption, figure.alt)


def thumbnail(originals: Originals | None, path: str) -> Thumbnail:
    """Return the image of a path made small; a word in its place if no originals are given."""
    return _UNASKED if originals is None else originals.thumbnail(path)


def shot(table: PredictionsTable, row: int, originals: Originals | None, network: str) -> Shot:
    """Return one row of a predictions table with its image: what was predicted, what it is, what the network saw."""
    names = table.classes
    true, predicted = int(table.true[row]), int(table.predicted[row])
    lines = [f"{names[predicted]} {table.probabilities[row, predicted]:.3f}"]
    if true >= 0 and true != predicted:
        lines.append(f"labelled {names[true]}, {table.probabilities[row, true]:.3f}")
    lines.extend(seen_line(table, row, network))
    tone = Tone.NEUTRAL if true < 0 else Tone.GOOD if true == predicted else Tone.BAD
    involved = tuple(dict.fromkeys(names[each] for each in (true, predicted) if each >= 0))
    path = table.paths[row]
    return Shot(path, tuple(lines), involved, tone, thumbnail(originals, path))


def seen_line(table: PredictionsTable, row: int, network: str) -> list[str]:
    """Return a line with the ImageNet classes that the network saw in the image of a row, if that is known."""
    if table.seen is None:
        return []
    texts = [f"{name} {probability:.2f}" for name, probability in table.seen.texts(row)]
    return [f"{network} saw {', '.join(texts)}"]


def galleries(
    choices: tuple[Choice, ...], table: PredictionsTable, originals: Originals | None, network: str
) -> tuple[Gallery, ...]:
    """Return chosen rows as galleries; those of many classes are joined to one of each kind."""
    kinds: dict[str, list[Choice]] = {}
    for choice in choices:
        kinds.setdefault(choice.name, []).append(choice)
    found = []
    for name, group in sorted(kinds.items(), key=lambda kind: _ORDER.index(kind[0])):
        if len(group) <= _FEW_CLASSES:
            found += [(each.title, each.text, each.rows) for each in group]
        else:
            rows = tuple(row for each in group for row in each.rows)
            found.append((f"{name.replace('_', ' ').capitalize()}, class by class", _joined_text(table, group), rows))
    return tuple(
        Gallery(title, text, tuple(shot(table, row, originals, network) for row in rows)) for title, text, rows in found
    )


def _joined_text(table: PredictionsTable, group: list[Choice]) -> str:
    """Return what images of many classes in one gallery have in common."""
    right = group[0].name == "most_correct"
    which = f"{'Right' if right else 'Wrong'}, and surest of it"
    present = len(np.unique(table.true[table.true >= 0]))
    if len(group) < present:
        return f"{which}; of the {len(group):,} classes of {present:,} that have the most errors."
    return f"{which}; of every class."


def settings(params: Mapping[str, object]) -> str:
    """Return parameters and their values as one text."""
    texts = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in params.items()}
    return ", ".join(f"{name}={text}" for name, text in texts.items()) or "no parameters"


def about_features(recipe: Recipe, tap: str) -> tuple[tuple[str, str], ...]:
    """Return where features come from, for the end of a report."""
    height, width = recipe.input_size
    return (
        ("features", f"{tap} ({recipe.taps[tap]:,}) of {recipe.backbone}"),
        ("images", f"{height} x {width} pixels, {recipe.resize}, {recipe.filter}"),
        ("weights", recipe.weights),
        ("fingerprint", recipe.fingerprint),
    )


def made_by() -> tuple[tuple[str, str], ...]:
    """Return what made a report."""
    from importlib.metadata import version

    return (("made by", f"featurecache {version('featurecache')}"),)
