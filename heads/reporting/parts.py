"""Building blocks of reports: formatted numbers, figures, gallery images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.text import counted, number
from heads.parameters import format_parameters
from heads.report import Fact, FigureBlock, Gallery, GalleryImage, Report, Section, Table, Tone
from heads.report.thumbnails import Thumbnail
from heads.splits import ALL, VALID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from featurecache.feature_set import FeatureSet
    from featurecache.recipe import Recipe
    from heads.artifact import TrainedHead
    from heads.artifact.record import TrainingGroups
    from heads.evaluation.galleries import Choice
    from heads.evaluation.intervals import Interval
    from heads.evaluation.predictions import PredictionsTable
    from heads.evaluation.scores import BaseEvaluation, Score
    from heads.figures import ReportFigure
    from heads.report.thumbnails import Originals

A_NETWORK = "the network"
"""The name of an unknown network."""

_UNASKED = Thumbnail(None, 0, 0, "images were not requested")
_ORDER = ("incorrect", "most_incorrect", "most_uncertain", "most_correct", "correct")  # the most useful first
_NAMED = 4  # names in a subtitle
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


def interval_detail(interval: Interval | None) -> str:
    """Return the 95 % interval of a score, as the detail of a fact."""
    return "no interval" if interval is None else f"95 % interval {interval.range_text()}"


def evaluated_images(evaluation: BaseEvaluation[Any]) -> str:
    """Return how many images of which split were evaluated.

    Where rows of other splits are evaluated as valid ones, they were held out from training: there is no valid split.
    """
    split = evaluation.split
    if split == VALID and (evaluation.table.splits != VALID).any():
        split = "held-out"
    return counted(len(evaluation), f"{split} image" if split not in {None, ALL} else "image")


def some(names: Sequence[str], what: str) -> str:
    """Return the first four names, and how many more there are of what."""
    more = len(names) - _NAMED
    return f"{', '.join(names[:_NAMED])}{f' and {more:,} more {what}' if more > 0 else ''}"


def score_fact(score: Score) -> Fact:
    """Return a score with its interval, as a fact."""
    return Fact(score.label, number(score.value), interval_detail(score.interval))


def score_table(scores: Iterable[Score], caption: str) -> Table:
    """Return a table of scores with intervals."""
    rows = tuple(
        (score.label, number(score.value), score.interval.range_text() if score.interval else "-", score.method or "-")
        for score in scores
    )
    return Table(("score", "value", "95 % interval", "kind of interval"), rows, caption, frozenset({0, 3}))


def figure_block(figure: ReportFigure) -> FigureBlock:
    """Return a figure as part of a report."""
    from heads.figures import to_svg

    return FigureBlock(to_svg(figure), figure.caption, figure.alt)


def thumbnail(originals: Originals | None, path: str) -> Thumbnail:
    """Return the thumbnail of an image; an empty one if there is no access to the image files."""
    return _UNASKED if originals is None else originals.thumbnail(path)


def gallery_image(table: PredictionsTable, row: int, originals: Originals | None, network: str) -> GalleryImage:
    """Return a row of a predictions table as a gallery image: prediction, label and the likeliest ImageNet classes."""
    names = table.classes
    true, predicted = int(table.true[row]), int(table.predicted[row])
    lines = [f"{names[predicted]} {table.probabilities[row, predicted]:.3f}"]
    if true >= 0 and true != predicted:
        lines.append(f"labelled {names[true]}, {table.probabilities[row, true]:.3f}")
    lines.extend(imagenet_line(table, row, network))
    tone = Tone.NEUTRAL if true < 0 else Tone.GOOD if true == predicted else Tone.BAD
    involved = tuple(dict.fromkeys(names[class_index] for class_index in (true, predicted) if class_index >= 0))
    path = table.paths[row]
    return GalleryImage(path, tuple(lines), involved, tone, thumbnail(originals, path))


def imagenet_line(table: PredictionsTable, row: int, network: str) -> list[str]:
    """Return a line with the likeliest ImageNet classes of a row; nothing if the table has none."""
    if table.imagenet_top3 is None:
        return []
    texts = [f"{name} {probability:.2f}" for name, probability in table.imagenet_top3.texts(row)]
    return [f"{network} saw {', '.join(texts)}"]


def galleries(
    choices: tuple[Choice, ...], table: PredictionsTable, originals: Originals | None, network: str
) -> tuple[Gallery, ...]:
    """Return chosen rows as galleries; galleries of many classes are joined by kind."""
    kinds: dict[str, list[Choice]] = {}
    for choice in choices:
        kinds.setdefault(choice.name, []).append(choice)
    found = []
    for name, group in sorted(kinds.items(), key=lambda kind: _ORDER.index(kind[0])):
        if len(group) <= _FEW_CLASSES:
            found += [(gallery.title, gallery.text, gallery.rows) for gallery in group]
        else:
            rows = tuple(row for gallery in group for row in gallery.rows)
            found.append((f"{name.replace('_', ' ').capitalize()}, class by class", _joined_text(table, group), rows))
    return tuple(
        Gallery(title, text, tuple(gallery_image(table, row, originals, network) for row in rows))
        for title, text, rows in found
    )


def _joined_text(table: PredictionsTable, group: list[Choice]) -> str:
    """Return the text of a gallery of many classes."""
    right = group[0].name == "most_correct"
    which = f"{'Right' if right else 'Wrong'}, with the highest probability"
    present = len(np.unique(table.true[table.true >= 0]))
    if len(group) < present:
        return f"{which}; of the {len(group):,} classes of {present:,} that have the most errors."
    return f"{which}; of every class."


def evaluation_page(
    evaluation: BaseEvaluation[Any],
    subtitle: str,
    facts: Iterable[Fact],
    sections: Iterable[Section],
    *,
    head: TrainedHead | None,
    about: Mapping[str, str] | None,
    features: FeatureSet | None = None,
) -> Report:
    """Return the report of an evaluation of any target.

    Parameters
    ----------
    evaluation, head, about
        As in `heads.evaluation_report`.
    subtitle
        What follows the number of images in the subtitle.
    facts, sections
        What is shown of the target.
    features
        What the features are is told of these if there is no head.
    """
    of_features = about_features(features.recipe, features.tap) if features else ()
    return Report(
        title=f"{head.name} on {head.tap}" if head else "Evaluation",
        subtitle=f"{evaluated_images(evaluation)}{subtitle}",
        facts=tuple(facts),
        warnings=tuple(map(str, evaluation.warnings)),
        sections=tuple(sections),
        about=(
            *(about or {}).items(),
            *(about_head(head) if head else of_features),
            ("intervals", intervals(evaluation.n_groups)),
            *made_by(),
        ),
    )


def about_head(head: TrainedHead) -> tuple[tuple[str, str], ...]:
    """Return what a head is and learned from, for the end of a report."""
    record = head.training
    return (
        ("head", f"{head.name}: {format_parameters(head.params)}"),
        *((("calibration", head.calibration.method),) if head.calibration else ()),
        ("trained on", f"{counted(record.n_train, 'image')}, seed {record.seed}"),
        *about_groups(record.groups),
        *((("row weights", f"training images were weighed by the column {record.weight}"),) if record.weight else ()),
        *about_features(head.recipe, head.tap),
    )


def about_features(recipe: Recipe, tap: str) -> tuple[tuple[str, str], ...]:
    """Return where features come from, for the end of a report."""
    height, width = recipe.input_size
    return (
        ("features", f"{tap} ({recipe.taps[tap]:,}) of {recipe.backbone}"),
        ("images", f"{height} x {width} pixels, {recipe.resize}, {recipe.filter}"),
        ("weights", recipe.weights),
        ("fingerprint", recipe.fingerprint),
    )


def intervals(n_groups: int | None) -> str:
    """Return how intervals were computed, for the end of a report.

    Examples
    --------
    >>> intervals(12)
    '95 %: percentiles of bootstrap samples of 12 groups, whose images stay together'
    """
    if n_groups is None:
        return "95 %: Wilson's for accuracies, percentiles of bootstrap samples of the images for the rest"
    return f"95 %: percentiles of bootstrap samples of {counted(n_groups, 'group')}, whose images stay together"


def about_groups(groups: TrainingGroups | None) -> tuple[tuple[str, str], ...]:
    """Return which images a training kept together, for the end of a report; nothing if there were no groups."""
    if groups is None:
        return ()
    counts = f"{groups.n_train:,} train and {groups.n_valid:,} valid groups"
    return (("groups", f"images of one {groups.column} were kept together in training: {counts}"),)


def made_by() -> tuple[tuple[str, str], ...]:
    """Return the program that made a report."""
    from importlib.metadata import version

    return (("made by", f"featurecache {version('featurecache')}"),)
