"""The catalogue of heads: name -> declared parameters and where the code lives, imported on use. A row is data."""

import importlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from featurecache.errors import UnknownNameError
from heads.base import Head, Predictor
from heads.errors import ParameterError
from heads.parameters import HeadSpec, Parameter, Value

_SEEDS = 2**32  # what scikit-learn takes


_MOST = 10**9  # of whole numbers, which libraries take as 32 bits

_STANDARDIZE = Parameter(
    "standardize", "bool", default=True, help="Scale every feature to mean 0 and deviation 1, as measured in train."
)
_AS_THEY_ARE = Parameter("standardize", "bool", default=False, help=_STANDARDIZE.help)
_CLASS_WEIGHT = Parameter(
    "class_weight", "choice", "none", "balanced: rare classes weigh more.", choices=("none", "balanced")
)
_MAX_ITER = Parameter("max_iter", "int", 1000, "Most iterations of the solver.", low=1, high=_MOST)

# gradient descent; defaults of the optimizers are Keras's
_DESCENT = (
    Parameter("lr", "float", 0.001, "Learning rate: the optimizer's step.", above=0),
    Parameter("epochs", "int", 10, "Passes over the training rows.", low=1, high=_MOST),
    Parameter("batch_size", "int", 64, "Rows of one step.", low=1, high=_MOST),
    Parameter("optimizer", "choice", "adam", "Rule of the steps.", choices=("sgd", "rmsprop", "adam", "adamw")),
    Parameter(
        "momentum", "float", 0.0, "Part of the last step that is taken again, by sgd and rmsprop.", low=0, below=1
    ),
    Parameter("weight_decay", "float", 0.004, "Part of the weights that adamw takes away, times lr.", low=0),
    Parameter(
        "init",
        "choice",
        "glorot_uniform",
        "What the weights start from; normal:S is a normal distribution of deviation S.",
        choices=("glorot_uniform", "glorot_normal", "he_normal", "lecun_normal", "zeros", "normal:0.01", "normal:1"),
    ),
    _STANDARDIZE,
    Parameter("l2", "float", 0.0, "Penalty on the sum of the squared weights.", low=0),
    _CLASS_WEIGHT,
    Parameter(
        "patience", "int", 0, "Stop after so many epochs without a lower valid loss; 0: never.", low=0, high=_MOST
    ),
    Parameter(
        "keep", "choice", "last", "The epoch whose weights are kept, best by valid loss.", choices=("last", "best")
    ),
)
_LR_GRID = tuple(10.0**exponent for exponent in (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5))
_C_GRID = tuple(float(C) for C in 10 ** np.linspace(-6, 5, 45))  # that of DINOv2's and VISSL's linear evaluations
_ALPHA_GRID = tuple(float(1 / C) for C in reversed(_C_GRID))

