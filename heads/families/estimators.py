"""scikit-learn's classifiers and regressors as heads, by name: ``sklearn:ensemble.RandomForestClassifier``.

scikit-learn declares their parameters and trains them; plain arrays store them (`heads.families.estimator_forms`). The
list of these forms is the list of what can be named, so that a name never imports another module.
"""

import inspect
import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any, ClassVar, final

import numpy as np

from featurecache.text import did_you_mean
from heads.base import IndependentHead, Learned
from heads.epochs import Monitor
from heads.errors import HeadError, ParameterError, TrainingError
from heads.families.estimator_forms import FORMS, Estimator, Form, require_same
from heads.families.library_warnings import notices_of, recorded
from heads.families.own_threads import one_openmp_thread, own_threads
from heads.families.shared_parameters import NO_STANDARDIZE
from heads.notices import Code, Notice
from heads.parameters import HeadSpec, Parameter, Value, as_literal, as_object
from heads.rows import Features, Floats, Scaling, Targets

PREFIX = "sklearn:"
"""What the names of these heads begin with."""

_WITHHELD = {
    "random_state": "the seed of the head takes its place (--seed)",
    "n_jobs": "all processors are used",
    "verbose": "a training prints nothing",
    "warm_start": "a head is trained once",
}


class EstimatorHead(IndependentHead):
    """A scikit-learn classifier or regressor; `estimator_head` makes a class for each name.

    Parameters
    ----------
    seed
        Its ``random_state``.
    **params
        The values of all its parameters. A value that is neither number, truth value nor word is the text of a Python
        literal.
    """

    form: ClassVar[Form]

    @final
    def __init__(self, *, seed: int = 0, **params: Value) -> None:
        self.seed, self.params = seed, params

    @final
    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        if self.form.numbers:
            raise TrainingError(f"the head {self.spec.name!r} learns numbers, not classes: train it with target=number")
        return self._fitted(X, targets, monitor)

    @final
    def _learn_numbers(self, X: Features, y: Floats, monitor: Monitor) -> Learned:
        """Learn numbers, if it is a regressor."""
        if not self.form.numbers:
            raise TrainingError(f"the head {self.spec.name!r} learns classes, not numbers")
        return self._fitted(X, y, monitor)

    def _fitted(self, X: Features, targets: Targets | Floats, monitor: Monitor) -> Learned:
        del monitor  # scikit-learn reports no epochs
        X = np.asarray(X, np.float32 if self.form.trees or X.dtype == np.float16 else None)
        standardize = self.params.get("standardize") is True
        scaling = Scaling.from_rows(X, standardize=standardize, weights=self.weights_)
        options = {} if self.weights_ is None else {"sample_weight": self.weights_}
        estimator = self._estimator()
        with own_threads() as threads, one_openmp_thread(X.size), recorded() as said:
            if self.form.trees and "n_jobs" in estimator.get_params():
                estimator.set_params(n_jobs=threads)
            estimator.fit(scaling.applied(X) if standardize else X, targets, **options)
            model = self.form.convert(estimator, scaling)
            require_same(estimator, model, X)
        name = type(estimator).__name__
        unconverged = Notice(Code.NOT_CONVERGED, f"{name} did not converge")
        return model, tuple(notices_of(said, unconverged))

    def _estimator(self) -> Estimator:
        """Return the untrained estimator; only parameters with other values than the default are set."""
        kind = _class_of(self.spec.name)
        declared = _declared(kind)
        own = {name: as_object(self.params[name]) for name in declared if name in self.params}
        own = {name: value for name, value in own.items() if repr(value) != repr(declared[name])}
        weights = own.get("class_weight")
        if isinstance(weights, dict):
            own["class_weight"] = self._by_position(weights)
        if "random_state" in declared:
            own["random_state"] = self.seed
        estimator = kind(**own)
        if not self.form.numbers and not hasattr(estimator, "predict_proba"):
            raise TrainingError(
                f"{kind.__name__} gives no probabilities with these parameters; choose another loss, such as log_loss"
            )
        return estimator

    def _by_position(self, weights: Mapping[object, object]) -> dict[int, object]:
        """Return the weights of classes, given by name, by their positions."""
        strangers = [name for name in weights if name not in self.names_]
        if strangers:
            raise TrainingError(
                f"class_weight names {strangers[0]!r}, expected classes of the training rows: {', '.join(self.names_)}"
            )
        return {self.names_.index(str(name)): weight for name, weight in weights.items()}


def is_estimator(name: str) -> bool:
    """Whether a head's name stands for a scikit-learn classifier or regressor."""
    return name.startswith(PREFIX)


