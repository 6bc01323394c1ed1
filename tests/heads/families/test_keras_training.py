"""Heads that Keras trains: the numbers of the NumPy trainer, TensorBoard, and what can go wrong.

All tests that start Keras's ``fit`` for heads are in this file, so that they share one process.
"""

import re
import sys

import numpy as np
import pytest

from featurecache.errors import OutputError
from featurecache.rows import ArraySource, Rows
from heads.artifact import TrainedHead
from heads.catalog import head_spec, make_head
from heads.epochs import Monitor
from heads.errors import ArtifactError, HeadError, ParameterError, TrainingError
from heads.families import dense_head
from heads.families.epoch_head import rate_factor
from heads.families.keras_head import keras_head, keras_layers
from heads.families.keras_layers import ACTIVATIONS, LayerStack
from heads.training import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:Even though the `tf.config.experimental_run_functions_eagerly:UserWarning"
)

STEPS = {"lr": 0.02, "epochs": 4, "batch_size": 32}
CASES = {
    "sgd": {"momentum": 0.9, "schedule": "cosine"},
    "rmsprop": {"momentum": 0.5, "schedule": "step"},
    "adam": {"schedule": "constant", "standardize": False},
    "adamw": {"weight_decay": 0.05, "schedule": "cosine", "class_weight": "none"},
}


@pytest.fixture
def step_by_step():
    """Run Keras's steps as they are: to compile them takes longer than the few steps of a test."""
    from featurecache.backbones.keras_runtime import load_keras

    load_keras()
    import tensorflow

    tensorflow.config.run_functions_eagerly(True)
    yield
    tensorflow.config.run_functions_eagerly(False)


@pytest.fixture
def rows(blobs):
    """150 training rows in batches of 32, classes of different size, and 60 validation rows that are hard."""
    X, y = blobs(250, 12, 4, spread=4)
    rare = (y != 0) | (np.arange(250) % 3 == 0)
    X, y = X[rare], y[rare]
    return X[:150], y[:150], X[-60:], y[-60:]


def both(name, X, y, valid_X, valid_y, *, start=None, **params):
    """Return a head of each trainer with its monitor: of NumPy, and of Keras."""
    found = []
    for trainer in ("numpy", "keras"):
        monitor = Monitor(valid_X, valid_y)
        head = make_head(name, trainer=trainer, **params).fit(X, y, monitor=monitor, start=start)
        found.append((head, monitor))
    return found


def assert_same(numpy, keras, atol=1e-5):
    (ours, our_monitor), (theirs, their_monitor) = numpy, keras
    for name, array in ours.model_.arrays.items():
        np.testing.assert_allclose(theirs.model_.arrays[name], array, atol=atol)
    assert their_monitor.kept == our_monitor.kept
    for our, their in zip(our_monitor.epochs, their_monitor.epochs, strict=True):
        assert their.loss == pytest.approx(our.loss, abs=1e-4)
        assert their.accuracy == pytest.approx(our.accuracy, abs=1e-6)
        assert their.valid_loss == pytest.approx(our.valid_loss, abs=1e-4)
        assert their.valid_accuracy == pytest.approx(our.valid_accuracy, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", CASES)
def test_keras_learns_what_numpy_learns(optimizer, rows):
    """With hidden layers, dropout, l2 and class weights, in batches of which the last is smaller."""
    layers = {"hidden": "9,6", "dropout": 0.3, "activation": "tanh", "l2": 0.01}
    params = STEPS | layers | {"optimizer": optimizer, "class_weight": "balanced"} | CASES[optimizer]
    numpy, keras = both("mlp", *rows, **params)
    assert_same(numpy, keras)
    assert numpy[0].versions_ == {}
    assert keras[0].versions_.keys() == {"keras", "backend"}


@pytest.mark.usefixtures("step_by_step")
def test_keras_stops_and_keeps_the_epoch_that_numpy_keeps(rows):
    params = {"lr": 0.3, "epochs": 30, "batch_size": 32, "patience": 3, "keep": "best", "optimizer": "sgd"}
    numpy, keras = both("softmax", *rows, **params)
    assert_same(numpy, keras, atol=1e-4)
    assert keras[1].kept < len(keras[1].epochs) < 30


@pytest.mark.usefixtures("step_by_step")
def test_a_training_goes_on_with_keras_as_with_numpy(rows):
    first = make_head("softmax", **STEPS).fit(*rows[:2])
    assert_same(*both("softmax", *rows, start=first.model_, **STEPS))
    worse = {"lr": 300.0, "epochs": 2, "optimizer": "sgd", "keep": "best", "trainer": "keras"}
    monitor = Monitor(*rows[2:])
    head = make_head("softmax", **worse).fit(*rows[:2], start=first.model_, monitor=monitor)
    assert monitor.kept is None  # no epoch is better than the start
    np.testing.assert_allclose(head.model_.coef, first.model_.coef, rtol=1e-6)


def test_mixed_precision_learns_nearly_the_same(rows):
    X, y, valid_X, valid_y = rows
    monitor = Monitor(valid_X, valid_y)
    head = make_head("mlp", hidden="16", precision="mixed", **STEPS).fit(X, y, monitor=monitor)
    exact = make_head("mlp", hidden="16", **STEPS).fit(X, y)
    assert "keras" in head.versions_  # the default trainer takes Keras for what only Keras can
    error = np.abs(head.predict_proba(X) - exact.predict_proba(X)).max()
    assert 1e-5 < error < 0.1


@pytest.mark.usefixtures("step_by_step")
def test_rows_that_are_read_by_index_train_as_an_array_does(rows):
    X, y, *_ = rows
    parts = Rows(ArraySource(X), X.dtype, np.arange(len(X)))
    params = STEPS | {"epochs": 1, "trainer": "keras"}
    whole, in_parts = (make_head("softmax", **params).fit(each, y) for each in (X, parts))
    np.testing.assert_array_equal(in_parts.model_.coef, whole.model_.coef)


# Schedules


@pytest.mark.parametrize("steps", [1, 2, 7, 30])
def test_schedules_are_those_of_keras(steps):
    import keras

    schedules = keras.optimizers.schedules
    cosine = schedules.CosineDecay(1.0, steps)
    ends = [steps / 3 - 0.5, 2 * steps / 3 - 0.5] if steps % 3 == 0 else [steps / 3, 2 * steps / 3]
    thirds = schedules.PiecewiseConstantDecay(ends, [1.0, 0.1, 0.01])
    for step in range(steps):
        assert rate_factor("constant", step, steps) == 1
        assert rate_factor("cosine", step, steps) == pytest.approx(float(cosine(step)), abs=1e-6)
        assert rate_factor("step", step, steps) == pytest.approx(float(thirds(float(step))), rel=1e-6)


# Who trains


@pytest.mark.parametrize(
    ("params", "gpu", "large", "expected"),
    [
        ({}, False, True, "numpy"),
        ({}, True, False, "numpy"),
        ({}, True, True, "keras"),
        ({"trainer": "numpy"}, True, True, "numpy"),
        ({"trainer": "keras"}, False, False, "keras"),
        ({"precision": "mixed"}, False, False, "keras"),
    ],
)
def test_keras_trains_where_it_is_asked_for_or_pays(params, gpu, large, expected, rows, monkeypatch):
    def refuse(*_, **__):
        raise TrainingError("Keras trains")

    monkeypatch.setattr(dense_head, "train_with_keras", refuse)
    monkeypatch.setattr(dense_head, "may_have_gpu", lambda: gpu)
    monkeypatch.setattr(dense_head, "_LARGE", 1e3 if large else 1e9)
    head = make_head("softmax", epochs=1, **params)
    if expected == "keras":
        with pytest.raises(TrainingError, match="Keras trains"):
            head.fit(*rows[:2])
    else:
        head.fit(*rows[:2])


@pytest.mark.usefixtures("step_by_step")
def test_the_record_names_keras_and_the_stored_head_needs_none(blob_cache, tmp_path, fresh_python):
    head = train(blob_cache, "mlp", params={"trainer": "keras", "hidden": "4", "epochs": 1})
    assert head.training.versions.keys() == {"numpy", "keras", "backend"}
    head.save(tmp_path / "head")
    code = "import sys, heads; heads.TrainedHead.load(sys.argv[1]); print('keras' in sys.modules)"
    assert fresh_python(code, tmp_path / "head") == "False"
    loaded = TrainedHead.load(tmp_path / "head")
    assert (loaded.params["trainer"], loaded.params["schedule"]) == ("keras", "constant")


def test_a_head_file_has_later_parameters_only_where_they_are_not_the_default(blob_cache, tmp_path):
    spec = head_spec("softmax")
    assert {"schedule", "precision", "trainer"} & spec.stored(spec.values({})).keys() == set()
    assert spec.stored(spec.values({"schedule": "step"}))["schedule"] == "step"
    head = train(blob_cache, "softmax", params={"epochs": 1})
    head.save(tmp_path / "head")
    assert '"schedule"' not in (tmp_path / "head" / "head.json").read_text("utf-8")
    assert TrainedHead.load(tmp_path / "head").params["schedule"] == "constant"


# TensorBoard


def scalars(folder):
    """Return the values of each scalar in the event files of a folder, read by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [float(make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in TensorBoard's reader
@pytest.mark.usefixtures("step_by_step")
def test_tensorboard_shows_what_the_record_has(blob_cache, tmp_path):
    folder = tmp_path / "runs" / "first"
    head = train(blob_cache, params={"epochs": 3, "schedule": "step", "l2": 0.1}, tensorboard=folder)
    epochs = head.training.epochs
    written, valid = scalars(folder / "train"), scalars(folder / "validation")
    assert written["epoch_loss"] == pytest.approx([epoch.loss for epoch in epochs], rel=1e-6)
    assert written["epoch_accuracy"] == pytest.approx([epoch.accuracy for epoch in epochs], rel=1e-6)
    assert written["epoch_learning_rate"][0] > written["epoch_learning_rate"][-1] > 0
    assert valid["epoch_loss"] == pytest.approx([epoch.valid_loss for epoch in epochs], rel=1e-6)
    assert valid["epoch_accuracy"] == pytest.approx([epoch.valid_accuracy for epoch in epochs], rel=1e-6)


@pytest.mark.parametrize(
    ("head", "params", "remedy"),
    [("softmax", {"trainer": "numpy"}, "set -p trainer=keras"), ("logreg", {}, "leave it out")],
)
def test_tensorboard_needs_a_head_that_keras_trains(head, params, remedy, blob_cache, tmp_path):
    with pytest.raises(ParameterError, match=f"does not train {head}; {remedy}"):
        train(blob_cache, head, params=params, tensorboard=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_named_before_the_training(blob_cache, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}/file: file exists"):
        train(blob_cache, tensorboard=tmp_path / "file")
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}/file/runs: not a directory"):
        train(blob_cache, tensorboard=tmp_path / "file" / "runs")


# What can go wrong


def test_numpy_has_no_mixed_precision():
    with pytest.raises(ParameterError, match="precision=mixed needs Keras, and trainer is 'numpy'; set trainer=keras"):
        make_head("mlp", trainer="numpy", precision="mixed")


@pytest.mark.usefixtures("step_by_step")
def test_a_training_that_diverges_is_the_same_error(rows):
    X, y, *_ = rows
    head = make_head("softmax", lr=1e38, optimizer="sgd", standardize=False, epochs=2, trainer="keras")
    with pytest.raises(TrainingError, match=r"no longer a finite number after epoch .* lr=1e\+38; try a lower"):
        head.fit(X * 1e6, y)


@pytest.mark.usefixtures("step_by_step")
def test_an_exception_in_the_callback_ends_the_training(rows):
    def stop(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_head("softmax", epochs=50, trainer="keras").fit(*rows[:2], monitor=Monitor(on_epoch=stop))


@pytest.mark.usefixtures("step_by_step")
def test_rows_that_cannot_be_read_are_the_error_that_they_raise(rows, monkeypatch):
    class LostError(Exception):
        pass

    def fail(*_):
        raise LostError("the disk is gone")

    X, y, *_ = rows
    monkeypatch.setattr("heads.families.epoch_head.Batches.take", fail)
    with pytest.raises(LostError, match="the disk is gone"):
        make_head("softmax", trainer="keras").fit(X, y)


@pytest.mark.slow
def test_any_backend_learns_the_same(rows, tmp_path, fresh_python, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    X, y, valid_X, valid_y = rows
    np.savez(tmp_path / "rows.npz", X=X, y=y, valid_X=valid_X, valid_y=valid_y)
    code = f"""
import sys, warnings, numpy as np
from heads import Monitor, make_head
warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy keyword")  # in Keras
rows = np.load(sys.argv[1])
monitor = Monitor(rows["valid_X"], rows["valid_y"])
head = make_head("mlp", hidden="5", dropout=0.2, trainer="keras", **{STEPS}).fit(rows["X"], rows["y"], monitor=monitor)
np.savez(sys.argv[2], losses=[epoch.valid_loss for epoch in monitor.epochs], **head.model_.arrays)
print(head.versions_["backend"].split()[0])
"""
    assert fresh_python(code, tmp_path / "rows.npz", tmp_path / "learned.npz") == "jax"
    monitor = Monitor(valid_X, valid_y)
    ours = make_head("mlp", hidden="5", dropout=0.2, trainer="numpy", **STEPS).fit(X, y, monitor=monitor)
    with np.load(tmp_path / "learned.npz") as learned:
        np.testing.assert_allclose(learned["losses"], [epoch.valid_loss for epoch in monitor.epochs], atol=1e-4)
        for name, array in ours.model_.arrays.items():
            np.testing.assert_allclose(learned[name], array, atol=1e-5)


# Keras heads of one's own

OWN = """
import keras

def build(width, classes, units=9, dropout=0.2, activation="gelu", norm=True):
    layers = keras.layers
    return [
        layers.Dense(units, use_bias=False),
        *([layers.BatchNormalization()] if norm else []),
        layers.Activation(activation),
        layers.Dropout(dropout),
        layers.LayerNormalization(),
        layers.Dense(8, activation="selu"),
        layers.LeakyReLU(0.1),
        layers.GaussianNoise(0.1),
        layers.Dense(classes, activation="softmax"),
    ]

def sequential(width, classes):
    return keras.Sequential([keras.Input((width,)), keras.layers.Dense(classes), keras.layers.Softmax()])

def one_more(width, classes):
    return [keras.layers.Dense(classes + 1)]

def wrong_width(width, classes):
    return keras.Sequential([keras.Input((width + 1,)), keras.layers.Dense(classes)])

def convolution(width, classes):
    return [keras.layers.Reshape((width, 1)), keras.layers.Flatten(), keras.layers.Dense(classes)]

def own_layer(width, classes):
    class Dense(keras.layers.Dense):
        def call(self, inputs):
            return super().call(inputs) + 1
    return [Dense(4), keras.layers.Dense(classes)]

def own_activation(width, classes):
    return [keras.layers.Dense(4, activation=lambda x: x + 1), keras.layers.Dense(classes)]

def sigmoid(width, classes):
    return [keras.layers.Dense(classes, activation="sigmoid")]

def nothing(width, classes):
    return None

def failing(width, classes):
    raise ValueError("no\\nidea")

def twice(width, classes):
    layer = keras.layers.Dense(4)
    return [keras.layers.Dense(4), layer, layer, keras.layers.Dense(classes)]

def no_default(width, classes, units): ...
def taken(width, classes, lr=0.1): ...
def of_a_list(width, classes, units=[3]): ...
def one_parameter(width): ...
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The current folder has ``own_layers.py``."""
    (tmp_path / "own_layers.py").write_text(OWN, "utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_layers", None)
    keras_head.cache_clear()


def keras_probabilities(model, X):
    """Return what Keras computes with the stored layers, rebuilt."""
    import keras

    outputs = ((X - model.scaling.mean) / model.scaling.scale).astype(np.float32)
    for layer in keras_layers(model):
        outputs = layer(outputs)
    return np.asarray(keras.ops.softmax(outputs))


@pytest.mark.usefixtures("own", "step_by_step")
def test_layers_of_a_function_are_trained_and_stored_as_arrays(rows):
    X, y, valid_X, valid_y = rows
    monitor = Monitor(valid_X, valid_y)
    params = STEPS | {"epochs": 2, "units": 7, "keep": "best", "schedule": "cosine"}
    head, again = (
        make_head("keras:own_layers:build", **params).fit(X, y, monitor=each) for each in (monitor, Monitor(*rows[2:]))
    )
    assert monitor.epochs[-1].loss < monitor.epochs[0].loss
    assert head.model_.arrays["kernel_0"].shape == (12, 7)
    assert np.abs(head.model_.arrays["moving_mean_1"]).max() > 0
    np.testing.assert_allclose(head.predict_proba(X), keras_probabilities(head.model_, X), atol=1e-5)
    np.testing.assert_allclose(head.predict_proba(X), again.predict_proba(X), atol=1e-5)
    of_truth = head.predict_proba(valid_X)[np.arange(len(valid_y)), valid_y]
    assert -np.log(of_truth).mean() == pytest.approx(min(epoch.valid_loss for epoch in monitor.epochs), abs=1e-5)


@pytest.mark.usefixtures("own", "step_by_step")
@pytest.mark.parametrize("function", ["sequential", "build"])
def test_a_stored_head_is_loaded_and_goes_on_without_its_code(function, blob_cache, own, fresh_python, monkeypatch):
    params = {"epochs": 1} | ({"units": 5} if function == "build" else {})
    name = f"keras:own_layers:{function}"
    trained = train(blob_cache, name, params=params)
    trained.save(own / "head")
    (own / "own_layers.py").write_text("raise RuntimeError('imported')", "utf-8")
    sys.modules.pop("own_layers")
    keras_head.cache_clear()
    loaded = TrainedHead.load(own / "head")
    assert (loaded.name, dict(loaded.params)) == (name, dict(trained.params))
    assert loaded.identity == trained.identity
    X = blob_cache.features("fc2").X
    np.testing.assert_array_equal(loaded.predict_proba(X), trained.predict_proba(X))
    longer = train(blob_cache, start=loaded, params={"epochs": 2})
    assert len(longer.training.epochs) == 3
    assert longer.training.epochs[1].loss < trained.training.epochs[0].loss + 0.05
    with pytest.raises(HeadError, match="the module 'own_layers' cannot be imported: RuntimeError: imported"):
        train(blob_cache, name)
    code = "import sys, heads; heads.TrainedHead.load(sys.argv[1]); print('keras' in sys.modules)"
    assert fresh_python(code, own / "head") == "False"


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "softmax"])
def test_activations_are_those_of_keras(activation):
    import keras

    x = np.linspace(-8, 8, 97).reshape(1, -1)
    theirs = np.asarray(keras.activations.get(activation)(x.astype(np.float32)))
    np.testing.assert_allclose(ACTIVATIONS[activation](x), theirs, atol=1e-5)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("one_more", "the layers give 5 scores, expected 4, one for each class"),
        ("wrong_width", "does not fit: ValueError: "),
        ("convolution", "gives the shape (None, 12, 1), expected (n, units)"),
        ("own_layer", "the layer Dense 'dense"),
        ("own_activation", "with the activation '<lambda>' cannot be stored; known are Dense, Activation, "),
        ("sigmoid", "with the activation 'sigmoid', expected Dense with softmax, or with no activation"),
        ("nothing", "gave None, expected a list of Keras layers or a keras.Sequential"),
        ("failing", "keras:own_layers:failing failed: ValueError: no idea"),
        ("twice", "twice; make a layer for each place"),
    ],
)
def test_layers_that_cannot_be_trained_or_stored_are_refused_before_the_training(function, message, rows):
    with pytest.raises(TrainingError, match=re.escape(message)) as caught:
        make_head(f"keras:own_layers:{function}").fit(*rows[:2])
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("keras:own_layers", "expected keras:MODULE:FUNCTION"),
        ("keras::build", "expected keras:MODULE:FUNCTION"),
        ("keras:no_such_module:build", "there is no module 'no_such_module' in the current folder or Python's path"),
        ("keras:own_layers:biuld", "the module 'own_layers' has no function 'biuld'"),
        ("keras:own_layers:no_default", "the parameter units has no default, expected a number"),
        ("keras:own_layers:taken", "the parameter lr has the name of one of the training"),
        ("keras:own_layers:of_a_list", "the parameter units has the default [3], expected a number"),
        ("keras:own_layers:one_parameter", "the function has the parameters (width), expected (width, classes)"),
    ],
)
def test_names_that_stand_for_no_function_are_refused(name, message):
    with pytest.raises(HeadError, match=re.escape(message)):
        make_head(name)


def test_parameters_are_those_of_the_function_and_of_the_training(own):
    values = head_spec("keras:own_layers:build").values({"units": 3})
    assert (values["units"], values["dropout"], values["activation"], values["norm"]) == (3, 0.2, "gelu", True)
    assert values["lr"] == 0.001
    with pytest.raises(ParameterError, match="units is 'many', expected a whole number"):
        make_head("keras:own_layers:build", units="many")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("[", "does not describe layers that are known"),
        ('{"layer": "Dense"}', "does not describe layers that are known"),
        ('[{"layer": "Lambda"}]', "does not describe layers that are known"),
        ('[{"layer": "Dense", "activation": "os.system"}]', "has an activation that is not known"),
        ('[{"layer": "Dense", "activation": "relu", "more": 1.0}]', "has other settings than activation"),
        (
            '[{"layer": "Dropout", "rate": NaN}, {"layer": "Dense", "activation": "relu"}]',
            "has other settings than rate",
        ),
        ("[]", "layers has no Dense layer"),
        ('[{"layer": "Dense", "activation": "linear"}, {"layer": "Dense", "activation": "linear"}]', "expected"),
    ],
)
def test_a_forged_description_is_refused(description, message):
    arrays = {
        "layers": np.frombuffer(description.encode(), np.uint8),
        "mean": np.zeros(3),
        "scale": np.ones(3),
        "kernel_0": np.ones((3, 2)),
        "bias_0": np.zeros(2),
    }
    with pytest.raises(ArtifactError, match=message):
        LayerStack.from_arrays(arrays, classes=2, width=3, params={})