_SPECS = (
    HeadSpec(
        name="softmax",
        summary="One dense layer with softmax, trained by gradient descent, epoch by epoch, as Keras does it.",
        parameters=_DESCENT,
        head="heads.dense:SoftmaxHead",
        predictor="heads.affine:AffinePredictor",
        shared=("lr", "l2"),
        fixed=("init", "standardize"),
        grid={"lr": _LR_GRID, "l2": (0.0, 0.001, 0.01, 0.1)},
    ),
    HeadSpec(
        name="mlp",
        summary="Dense layers with an activation between them and softmax at the end, trained like softmax.",
        parameters=(
            Parameter("hidden", "sizes", "256", "Units of each hidden layer, separated by commas."),
            Parameter(
                "activation",
                "choice",
                "relu",
                "What follows each hidden layer.",
                choices=("relu", "tanh", "sigmoid", "linear"),
            ),
            Parameter("dropout", "float", 0.0, "Part of the hidden units left out of each step.", low=0, below=1),
            *_DESCENT,
        ),
        head="heads.dense:MLPHead",
        predictor="heads.layers:LayersPredictor",
        shared=("lr", "l2"),
        fixed=("hidden", "activation", "init", "standardize"),
        grid={"lr": (0.0001, 0.0003, 0.001, 0.003), "l2": (0.0, 0.001)},
    ),
    HeadSpec(
        name="logreg",
        summary="Logistic regression, solved to convergence by scikit-learn (lbfgs).",
        parameters=(
            Parameter("C", "float", 1.0, "Inverse of the strength of the l2 penalty.", above=0),
            _MAX_ITER,
            Parameter("tol", "float", 1e-4, "Gradient at which the solver stops.", above=0),
            _CLASS_WEIGHT,
            _STANDARDIZE,
        ),
        head="heads.linear:LogisticHead",
        predictor="heads.affine:AffinePredictor",
        libraries=("scikit-learn",),
        grid={"C": _C_GRID},
    ),
    HeadSpec(
        name="svm",
        summary="Linear support vector machine (squared hinge), each class against the rest; Platt's probabilities.",
        parameters=(
            Parameter("C", "float", 1.0, "Inverse of the strength of the l2 penalty.", above=0),
            _MAX_ITER,
            Parameter("tol", "float", 1e-4, "Gradient, relative to the first one, at which the solver stops.", above=0),
            _CLASS_WEIGHT,
            _STANDARDIZE,
        ),
        head="heads.margin:SVMHead",
        predictor="heads.affine:OneVsRestPredictor",
        libraries=("scikit-learn", "scipy"),
        shared=("C",),
        grid={"C": _C_GRID},
    ),
    HeadSpec(
        name="ridge",
        summary="Least squares on the classes with an l2 penalty, in closed form; Platt's probabilities.",
        parameters=(
            Parameter("alpha", "float", 1.0, "Strength of the l2 penalty.", above=0),
            _CLASS_WEIGHT,
            _STANDARDIZE,
        ),
        head="heads.margin:RidgeHead",
        predictor="heads.affine:OneVsRestPredictor",
        libraries=("scipy",),
        shared=("alpha",),
        grid={"alpha": _ALPHA_GRID},
    ),
    HeadSpec(
        name="sgd",
        summary="Logistic regression, each class against the rest, by scikit-learn's stochastic gradient descent.",
        parameters=(
            Parameter("alpha", "float", 1e-4, "Strength of the penalty.", above=0),
            Parameter("penalty", "choice", "l2", "What is penalised.", choices=("l2", "l1", "elasticnet")),
            Parameter("max_iter", "int", 1000, "Most passes over the rows.", low=1, high=_MOST),
            Parameter("tol", "float", 1e-3, "Fall of the loss in a pass below which it stops.", above=0),
            Parameter("average", "bool", default=False, help="Take the mean of the weights over all steps."),
            _CLASS_WEIGHT,
            _STANDARDIZE,
        ),
        head="heads.linear:SGDHead",
        predictor="heads.affine:OneVsRestPredictor",
        libraries=("scikit-learn",),
        grid={"alpha": tuple(10.0**exponent for exponent in range(-6, 2))},
    ),
    HeadSpec(
        name="knn",
        summary="The classes of the nearest training rows, which it holds all of.",
        parameters=(
            Parameter("n_neighbors", "int", 10, "How many rows are asked.", low=1, high=_MOST),
            Parameter("metric", "choice", "cosine", "What is near.", choices=("cosine", "euclidean")),
            Parameter(
                "weights", "choice", "uniform", "distance: nearer rows count more.", choices=("uniform", "distance")
            ),
            _CLASS_WEIGHT,
            _AS_THEY_ARE,
        ),
        head="heads.neighbors:NeighborsHead",
        predictor="heads.neighbors:NeighborsPredictor",
        shared=("n_neighbors",),
        measured_rows=1000,
        grid={"n_neighbors": (1, 3, 5, 10, 20, 50), "metric": ("cosine", "euclidean")},
    ),
    HeadSpec(
        name="centroid",
        summary="The nearest mean of a class, with one variance for all features and classes.",
        parameters=(_CLASS_WEIGHT, _STANDARDIZE),
        head="heads.discriminant:CentroidHead",
        predictor="heads.affine:AffinePredictor",
    ),
    HeadSpec(
        name="lda",
        summary="Linear discriminant analysis: normal distributions with one shrunk covariance.",
        parameters=(
            Parameter(
                "shrinkage",
                "float",
                "auto",
                "How far the covariance goes towards equal variances; auto: Ledoit and Wolf's formula.",
                low=0,
                high=1,
                choices=("auto",),
            ),
            _CLASS_WEIGHT,
            _STANDARDIZE,
        ),
        head="heads.discriminant:LDAHead",
        predictor="heads.affine:AffinePredictor",
        libraries=("scipy",),
        shared=("shrinkage",),
        grid={"shrinkage": ("auto", 0.001, 0.01, 0.1, 0.3, 0.5, 0.9)},
    ),
    HeadSpec(
        name="naive_bayes",
        summary="Normal distributions, each feature by itself.",
        parameters=(
            Parameter(
                "var_smoothing",
                "float",
                1e-9,
                "Part of the largest variance that is added to all.",
                low=1e-15,
            ),
            _CLASS_WEIGHT,
            _STANDARDIZE,
        ),
        head="heads.discriminant:NaiveBayesHead",
        predictor="heads.discriminant:GaussianPredictor",
        shared=("var_smoothing",),
        grid={"var_smoothing": tuple(10.0**exponent for exponent in range(-9, 2))},
    ),
    HeadSpec(
        name="majority",
        summary="The classes' shares of the training rows, whatever the image: the floor.",
        parameters=(),
        head="heads.baseline:MajorityHead",
        predictor="heads.affine:AffinePredictor",
    ),
    HeadSpec(
        name="imagenet_map",
        summary="Each ImageNet class speaks for one class: probabilities of the network's own output are added up.",
        parameters=(
            Parameter(
                "groups",
                "choice",
                "learned",
                "learned: for the class that it is highest for in train; cats_dogs: by its WordNet name.",
                choices=("learned", "cats_dogs"),
            ),
            _CLASS_WEIGHT,
        ),
        head="heads.baseline:ImageNetMapHead",
        predictor="heads.baseline:MapPredictor",
        grid={"groups": ("learned",)},
        taps=("predictions",),
    ),
)

