"""Calibration beside scikit-learn's, on rows that did not train the head, and what becomes of it on disk and beyond."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV, _TemperatureScaling
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from heads import Code, TrainedHead, evaluate, evaluation_report, export, select_rows, train
from heads.calibration import Isotonic, Temperature
from heads.errors import ArtifactError, HeadError, ParameterError, TrainingError
from heads.families.affine import AffineModel
from heads.figures import reliability_diagram
from heads.report.model import Table
from tests.heads.forging import rewrite

pytestmark = pytest.mark.usefixtures("one_blas_thread")

SPLITS = ["train"] * 150 + ["valid"] * 450 + ["test"] * 300


@pytest.fixture(scope="module", params=[2, 3], ids=["two classes", "three classes"])
def cache(request, blobs, make_features, make_cache):
    """900 rows in clouds that overlap: 150 train, 450 valid, 300 test."""
    return make_cache(make_features(*blobs(900, 12, request.param, spread=4.0), splits=SPLITS))


@pytest.fixture(scope="module")
def cache_of_three(blobs, make_features, make_cache):
    return make_cache(make_features(*blobs(900, 12, 3, spread=4.0), splits=SPLITS))


def trained(cache, method, head="logreg", **options):
    params = {"C": 1e4} if head == "logreg" else {}  # too sure of itself
    return train(cache, head, params=params, calibrate=method, **options)


def rows_of(cache, split):
    features = cache.features()
    return features.take(features.splits == split)


@pytest.mark.parametrize("head", ["logreg", "sgd", "lda", "svm"])
def test_temperature_is_the_optimum_of_scikit_learn(cache, head):
    found, valid = trained(cache, "temperature", head), rows_of(cache, "valid")
    logs = np.log(found.uncalibrated.predict_proba(valid.X))
    oracle = _TemperatureScaling().fit(logs, valid.y)
    assert found.calibration.map.temperature == pytest.approx(1 / oracle.beta_, rel=1e-5)
    test = rows_of(cache, "test")
    theirs = oracle.predict(np.log(found.uncalibrated.predict_proba(test.X)))
    np.testing.assert_allclose(found.predict_proba(test.X), theirs, atol=1e-6)


@pytest.mark.parametrize("head", ["logreg", "knn", "ridge", "majority", "mlp"])
def test_temperature_changes_no_decision_and_lowers_the_loss_of_valid_rows(cache, head):
    found = trained(cache, "temperature", head)
    for split in ("train", "valid", "test"):
        X = rows_of(cache, split).X
        assert (found.predict_proba(X).argmax(axis=1) == found.uncalibrated.predict_proba(X).argmax(axis=1)).all()
    plain = trained(cache, "none", head)
    assert plain.calibration is None
    assert plain.training.valid_accuracy == found.training.valid_accuracy
    assert found.calibration.log_loss_after <= found.calibration.log_loss_before + 1e-12


def test_classes_that_rounding_makes_equal_stay_in_order():
    near = np.nextafter(0.5, 0)
    probabilities = np.array([[near, 0.5], [0.5, near], [0.3, 0.4 - 1e-17], [1e-300, 1.0]])
    mapped = Temperature(20_000.0).applied(probabilities)
    assert mapped.argmax(axis=1).tolist() == probabilities.argmax(axis=1).tolist()
    np.testing.assert_allclose(mapped.sum(axis=1), 1)


def test_isotonic_is_scikit_learns(cache):
    found, valid, test = trained(cache, "isotonic"), rows_of(cache, "valid"), rows_of(cache, "test")

    class Model(LogisticRegression):
        """The uncalibrated head, as scikit-learn asks it."""

        decision_function = None

        def predict_proba(self, X):
            return found.uncalibrated.predict_proba(X)

    train_rows = rows_of(cache, "train")
    model = Model().fit(train_rows.X, train_rows.y)
    oracle = CalibratedClassifierCV(FrozenEstimator(model), method="isotonic").fit(valid.X, valid.y)
    np.testing.assert_allclose(found.predict_proba(test.X), oracle.predict_proba(test.X), atol=1e-12)
    losses = [log_loss(valid.y, each.predict_proba(valid.X)) for each in (found.uncalibrated, found)]
    assert [found.calibration.log_loss_before, found.calibration.log_loss_after] == pytest.approx(losses)
    right = found.predict_proba(valid.X).argmax(axis=1) == valid.y
    assert found.training.valid_accuracy == right.mean()
    assert Code.FEW_CALIBRATION_ROWS in {notice.code for notice in found.training.warnings}


def test_a_row_below_all_curves_gets_equal_probabilities():
    points = np.array([0.4, 0.6]), np.array([0.0, 1.0])
    curves = Isotonic(np.array([2, 2, 2]), *(np.tile(each, 3) for each in points))
    mapped = curves.applied(np.array([[0.3, 0.3, 0.4], [0.5, 0.5, 0.0]]))
    np.testing.assert_allclose(mapped, [[1 / 3] * 3, [0.5, 0.5, 0]])


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_row_is_calibrated_alike_alone_and_among_others(cache, method):
    found, X = trained(cache, method), rows_of(cache, "test").X
    raw = found.uncalibrated.predict_proba(X)
    together = found.calibration.map.applied(raw)
    for row in range(0, 300, 37):
        assert (found.calibration.map.applied(raw[row : row + 1]) == together[row]).all()


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_it_is_stored_with_the_head(cache, method, tmp_path):
    found, X = trained(cache, method), rows_of(cache, "test").X
    loaded = TrainedHead.load(found.save(tmp_path / "head"))
    assert (loaded.predict_proba(X) == found.predict_proba(X)).all()
    assert loaded.calibration.to_dict() == found.calibration.to_dict()
    assert loaded.identity == found.identity != found.uncalibrated.identity
    plain = json.loads((found.uncalibrated.save(tmp_path / "plain") / "head.json").read_text())
    assert "calibration" not in plain


def test_without_valid_rows_folds_of_the_training_rows_calibrate(cache_of_three, make_cache):
    features = cache_of_three.features()
    features = replace(features, splits=np.where(features.splits == "test", "test", "train").astype(object))
    cache = make_cache(features)
    found = trained(cache, "temperature", holdout=0)
    of_valid = trained(cache, "temperature")
    assert (found.calibration.folds, found.calibration.n_rows, found.training.n_valid) == (5, 600, 0)
    assert of_valid.calibration.folds == 0
    # the probabilities of training rows by the head itself are far surer than they should be
    training = rows_of(cache, "train")
    own = Temperature.fitted(found.uncalibrated.predict_proba(training.X), training.y)[0]
    assert found.calibration.map.temperature > own.temperature * 1.02
    test = rows_of(cache, "test")
    before, after = (log_loss(test.y, each.predict_proba(test.X)) for each in (found.uncalibrated, found))
    assert after < before


def test_a_class_without_training_rows_keeps_probability_0(cache_of_three, make_cache):
    features = cache_of_three.features()
    kept = (features.y != 1) | (features.splits != "train")
    found = trained(make_cache(features.take(kept)), "temperature")
    probabilities = found.predict_proba(features.X)
    assert (probabilities[:, 1] == 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_isotonic_needs_rows_of_every_class(cache_of_three, make_cache):
    features = cache_of_three.features()
    kept = make_cache(features.take((features.y != 1) | (features.splits == "train")))
    with pytest.raises(TrainingError, match=r"1 of 3 classes have none among the 300 rows.*calibrate by temperature"):
        trained(kept, "isotonic")


def test_rows_that_are_all_right_leave_the_temperature_at_1(blobs, make_features, make_cache):
    apart = make_cache(make_features(*blobs(90, 12, 3, spread=0.1), splits=["train"] * 60 + ["valid"] * 30))
    found = trained(apart, "temperature")
    assert found.calibration.map.temperature == 1
    assert Code.NOT_CALIBRATED in {notice.code for notice in found.training.warnings}


def test_an_unknown_way_is_refused_before_anything_is_trained(cache):
    with pytest.raises(ParameterError, match=r"calibrate is 'temprature'; did you mean 'temperature'.*none, temp"):
        trained(cache, "temprature")


def test_a_continued_head_is_calibrated_again(cache_of_three, make_cache):
    first = train(cache_of_three, "softmax", params={"epochs": 2, "lr": 0.5}, calibrate="temperature")
    second = train(cache_of_three, start=first)
    assert second.calibration.method == "temperature"
    assert second.calibration.map != first.calibration.map
    assert train(cache_of_three, start=first, calibrate="none").calibration is None
    features = cache_of_three.features()
    no_valid = make_cache(features.take(features.splits == "train"))
    alone = train(no_valid, "softmax", params={"epochs": 2}, holdout=0)
    with pytest.raises(TrainingError, match="no valid rows to calibrate on"):
        train(no_valid, start=alone, calibrate="temperature")


def test_an_evaluation_shows_before_and_after_and_says_which_rows_calibrated(cache):
    found = trained(cache, "temperature")
    plain = trained(cache, "none")
    on_test = evaluate(found, select_rows(cache, found, "test"), cache=cache)
    before = evaluate(plain, select_rows(cache, plain, "test"), cache=cache)
    assert on_test.before_calibration == {
        "accuracy": before.accuracy.value,
        "log_loss": before.log_loss,
        "calibration_error": before.calibration_error,
    }
    assert on_test.to_dict()["before_calibration"] == on_test.before_calibration
    assert before.to_dict()["before_calibration"] is None
    assert on_test.calibration_error < before.calibration_error
    assert Code.CALIBRATION_ROWS not in {notice.code for notice in on_test.warnings}
    on_valid = evaluate(found, select_rows(cache, found, "valid"), cache=cache)
    (notice,) = [notice for notice in on_valid.warnings if notice.code == Code.CALIBRATION_ROWS]
    assert str(notice).startswith("the calibration was fitted on all 450 rows")
    some = select_rows(cache, found, "all")
    (notice,) = [each for each in evaluate(found, some).warnings if each.code == Code.CALIBRATION_ROWS]
    assert "450 of 900 rows" in str(notice)


@pytest.mark.slow
def test_a_report_has_both_curves_and_both_numbers(cache_of_three):
    found = trained(cache_of_three, "temperature")
    evaluation = evaluate(found, select_rows(cache_of_three, found, "test"))
    report = evaluation_report(evaluation, head=found)
    (section,) = [section for section in report.sections if section.title == "Calibration"]
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    before = evaluation.before_calibration
    assert table.rows[2] == (
        "calibration error",
        f"{before['calibration_error']:.4f}",
        f"{evaluation.calibration_error:.4f}",
    )
    figure = reliability_diagram(evaluation.table, before=evaluation.uncalibrated)
    assert f"Before calibration the error was {before['calibration_error']:.3f}" in figure.alt
    assert len(figure.axes[0].containers) == 2


@pytest.mark.parametrize("head", ["logreg", "mlp"])
def test_scikit_learn_gets_the_calibrated_scores(cache, head, tmp_path):
    joblib = pytest.importorskip("joblib")
    found, X = trained(cache, "temperature", head), rows_of(cache, "test").X
    loaded = joblib.load(export(found, tmp_path / "head.joblib"))
    np.testing.assert_allclose(loaded.predict_proba(X), found.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize(
    ("method", "head", "suffix"), [("isotonic", "logreg", "joblib"), ("temperature", "svm", "joblib")]
)
def test_what_cannot_be_exported_is_refused(cache_of_three, method, head, suffix, tmp_path):
    with pytest.raises(HeadError, match="train it with --calibrate none to export it"):
        export(trained(cache_of_three, method, head), tmp_path / f"head.{suffix}")
    assert not list(tmp_path.iterdir())


def test_isotonic_curves_are_no_part_of_a_keras_model(cache_of_three, tmp_path):
    with pytest.raises(HeadError, match="isotonic curves, which cannot be part of a Keras model"):
        export(trained(cache_of_three, "isotonic"), tmp_path / "head.keras")


@pytest.mark.slow
@pytest.mark.parametrize("head", ["logreg", "svm", "mlp"])
def test_keras_layers_give_the_calibrated_probabilities(cache_of_three, head):
    from heads.exporting.keras_model import _layers, _require_same

    found = trained(cache_of_three, "temperature", head)
    _require_same(found.model, found, _layers(found.model, found))  # raises if they differ


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "magic"}, "the calibration is 'magic', this program knows temperature, isotonic"),
        ({"n_rows": 0}, "fitted on no rows"),
        ({"folds": 1}, "fitted on no rows"),
        ({"folds": -1}, "fitted on no rows"),
        ({"method": "isotonic"}, "the arrays are temperature; expected lengths, x, y"),
    ],
)
def test_a_forged_description_is_refused(cache, change, said, tmp_path):
    path = trained(cache, "temperature").save(tmp_path / "head")
    rewrite(path, calibration=json.loads((path / "head.json").read_text())["calibration"] | change)
    with pytest.raises(ArtifactError, match=said):
        TrainedHead.load(path)


def test_a_calibration_on_one_side_alone_is_refused(cache, tmp_path):
    path = trained(cache, "temperature").save(tmp_path / "head")
    rewrite(path, without=["calibration"])
    with pytest.raises(ArtifactError, match="do not agree on whether there is a calibration"):
        TrainedHead.load(path)
    shutil.rmtree(path)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"lengths": [2, 2], "x": [0, 1, 0, 1], "y": [0, 1, 0, 1]}, "lengths"),
        ({"lengths": [2, 2, 1], "x": [0, 1, 0, 1], "y": [0, 1, 0, 1]}, "do not sum up"),
        ({"lengths": [2, 0, 2], "x": [0, 1, 0, 1], "y": [0, 1, 0, 1]}, "do not sum up"),
        ({"lengths": [2, 1, 1], "x": [1, 0, 0, 1], "y": [0, 1, 0, 1]}, "does not rise"),
        ({"lengths": [2, 1, 1], "x": [0, 1, 0, 1], "y": [0, 2, 0, 1]}, "no probabilities"),
        ({"lengths": [2, 1, 1], "x": [0, np.nan, 0, 1], "y": [0, 1, 0, 1]}, "not finite"),
    ],
)
def test_forged_curves_are_refused(arrays, said):
    stored = {name: np.array(each, np.int64 if name == "lengths" else np.float64) for name, each in arrays.items()}
    with pytest.raises(ArtifactError, match=said):
        Isotonic.from_arrays(stored, 3)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 1e9])
def test_forged_temperatures_are_refused(value):
    with pytest.raises(ArtifactError, match="the temperature is"):
        Temperature.from_arrays({"temperature": np.array([value])}, 3)


@pytest.mark.parametrize("power", [-10, 10])
def test_temperatures_as_far_as_they_are_looked_for(power):
    stored = {"temperature": np.exp([float(power)])}
    assert Temperature.from_arrays(stored, 3).temperature == stored["temperature"][0]
    with pytest.raises(ArtifactError, match="the temperature is"):
        Temperature.from_arrays({"temperature": stored["temperature"] * (1.02 if power > 0 else 0.98)}, 3)


@pytest.mark.parametrize(("n", "codes"), [(999, ["few_calibration_rows"]), (1000, [])])
def test_few_rows_for_curves(n, codes):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), n)
    _, notices = Isotonic.fitted(probabilities, np.arange(n) % 3)
    assert [notice.code for notice in notices] == codes


def test_a_temperature_divides_the_scores_of_a_softmax():
    model = AffineModel.learned(np.array([[1.0, 2.0], [0.5, -1.0], [0.0, 0.3]]), np.zeros(3))
    X = np.random.default_rng(0).normal(size=(5, 2))
    halved = AffineModel.learned(model.coef / 2, model.intercept)
    np.testing.assert_allclose(Temperature(2.0).applied(model.predict_proba(X)), halved.predict_proba(X), atol=1e-15)
