"""scikit-learn's classifiers from the command line, and what it says of those that cannot be heads."""

import json

import pytest

FOREST = "sklearn:ensemble.RandomForestClassifier"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--head", "sklearn:svm.SVC"),
            "scikit-learn's svm.SVC cannot be stored as plain arrays; those that can be heads: tree.",
        ),
        (("--head", "sklearn:ensemble.Forest"), "scikit-learn has no classifier or regressor 'ensemble.Forest'"),
        (("--head", FOREST, "-p", "n_estimators=0"), "n_estimators is 0, expected an int in the range [1, inf)"),
        (("--head", FOREST, "-p", "random_state=1"), "random_state cannot be set"),
        (("--head", "sklearn:linear_model.SGDClassifier"), "gives no probabilities with these parameters"),
    ],
)
def test_one_line_says_what_cannot_be_trained(arguments, said, fake_cache, invoke, tmp_path):
    done = invoke("train", fake_cache, tmp_path / "head", "--tap", "features", *arguments)
    assert done.code == 1
    assert said in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "head").exists()


def test_a_classifier_is_trained_and_evaluated(fake_cache, invoke, tmp_path):
    options = ("--tap", "features", "--head", FOREST, "-p", "n_estimators=5", "-p", "max_depth=None", "--json")
    trained = json.loads(invoke("train", fake_cache, tmp_path / "head", *options).out)
    assert trained["head"] == FOREST
    assert trained["params"].items() >= {"n_estimators": 5, "max_depth": "None"}.items()
    evaluated = json.loads(invoke("evaluate", tmp_path / "head", fake_cache, "--split", "valid", "--json").out)
    assert evaluated["accuracy"]["value"] == trained["valid_accuracy"]


def test_they_are_listed(invoke):
    shown = invoke("heads").out
    assert "scikit-learn's estimators are heads as well" in shown
    assert FOREST in shown
    assert "  -p min_weight_fraction_leaf=0.0\n" in invoke("heads", FOREST).out  # a name too long for its column
