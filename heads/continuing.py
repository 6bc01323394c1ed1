"""What a head to continue settles for a training: groups, weights, parameters, held-out rows and its model.

Where there is no such head, a function returns what was asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurecache.text import did_you_mean
from heads.calibration import METHODS, NONE
from heads.errors import ParameterError
from heads.growth import start_columns
from heads.splits import DEFAULT_HOLDOUT, Holdout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurecache.cache import FeatureCache
    from featurecache.feature_set import FeatureSet
    from heads.artifact import TrainedHead
    from heads.base import Head
    from heads.fitted_model import FittedModel
    from heads.parameters import HeadSpec, Value


def as_start(cache: FeatureCache, start: TrainedHead | None) -> FeatureCache:
    """Return a cache with the groups and weights of the head to continue, if there is one.

    Its holdout must choose the same rows, and its rows must keep their weights.
    """
    if start is None:
        return cache
    groups, weight = start.training.groups, start.training.weight
    if cache.group_column is None and groups is not None:
        cache = cache.with_groups(groups.column)
    if cache.weight_column is None and weight is not None:
        cache = cache.with_weights(weight)
    for what, column, found, why in (
        ("group", groups and groups.column, cache.group_column, "to keep the same rows held out"),
        ("weight", weight, cache.weight_column, "to weigh rows as before"),
    ):
        if found != column:
            before = f"{what}s of {column!r}" if column else f"no {what}s"
            raise ParameterError(
                f"{what}: the head to continue was trained with {before}, got {found!r}; leave it out {why}"
            )
    return cache


def values_of(spec: HeadSpec, params: Mapping[str, object], start: TrainedHead | None) -> dict[str, Value]:
    """Return every parameter's value; raise `ParameterError` for one that ``start`` does not allow."""
    if start is None:
        return spec.values(params)
    if spec.name != start.name:
        raise ParameterError(f"head: the head to continue is {start.name!r}, not {spec.name!r}; train a new one")
    values = spec.values({**start.params, **params})
    changed = [f"{name} is {start.params[name]!r}" for name in spec.fixed if values[name] != start.params[name]]
    if changed:
        raise ParameterError(f"in the head to continue, {', '.join(changed)}, which cannot change; train a new head")
    return values


def holdout_of(asked: float | None, seed: int, start: TrainedHead | None) -> Holdout:
    """Return the rule that holds rows out; a continued head keeps its rule."""
    if start is None:
        return Holdout(DEFAULT_HOLDOUT if asked is None else asked, seed)
    rule = start.training.holdout or Holdout(0.0, seed)
    if asked is not None and asked != rule.fraction:
        raise ParameterError(
            f"holdout: the head to continue was trained with {rule.fraction:g}, got {asked:g}; "
            "leave it out to keep the same rows held out"
        )
    return rule


def calibration_method(asked: str | None, start: TrainedHead | None) -> str:
    """Return how to calibrate; a continued head keeps its way."""
    if asked is None:
        return start.calibration.method if start and start.calibration else NONE
    if asked not in {NONE, *METHODS}:
        names = [NONE, *METHODS]
        raise ParameterError(f"calibrate is {asked!r}{did_you_mean(asked, names)}, expected one of {', '.join(names)}")
    return asked


def keeps_rows(start: TrainedHead | None) -> bool:
    """Return whether a head keeps the features of its rows."""
    rows = start.training_rows() if start else None
    return rows is not None and rows.X is not None


def widened(head: Head, start: TrainedHead, train_rows: FeatureSet) -> FittedModel:
    """Return the model to continue from, with the classes that are new."""
    columns = start_columns(start, train_rows)
    if columns == list(range(len(start.trained_classes))):
        return start.model
    return head.widened(start.model, columns)