@cache
def estimator_head(name: str) -> type[EstimatorHead]:
    """Return the class of the head of this name; imports scikit-learn.

    Raises
    ------
    HeadError
        If scikit-learn has no such estimator, or it cannot be stored, or needs another estimator.
    """
    from sklearn.utils.validation import has_fit_parameter

    kind = _class_of(name)
    form = form_of(name)
    spec = HeadSpec(
        name=name,
        summary=f"scikit-learn's {kind.__name__}.",
        parameters=(*_parameters(kind, form), *(() if form.trees else (NO_STANDARDIZE,))),
        libraries=("scikit-learn",),
        weighted=has_fit_parameter(kind, "sample_weight"),
        withheld={**_WITHHELD, **form.withheld},
    )
    members = {"spec": spec, "model_class": form.model, "form": form}
    return type(kind.__name__, (EstimatorHead,), members | ({"number_model_class": form.model} if form.numbers else {}))


def form_of(name: str) -> Form:
    """Return how the estimator of a name is stored; it imports no scikit-learn unless there is no such form.

    Raises
    ------
    HeadError
        As `estimator_head`.
    """
    form = FORMS.get(name.removeprefix(PREFIX))
    if form is None:
        raise _refusal(name.removeprefix(PREFIX))
    return form


def stored_values(name: str, params: Mapping[str, object]) -> dict[str, Value]:
    """Return the parameters of a stored head after a check of their types; another scikit-learn may have trained it.

    Raises
    ------
    HeadError
        If no head has this name, or a value is of no such type.
    """
    form_of(name)
    values = {key: value for key, value in params.items() if isinstance(value, bool | int | float | str)}
    if len(values) < len(params):
        raise ParameterError(f"head {name!r}: a parameter is neither number, truth value nor text")
    return values


def _class_of(name: str) -> Any:  # noqa: ANN401 - scikit-learn has no types
    form_of(name)
    module, _, kind = name.removeprefix(PREFIX).rpartition(".")
    return getattr(import_module(f"sklearn.{module}"), kind)


@cache
def _declared(kind: Any) -> Mapping[str, Any]:  # noqa: ANN401 - scikit-learn has no types
    """Return the parameters of a class and their defaults."""
    return MappingProxyType(kind().get_params(deep=False))


def _parameters(kind: Any, form: Form) -> list[Parameter]:  # noqa: ANN401 - scikit-learn has no types
    """Return the parameters of a class, as it declares and describes them itself."""
    from sklearn.utils._param_validation import make_constraint

    found = []
    for name, default in _declared(kind).items():
        if name in _WITHHELD or name in form.withheld:
            continue
        declared = kind._parameter_constraints.get(name, "no_validation")
        constraints = [] if declared == "no_validation" else [make_constraint(each) for each in declared]
        shown = " or ".join(str(each) for each in constraints if not each.hidden) or "a value"
        literal = as_literal(default)
        found.append(
            Parameter(
                name,
                "literal",
                str(default) if literal is None else literal,
                _described(kind, name),
                accepts=tuple(each.is_satisfied_by for each in constraints),
                wanted=shown.replace("an instance of ", "").replace("'", ""),
            )
        )
    return found


def _described(kind: Any, name: str) -> str:  # noqa: ANN401 - scikit-learn has no types
    """Return the first sentence on a parameter in the documentation of its class."""
    text = inspect.getdoc(kind) or ""
    found = re.search(rf"^{name} : .*\n((?:\s+.*\n|\n)+)", text, re.MULTILINE)
    words = re.sub("[`*]", "", " ".join(found[1].split())) if found else f"See scikit-learn's {kind.__name__}."
    return f"{words.partition('. ')[0].rstrip('.:')}."


def _refusal(name: str) -> HeadError:
    """Return the error for a name that no form stores."""
    from sklearn.utils import all_estimators

    public = {
        f"{kind.__module__.split('._')[0].removeprefix('sklearn.')}.{short}": kind
        for short, kind in all_estimators(type_filter=["classifier", "regressor"])
    }
    able = f"those that can be heads: {', '.join(FORMS)}"
    if name not in public:
        meant = did_you_mean(name, list(public))
        return HeadError(f"scikit-learn has no classifier or regressor {name!r}{meant}; {able}")
    kind = public[name]
    needed = [each for each in inspect.signature(kind).parameters if each in {"estimator", "estimators"}]
    why = f"needs another estimator ({needed[0]}=)" if needed else "cannot be stored as plain arrays"
    return HeadError(f"scikit-learn's {name} {why}; {able}")
