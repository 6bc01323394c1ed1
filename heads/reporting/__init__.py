"""The use case: from results to reports; computes nothing but what to show and in which words."""

from heads.reporting.audit import audit_report
from heads.reporting.comparison import comparison_report
from heads.reporting.curve import curve_report
from heads.reporting.evaluation import evaluation_report

__all__ = ["audit_report", "comparison_report", "curve_report", "evaluation_report"]
