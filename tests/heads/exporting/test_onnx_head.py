"""Heads as ONNX and OpenVINO: ONNX Runtime and OpenVINO say of features what the head says, and decide alike."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from featurecache.backbones.openvino_network import core
from heads import HEADS, head_targets, train
from heads.errors import HeadError, MismatchError
from heads.exporting import onnx_model, openvino_model
from heads.exporting.onnx_graph import Graph, load_onnx, new_model
from heads.exporting.onnx_head import require_rule
from heads.exporting.onnx_model import head_alone, network_and_head
from heads.exporting.openvino_model import require_openvino
from heads.families.affine import AffineModel
from heads.families.keras_layers import ACTIVATIONS, LayerStack, StoredLayer
from heads.rows import Scaling

pytestmark = pytest.mark.slow

NAMES = ("ant", "bee", "cow", "dog", "elk")
D = 6
QUICK = {
    "softmax": {"epochs": 2},
    "mlp": {"epochs": 2, "hidden": "7,4"},
    "extra_trees": {"n_estimators": 9},
    "hist_gradient_boosting": {"max_iter": 6, "features": 4},
}
VARIANTS = [
    *((name, QUICK.get(name, {})) for name in HEADS),
    *(("mlp", {"epochs": 2, "hidden": "5", "activation": each}) for each in ("tanh", "sigmoid", "linear")),
    ("knn", {"n_neighbors": 5, "metric": "euclidean", "weights": "distance", "class_weight": "balanced"}),
    ("knn", {"n_neighbors": 500, "standardize": True, "weights": "distance"}),
    ("extra_trees", {"n_estimators": 4, "max_depth": 2}),
    ("sklearn:tree.DecisionTreeClassifier", {"max_depth": 3}),
    ("sklearn:linear_model.SGDClassifier", {"loss": "log_loss"}),
]
NUMBERS = [
    *((name, QUICK.get(name, {})) for name in HEADS if "number" in head_targets(name)),
    ("knn", {"weights": "distance", "metric": "euclidean"}),
    ("sklearn:ensemble.RandomForestRegressor", {"n_estimators": 5}),
    ("sklearn:linear_model.Ridge", {}),
]
# a head for each rule that OpenVINO has, which computes in float32
OPENVINO = {"softmax", "mlp", "svm", "naive_bayes", "extra_trees", "hist_gradient_boosting", "imagenet_map"}
LABELS = ("softmax", "svm", "naive_bayes", "extra_trees", "hist_gradient_boosting")
CLOSE = 1e-6  # the first two probabilities: in float32 either may be the larger one


@pytest.fixture(scope="module", params=[2, 3], ids=["two classes", "three classes"])
def rows(request, blobs):
    """Training rows and others, some of both the same, of classes that are not all there are."""
    k = request.param
    X, y = blobs(110, D, k, spread=3.0)
    X = np.abs(X)  # some heads take probabilities alone
    return SimpleNamespace(X=X[:80], y=np.array([0, 2, 4])[y[:80]], new=X[70:])


@pytest.fixture(scope="module")
def cache(rows, make_cache, make_features):
    sets = [make_features(rows.X, rows.y, classes=NAMES, tap=tap) for tap in ("fc2", "predictions")]
    return make_cache(*sets)


def onnx_says(head, X):
    """Return what ONNX Runtime says of rows, by the names of outputs."""
    return model_says(head_alone(head), X)


def model_says(model, X):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: X}), strict=True))


def openvino_says(head, X):
    """Return the same of OpenVINO."""
    require_openvino(head)
    model = core().read_model(head_alone(head).SerializeToString(), b"")
    found = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([X])
    return {output.any_name: found[output.any_name] for output in model.outputs}


def assert_same(head, X, says=onnx_says):
    expected, found = head.predict_proba(X), says(head, X)
    np.testing.assert_allclose(found["probabilities"], expected, rtol=0, atol=1e-5)
    decided = expected.argmax(axis=1)
    if says is openvino_says:
        first, second = np.sort(expected, axis=1)[:, :-3:-1].T
        decided = np.where(first - second > CLOSE, decided, found["class"])
    assert found["class"].tolist() == decided.tolist()
    assert {name: value.dtype for name, value in found.items()} == {"probabilities": np.float32, "class": np.int64}


def tap_of(name):
    return "predictions" if name == "imagenet_map" else "fc2"


@pytest.mark.parametrize(("name", "params"), VARIANTS, ids=str)
def test_onnx_says_of_features_what_the_head_says(rows, cache, name, params):
    head = train(cache, name, tap=tap_of(name), params=params, holdout=0)
    assert_same(head, rows.new)
    assert_same(head, rows.new[:1])


@pytest.mark.parametrize("name", sorted(OPENVINO))
def test_openvino_says_of_features_what_the_head_says(rows, cache, name):
    assert_same(train(cache, name, tap=tap_of(name), params=QUICK.get(name), holdout=0), rows.new, openvino_says)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
@pytest.mark.parametrize("name", ["logreg", "knn", "extra_trees", "svm"])
@pytest.mark.parametrize("k", [2, 3])
def test_a_calibration_is_part_of_the_model(blobs, make_cache, make_features, name, method, k):
    X, y = blobs(200, D, k, spread=4.0)
    classes, splits = ("never", *NAMES[:k]), ["train", "valid", "valid", "valid", "test"] * 40
    rows = make_features(X, y + 1, classes=classes, splits=splits)
    head = train(make_cache(rows), name, params=QUICK.get(name), calibrate=method)
    new = X[4::5]
    assert np.abs(head.predict_proba(new) - head.uncalibrated.predict_proba(new)).max() > 0.01
    assert_same(head, new)


@pytest.fixture
def others(blobs):
    """Features and three scores of each row; the first two rows are the same."""
    X, _ = blobs(120, D, 2, spread=3.0)
    X[1] = X[0]
    return X, X[:, :3] - X[:, 3:] + np.random.default_rng(0).standard_normal((len(X), 3))


@pytest.mark.parametrize(
    ("says", "name"),
    [
        *((onnx_says, name) for name in (*LABELS, "knn")),
        *((openvino_says, name) for name in LABELS),
    ],
)
def test_several_labels_with_their_thresholds(others, make_cache, make_features, name, says):
    X, scores = others
    has = np.column_stack([scores > 0.5, np.zeros(len(X)), np.ones(len(X))])  # no row has d, all have e
    texts = ["|".join(np.array(NAMES)[row.astype(bool)]) for row in has]
    classes = tuple(sorted(set(texts)))
    splits = ["valid" if row % 3 == 2 else "train" for row in range(len(X))]
    rows = make_features(X, [classes.index(text) for text in texts], classes=classes, splits=splits)
    head = train(make_cache(rows), name, params=QUICK.get(name), target="labels")
    probabilities, found = head.predict_proba(X), says(head, X)
    assert sorted(found) == ["labels", "probabilities"]
    np.testing.assert_allclose(found["probabilities"], probabilities, rtol=0, atol=1e-5)
    sure = np.abs(probabilities - head.thresholds) > (CLOSE if says is openvino_says else 0)
    assert sure.mean() > 0.9
    assert (found["labels"] == head.predict_labels(X))[sure].all()
    assert 0 < found["labels"].mean() < 1


@pytest.mark.parametrize(("name", "params"), NUMBERS, ids=str)
def test_numbers(others, make_cache, make_features, name, params):
    X, scores = others
    texts = [repr(each) for each in scores[:, 0].tolist()]
    classes = tuple(sorted(set(texts)))
    rows = make_features(X, [classes.index(text) for text in texts], classes=classes)
    head = train(make_cache(rows), name, params=params, target="number", holdout=0)
    expected, found = head.predict_numbers(X), onnx_says(head, X)
    assert [(key, value.dtype) for key, value in found.items()] == [("number", np.float64)]
    np.testing.assert_allclose(found["number"], expected, rtol=1e-6, atol=1e-6)
    if name not in {"knn", "extra_trees"}:
        np.testing.assert_allclose(openvino_says(head, X)["number"], expected, rtol=1e-5, atol=1e-5)


def times(X):
    """Return times in seconds, as numbers of classes; float32 would be wrong by up to 64."""
    return 1.7e9 + np.rint(100 * X[:, 0]) + 0.25


@pytest.mark.parametrize("name", ["ridge", "knn"])
def test_large_numbers_are_not_rounded(others, make_cache, make_features, name):
    X, _ = others
    texts = [repr(each) for each in times(X).tolist()]
    classes = tuple(sorted(set(texts)))
    rows = make_features(X, [classes.index(text) for text in texts], classes=classes)
    head = train(make_cache(rows), name, params=QUICK.get(name), target="number", holdout=0)
    np.testing.assert_allclose(onnx_says(head, X)["number"], head.predict_numbers(X), rtol=0, atol=1e-3)
    if name != "knn":
        with pytest.raises(MismatchError, match=r"is not precise enough in float32, in which OpenVINO computes"):
            require_openvino(head)


def test_layers_of_ones_own_with_every_activation(rows, cache):
    """Keras's layers, as a head of one's own has them."""
    generator = np.random.default_rng(0)

    def drawn(*shape):
        return generator.standard_normal(shape)

    layers = [StoredLayer("Dense", {"activation": "linear"}, {"kernel": drawn(D, D) / 3, "bias": drawn(D)})]
    for activation in ACTIVATIONS:
        layers.append(StoredLayer("Activation", {"activation": activation}, {}))
        normal = {"gamma": drawn(D) + 2, "beta": drawn(D)}
        moving = {"moving_mean": drawn(D), "moving_variance": drawn(D) ** 2}
        layers.append(StoredLayer("BatchNormalization", {"epsilon": 1e-3, "momentum": 0.9}, normal | moving))
        layers.append(StoredLayer("Dropout", {"rate": 0.5}, {}))
        layers.append(StoredLayer("LeakyReLU", {"negative_slope": 1.5}, {}))
        layers.append(StoredLayer("LayerNormalization", {"epsilon": 1e-3}, normal))
    head = train(cache, "logreg", tap="fc2", holdout=0)
    k = len(head.trained_classes)
    layers.append(StoredLayer("Dense", {"activation": "gelu"}, {"kernel": drawn(D, k), "bias": drawn(k)}))
    stack = LayerStack(tuple(layers), Scaling(drawn(D), drawn(D) ** 2 + 0.1))
    assert_same(replace(head, model=stack), rows.new)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation(rows, cache, activation):
    head = train(cache, "logreg", tap="fc2", holdout=0)
    kernel = np.random.default_rng(0).standard_normal((D, len(head.trained_classes)))
    layer = StoredLayer("Dense", {"activation": activation}, {"kernel": kernel, "bias": kernel[0]})
    assert_same(replace(head, model=LayerStack((layer,), head.model.scaling)), rows.new)


def test_a_model_of_another_package_is_refused(rows, cache):
    class OwnModel:
        arrays = {}  # noqa: RUF012

    with pytest.raises(HeadError, match="the head logreg cannot be written as ONNX; heads that can: softmax, mlp, "):
        require_rule(replace(train(cache, "logreg", tap="fc2", holdout=0), model=OwnModel()))


def test_openvino_does_not_take_what_float32_cannot_compute(cache):
    with pytest.raises(HeadError, match=r"the head knn compares distances in float64.*export it to a \.onnx file"):
        require_openvino(train(cache, "knn", tap="fc2", holdout=0))
    head = train(cache, "logreg", tap="fc2", holdout=0)
    large = np.random.default_rng(0).normal(size=D) * 1e8  # the same for all classes: of no effect on probabilities
    head = replace(head, model=AffineModel(**head.model.arrays | {"coef": head.model.coef + large}))
    with pytest.raises(MismatchError, match=r"is not precise enough in float32, in which OpenVINO computes"):
        require_openvino(head)


@pytest.mark.parametrize(
    ("name", "far", "other"),
    [
        (
            "naive_bayes",
            lambda model: {"means": model.means + 1000},
            lambda model: {"variances": model.variances * 1.1},
        ),
        (
            "hist_gradient_boosting",
            lambda model: {"threshold": model.threshold + 1000},
            lambda model: {"threshold": model.threshold + np.float32(0.001)},
        ),
    ],
)
def test_openvino_is_compared_where_heads_decide(cache, monkeypatch, name, far, other):
    """A slightly different model is noticed, wherever the features are."""

    def changed(head, change):
        width = {"width": D} if name == "hist_gradient_boosting" else {}
        return replace(head, model=type(head.model)(**head.model.arrays | change(head.model) | width))

    head = changed(train(cache, name, tap="fc2", params=QUICK.get(name), holdout=0), far)
    require_openvino(head)
    monkeypatch.setattr(openvino_model, "head_alone", lambda head: head_alone(changed(head, other)))
    with pytest.raises(MismatchError, match="is not precise enough in float32"):
        require_openvino(head)


def test_features_are_rounded_as_the_cache_has_them(rows, cache, monkeypatch):
    head = train(cache, "logreg", tap="fc2", holdout=0)
    head = replace(head, recipe=replace(head.recipe, dtype="float16"))

    def network(*_):
        value, onnx = load_onnx().helper.make_tensor_value_info, load_onnx()
        model = new_model([value("images", onnx.TensorProto.FLOAT, ["n", D])])
        model.graph.node.append(onnx.helper.make_node("Identity", ["images"], ["activations"]))
        model.graph.output.append(value("activations", onnx.TensorProto.FLOAT, ["n", D]))
        return model

    monkeypatch.setattr(onnx_model, "_network", network)
    exact = head.predict_proba(rows.new)
    rounded = head.predict_proba(rows.new.astype(np.float16).astype(np.float32))
    assert np.abs(exact - rounded).max() > 1e-5
    for tap, expected in (("fc2", rounded), ("predictions", exact)):  # predictions are float32 in every cache
        found = model_says(network_and_head(replace(head, tap=tap), None, None), rows.new)
        np.testing.assert_allclose(found["probabilities"], expected, rtol=0, atol=1e-6)


def test_a_head_that_is_too_large_for_a_file_is_refused(cache, monkeypatch):
    head = train(cache, "knn", tap="fc2", holdout=0)
    size = head_alone(head).ByteSize()
    monkeypatch.setattr(onnx_model, "_LARGEST", size // 2)
    with pytest.raises(
        HeadError, match=r"the model of the head knn takes 0\.0 GB, more than the 2 GB that a \.onnx file"
    ):
        head_alone(head)


def test_equal_constants_and_computations_are_there_once():
    graph = Graph()
    first = graph.add("Add", graph.add("Sub", "x", np.ones(3)), 1.0)
    assert graph.add("Add", graph.add("Sub", "x", np.ones(3)), 1.0) == first
    assert graph.add("Add", graph.add("Sub", "x", np.ones((3, 1))), 1.0) != first
    assert (len(graph.nodes), len(graph.constants)) == (4, 3)
