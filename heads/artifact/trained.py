"""A trained head, stored as ``head.json`` and ``head.safetensors``, two files that cannot run code.

``head.json`` describes the head and has the SHA-256 of both files; ``head.safetensors`` has the arrays. Reading them
needs NumPy and safetensors only, checks everything, and unpickles nothing. A third file, ``rows.safetensors``, has the
rows that trained the head; the head predicts without it.
"""

from __future__ import annotations

import errno
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from featurecache.errors import CacheFormatError, EntryPointError, OutputError, UnknownNameError
from featurecache.options import MAX_PIXELS, PIXEL_LIMIT
from featurecache.recipe import Recipe
from featurecache.storage.output_errors import require_place
from featurecache.storage.publish import publish_directory
from featurecache.targets import Target
from featurecache.text import counted
from heads.artifact import files, matching
from heads.artifact.description import DESCRIPTION, FORMAT, FORMAT_VERSION
from heads.artifact.files import TENSORS
from heads.artifact.record import TrainingRecord, read_record
from heads.artifact.rows import MAX_ROWS_BYTES, ROWS, HeadRows
from heads.calibration import Calibration
from heads.catalog import model_class, read_parameters, stored_head_class, stored_parameters
from heads.each_label import EachLabelModel
from heads.errors import ArtifactError, HeadError, MismatchError, ParameterError
from heads.fitted_model import FittedModel
from heads.notices import to_dicts
from heads.parameters import HeadSpec, Value
from heads.rows import Features, Floats

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from numpy.typing import NDArray

    from featurecache.feature_set import FeatureSet

_CALIBRATION = "calibration."  # what names of its arrays begin with
_FEWEST = {"class": 2, "labels": 1, "number": 0}  # classes or labels of a head, by target
_WORDS = ("no", "one", "two")


