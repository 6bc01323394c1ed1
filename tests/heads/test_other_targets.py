"""Heads that learn several labels, or a number, from training to storage, beside scikit-learn."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import f1_score, r2_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from heads import (
    HEADS,
    ArtifactError,
    MismatchError,
    ParameterError,
    TrainedHead,
    TrainingError,
    head_spec,
    make_head,
    train,
)
from heads.thresholds import best_thresholds
from tests.heads.forging import rewrite

LABELLERS = [name for name in HEADS if name != "imagenet_map"]
QUICK = {"softmax": {"epochs": 3}, "mlp": {"epochs": 3, "hidden": "8"}}
N, D = 160, 12


def rows(seed=0):
    generator = np.random.default_rng(seed)
    X = generator.standard_normal((N, D)).astype(np.float32)
    return X, X @ generator.standard_normal((D, 3)) + generator.standard_normal((N, 3)) / 4


@pytest.fixture
def tagged(make_features, make_cache):
    """A cache whose classes are texts of several labels; a third of its rows is valid."""
    X, scores = rows()
    texts = ["|".join(name for name, each in zip("abc", row > 0.5, strict=True) if each) or "|" for row in scores]
    return make_cache(labelled(make_features, X, texts))


@pytest.fixture
def measured(make_features, make_cache):
    """A cache whose classes are texts of numbers."""
    X, scores = rows()
    return make_cache(labelled(make_features, X, [repr(each) for each in scores[:, 0].tolist()]))


def labelled(make_features, X, texts):
    classes = tuple(sorted(set(texts)))
    splits = ["valid" if row % 3 == 2 else "train" for row in range(N)]
    return make_features(X, [classes.index(text) for text in texts], splits=splits, classes=classes)


@pytest.mark.parametrize("name", LABELLERS)
def test_each_label_is_learned_as_a_head_of_its_own(name, tagged, tmp_path):
    head = train(tagged, name, params=QUICK.get(name), target="labels")
    features = tagged.features("fc2").with_target("labels")
    of_train, X = features.splits == "train", features.X
    probabilities = head.predict_proba(X)
    for label in range(3):
        alone = make_head(name, seed=0, **head.params)
        y = features.y[of_train, label].astype(np.int64)
        alone.fit(X[of_train], y)
        np.testing.assert_allclose(probabilities[:, label], alone.predict_proba(X)[:, 1], atol=1e-12)
    stored = TrainedHead.load(head.save(tmp_path / "head"))
    np.testing.assert_array_equal(stored.predict_proba(X), probabilities)
    assert (stored.target, stored.classes, stored.thresholds) == ("labels", ("a", "b", "c"), head.thresholds)
    assert stored.identity == head.identity


def test_labels_are_those_of_scikit_learn(tagged):
    head = train(tagged, "logreg", params={"C": 1, "tol": 1e-8}, target="labels")
    features = tagged.features("fc2").with_target("labels")
    of_train = features.splits == "train"
    scaler = StandardScaler().fit(features.X[of_train])
    theirs = OneVsRestClassifier(LogisticRegression(C=1, tol=1e-8, max_iter=1000))
    theirs.fit(scaler.transform(features.X[of_train]), features.y[of_train])
    expected = theirs.predict_proba(scaler.transform(features.X))
    np.testing.assert_allclose(head.predict_proba(features.X), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["logreg", "ridge", "knn"])
def test_labels_together_are_labels_one_by_one(name, tagged, tmp_path):
    folder = train(tagged, name, target="labels").save(tmp_path / "head")
    model, X = TrainedHead.load(folder).model, tagged.features("fc2").X
    alone = np.stack([each.predict_proba(X)[:, 1] for each in model.models], axis=1)
    np.testing.assert_allclose(model.predict_proba(X), alone, atol=1e-14)
    if name == "knn":
        assert model.models[0].rows is model.models[1].rows, "they are in memory once, and looked through once"


def test_what_all_labels_share_is_stored_once(tagged, tmp_path):
    head = train(tagged, "knn", target="labels")
    stored = load_file(head.save(tmp_path / "head") / "head.safetensors")
    assert stored["rows"].shape == (np.count_nonzero(tagged.features().splits == "train"), D)
    assert sorted(name for name in stored if "." in name) == ["0.targets", "1.targets", "2.targets"]


@pytest.mark.parametrize("seed", range(5))
def test_a_threshold_has_the_highest_f1_of_all(seed):
    generator = np.random.default_rng(seed)
    probabilities = generator.integers(0, 12, (40, 1)) / 12
    y = (generator.random((40, 1)) < probabilities).astype(np.int8)
    (threshold,) = best_thresholds(probabilities, y)
    candidates = (np.arange(13) - 0.5) / 12  # of which each decides otherwise
    best = max(f1_score(y[:, 0], probabilities[:, 0] >= each, zero_division=0) for each in candidates)
    assert f1_score(y[:, 0], probabilities[:, 0] >= threshold) == pytest.approx(best)


def test_thresholds_without_evidence_are_one_half():
    unlabelled, constant = best_thresholds(np.array([[0.1, 0.9], [0.2, 0.9]]), np.array([[0, 1], [0, 0]]))
    assert (unlabelled, constant) == (0.5, 0.5)
    assert best_thresholds(np.empty((0, 2)), np.empty((0, 2), np.int8)) == (0.5, 0.5)


def test_a_label_that_all_training_rows_agree_on(make_features, make_cache, tmp_path):
    X, scores = rows()
    texts = ["always|" + ("a" if row > 0 else "never_here") for row in scores[:, 0]]
    head = train(make_cache(labelled(make_features, X, texts)), "logreg", target="labels")
    assert (head.predict_proba(X)[:, head.classes.index("always")] == 1).all()
    assert TrainedHead.load(head.save(tmp_path / "head")).predict_labels(X)[:, head.classes.index("always")].all()


def test_a_label_that_no_training_row_has_is_said(make_features, make_cache):
    X, scores = rows()
    splits = np.arange(N) % 3 == 2
    texts = ["a" if row > 0 else "b|rare" if held else "b" for row, held in zip(scores[:, 0], splits, strict=True)]
    head = train(make_cache(labelled(make_features, X, texts)), "logreg", target="labels")
    assert (head.predict_proba(X)[:, 2] == 0).all()
    assert "no training row is of the label rare: its probability will always be 0" in map(str, head.training.warnings)
    assert not head.predict_labels(X)[:, 2].any()


def test_ridge_of_numbers_is_that_of_scikit_learn(measured, tmp_path):
    features = measured.features("fc2").with_target("number")
    of_train = features.splits == "train"
    scaler = StandardScaler().fit(features.X[of_train])
    X, y = scaler.transform(features.X[of_train].astype(np.float64)), features.y[of_train]
    for alpha, theirs in ((3.0, Ridge(alpha=3.0)), ("auto", RidgeCV(alphas=np.logspace(-3, 7, 21)))):
        head = train(measured, "ridge", params={"alpha": alpha}, target="number")
        expected = theirs.fit(X, y).predict(scaler.transform(features.X.astype(np.float64)))
        np.testing.assert_allclose(head.predict_numbers(features.X), expected, rtol=1e-6, atol=1e-6)
    assert train(measured, target="number").params["alpha"] == "auto", "the default head of numbers"
    valid = features.splits == "valid"
    assert head.training.valid_accuracy == pytest.approx(r2_score(features.y[valid], expected[valid]), abs=1e-6)
    stored = TrainedHead.load(head.save(tmp_path / "head"))
    np.testing.assert_array_equal(stored.predict_numbers(features.X), head.predict_numbers(features.X))
    assert (stored.target, stored.classes) == ("number", ())
    assert stored.number_range.low == y.min()
    assert stored.number_range.mean == pytest.approx(y.mean())


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbors_of_numbers_are_those_of_scikit_learn(weights, metric, measured, tmp_path):
    params = {"n_neighbors": 7, "metric": metric, "weights": weights}
    head = train(measured, "knn", params=params, target="number")
    features = measured.features("fc2").with_target("number")
    of_train = features.splits == "train"
    theirs = KNeighborsRegressor(7, metric=metric, weights=weights, algorithm="brute")
    theirs.fit(features.X[of_train].astype(np.float64), features.y[of_train])
    valid = features.X[~of_train]
    np.testing.assert_allclose(head.predict_numbers(valid), theirs.predict(valid.astype(np.float64)), rtol=1e-6)
    stored = TrainedHead.load(head.save(tmp_path / "head"))
    np.testing.assert_array_equal(stored.predict_numbers(valid), head.predict_numbers(valid))


def test_the_baseline_of_numbers_is_that_of_scikit_learn(measured):
    features = measured.features("fc2").with_target("number")
    of_train = features.splits == "train"
    expected = DummyRegressor().fit(features.X[of_train], features.y[of_train]).predict(features.X)
    found = train(measured, "majority", target="number").predict_numbers(features.X)
    np.testing.assert_allclose(found, expected)


def test_a_row_of_numbers_does_not_depend_on_others(measured):
    X = measured.features("fc2").X
    for name in ("ridge", "knn"):
        head = train(measured, name, target="number")
        whole = head.predict_numbers(X)
        np.testing.assert_allclose(
            [head.predict_numbers(X[row : row + 1])[0] for row in range(9)], whole[:9], rtol=1e-12
        )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("svm", {"target": "number"}, "the head 'svm' does not learn numbers; take one that does: .*ridge"),
        ("ridge", {"target": "number", "params": {"class_weight": "balanced"}}, "class_weight weighs classes"),
        ("imagenet_map", {"target": "labels"}, "'imagenet_map' does not learn several labels"),
    ],
)
def test_heads_that_cannot_learn_a_target(name, options, message, measured):
    with pytest.raises(ParameterError, match=message):
        train(measured, name, **options)


def test_the_r2_of_equal_valid_numbers_is_not_defined(measured, make_cache):
    features = measured.features("fc2")
    y = np.where(features.splits == "valid", 0, features.y)  # r2_score would give 0 whatever is predicted
    head = train(make_cache(replace(features, y=y)), target="number")
    assert head.training.valid_accuracy is None
    assert head.training.n_valid > 0
    assert train(measured, target="number").training.valid_accuracy is not None


def test_heads_of_other_targets_are_not_continued(tagged):
    head = train(tagged, "softmax", params={"epochs": 1}, target="labels")
    with pytest.raises(ParameterError, match="cannot be continued"):
        train(tagged, start=head)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.full(8, 2.0), "all 8 rows are of number 2.0; a head needs labelled rows with at least two different"),
        (np.array([np.nan, *range(7)]), "1 of 8 rows have no label"),
        (np.array([np.inf, *range(7)]), "not finite"),
        (np.ones((8, 2), np.int8), "all 8 rows have the same labels"),
        (np.full((8, 1), 2), "labels hold 2, expected 0 and 1"),
        (np.full((8, 1), -1), "8 of 8 rows have no label"),
        (np.empty((8, 0), np.int8), "the same labels"),
    ],
)
def test_targets_that_cannot_train(y, message):
    X = np.random.default_rng(0).standard_normal((8, 3))
    with pytest.raises(TrainingError, match=message):
        make_head("ridge").fit(X, y)


def test_a_head_answers_for_its_own_target_only(tagged, measured):
    tagger, measurer = train(tagged, "centroid", target="labels"), train(measured, target="number")
    X = tagged.features("fc2").X
    for ask in (tagger.predict_numbers, measurer.predict_labels, measurer.predict_proba):
        with pytest.raises(MismatchError, match=r"target: "):
            ask(X)


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        ("labels", {"target": "tags"}, "target is 'tags', expected class, labels, number"),
        ("labels", {"thresholds": [0.5, 0.5]}, "thresholds are not a probability for each of several labels"),
        ("labels", {"thresholds": [0.5, 0.5, 2.0]}, "thresholds are not a probability"),
        ("labels", {"trained_classes": [0, 1]}, "not every label is trained"),
        ("labels", {"classes": ["a", "b"]}, "thresholds|class_counts|trained_classes"),
        ("number", {"classes": ["a", "b"], "trained_classes": [0, 1]}, "a head of numbers has classes"),
        ("number", {"target": "class"}, "classes are not two or more different names"),
        ("number", {"number_range": {"mean": 0.0, "low": 1.0, "high": 0.0}}, "number_range has a low above"),
        ("number", {"head": "lda", "params": head_spec("lda").values({})}, "head.json: the head 'lda' does not learn"),
        ("labels", {"number_range": {"mean": 0.0, "low": 0.0, "high": 0.0}}, "number_range does not fit"),
    ],
)
def test_descriptions_of_other_targets_that_contradict_themselves(target, changes, message, tagged, measured, tmp_path):
    head = train({"labels": tagged, "number": measured}[target], "ridge", target=target)
    folder = head.save(tmp_path / "head")
    rewrite(folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        TrainedHead.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("agreed"), "agreed is not -1, 0 or 1"),
        (lambda arrays: arrays.update(agreed=np.array([-1, -1, 3], np.int8)), "agreed is not -1, 0 or 1"),
        (lambda arrays: arrays.update(agreed=np.array([-1, -1, 1], np.int8)), "all its training rows agree"),
        (lambda arrays: arrays.update({"3.coef": arrays["0.coef"]}), "the array 3.coef is of no label"),
        (lambda arrays: arrays.update({"00.coef": arrays["0.coef"]}), "the array 00.coef is of no label"),
        (lambda arrays: arrays.update({"9" * 5000 + ".coef": arrays["0.coef"]}), "the array 9{80} is of no label"),
        (lambda arrays: arrays.update(agreed=np.array([0, 0, 1], np.int8)), "nothing was learned"),
        (lambda arrays: arrays.pop("1.coef"), "the arrays are"),
    ],
)
def test_arrays_of_labels_that_do_not_fit(change, message, tagged, tmp_path):
    refused(train(tagged, "logreg", target="labels").save(tmp_path / "head"), change, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.update(targets=np.zeros(len(arrays["numbers"]), np.int64)), "targets or votes"),
        (lambda arrays: arrays.update(numbers=arrays["numbers"][1:]), "targets has dtype|rows has dtype"),
        (lambda arrays: arrays.update(numbers=arrays["numbers"] * np.inf), "numbers is not a row of finite numbers"),
        (lambda arrays: arrays.pop("numbers"), "the head .* cannot be loaded"),
    ],
)
def test_arrays_of_numbers_that_do_not_fit(change, message, measured, tmp_path):
    refused(train(measured, "knn", target="number").save(tmp_path / "head"), change, message)


def refused(folder, change, message):
    arrays = load_file(folder / "head.safetensors")
    change(arrays)
    rewrite(folder, arrays=arrays)
    with pytest.raises(ArtifactError, match=message):
        TrainedHead.load(folder)


@pytest.mark.slow  # starts TensorFlow
@pytest.mark.parametrize(("loss", "theirs"), [("mse", "mean_squared_error"), ("mae", "mean_absolute_error")])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_dense_layers_learn_numbers_as_in_keras(loss, theirs, optimizer, measured):
    import keras

    params = {"hidden": "8", "optimizer": optimizer, "lr": 0.05, "epochs": 6, "batch_size": 1000, "number_loss": loss}
    head = train(measured, "mlp", params=params, target="number")
    features = measured.features("fc2").with_target("number")
    of_train = features.splits == "train"
    scaler = StandardScaler().fit(features.X[of_train])
    X, y = scaler.transform(features.X).astype(np.float32), features.y
    mean, deviation = y[of_train].mean(), y[of_train].std()
    start = make_head("mlp", seed=0, **head.params)
    start.weights_ = None
    layers, _ = start._begin(features.X[of_train], 1)
    model = keras.Sequential([keras.Input((D,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
    model.set_weights([part for layer in layers for part in (layer.kernel, layer.bias)])
    model.compile({"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[optimizer](0.05), theirs)
    aims = ((y - mean) / deviation).astype(np.float32)
    history = model.fit(X[of_train], aims[of_train], batch_size=1000, epochs=6, verbose=0).history["loss"]
    np.testing.assert_allclose([epoch.loss for epoch in head.training.epochs], history, rtol=1e-4)
    expected = np.asarray(model(X))[:, 0] * deviation + mean
    np.testing.assert_allclose(head.predict_numbers(features.X), expected, rtol=1e-4, atol=1e-4)


def test_dense_layers_of_numbers(measured, tmp_path):
    params = {"hidden": "16", "epochs": 40, "lr": 0.01, "keep": "best"}
    head = train(measured, "mlp", params=params, target="number")
    features = measured.features("fc2").with_target("number")
    valid = features.splits == "valid"
    found = head.predict_numbers(features.X)
    kept = head.training.epochs[head.training.kept_epoch - 1]
    spread = features.y[~valid].std()
    assert kept.valid_loss == pytest.approx(np.square((found - features.y)[valid] / spread).mean(), rel=1e-3)
    assert kept.valid_accuracy == pytest.approx(1 - kept.valid_loss, abs=1e-6)
    assert head.training.valid_accuracy > 0.8
    stored = TrainedHead.load(head.save(tmp_path / "head"))
    np.testing.assert_array_equal(stored.predict_numbers(features.X), found)
    assert "number_loss" not in json.loads((tmp_path / "head" / "head.json").read_text())["params"], "the default"


def test_keras_does_not_train_dense_layers_of_numbers(measured):
    with pytest.raises(TrainingError, match="set trainer=numpy"):
        train(measured, "mlp", params={"trainer": "keras"}, target="number")
