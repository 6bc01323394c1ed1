"""The pictures of reports: functions that return a matplotlib figure, which says what it shows. No pyplot, no state.

matplotlib is imported when the first picture is drawn.

Public: these functions and `ReportFigure`.
"""

from typing import TYPE_CHECKING

from heads.figures.calibration import probability_histogram, reliability_diagram
from heads.figures.confusion import confusion_matrix
from heads.figures.discrimination import precision_recall_curves, roc_curves
from heads.figures.filters import filter_grid
from heads.figures.gallery import gallery
from heads.figures.maps import feature_map
from heads.figures.progress import accuracies, epochs, learning_curve
from heads.figures.svg import to_svg
from heads.figures.targets import error_histogram, label_scores, predicted_and_true

if TYPE_CHECKING:
    from heads.figures.canvas import ReportFigure

__all__ = [
    "ReportFigure",
    "accuracies",
    "confusion_matrix",
    "epochs",
    "error_histogram",
    "feature_map",
    "filter_grid",
    "gallery",
    "label_scores",
    "learning_curve",
    "precision_recall_curves",
    "predicted_and_true",
    "probability_histogram",
    "reliability_diagram",
    "roc_curves",
    "to_svg",
]


def __getattr__(name: str) -> object:
    if name != "ReportFigure":
        raise AttributeError(f"module 'heads.figures' has no attribute {name!r}")
    from heads.figures.canvas import ReportFigure

    return ReportFigure
