"""Heads as ONNX nodes: from features to probabilities and the decision, computed in float64 as `predict` does.

Each kind of fitted model has one rule here, in ONNX's plain operators, so that any runtime of ONNX has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from heads.calibration import SMALLEST, Isotonic, Temperature
from heads.catalog import HEADS, model_class
from heads.each_label import EachLabelModel, learned_models
from heads.errors import HeadError
from heads.families.affine import AffineModel, AffineNumberModel, OneVsRestModel
from heads.families.baseline import MapModel
from heads.families.discriminant import GaussianModel
from heads.families.keras_layers import SELU_ALPHA, SELU_SCALE, LayerStack
from heads.families.layers import LayersModel, LayersNumberModel
from heads.families.neighbors import RESOLUTION, ROUNDING, NeighborsModel, NeighborsNumberModel
from heads.families.trees import BoostedTreesModel, ForestModel, NumberTreesModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeAlias

    from numpy.typing import NDArray

    from heads.artifact import TrainedHead
    from heads.calibration import ProbabilityMap
    from heads.exporting.onnx_graph import Graph
    from heads.rows import Floats

    Rule: TypeAlias = Callable[[Graph, Any, str], str]

_TWO_CLASSES = 2


def require_rule(head: TrainedHead) -> None:
    """Raise `HeadError` if there is no rule for the model of a head, which then comes from another package."""
    if not all(type(each) in _RULES for each in learned_models(head.model)):
        names = [name for name in HEADS if model_class(name) in _RULES]
        raise HeadError(f"the head {head.name} cannot be written as ONNX; heads that can: {', '.join(names)}")


def add_head(graph: Graph, head: TrainedHead, features: str) -> dict[str, type[np.generic]]:
    """Add a head to a graph; return the names of its outputs and their types.

    Parameters
    ----------
    features
        The name of the features, shape (n, d), float32.

    Returns
    -------
    dict
        ``probabilities``, shape (n, k), and ``class``, the index of the most probable class, shape (n,); of several
        labels ``probabilities`` and ``labels``, shape (n, k); of numbers ``number``, shape (n,), float64, since float32
        would round large ones, such as times in seconds.
    """
    found = _of_model(graph, head.model, graph.cast(features, np.float64))
    if head.target == "number":
        graph.output(graph.add("Squeeze", found, np.array([1])), "number")
        return {"number": np.float64}
    if head.target == "labels":
        graph.output(graph.cast(found, np.float32), "probabilities")
        graph.output(graph.add("GreaterOrEqual", found, np.array(head.thresholds)), "labels")
        return {"probabilities": np.float32, "labels": np.bool_}
    probabilities, decisive = found, found
    if head.calibration is not None:
        probabilities = _calibrated(graph, head.calibration.map, found, len(head.trained_classes))
        if not isinstance(head.calibration.map, Temperature):  # a temperature does not change the order
            decisive = probabilities
    places = (list(head.trained_classes), np.zeros(len(head.classes)))
    graph.output(graph.cast(_placed(graph, probabilities, *places), np.float32), "probabilities")
    graph.output(graph.add("ArgMax", _placed(graph, decisive, *places), axis=1, keepdims=0), "class")
    return {"probabilities": np.float32, "class": np.int64}


def _of_model(graph: Graph, model: Any, x: str) -> str:  # noqa: ANN401 - a fitted model
    """Return what a model gives, shape (n, k), of features (n, d), float64."""
    return _each_label(graph, model, x) if isinstance(model, EachLabelModel) else _RULES[type(model)](graph, model, x)


def _each_label(graph: Graph, model: EachLabelModel, x: str) -> str:
    learned = [number for number, each in enumerate(model.models) if not isinstance(each, bool)]
    both = [_of_model(graph, each, x) for each in learned_models(model)]
    second = [graph.add("Gather", each, np.array([1]), axis=1) for each in both]
    agreed = np.array([float(each) if isinstance(each, bool) else 0.0 for each in model.models])
    return _placed(graph, graph.add("Concat", *second, axis=1), learned, agreed)


def _placed(graph: Graph, values: str, columns: Sequence[int], others: Floats) -> str:
    """Return values (n, m) in these columns of (n, k), and in the other ones, row by row, ``others``, shape (k,)."""
    if list(columns) == list(range(len(others))):
        return values
    return graph.add("Add", graph.add("MatMul", values, np.eye(len(others))[list(columns)]), others)


# Models


def _scaled(graph: Graph, x: str, mean: Floats, scale: Floats) -> str:
    if mean.any():
        x = graph.add("Sub", x, mean)
    return x if (scale == 1).all() else graph.add("Div", x, scale)


def _scores(graph: Graph, model: AffineModel | OneVsRestModel | AffineNumberModel, x: str) -> str:
    weights = model.coef / model.scale
    return _dense(graph, x, weights.T, model.intercept - weights @ model.mean)


def _dense(graph: Graph, x: str, kernel: NDArray[Any], bias: NDArray[Any]) -> str:
    return graph.add("Add", graph.add("MatMul", x, kernel), bias)


def _softmax(graph: Graph, scores: str) -> str:
    return graph.add("Softmax", scores, axis=-1)


def _affine(graph: Graph, model: AffineModel, x: str) -> str:
    return _softmax(graph, _scores(graph, model, x))


def _one_vs_rest(graph: Graph, model: OneVsRestModel, x: str) -> str:
    scores = _scores(graph, model, x)
    return _softmax(graph, graph.add("Neg", _softplus(graph, graph.add("Neg", scores))))


def _softplus(graph: Graph, x: str) -> str:
    """Return log(1 + exp(x)); ONNX's own operator is rare in float64."""
    small = graph.add("Exp", graph.add("Neg", graph.add("Abs", x)))
    return graph.add("Add", graph.add("Max", x, 0.0), graph.add("Log", graph.add("Add", small, 1.0)))


