"""A learning curve as a report: what labels have bought so far, and what twice as many would likely buy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heads.report import Fact, Report, Section, Table
from heads.reporting import parts

_CAPTION = (
    "Mean accuracy by number of labels; intervals from 1,000 draws of images and runs, none narrower than Wilson's of "
    "one run. All labels are one run"
)
_NO_POINTS = 0.005  # percentage points that are 0.00 when rounded

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
        What is reported.
    recipe
        What determined the features, for the end of the report.
    about
        Further facts for the end of the report, such as which cache it is of: label to text.
    """
    from heads.figures import learning_curve

    last = curve.points[-1]
    facts = [
        Fact(f"with {last.n:,} labels", parts.share(last.accuracy.value), parts.share_range(last.accuracy)),
        Fact("always the most frequent class", parts.share(curve.baseline_accuracy), "what a head must beat"),
    ]
    if curve.forecast is not None:
        ahead = curve.forecast
        facts.append(
            Fact(f"with {ahead.n:,}, likely", parts.share(ahead.accuracy.value), parts.share_range(ahead.accuracy))
        )
    return Report(
        title="What labels buy",
        subtitle=f"{curve.head} on {curve.tap}, judged on {parts.counted(curve.n_judged, 'image')}",
        facts=tuple(facts),
        warnings=curve.warnings,
        sections=(
            Section("Accuracy against labels", (outlook(curve), parts.picture(learning_curve(curve)), _points(curve))),
        ),
        about=(
            *(about or {}).items(),
            ("head", f"{curve.head}: {parts.settings(curve.params)}"),
            ("runs", f"{curve.repeats} of each size, seed {curve.seed}"),
            *(parts.about_features(recipe, curve.tap) if recipe else ()),
            *parts.made_by(),
        ),
    )


def outlook(curve: LearningCurve) -> str:
    """Return in a sentence what twice the labels would likely buy."""
    last, ahead = curve.points[-1], curve.forecast
    if ahead is None:
        return "There are too few sizes to say what more labels would buy."
    gain = ahead.gain
    if 100 * gain.high < _NO_POINTS:
        return f"Twice the labels ({ahead.n:,}) would likely buy nothing: the curve is flat."
    return (
        f"Twice the labels ({ahead.n:,}) would likely bring the accuracy from {parts.share(last.accuracy.value)} to "
        f"{parts.share(ahead.accuracy.value)}: {100 * gain.value:+.2f} points, 95 % interval {100 * gain.low:+.2f} to "
        f"{100 * gain.high:+.2f}. That is the curve drawn on by a power law; it takes it that labels never hurt."
    )


def _points(curve: LearningCurve) -> Table:
    rows = tuple(
        (f"{each.n:,}", parts.share(each.accuracy.value), parts.share_range(each.accuracy), f"{len(each.runs):,}")
        for each in curve.points
    )
    return Table(("labels", "accuracy", "95 % interval", "runs"), rows, _CAPTION, frozenset())
