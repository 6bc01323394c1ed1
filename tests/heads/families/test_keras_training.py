"""Heads that Keras trains: the numbers of the NumPy trainer, TensorBoard, and what can go wrong.

All tests that start Keras's ``fit`` for heads are in this file, so that they share one process.
"""

import numpy as np
import pytest

from featurecache.errors import OutputError
from featurecache.rows import ArraySource, Rows
from heads.artifact import TrainedHead
from heads.catalog import head_spec, make_head
from heads.epochs import Monitor
from heads.errors import ParameterError, TrainingError
from heads.families import dense_head
from heads.families.epoch_head import rate_factor
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