def _layer_scores(graph: Graph, model: LayersModel | LayersNumberModel, x: str) -> str:
    x = _scaled(graph, x, model.scaling.mean, model.scaling.scale)
    for layer in model.layers[:-1]:
        x = _ACTIVATIONS[model.activation](graph, _dense(graph, x, layer.kernel, layer.bias))
    return _dense(graph, x, model.layers[-1].kernel, model.layers[-1].bias)


def _layers(graph: Graph, model: LayersModel, x: str) -> str:
    return _softmax(graph, _layer_scores(graph, model, x))


def _expm1(graph: Graph, x: str) -> str:
    """Return exp(x) - 1 below 0, and 0 above."""
    return graph.add("Sub", graph.add("Exp", graph.add("Min", x, 0.0)), 1.0)


def _leaky(graph: Graph, x: str, slope: float) -> str:
    return graph.add("Add", graph.add("Max", x, 0.0), graph.add("Mul", graph.add("Min", x, 0.0), slope))


def _gelu(graph: Graph, x: str) -> str:
    scaled = graph.cast(graph.add("Div", x, float(np.sqrt(2))), np.float32)  # runtimes have Erf in float32
    one_and_erf = graph.add("Add", graph.cast(graph.add("Erf", scaled), np.float64), 1.0)
    return graph.add("Mul", graph.add("Mul", x, 0.5), one_and_erf)


def _selu(graph: Graph, x: str) -> str:
    negative = graph.add("Mul", _expm1(graph, x), SELU_ALPHA)
    return graph.add("Mul", graph.add("Add", graph.add("Max", x, 0.0), negative), SELU_SCALE)


