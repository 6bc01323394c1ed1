"""Accuracy against the number of labels, and a forecast for twice the labels.

Private: `heads` has the public names.
"""

from heads.curves.curve import CurvePoint, LearningCurve, learning_curve
from heads.curves.forecasting import Forecast

__all__ = ["CurvePoint", "Forecast", "LearningCurve", "learning_curve"]
