"""Which features a head may be used on, and their labels as indices of its classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from featurecache.images.classes import same_name
from heads.errors import MismatchError

if TYPE_CHECKING:
    from featurecache.feature_set import FeatureSet
    from featurecache.recipe import Recipe


def require_recipe(ours: Recipe, own_tap: str, width: int, recipe: Recipe, tap: str) -> None:
    """Raise `MismatchError` unless a head, with its recipe, tap and width, matches a recipe and tap.

    The message names the fields. The other taps of the recipe may differ.
    """
    if tap != own_tap:
        raise MismatchError(
            f"tap: the head was trained on {own_tap!r}, these features are of {tap!r}; "
            f"use the features of {own_tap!r}, or train a new head"
        )
    fields = {item.field: (item.ours, item.theirs) for item in ours.differences(recipe)}
    fields.pop("taps", None)
    if recipe.taps.get(tap) != width:
        fields["taps"] = (f"{tap} ({width})", f"{tap} ({recipe.taps.get(tap)})")
    if fields:
        found = "; ".join(
            f"{name}: the head has {own!r}, the features {other!r}" for name, (own, other) in fields.items()
        )
        raise MismatchError(
            f"the head was trained on features of another recipe: {found}; "
            "extract the images with the head's recipe, or train a new head"
        )


def in_classes(classes: tuple[str, ...], features: FeatureSet, *, some_known: bool = True) -> FeatureSet:
    """Return features with labels as indices of a head's classes or labels, which are matched by name.

    Those that the head does not know and rows have follow its own, in the order of the features.

    Raises
    ------
    MismatchError
        If the features have classes and none of the head's, although ``some_known`` must be.
    """
    if features.classes == classes:
        return features
    own = {same_name(name): name for name in classes} | {name: name for name in classes}
    names = [own.get(name) or own.get(same_name(name)) or name for name in features.classes]
    if some_known and names and not {*names} & {*classes}:
        raise MismatchError(
            f"classes: the head knows {shown(classes)}, the features have {shown(features.classes)}, and no "
            "name is the same; give the images the head's classes, or train a new head"
        )
    if features.target == "labels":
        return _in_labels(classes, features, names)
    present = [names[index] for index in np.unique(features.y[features.y >= 0])]
    together = tuple(dict.fromkeys((*classes, *present)))
    places = {name: place for place, name in enumerate(together)}
    indices = np.array([*(places.get(name, -1) for name in names), -1])  # the last one is for rows without a label
    return replace(features, y=indices[features.y], classes=together)


def _in_labels(classes: tuple[str, ...], features: FeatureSet, names: list[str]) -> FeatureSet:
    """Return features whose labels have these names with a head's labels first; those no row names are absent."""
    labels = tuple(dict.fromkeys((*classes, *names)))
    y = np.zeros((len(features), len(labels)), np.int8)
    for column, name in enumerate(names):
        place = labels.index(name)
        y[:, place] = np.maximum(y[:, place], features.y[:, column])
    y[~features.labelled] = -1
    return replace(features, y=y, classes=labels)


def shown(classes: tuple[str, ...]) -> str:
    """Return how many classes there are, with the names of the first ones."""
    first = ", ".join(classes[:6])
    return f"{len(classes)} ({first}{', …' if len(classes) > 6 else ''})" if classes else "none"  # noqa: PLR2004