@dataclass(frozen=True, slots=True)
class NumberRange:
    """Mean, smallest and largest number of the rows that trained a head."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class TrainedHead:
    """A trained head, with the recipe, tap and classes of the features that it can be used on.

    Parameters
    ----------
    name, params
        The head's name in the catalogue, and the value of each of its parameters.
    tap
        The tap whose features it uses.
    classes
        All classes of the cache that it was trained on, in order: the columns of its probabilities.
    trained_classes
        The indices of the classes that occurred in training, ascending.
    recipe
        The recipe of the features that it was trained on.
    weights_source
        The value of the option ``weights`` of the extraction.
    training
        The record of its training.
    model
        The fitted model.
    max_pixels
        The limit of the extraction: `heads.predict` refuses larger images, unless another limit is given.
    calibration
        The calibration of its probabilities; None for those of the model.
    target
        What it predicts: ``"class"``, ``"labels"``, which ``classes`` names, or ``"number"``, without classes.
    thresholds
        Of several labels: the probability from which on an image has each label. Empty otherwise.
    number_range
        Of a number: what the training rows have; None otherwise.
    rows
        The rows that trained it, or the file that has them; None if it was stored without. See `training_rows`.

    Examples
    --------
    >>> path = head.save(folder / "head")
    >>> heads.TrainedHead.load(path)
    <TrainedHead: centroid on features, 2 classes, 32 training rows>
    >>> head.predict_proba(cache.features("features", "valid").X).shape
    (16, 2)
    """

    name: str
    params: Mapping[str, Value]
    tap: str
    classes: tuple[str, ...]
    trained_classes: tuple[int, ...]
    recipe: Recipe
    weights_source: str
    training: TrainingRecord
    model: FittedModel
    max_pixels: int = MAX_PIXELS
    calibration: Calibration | None = None
    target: Target = "class"
    thresholds: tuple[float, ...] = ()
    number_range: NumberRange | None = None
    rows: HeadRows | Path | None = None

    def __repr__(self) -> str:
        rows = counted(self.training.n_train, "training row")
        return f"<TrainedHead: {self.name} on {self.tap}, {self.target_text}, {rows}>"

    @property
    def target_text(self) -> str:
        """What it predicts, as text: the number of classes or labels, or ``"a number"``."""
        if self.target == "number":
            return "a number"
        return f"{len(self.classes):,} {'classes' if self.target == 'class' else 'labels'}"

    def require_target(self, target: Target, what: str) -> None:
        """Raise `MismatchError` unless this head predicts ``target``, for ``what``: the use that needs it."""
        if self.target != target:
            raise MismatchError(
                f"target: {what} needs a head of the target {target!r}, this one has {self.target!r}; train a head of "
                f"that target, or use the functions for {self.target!r} (docs/targets.md)"
            )

    @property
    def classes_(self) -> NDArray[np.int64]:
        """The class index of each column of probabilities, in order."""
        return np.arange(len(self.classes))

    def predict_proba(self, X: Features) -> Floats:
        """Return the probability of every class, shape (n, k), for features of shape (n, d).

        A class that did not occur in training has probability 0. Of several labels, each probability is that the image
        has the label.

        Raises
        ------
        MismatchError
            If the head predicts a number.
        """
        if self.target == "number":
            raise MismatchError("target: this head predicts a number, and no probabilities; use predict_numbers")
        probabilities = np.zeros((len(X), len(self.classes)))
        found = self.model.predict_proba(X)
        probabilities[:, list(self.trained_classes)] = (
            self.calibration.map.applied(found) if self.calibration else found
        )
        return probabilities

    @property
    def uncalibrated(self) -> TrainedHead:
        """The head without its calibration; itself if it has none."""
        return replace(self, calibration=None) if self.calibration else self

    def predict_labels(self, X: Features) -> NDArray[np.bool_]:
        """Return which labels images have, shape (n, k), for features of shape (n, d): those from the threshold on."""
        self.require_target("labels", "predict_labels")
        return self.predict_proba(X) >= np.array(self.thresholds)

    def predict_numbers(self, X: Features) -> Floats:
        """Return the number of each image, shape (n,), for features of shape (n, d)."""
        self.require_target("number", "predict_numbers")
        return self.model.predict_proba(X)[:, 0]

    def training_rows(self) -> HeadRows | None:
        """Return the rows that trained it, read from its folder if it was loaded; None if it was stored without them.

        Raises
        ------
        ArtifactError
            If the file is damaged, or belongs to another head.

        Examples
        --------
        >>> rows = head.training_rows()
        >>> len(rows.trained), rows.X is None
        (32, True)
        """
        if not isinstance(self.rows, Path):
            return self.rows
        try:
            rows = HeadRows.decode(
                files.bytes_of(self.rows, MAX_ROWS_BYTES),
                target=self.target,
                classes=len(self.classes),
                width=self.model.width,
            )
            rows.require_digest(self.training.rows_sha256)
        except ArtifactError as e:
            raise ArtifactError(f"{self.rows} cannot be read: {e}; the head predicts without it: remove it") from e
        return rows

    def in_own_classes(self, features: FeatureSet) -> FeatureSet:
        """Return features with the head's target, and labels as indices of its classes, which are matched by name.

        Classes or labels that the head does not know and rows have follow its own, in the order of the features.

        Raises
        ------
        MismatchError
            If the head was trained on another recipe or tap, or the features have classes and none of the head's.

        Examples
        --------
        >>> head.in_own_classes(cache.features("features")).classes
        ('dark', 'light')
        """
        self.check_recipe(features.recipe, features.tap)
        return matching.in_classes(self.classes, features.with_target(self.target))

    def with_new_classes(self, features: FeatureSet) -> FeatureSet:
        """Return features of the head's target as `in_own_classes` does, even if all their classes are new to it.

        Examples
        --------
        >>> horses = cache.with_labels({path: "horse" for path in cache.paths.tolist()})
        >>> head.with_new_classes(horses.features("features")).classes
        ('dark', 'light', 'horse')
        """
        self.check_recipe(features.recipe, features.tap)
        return matching.in_classes(self.classes, features, some_known=False)

    def check(self, features: FeatureSet) -> None:
        """Raise `MismatchError` unless the head matches the recipe, tap and classes of features."""
        self.check_recipe(features.recipe, features.tap)
        if features.classes != self.classes:
            raise MismatchError(
                f"classes: the head knows {matching.shown(self.classes)}, the features have "
                f"{matching.shown(features.classes)}; train a new head on this cache, or give its images the head's "
                "classes"
            )

    def check_recipe(self, recipe: Recipe, tap: str) -> None:
        """Raise `MismatchError` unless the head matches a recipe and tap; the message names the fields.

        The other taps of the recipe may differ.
        """
        matching.require_recipe(self.recipe, self.tap, self.model.width, recipe, tap)

    @property
    def spec(self) -> HeadSpec:
        """The declaration of the head. Nothing is imported for it that only the files of the head name."""
        return stored_head_class(self.name, self.params).spec

    @property
    def identity(self) -> str:
        """The SHA-256 of the whole stored head: the ``sha256`` of its ``head.json``."""
        return str(json.loads(_encode(self)[DESCRIPTION])["sha256"])

    def to_dict(self) -> dict[str, object]:
        """Return the reported part of its training record, ready for JSON."""
        record = self.training.to_dict() | {"warnings": to_dicts(self.training.warnings)}
        names = (
            "n_train",
            "n_valid",
            "epochs",
            "kept_epoch",
            "train_accuracy",
            "valid_accuracy",
            "seconds",
            "warnings",
        )
        calibration = self.calibration.to_dict() if self.calibration else None
        thresholds = dict(zip(self.classes, self.thresholds, strict=True)) if self.thresholds else None
        return {
            "head": self.name,
            "tap": self.tap,
            "target": self.target,
            "thresholds": thresholds,
            "params": dict(self.params),
            "calibration": calibration,
            "growth": record.get("growth"),
        } | {name: record[name] for name in names}

    def save(self, directory: str | PathLike[str]) -> Path:
        """Store the head as a new directory, whole or not at all, and return its path.

        Raises
        ------
        OutputError
            If the name is taken, or the head cannot be written.
        ArtifactError
            If the encoded head does not read back as the same head; nothing is written then.
        """
        directory = Path(directory)
        require_free(directory)
        encoded, rows = _encode(self), self.training_rows()
        _require_same(self, _decode(encoded[DESCRIPTION], encoded[TENSORS]))
        if rows is not None:
            encoded[ROWS] = rows.encode()
        try:
            publish_directory(directory, encoded)
        except FileExistsError as e:
            raise _exists(directory) from e
        return directory

    @classmethod
    def load(cls, directory: str | PathLike[str]) -> TrainedHead:
        """Read a stored head, without TensorFlow and scikit-learn.

        Raises
        ------
        ArtifactError
            If there is no head, or a file is damaged, too large, or has another structure.
        """
        directory = Path(directory)
        if not directory.exists():
            raise ArtifactError(f"there is no head {directory}; make it with: featurecache train CACHE.h5 {directory}")
        try:
            head = _decode(*files.read(directory))
        except ArtifactError as e:
            raise ArtifactError(f"the head {directory} cannot be loaded: {e}") from e
        rows = directory / ROWS
        return replace(head, rows=rows.absolute()) if rows.exists() else head


def require_free(directory: Path) -> None:
    """Raise `OutputError` if no head can be stored in this directory; call it before training.

    Examples
    --------
    >>> heads.require_free(folder / "new-head")  # raises OutputError if it exists
    """
    require_place(directory)
    if directory.exists() or directory.is_symlink():
        raise _exists(directory)


def _exists(directory: Path) -> OutputError:
    error = OutputError(f"{directory} exists already; remove it or choose another directory for the head")
    error.errno = errno.EEXIST
    return error


# Writing


def _encode(head: TrainedHead) -> dict[str, bytes]:
    """Return the bytes of both files, by name."""
    description: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "head": head.name,
        "params": stored_parameters(head.name, head.params),
        "tap": head.tap,
        "width": head.model.width,
        "classes": head.classes,
        "trained_classes": head.trained_classes,
        "recipe": json.loads(head.recipe.to_json()),
        "fingerprint": head.recipe.fingerprint,
        "weights_source": head.weights_source,
        "training": head.training.to_dict(),
    }
    if head.target != "class":
        description["target"] = head.target
    if head.target == "labels":
        description["thresholds"] = head.thresholds
    if head.number_range is not None:
        description["number_range"] = asdict(head.number_range)
    if head.max_pixels != MAX_PIXELS:
        description["max_pixels"] = head.max_pixels
    if head.calibration is not None:
        description["calibration"] = head.calibration.to_dict()
    return files.encoded(description, _arrays(head))


def _arrays(head: TrainedHead) -> dict[str, NDArray[Any]]:
    """Return everything that is stored of model and calibration, by name."""
    calibration = head.calibration.map.arrays if head.calibration else {}
    return head.model.arrays | {f"{_CALIBRATION}{name}": array for name, array in calibration.items()}


def _require_same(head: TrainedHead, read: TrainedHead) -> None:
    ours, theirs = _arrays(head), _arrays(read)
    if ours.keys() != theirs.keys() or not all(np.array_equal(ours[name], theirs[name]) for name in ours):
        raise ArtifactError("the arrays do not read back unchanged; nothing was stored")


# Reading


def _decode(description: bytes, tensors: bytes) -> TrainedHead:
    """Return the head in two files; raise `ArtifactError` for the first fault."""
    data = files.described(description, tensors)
    try:
        name = data["head"]
        params = read_parameters(name, data["params"])
        recipe = Recipe.from_json(json.dumps(data["recipe"]))
    except (UnknownNameError, EntryPointError, HeadError, CacheFormatError) as e:
        raise ArtifactError(f"{DESCRIPTION}: {e}") from e
    classes, trained = tuple(data["classes"]), tuple(data["trained_classes"])
    target = data.get("target", "class")
    if target not in _FEWEST:
        raise ArtifactError(f"{DESCRIPTION}: target is {target!r}, expected {', '.join(_FEWEST)}")
    fewest, thresholds = _FEWEST[target], tuple(data.get("thresholds", ()))
    numbers = data.get("number_range", {"low": 0.0, "high": 0.0})
    faults = {
        "params do not name every parameter once": stored_parameters(name, params) != data["params"],
        f"classes are not {_WORDS[fewest]} or more different names": len(classes) < fewest
        or len(set(classes)) < len(classes),
        f"trained_classes are not {_WORDS[fewest]} or more ascending indices of classes": len(trained) < fewest
        or list(trained) != sorted({*trained} & {*range(len(classes))}),
        "thresholds are not a probability for each of several labels": len(thresholds)
        != (len(classes) if target == "labels" else 0)
        or not all(0 <= each <= 1 for each in thresholds),
        "number_range does not fit the target": ("number_range" in data) != (target == "number"),
        "number_range has a low above its high": numbers["low"] > numbers["high"],
        "calibration does not fit the target": "calibration" in data and target != "class",
        "a head of numbers has classes": target == "number" and bool(classes),
        "not every label is trained": target == "labels" and len(trained) < len(classes),
        "width is not that of the tap in the recipe": recipe.taps.get(data["tap"]) != data["width"],
        "fingerprint is not that of the recipe": recipe.fingerprint != data["fingerprint"],
        "max_pixels is out of its range": not 1 <= data.get("max_pixels", 1) <= PIXEL_LIMIT,
    }
    for fault, found in faults.items():
        if found:
            raise ArtifactError(f"{DESCRIPTION}: {fault}")
    stored = files.arrays(tensors)
    arrays = {name: array for name, array in stored.items() if not name.startswith(_CALIBRATION)}
    of_calibration = {name.removeprefix(_CALIBRATION): stored[name] for name in stored if name not in arrays}
    if bool(of_calibration) != ("calibration" in data):
        raise ArtifactError(f"{TENSORS} and {DESCRIPTION} do not agree on whether there is a calibration")
    try:
        model = _model(name, target, arrays, classes=len(trained), width=data["width"], params=params)
        calibration = (
            Calibration.from_dict(data["calibration"], of_calibration, len(trained)) if of_calibration else None
        )
    except ParameterError as e:
        raise ArtifactError(f"{DESCRIPTION}: {e}") from e
    except ArtifactError as e:
        raise ArtifactError(f"{TENSORS}: {e}") from e
    return TrainedHead(
        name=name,
        params=params,
        tap=data["tap"],
        classes=classes,
        trained_classes=trained,
        recipe=recipe,
        weights_source=data["weights_source"],
        training=read_record(data["training"], classes, target),
        model=model,
        max_pixels=data.get("max_pixels", MAX_PIXELS),
        calibration=calibration,
        target=target,
        thresholds=thresholds,
        number_range=NumberRange(**data["number_range"]) if target == "number" else None,
    )


def _model(
    name: str,
    target: Target,
    arrays: Mapping[str, NDArray[Any]],
    *,
    classes: int,
    width: int,
    params: Mapping[str, Value],
) -> FittedModel:
    """Return the model of a head in stored arrays."""
    if target == "labels":
        each = EachLabelModel.of(model_class(name, target), arrays, classes=classes, width=width, params=params)
        return cast("FittedModel", each)
    return model_class(name, target).from_arrays(arrays, classes=classes or 1, width=width, params=params)
