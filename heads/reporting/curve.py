"""The report of a learning curve: accuracy by number of labels, and a forecast for twice as many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurecache.text import counted
from heads.parameters import format_parameters
from heads.report import Fact, Report, Section, Table
from heads.reporting import parts

_CAPTION = (
    "Mean accuracy by number of labels; intervals from 1,000 draws of images and runs, none narrower than Wilson's of "
    "one run. All labels are one run"
)
_CAPTION_OF_GROUPS = (
    "Mean accuracy by mean number of labels; training rows are drawn as whole groups, intervals are from 1,000 draws "
    "of groups and runs, none narrower than that of one run. All labels are one run"
)
_NO_POINTS = 0.005  # percentage points that round to 0.00

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurecache.recipe import Recipe
    from heads.curves import LearningCurve


def curve_report(
    curve: LearningCurve, *, recipe: Recipe | None = None, about: Mapping[str, str] | None = None
) -> Report:
    """Return the report of a learning curve.

    Parameters
    ----------
    curve
        The learning curve.
    recipe
        The recipe of the features, for the end of the report.
    about
        Further facts for the end of the report, such as which cache it is of: label to text.

    Examples
    --------
    >>> curve = heads.learning_curve(cache, "centroid", tap="features", repeats=2)
    >>> heads.curve_report(curve).title
    'Accuracy by number of labels'
    """
    from heads.figures import learning_curve

    last = curve.points[-1]
    facts = [
        Fact(f"with {last.n:,} labels", parts.share(last.accuracy.value), parts.share_range(last.accuracy)),
        Fact("majority baseline", parts.share(curve.baseline_accuracy), "predicting the most frequent class"),
    ]
    if curve.forecast is not None:
        ahead = curve.forecast
        facts.append(
            Fact(f"with {ahead.n:,}, likely", parts.share(ahead.accuracy.value), parts.share_range(ahead.accuracy))
        )
    return Report(
        title="Accuracy by number of labels",
        subtitle=f"{curve.head} on {curve.tap}, validated on {counted(curve.n_judged, 'image')}",
        facts=tuple(facts),
        warnings=tuple(map(str, curve.warnings)),
        sections=(
            Section(
                "Accuracy against labels", (outlook(curve), parts.figure_block(learning_curve(curve)), _points(curve))
            ),
        ),
        about=(
            *(about or {}).items(),
            ("head", f"{curve.head}: {format_parameters(curve.params)}"),
            ("runs", f"{curve.repeats} of each size, seed {curve.seed}"),
            *parts.about_groups(curve.groups),
            *(parts.about_features(recipe, curve.tap) if recipe else ()),
            *parts.made_by(),
        ),
    )


def outlook(curve: LearningCurve) -> str:
    """Return one or two sentences on the forecast for twice the labels.

    Examples
    --------
    >>> curve = heads.learning_curve(cache, "centroid", tap="features", repeats=2)
    >>> heads.outlook(curve)
    'There are too few sizes for a forecast with more labels.'
    """
    last, ahead = curve.points[-1], curve.forecast
    if ahead is None:
        return "There are too few sizes for a forecast with more labels."
    gain = ahead.gain
    if 100 * gain.high < _NO_POINTS:
        return f"Twice the labels ({ahead.n:,}) would likely not raise the accuracy: the curve is flat."
    return (
        f"Twice the labels ({ahead.n:,}) would likely bring the accuracy from {parts.share(last.accuracy.value)} to "
        f"{parts.share(ahead.accuracy.value)}: {100 * gain.value:+.2f} points, 95 % interval {100 * gain.low:+.2f} to "
        f"{100 * gain.high:+.2f}. The forecast extends the curve by a power law and assumes that more labels never "
        "lower the accuracy."
    )


def _points(curve: LearningCurve) -> Table:
    rows = tuple(
        (f"{point.n:,}", parts.share(point.accuracy.value), parts.share_range(point.accuracy), f"{len(point.runs):,}")
        for point in curve.points
    )
    caption = _CAPTION if curve.groups is None else _CAPTION_OF_GROUPS
    return Table(("labels", "accuracy", "95 % interval", "runs"), rows, caption, frozenset())
