"""The heads by name: the built-in ones, those of installed packages, and scikit-learn's classifiers and regressors.

A package adds heads through the entry point group ``featurecache.heads``. It is imported when one of its heads is used,
or when all heads are listed.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping

from featurecache.entry_points import Registry
from featurecache.errors import UnknownNameError
from featurecache.targets import TARGETS, Target
from heads.base import Head
from heads.errors import ParameterError
from heads.families.baseline import ImageNetMapHead, MajorityHead
from heads.families.dense import MLPHead, SoftmaxHead
from heads.families.discriminant import CentroidHead, LDAHead, NaiveBayesHead
from heads.families.ensembles import ExtraTreesHead, HistGradientBoostingHead
from heads.families.estimator_forms import FORMS
from heads.families.estimators import PREFIX, estimator_head, form_of, is_estimator, stored_values
from heads.families.keras_head import is_keras_head, keras_head, stored_keras_head
from heads.families.linear import LogisticHead, SGDHead
from heads.families.neighbors import NeighborsHead
from heads.families.ridge import RidgeHead
from heads.families.svm import SVMHead
from heads.fitted_model import FittedModel
from heads.parameters import HeadSpec, Value

_SEEDS = 2**32  # the range of scikit-learn

_BUILTIN: tuple[type[Head], ...] = (
    SoftmaxHead,
    MLPHead,
    LogisticHead,
    SVMHead,
    RidgeHead,
    SGDHead,
    NeighborsHead,
    CentroidHead,
    LDAHead,
    NaiveBayesHead,
    ExtraTreesHead,
    HistGradientBoostingHead,
    MajorityHead,
    ImageNetMapHead,
)


def _accept(name: str, found: object) -> type[Head]:
    """Return what an entry point gives, or raise `TypeError` if it is no class of a head of this name."""
    if not (isinstance(found, type) and issubclass(found, Head)):
        raise TypeError(f"{found!r} is not a subclass of heads.Head")
    spec = getattr(found, "spec", None)
    if not isinstance(spec, HeadSpec) or not isinstance(getattr(found, "model_class", None), type):
        raise TypeError(f"{found.__name__} does not declare spec, a HeadSpec, and model_class, a class")
    if spec.name != name:
        raise TypeError(f"the head calls itself {spec.name!r}")
    if inspect.isabstract(found):
        raise TypeError(f"{found.__name__} does not implement {', '.join(sorted(found.__abstractmethods__))}")
    return found


REGISTRY: Registry[type[Head]] = Registry(
    "featurecache.heads", "head", {head.spec.name: head for head in _BUILTIN}, _accept
)
"""The classes of the heads: the built-in ones, and those that installed packages add."""


class _Specs(Mapping[str, HeadSpec]):
    """The declarations of all heads that can be loaded, by name."""

    def __getitem__(self, name: str) -> HeadSpec:
        try:
            return head_spec(name)
        except UnknownNameError as e:
            raise KeyError(name) from e

    def __iter__(self) -> Iterator[str]:
        return iter(REGISTRY.load_all()[0])

    def __len__(self) -> int:
        return len(REGISTRY.load_all()[0])


HEADS: Mapping[str, HeadSpec] = _Specs()
"""The declarations of all heads by name; heads of packages that cannot be loaded are left out."""


def head_spec(name: str) -> HeadSpec:
    """Return the declaration of a head: its parameters, defaults and grid.

    Raises
    ------
    UnknownNameError
        If there is no such head.
    HeadError
        If scikit-learn has no such estimator, or it cannot be a head, or the function of a Keras head cannot be used.
    EntryPointError
        If an installed package adds it, but cannot be loaded.

    Examples
    --------
    >>> head_spec("ridge").values({"alpha": 10})
    {'alpha': 10.0, 'class_weight': 'none', 'standardize': True}
    """
    return _head_class(name).spec


def load_heads() -> tuple[dict[str, HeadSpec], list[str]]:
    """Return the declarations of all heads by name, and one line for each head of a package that cannot be loaded.

    Examples
    --------
    >>> specs, faults = heads.load_heads()
    >>> "svm" in specs
    True
    """
    classes, faults = REGISTRY.load_all()
    return {name: head_class.spec for name, head_class in classes.items()}, faults


def make_head(name: str, *, seed: int = 0, **params: object) -> Head:
    """Make an untrained head.

    Parameters
    ----------
    name
        The name of the head: a key of `HEADS`; ``sklearn:`` and a classifier or regressor of scikit-learn; or
        ``keras:MODULE:FUNCTION``, whose module is imported.
    seed
        The seed of its random choices, from 0 to 2**32 - 1; not used by heads that have none.
    **params
        Its parameters; the others have their defaults.

    Raises
    ------
    UnknownNameError
        If there is no such head.
    EntryPointError
        If an installed package adds it, but cannot be loaded.
    ParameterError
        If a parameter does not exist or cannot have the value, or the seed is out of range.

    Examples
    --------
    >>> make_head("logreg", C=0.1)
    LogisticHead(C=0.1, max_iter=1000, tol=0.0001, class_weight='none', standardize=True)
    >>> make_head("sgd", seed=3).seed
    3
    """
    return untrained_head(_head_class(name), seed, params)


def untrained_head(head: type[Head], seed: int, params: Mapping[str, object]) -> Head:
    """Make an untrained head of a class; see `make_head`."""
    if not 0 <= seed < _SEEDS:
        raise ParameterError(f"the seed is {seed}, expected a whole number from 0 to {_SEEDS - 1}")
    values: dict[str, object] = {**head.spec.values(params)}
    if "seed" in inspect.signature(head).parameters:
        values["seed"] = seed
    return head(**values)


def model_class(name: str, target: Target = "class") -> type[FittedModel]:
    """Return the class that rebuilds the model of a head of this name, or of each of its labels, from stored arrays.

    It imports no scikit-learn.

    Raises
    ------
    ParameterError
        If the head does not learn the target; names those that do.
    """
    model, number_model = _model_classes(name)
    found = number_model if target == "number" else model
    if found is None or target not in head_targets(name):
        able = ", ".join(each for each in REGISTRY.load_all()[0] if target in head_targets(each))
        what = {"class": "classes", "labels": "several labels", "number": "numbers"}[target]
        raise ParameterError(f"the head {name!r} does not learn {what}; take one that does: {able}")
    return found


def head_targets(name: str) -> tuple[Target, ...]:
    """Return what a head learns: the targets that `heads.train` takes for it. It imports no scikit-learn.

    Raises
    ------
    UnknownNameError
        If there is no such head.

    Examples
    --------
    >>> heads.head_targets("ridge")
    ('class', 'labels', 'number')
    """
    of_any_tap = is_estimator(name) or not stored_head_class(name, {}).spec.taps
    classes, numbers = (model is not None for model in _model_classes(name))
    able = {"class": classes, "labels": classes and of_any_tap, "number": numbers}
    return tuple(target for target in TARGETS if able[target])


def _model_classes(name: str) -> tuple[type[FittedModel] | None, type[FittedModel] | None]:
    """Return the class of a head's models of classes, and that of its models of numbers."""
    if is_estimator(name):
        form = form_of(name)
        return (None, form.model) if form.numbers else (form.model, None)
    head = stored_head_class(name, {})
    return head.model_class, head.number_model_class