HEADS: Mapping[str, HeadSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})


def head_spec(name: str) -> HeadSpec:
    """Return the catalogue's row of this name.

    Raises
    ------
    UnknownNameError
        If there is no such head.
    """
    if name not in HEADS:
        raise UnknownNameError("head", name, HEADS)
    return HEADS[name]


def make_head(name: str, *, seed: int = 0, **params: object) -> Head:
    """Make an untrained head.

    Parameters
    ----------
    name
        Its name in the catalogue, `HEADS`.
    seed
        What its random choices follow from.
    **params
        Its parameters; those not given have the catalogue's defaults.

    Raises
    ------
    UnknownNameError
        If there is no such head.
    ParameterError
        If it has no such parameter, or the parameter cannot take its value.

    Examples
    --------
    >>> make_head("logreg", C=0.1)
    LogisticHead(C=0.1, max_iter=1000, tol=0.0001, class_weight='none', standardize=True, seed=0)
    """
    spec = head_spec(name)
    if not 0 <= seed < _SEEDS:
        raise ParameterError(f"the seed is {seed}, expected a whole number from 0 to {_SEEDS - 1}")
    head: Head = _imported(spec.head)(seed=seed, **spec.values(params))
    return head


def predictor_class(name: str) -> type[Predictor]:
    """Return the class that rebuilds what a head of this name has learned, without the library that learned it."""
    predictor: type[Predictor] = _imported(head_spec(name).predictor)
    return predictor


def parse_parameters(spec: HeadSpec, texts: Iterable[str]) -> dict[str, Value]:
    """Read parameters that were given as ``key=value``.

    Raises
    ------
    ParameterError
        If a text has no ``=``, a parameter does not exist, is given twice, or cannot take its value; all at once.

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


def _imported(place: str) -> Any:  # noqa: ANN401 - whatever lives there
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