_ACTIVATIONS: Mapping[str, Callable[[Graph, str], str]] = {
    "linear": lambda graph, x: x,
    "relu": lambda graph, x: graph.add("Max", x, 0.0),
    "relu6": lambda graph, x: graph.add("Clip", x, 0.0, 6.0),
    "leaky_relu": lambda graph, x: _leaky(graph, x, 0.2),
    "elu": lambda graph, x: graph.add("Add", graph.add("Max", x, 0.0), _expm1(graph, x)),
    "selu": _selu,
    "gelu": _gelu,
    "silu": lambda graph, x: graph.add("Mul", x, graph.add("Sigmoid", x)),
    "mish": lambda graph, x: graph.add("Mul", x, graph.add("Tanh", _softplus(graph, x))),
    "softplus": _softplus,
    "softsign": lambda graph, x: graph.add("Div", x, graph.add("Add", graph.add("Abs", x), 1.0)),
    "tanh": lambda graph, x: graph.add("Tanh", x),
    "sigmoid": lambda graph, x: graph.add("Sigmoid", x),
    "hard_sigmoid": lambda graph, x: graph.add("Clip", graph.add("Add", graph.add("Div", x, 6.0), 0.5), 0.0, 1.0),
    "softmax": _softmax,
}


def _batch_normalization(graph: Graph, x: str, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> str:
    scale = arrays["gamma"] / np.sqrt(arrays["moving_variance"] + settings["epsilon"])
    return graph.add("Add", graph.add("Mul", graph.add("Sub", x, arrays["moving_mean"]), scale), arrays["beta"])


def _layer_normalization(graph: Graph, x: str, settings: Mapping[str, Any], arrays: Mapping[str, Floats]) -> str:
    deviations = graph.add("Sub", x, graph.add("ReduceMean", x, axes=(1,)))
    variance = graph.add("ReduceMean", graph.add("Mul", deviations, deviations), axes=(1,))
    deviation = graph.add("Sqrt", graph.add("Add", variance, settings["epsilon"]))
    normal = graph.add("Mul", graph.add("Div", deviations, deviation), arrays["gamma"])
    return graph.add("Add", normal, arrays["beta"])


_KINDS: Mapping[str, Callable[[Graph, str, Mapping[str, Any], Mapping[str, Floats]], str]] = {
    "Dense": lambda graph, x, settings, arrays: _ACTIVATIONS[settings["activation"]](
        graph, _dense(graph, x, arrays["kernel"], arrays["bias"])
    ),
    "Activation": lambda graph, x, settings, arrays: _ACTIVATIONS[settings["activation"]](graph, x),
    "LeakyReLU": lambda graph, x, settings, arrays: _leaky(graph, x, settings["negative_slope"]),
    "BatchNormalization": _batch_normalization,
    "LayerNormalization": _layer_normalization,
}  # the others act in training alone


def _stack(graph: Graph, model: LayerStack, x: str) -> str:
    x = _scaled(graph, x, model.scaling.mean, model.scaling.scale)
    for layer in model.layers:
        if layer.kind in _KINDS:
            x = _KINDS[layer.kind](graph, x, layer.settings, layer.arrays)
    return _softmax(graph, x)


def _gaussian(graph: Graph, model: GaussianModel, x: str) -> str:
    differences = graph.add("Sub", graph.add("Unsqueeze", x, np.array([1])), model.means[np.newaxis])
    terms = graph.add("Mul", graph.add("Mul", differences, differences), -0.5 / model.variances)
    # OpenVINO 2026.4 adds wrongly to what ReduceSum gives without keeping the dimension
    scores = graph.add("Squeeze", graph.add("ReduceSum", terms, np.array([2])), np.array([2]))
    return _softmax(graph, graph.add("Add", scores, model.log_priors - np.log(model.variances).sum(axis=1) / 2))


def _map(graph: Graph, model: MapModel, x: str) -> str:
    return _shares(graph, graph.add("MatMul", x, model.groups.T), len(model.groups))


def _shares(graph: Graph, values: str, k: int) -> str:
    """Return values (n, k) divided by the sum of their row; equal ones where it is 0."""
    total = graph.add("ReduceSum", values, np.array([1]))
    return graph.add("Where", graph.add("Greater", total, 0.0), graph.add("Div", values, total), np.full((1, k), 1 / k))


def _repeated(graph: Graph, row: NDArray[Any], x: str) -> str:
    """Return a row (m,) for each row of x, shape (n, m)."""
    count = graph.add("Gather", graph.add("Shape", x), np.array([0]))
    return graph.add("Expand", row[np.newaxis], graph.add("Concat", count, np.array([len(row)]), axis=0))


def _summed(graph: Graph, start: str, columns: str, values: str) -> str:
    """Return rows (n, k) to which values (n, m) are added, each in its column (n, m)."""
    return graph.add("ScatterElements", start, columns, values, axis=1, reduction="add")


def _tree_sums(graph: Graph, model: ForestModel | BoostedTreesModel | NumberTreesModel, x: str) -> str:
    """Return what trees give. All rows go down all trees together; who has reached a leaf stays there."""
    nodes, leaves = len(model.feature), len(model.leaf_start) - 1
    stay = np.arange(nodes, nodes + leaves)

    def numbered(pointers: NDArray[Any]) -> NDArray[Any]:
        return np.where(pointers >= 0, pointers, nodes - 1 - pointers)

    left, right = (np.concatenate([numbered(side), stay]).astype(np.int32) for side in model.children.T)
    feature = np.concatenate([model.feature, np.zeros(leaves, np.int32)])
    threshold = np.concatenate([model.threshold, np.full(leaves, np.inf, np.float32)])
    values, places = graph.cast(x, np.float32), _repeated(graph, numbered(model.roots).astype(np.int32), x)
    for _ in range(model.depth):
        tested = graph.add("GatherElements", values, graph.add("Gather", feature, places), axis=1)
        above = graph.add("Greater", tested, graph.add("Gather", threshold, places))
        places = graph.add("Where", above, graph.add("Gather", right, places), graph.add("Gather", left, places))
    counts = np.diff(model.leaf_start)
    given = np.arange(counts.max()) < counts[:, np.newaxis]  # leaves give some classes something, and nothing to others
    columns, amounts = np.zeros(given.shape, np.int32), np.zeros(given.shape)
    columns[given], amounts[given] = model.leaf_class, model.leaf_value
    reached = graph.add("Sub", places, np.array(nodes, np.int32))
    of_row = np.array([0, -1])
    entries = (graph.add("Reshape", graph.add("Gather", table, reached), of_row) for table in (columns, amounts))
    return _summed(graph, _repeated(graph, model.baseline, x), *entries)


def _forest(graph: Graph, model: ForestModel, x: str) -> str:
    sums = _tree_sums(graph, model, x)
    return graph.add("Div", sums, graph.add("ReduceSum", sums, np.array([1])))


def _boosted(graph: Graph, model: BoostedTreesModel, x: str) -> str:
    return _softmax(graph, _tree_sums(graph, model, x))


def _nearest(graph: Graph, model: NeighborsModel, x: str) -> tuple[str, str]:
    """Return how much the vote of each of the nearest rows counts, by distance, and the rows' positions, (n, m)."""
    own = model.squares[np.newaxis]
    x = _scaled(graph, x, model.mean, model.scale)
    products = graph.add("MatMul", x, graph.cast(model.rows.T, np.float64))  # a file with float32 is half as large
    squares = graph.add("ReduceSum", graph.add("Mul", x, x), np.array([1]))
    whole: str | Floats
    if model.metric == "cosine":
        lengths, whole = graph.add("Mul", graph.add("Sqrt", squares), np.sqrt(own)), np.ones((1, 1))
        cosine = graph.add("Where", graph.add("Greater", lengths, 0.0), graph.add("Div", products, lengths), 0.0)
        distances = graph.add("Sub", whole, cosine)
    else:
        whole = graph.add("Add", squares, own)
        distances = graph.add("Sub", whole, graph.add("Mul", products, 2.0))
    none = graph.add("Less", distances, graph.add("Mul", whole, RESOLUTION))
    distances = graph.add("Where", none, 0.0, distances)
    split = graph.add("Mul", distances, ROUNDING)
    rounded = graph.add("Sub", split, graph.add("Sub", split, distances))
    count = min(model.n_neighbors, len(model.rows))
    nearest, positions = graph.add_with_outputs(2, "TopK", rounded, np.array([count]), largest=0)
    if model.weights == "uniform":
        return _repeated(graph, np.ones(count), x), positions
    if model.metric == "euclidean":
        nearest = graph.add("Sqrt", nearest)
    hits = graph.cast(graph.add("Equal", nearest, 0.0), np.float64)
    any_hit = graph.add("Greater", graph.add("ReduceMax", hits, axes=(1,)), 0.0)
    return graph.add("Where", any_hit, hits, graph.add("Div", 1.0, nearest)), positions


def _neighbors(graph: Graph, model: NeighborsModel, x: str) -> str:
    weights, positions = _nearest(graph, model, x)
    votes = graph.add("Mul", weights, graph.add("Gather", model.votes[model.targets], positions))
    none = _repeated(graph, np.zeros(len(model.votes)), x)
    sums = _summed(graph, none, graph.add("Gather", model.targets, positions), votes)
    return graph.add("Div", sums, graph.add("ReduceSum", sums, np.array([1])))


def _neighbors_number(graph: Graph, model: NeighborsNumberModel, x: str) -> str:
    weights, positions = _nearest(graph, model.neighbors, x)
    numbers = graph.add("Mul", weights, graph.add("Gather", model.numbers, positions))
    sums, total = (graph.add("ReduceSum", each, np.array([1])) for each in (numbers, weights))
    return graph.add("Div", sums, total)


_RULES: dict[type[Any], Rule] = {
    AffineModel: _affine,
    OneVsRestModel: _one_vs_rest,
    AffineNumberModel: _scores,
    LayersModel: _layers,
    LayersNumberModel: _layer_scores,
    LayerStack: _stack,
    GaussianModel: _gaussian,
    MapModel: _map,
    ForestModel: _forest,
    BoostedTreesModel: _boosted,
    NumberTreesModel: _tree_sums,
    NeighborsModel: _neighbors,
    NeighborsNumberModel: _neighbors_number,
}


# Calibration


def _calibrated(graph: Graph, calibration: ProbabilityMap, probabilities: str, k: int) -> str:
    if isinstance(calibration, Temperature):
        return _at_temperature(graph, calibration.temperature, probabilities)
    if isinstance(calibration, Isotonic):
        return _isotonic(graph, calibration, probabilities, k)
    raise HeadError(f"a calibration by {type(calibration).__name__} cannot be written as ONNX")


def _at_temperature(graph: Graph, temperature: float, probabilities: str) -> str:
    zero = graph.add("LessOrEqual", probabilities, 0.0)
    positive = graph.add("ReduceMin", graph.add("Where", zero, SMALLEST, probabilities), axes=(1,))
    logs = graph.add("Log", graph.add("Max", probabilities, graph.add("Min", positive, SMALLEST)))
    return _softmax(graph, graph.add("Div", logs, temperature))


def _isotonic(graph: Graph, calibration: Isotonic, probabilities: str, k: int) -> str:
    columns = []
    for column, (x, y) in calibration.curves.items():
        value = graph.add("Max", graph.add("Gather", probabilities, np.array([column]), axis=1), float(x[0]))
        reached = graph.cast(graph.add("GreaterOrEqual", value, x[np.newaxis]), np.int64)
        point = graph.add("Sub", graph.add("ReduceSum", reached, np.array([1])), np.array(1))  # the last one reached
        lengths = np.diff(x, append=x[-1])
        slopes = np.divide(np.diff(y, append=y[-1]), lengths, out=np.zeros_like(x), where=lengths > 0)
        start, slope, low = (graph.add("Gather", table, point) for table in (x, slopes, y))
        columns.append(graph.add("Add", graph.add("Mul", slope, graph.add("Sub", value, start)), low))
    if k == _TWO_CLASSES:
        return graph.add("Concat", graph.add("Sub", 1.0, columns[0]), columns[0], axis=1)
    return _shares(graph, graph.add("Concat", *columns, axis=1), k)