def stored_parameters(name: str, params: Mapping[str, Value]) -> dict[str, Value]:
    """Return the parameters that a file of a head has; see `heads.parameters.HeadSpec.stored`."""
    return dict(params) if is_estimator(name) else stored_head_class(name, params).spec.stored(params)


def read_parameters(name: str, params: Mapping[str, object]) -> dict[str, Value]:
    """Return the checked parameters of a stored head; imports no scikit-learn, and no module that the name has.

    Raises
    ------
    UnknownNameError, EntryPointError
        As `head_spec`.
    ParameterError
        If a parameter does not exist or cannot have its value; those of scikit-learn are checked for their types, since
        they change from version to version.
    """
    if is_estimator(name):
        return stored_values(name, params)
    return stored_head_class(name, params).spec.values(params)


def estimator_names() -> tuple[str, ...]:
    """Return the names of the heads that scikit-learn's classifiers and regressors are.

    Examples
    --------
    >>> "sklearn:ensemble.RandomForestClassifier" in heads.estimator_names()
    True
    """
    return tuple(f"{PREFIX}{name}" for name in FORMS)


def stored_head_class(name: str, params: Mapping[str, object]) -> type[Head]:
    """Return the class of a stored head with these parameters; imports no module that the name has.

    Raises
    ------
    UnknownNameError, EntryPointError
        As `head_spec`.
    ParameterError
        If a parameter has no possible type.
    """
    return stored_keras_head(name, params) if is_keras_head(name) else _head_class(name)


def _head_class(name: str) -> type[Head]:
    """Return the class of a head of this name, for training; of a Keras head of one's own, import its module."""
    if is_estimator(name):
        return estimator_head(name)
    return keras_head(name) if is_keras_head(name) else REGISTRY.find(name)


def parse_parameters(spec: HeadSpec, texts: Iterable[str]) -> dict[str, Value]:
    """Read parameters from texts of the form ``key=value``.

    Raises
    ------
    ParameterError
        If a text has no ``=``, or a parameter does not exist, is given twice, or cannot have the value.

    Examples
    --------
    >>> parse_parameters(HEADS["softmax"], ["lr=0.1", "standardize=false"])
    {'lr': 0.1, 'standardize': False}
    """
    values: dict[str, Value] = {}
    faults = []
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            parameter = spec.parameter(name)
            if name in values:
                faults.append(f"{name} is given twice")
            elif not equals:
                faults.append(f"{name} has no value, expected {name}=VALUE with {parameter.expected}")
            else:
                values[name] = parameter.parse(value)
        except ParameterError as e:
            faults.append(str(e))
    if faults:
        raise ParameterError(f"head {spec.name!r}: {'; '.join(faults)}")
    return values
