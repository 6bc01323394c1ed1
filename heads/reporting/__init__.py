"""From results to reports: selects the numbers, figures and galleries to show, and writes the text.

Private: `heads` has the public names.
"""

from heads.reporting.audit import audit_report
from heads.reporting.comparison import comparison_report
from heads.reporting.curve import curve_report
from heads.reporting.evaluation import evaluation_report
from heads.reporting.labels import labels_report
from heads.reporting.numbers import numbers_report
from heads.reporting.similar import similar_report

__all__ = [
    "audit_report",
    "comparison_report",
    "curve_report",
    "evaluation_report",
    "labels_report",
    "numbers_report",
    "similar_report",
]
