"""The functions beside SciPy's, two layers beside one, and XOR beside scikit-learn's own heads."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from featurecache.cli.lesson import activations
from featurecache.cli.lesson.lesson_writer import LessonWriter

pytestmark = pytest.mark.slow

BENT = ("tanh", "sigmoid", "relu")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return activations.run(LessonWriter(tmp_path_factory.mktemp("activations"), silent=True), None)


def test_the_largest_slopes_are_where_calculus_finds_them(found):
    s = np.linspace(-5, 5, 100_001)
    functions = {"tanh": np.tanh(s), "sigmoid": expit(s), "relu": np.maximum(s, 0)}
    measured = {name: (np.diff(values) / np.diff(s)).max() for name, values in functions.items()}
    assert found["largest_slopes"] == pytest.approx(measured, abs=1e-6)


def test_softmax_is_that_of_scipy_whatever_is_added(found):
    scores = np.array([2.0, 1.0, 0.0])
    assert found["softmax"]["s"] == pytest.approx(softmax(scores), abs=1e-15)
    assert found["softmax"]["s + 1000"] == pytest.approx(softmax(scores), abs=1e-15)
    assert found["softmax"]["s / 0.5"] == pytest.approx(softmax(scores / 0.5), abs=1e-15)
    assert found["softmax"]["s / 2"] == pytest.approx(softmax(scores / 2), abs=1e-15)


def test_two_layers_without_an_activation_are_one(found):
    assert found["two_layers_difference"] < 1e-12
    unexplained = found["unexplained"]
    assert unexplained["linear"] < 1e-24
    assert all(unexplained[name] > 0.01 for name in BENT)


def test_two_units_with_relu_compute_xor(found):
    assert len(found["xor_by_hand"]) == 4
    for x1, x2, _, _, output in found["xor_by_hand"]:
        assert output == (int(x1) ^ int(x2))


def test_no_line_tells_the_corners_apart_and_a_bent_border_does(found):
    xor = found["xor"]
    assert xor["linear"]["accuracy"] < 0.76
    assert xor["linear"]["loss"] == pytest.approx(np.log(2), abs=0.03)
    for name in BENT:
        assert xor[name]["accuracy"] > 0.97
        assert xor[name]["loss"] < 0.1


def test_the_head_without_activation_is_as_good_as_the_best_line(found):
    (X, y), (X_new, y_new) = activations._clouds(seed=0), activations._clouds(seed=1)
    best = LogisticRegression(C=1e6).fit(X, y)
    assert found["xor"]["linear"]["loss"] == pytest.approx(log_loss(y_new, best.predict_proba(X_new)), abs=0.01)


def test_it_prints_what_it_found_and_draws_two_pictures(found, tmp_path, capsys):
    writer = LessonWriter(tmp_path)
    assert activations.run(writer, None) == found
    assert [path.name for path in writer.pictures] == ["activations-functions.png", "activations-xor.png"]
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, row in found["xor"].items():
        assert [name, f"{row['accuracy']:.4f}", f"{row['loss']:.4f}"] in printed
    assert ["tanh", "-0.9993", "-0.7616", "0.0000", "0.7616", "0.9993", "1.00"] in printed
