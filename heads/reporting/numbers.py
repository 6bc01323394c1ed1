"""The report of an evaluation of numbers: scores with intervals, predicted and true numbers, the largest errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featurecache.text import counted, number
from heads.report import Fact, Gallery, GalleryImage, Report, Section, Tone
from heads.reporting import parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heads.artifact import TrainedHead
    from heads.evaluation.numbers import NumbersEvaluation
    from heads.report.thumbnails import Originals

_IMAGES = 12  # of a gallery


def numbers_report(
    evaluation: NumbersEvaluation,
    *,
    head: TrainedHead | None = None,
    originals: Originals | None = None,
    about: Mapping[str, str] | None = None,
) -> Report:
    """Return the report of an evaluation of numbers.

    Parameters
    ----------
    evaluation
        The evaluation.
    head
        The head that was evaluated, for its settings.
    originals
        Access to the image files; None for galleries without images.
    about
        Further facts for the end of the report, such as which cache it is of: label to text.

    Examples
    --------
    >>> measured = cache.with_labels({path: str(int(path[-6:-4])) for path in cache.paths})
    >>> counter = heads.train(measured, "ridge", tap="features", target="number")
    >>> found = heads.evaluate_numbers(counter, heads.select_rows(measured, counter, "valid"))
    >>> heads.numbers_report(found, head=counter).title
    'ridge on features'
    """
    from heads.figures import error_histogram, predicted_and_true

    table = evaluation.table
    figures = tuple(map(parts.figure_block, (predicted_and_true(table), error_histogram(table))))
    scores = parts.score_table(evaluation.scores(), "All scores with their intervals")
    sections = (
        Section("How far off it is", figures),
        Section("Images", _galleries(evaluation, originals)),
        Section("All numbers", (scores,)),
    )
    facts = (
        *(parts.score_fact(score) for score in evaluation.scores() if score.key in evaluation.values),
        Fact(
            "baseline error", number(evaluation.baseline_error), "mean absolute error of predicting the training mean"
        ),
    )
    trained = head.number_range if head else None
    subtitle = f"; trained on numbers from {number(trained.low)} to {number(trained.high)}" if trained else ""
    return parts.evaluation_page(evaluation, subtitle, facts, sections, head=head, about=about)


def _galleries(evaluation: NumbersEvaluation, originals: Originals | None) -> tuple[Gallery, ...]:
    table = evaluation.table
    size = np.abs(table.errors)
    order = sorted(range(len(table)), key=lambda row: (-size[row], table.paths[row]))
    few = max(1, min(_IMAGES, len(order) // 2))

    def image(row: int, tone: Tone) -> GalleryImage:
        path = table.paths[row]
        lines = (f"predicted {number(float(table.predicted[row]))}", f"labelled {number(float(table.true[row]))}")
        return GalleryImage(path, lines, (), tone, parts.thumbnail(originals, path))

    of = counted(len(table), "image")
    return (
        Gallery("Largest errors", f"{few} of {of}.", tuple(image(row, Tone.BAD) for row in order[:few])),
        Gallery("Smallest errors", f"{few} of {of}.", tuple(image(row, Tone.GOOD) for row in order[::-1][:few])),
    )
