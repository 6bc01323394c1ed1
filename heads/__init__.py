"""Interchangeable heads on cached features: train, store, evaluate. Importing this package loads no library."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heads.artifact import TrainedHead, TrainingRecord, require_free
    from heads.auditing import Audit, Duplicate, DuplicateGroup, LabelError, audit
    from heads.base import Epoch, Head, Monitor
    from heads.catalog import HEADS, head_spec, make_head, parse_parameters
    from heads.comparison import Comparison, Pair, compare
    from heads.curves import CurvePoint, Forecast, LearningCurve, learning_curve
    from heads.errors import (
        ArtifactError,
        EvaluationError,
        HeadError,
        MismatchError,
        ParameterError,
        TrainingError,
    )
    from heads.evaluation import Evaluation, evaluate, evaluate_table, predict_table, select_rows
    from heads.exporting import export
    from heads.finetuning import FineTuning, finetune
    from heads.imagenet import Seen, seen_of
    from heads.intervals import Interval, holm, paired_bootstrap
    from heads.metrics import AverageScores
    from heads.parameters import HeadSpec, Parameter
    from heads.prediction import Prediction, predict
    from heads.reporting import audit_report, comparison_report, curve_report, evaluation_report
    from heads.search import Candidate, Entry, Sweep, SweepProgress, parse_grids, sweep
    from heads.splits import Holdout
    from heads.table import PredictionsTable
    from heads.thumbnails import Originals
    from heads.training import train

__all__ = [
    "HEADS",
    "ArtifactError",
    "Audit",
    "AverageScores",
    "Candidate",
    "Comparison",
    "CurvePoint",
    "Duplicate",
    "DuplicateGroup",
    "Entry",
    "Epoch",
    "Evaluation",
    "EvaluationError",
    "FineTuning",
    "Forecast",
    "Head",
    "HeadError",
    "HeadSpec",
    "Holdout",
    "Interval",
    "LabelError",
    "LearningCurve",
    "MismatchError",
    "Monitor",
    "Originals",
    "Pair",
    "Parameter",
    "ParameterError",
    "Prediction",
    "PredictionsTable",
    "Seen",
    "Sweep",
    "SweepProgress",
    "TrainedHead",
    "TrainingError",
    "TrainingRecord",
    "audit",
    "audit_report",
    "compare",
    "comparison_report",
    "curve_report",
    "evaluate",
    "evaluate_table",
    "evaluation_report",
    "export",
    "finetune",
    "head_spec",
    "holm",
    "learning_curve",
    "make_head",
    "paired_bootstrap",
    "parse_grids",
    "parse_parameters",
    "predict",
    "predict_table",
    "require_free",
    "seen_of",
    "select_rows",
    "sweep",
    "train",
]

_MODULES = {
    "artifact": ("TrainedHead", "TrainingRecord", "require_free"),
    "auditing": ("Audit", "Duplicate", "DuplicateGroup", "LabelError", "audit"),
    "base": ("Epoch", "Head", "Monitor"),
    "catalog": ("HEADS", "head_spec", "make_head", "parse_parameters"),
    "comparison": ("Comparison", "Pair", "compare"),
    "curves": ("CurvePoint", "Forecast", "LearningCurve", "learning_curve"),
    "errors": ("ArtifactError", "EvaluationError", "HeadError", "MismatchError", "ParameterError", "TrainingError"),
    "evaluation": ("Evaluation", "evaluate", "evaluate_table", "predict_table", "select_rows"),
    "exporting": ("export",),
    "finetuning": ("FineTuning", "finetune"),
    "imagenet": ("Seen", "seen_of"),
    "intervals": ("Interval", "holm", "paired_bootstrap"),
    "metrics": ("AverageScores",),
    "parameters": ("HeadSpec", "Parameter"),
    "prediction": ("Prediction", "predict"),
    "reporting": ("audit_report", "comparison_report", "curve_report", "evaluation_report"),
    "search": ("Candidate", "Entry", "Sweep", "SweepProgress", "parse_grids", "sweep"),
    "splits": ("Holdout",),
    "table": ("PredictionsTable",),
    "thumbnails": ("Originals",),
    "training": ("train",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'heads' has no attribute {name!r}")
    return getattr(import_module(f"heads.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
