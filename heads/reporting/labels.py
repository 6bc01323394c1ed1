"""The report of an evaluation of several labels: scores with intervals, each label, and galleries by label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featurecache.text import counted
from heads.report import Fact, Gallery, GalleryImage, Report, Section, Table, Tone
from heads.reporting import parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from heads.artifact import TrainedHead
    from heads.evaluation.label_predictions import LabelPredictionsTable
    from heads.evaluation.labels import LabelsEvaluation
    from heads.report.thumbnails import Originals

_IMAGES = 8  # of a gallery
_LABELS = 10  # that have galleries, those with the lowest F1


def labels_report(
    evaluation: LabelsEvaluation,
    *,
    head: TrainedHead | None = None,
    originals: Originals | None = None,
    about: Mapping[str, str] | None = None,
) -> Report:
    """Return the report of an evaluation of several labels.

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
    >>> tagged = cache.with_labels({"train/dark/00.png": "dark|first"})
    >>> tagger = heads.train(tagged, "centroid", tap="features", target="labels")
    >>> found = heads.evaluate_labels(tagger, heads.select_rows(tagged, tagger, "valid"))
    >>> heads.labels_report(found, head=tagger).subtitle
    '16 valid images, 3 labels: dark, first, light'
    """
    from heads.figures import label_scores

    scores = parts.score_table(
        evaluation.scores(),
        "All scores with their intervals; macro: mean of the labels, micro: of all pairs of image and label",
    )
    each = Table(evaluation.label_header, evaluation.label_rows(), "How well each label is found")
    sections = (
        Section("Each label", (parts.figure_block(label_scores(evaluation)), each)),
        Section("Images", _galleries(evaluation, originals)),
        Section("All numbers", (scores,)),
    )
    exact = evaluation.subset_accuracy
    facts = (
        Fact("all labels right", parts.share(exact.value), f"95 % interval {parts.share_range(exact)}"),
        *(parts.score_fact(score) for score in evaluation.scores() if score.key in evaluation.values),
    )
    subtitle = f", {counted(len(evaluation.labels), 'label')}: {parts.some(evaluation.labels, 'labels')}"
    return parts.evaluation_page(evaluation, subtitle, facts, sections, head=head, about=about)


def _galleries(evaluation: LabelsEvaluation, originals: Originals | None) -> tuple[Gallery, ...]:
    """Return the missed and the wrongly given images of the labels with the lowest F1."""
    table = evaluation.table
    worst = sorted(range(len(table.labels)), key=lambda label: (evaluation.per_label[label].f1 or 0.0, label))
    has, given = table.true == 1, table.predicted
    galleries = []
    for label in worst[:_LABELS]:
        name, probabilities = table.labels[label], table.probabilities[:, label]
        missed = np.flatnonzero(has[:, label] & ~given[:, label])
        wrong = np.flatnonzero(~has[:, label] & given[:, label])
        for title, rows, keys, order in (
            (f"Missed: {name}", missed, probabilities, "lowest"),
            (f"Wrongly given: {name}", wrong, -probabilities, "highest"),
        ):
            shown = _first(table, rows, keys)
            which = f"{len(shown)} of {counted(len(rows), 'image')}: those with the {order} probability of the label."
            text = which if shown else ""
            images = tuple(_image(table, row, label, originals) for row in shown)
            galleries.append(Gallery(title, text, images))
    return tuple(galleries)


def _first(table: LabelPredictionsTable, rows: NDArray[np.intp], keys: NDArray[np.float64]) -> list[int]:
    """Return the rows with the lowest keys; of equal ones the first by path."""
    return sorted(rows.tolist(), key=lambda row: (keys[row], table.paths[row]))[:_IMAGES]


def _image(table: LabelPredictionsTable, row: int, label: int, originals: Originals | None) -> GalleryImage:
    path, name = table.paths[row], table.labels[label]
    has = ", ".join(table.names(row, true=True)) or "none of the labels"
    lines = (f"{name} {table.probabilities[row, label]:.3f}", f"labelled {has}")
    return GalleryImage(path, lines, (name,), Tone.BAD, parts.thumbnail(originals, path))
