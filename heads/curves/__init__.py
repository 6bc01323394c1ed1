"""Accuracy against the number of labels, and what twice the labels would likely buy."""

from heads.curves.curve import CurvePoint, LearningCurve, learning_curve
from heads.curves.forecasting import Forecast

__all__ = ["CurvePoint", "Forecast", "LearningCurve", "learning_curve"]
