"""scikit-learn's estimators as heads: what can be named, their parameters, and how they are stored."""

import json
import sys

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeRegressor
from sklearn.utils import all_estimators

from heads.artifact import TrainedHead
from heads.catalog import estimator_names, head_spec, head_targets, make_head, model_class, parse_parameters
from heads.errors import ArtifactError, HeadError, ParameterError, TrainingError
from heads.families import estimator_forms
from heads.search.grid import candidates_of, parse_grids
from heads.training import train

FOREST = "sklearn:ensemble.RandomForestClassifier"
BOOSTING = "sklearn:ensemble.HistGradientBoostingClassifier"


@pytest.fixture
def cache(blobs, make_features, make_cache):
    X, y = blobs(90, 5, 3, spread=2)
    return make_cache(make_features(X, y, splits=np.where(np.arange(90) // 3 % 3 == 0, "valid", "train")))


# Names


@pytest.mark.parametrize("name", estimator_names())
def test_every_name_is_of_an_estimator_of_scikit_learn_and_describes_its_parameters(name):
    kind = dict(all_estimators(type_filter=["classifier", "regressor"]))[name.rpartition(".")[2]]
    spec = head_spec(name)
    own = {parameter.name for parameter in spec.parameters if parameter.name != "standardize"}
    assert own | {"random_state", "n_jobs", "verbose", "warm_start", "categorical_features"} >= set(kind().get_params())
    assert own <= set(kind().get_params())
    assert all(parameter.help.endswith(".") and len(parameter.help) > 10 for parameter in spec.parameters)
    assert all(parameter.expected for parameter in spec.parameters)
    assert json.loads(json.dumps(spec.to_dict()))["summary"] == f"scikit-learn's {kind.__name__}."


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "ensemble.RandomForestClasifier",
            "regressor 'ensemble.RandomForestClasifier'; did you mean 'ensemble.Ra",
        ),
        ("RandomForestClassifier", "no classifier or regressor 'RandomForestClassifier'.*that can be heads: tree.Dec"),
        ("sklearn.ensemble.RandomForestClassifier", "did you mean 'ensemble.RandomForestClassifier'"),
        ("ensemble._forest.RandomForestClassifier", "scikit-learn has no classifier"),
        ("cluster.KMeans", "scikit-learn has no classifier or regressor 'cluster.KMeans'"),
        ("", "scikit-learn has no classifier or regressor ''"),
        ("svm.NuSVC", "scikit-learn's svm.NuSVC cannot be stored as plain arrays; those that can be heads"),
        ("svm.SVR", "scikit-learn's svm.SVR cannot be stored as plain arrays"),
        ("ensemble.VotingClassifier", "ensemble.VotingClassifier needs another estimator .estimators=."),
        ("ensemble.BaggingClassifier", "ensemble.BaggingClassifier needs another estimator .estimator=."),
    ],
)
def test_names_that_are_refused(name, said):
    with pytest.raises(HeadError, match=said) as caught:
        head_spec(f"sklearn:{name}")
    assert "\n" not in str(caught.value)


def test_a_name_imports_no_module_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise SystemExit('this code must not run')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("stranger.Thing", "..stranger.Thing", "ensemble.stranger.Thing"):
        with pytest.raises(HeadError, match="has no classifier"):
            make_head(f"sklearn:{name}")
    assert "stranger" not in sys.modules


# Parameters


def test_parameters_are_python_literals_or_words():
    texts = ["max_features=sqrt", "max_depth=None", "min_samples_leaf=0.01", "n_estimators=7", "bootstrap=False"]
    params = parse_parameters(head_spec(FOREST), texts)
    assert params == {
        "max_features": "sqrt",
        "max_depth": "None",
        "min_samples_leaf": 0.01,
        "n_estimators": 7,
        "bootstrap": False,
    }
    estimator = make_head(FOREST, seed=4, **params)._estimator()
    expected = RandomForestClassifier(
        n_estimators=7, max_features="sqrt", max_depth=None, min_samples_leaf=0.01, bootstrap=False, random_state=4
    )
    assert estimator.get_params() == expected.get_params()
    assert make_head(FOREST, max_depth=None, n_estimators=np.int64(7)).params["n_estimators"] == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_iter=0", r"max_iter is 0, expected an int in the range \[1, inf\)"),
        ("max_iter=1e400", "max_iter is inf, expected an int"),
        ("max_iter=many", "max_iter is 'many', expected an int"),
        ("max_bins=255.5", r"max_bins is 255.5, expected an int in the range \[2, 255\]"),
        ("loss=squared", "loss is 'squared', expected a str among"),
        ("max_iter", "max_iter has no value, expected max_iter=VALUE with an int"),
        ("max_itr=3", "unknown parameter 'max_itr'; did you mean 'max_iter'"),
        ("random_state=3", "random_state cannot be set: the seed of the head takes its place"),
        ("verbose=1", "verbose cannot be set: a training prints nothing"),
        ("categorical_features=[0]", "categorical_features cannot be set: features are numbers"),
        ("early_stopping=(lambda: 1)", "early_stopping is .*, expected"),
        ("monotonic_cst=__import__('os')", "monotonic_cst is .*, expected"),
        ("max_iter=" + "(" * 5000, "max_iter is"),
    ],
)
def test_parameters_that_are_refused(text, said):
    with pytest.raises(ParameterError, match=said) as caught:
        parse_parameters(head_spec(BOOSTING), [text])
    assert "\n" not in str(caught.value)


def test_objects_are_no_parameters():
    with pytest.raises(ParameterError, match=r"init is DecisionTree.*expected"):
        make_head("sklearn:ensemble.GradientBoostingClassifier", init=DecisionTreeClassifier())


def test_what_a_sweep_tries_may_have_commas():
    grids = parse_grids([f"{FOREST}.max_depth=None,3", "n_estimators=5"], [FOREST])
    assert grids == {FOREST: {"max_depth": ("None", 3), "n_estimators": (5,)}}
    weights = parse_grids(["class_weight={'ant': 1, 'bee': 2},balanced"], [FOREST])
    assert weights[FOREST]["class_weight"] == ("{'ant': 1, 'bee': 2}", "balanced")
    assert len([each for each in candidates_of([FOREST], ["fc2"], grids) if each.head == FOREST]) == 2


def test_weights_of_classes_are_given_by_name(blobs):
    X, y = blobs(90, 4, 3, spread=4)
    head = make_head(FOREST, n_estimators=5, class_weight={"bee": 9, "cow": 2, "ant": 1})
    oracle = RandomForestClassifier(5, class_weight={0: 1, 1: 9, 2: 2}, random_state=0).fit(X, y)
    fitted = head.fit(X, y, names=("ant", "bee", "cow"))
    np.testing.assert_allclose(fitted.predict_proba(X), oracle.predict_proba(X), rtol=0, atol=1e-14)
    with pytest.raises(
        TrainingError, match="class_weight names 'dog', expected classes of the training rows: ant, bee"
    ):
        make_head(FOREST, class_weight={"dog": 1}).fit(X, y, names=("ant", "bee", "cow"))


# Linear classifiers

LINEAR = [
    LogisticRegression(C=0.1),
    SGDClassifier(loss="log_loss", average=True),
    LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1),
    MultinomialNB(alpha=0.5),
]


# MultinomialNB takes no negative features, and SGDClassifier makes much of the rounding of standardised ones
PLAIN_AND_STANDARDIZED = [(each, False) for each in LINEAR] + [(LINEAR[0], True), (LINEAR[2], True)]


@pytest.mark.parametrize(
    ("estimator", "standardize"), PLAIN_AND_STANDARDIZED, ids=lambda value: str(value).partition("(")[0]
)
@pytest.mark.parametrize("k", [2, 4])
def test_linear_classifiers_are_those_of_scikit_learn(estimator, k, standardize, blobs):
    X, y = blobs(200, 5, k, spread=3)
    X, kind = np.abs(X), type(estimator)
    scaler = StandardScaler(with_mean=standardize, with_std=standardize).fit(X[:120].astype(np.float64))
    defaults = kind().get_params()
    params = {name: value for name, value in estimator.get_params().items() if value != defaults[name]}
    seed = {"random_state": 3} if "random_state" in defaults else {}
    oracle = kind(**params, **seed).fit(scaler.transform(X[:120].astype(np.float64)).astype(np.float32), y[:120])
    name = f"sklearn:{kind.__module__.split('.')[1]}.{kind.__name__}"
    head = make_head(name, seed=3, standardize=standardize, **params).fit(X[:120], y[:120])
    expected = oracle.predict_proba(scaler.transform(X[120:].astype(np.float64)))
    np.testing.assert_allclose(head.predict_proba(X[120:]), expected, rtol=0, atol=1e-3 if standardize else 1e-9)
    assert [str(notice) for notice in head.warnings_] == []


def test_a_classifier_without_probabilities_is_refused(blobs):
    X, y = blobs(60, 4, 3)
    with pytest.raises(TrainingError, match="SGDClassifier gives no probabilities with these parameters"):
        make_head("sklearn:linear_model.SGDClassifier").fit(X, y)
    with pytest.raises(TrainingError, match="SGDClassifier gives other probabilities than scikit-learn"):
        make_head("sklearn:linear_model.SGDClassifier", loss="modified_huber").fit(X, y)


def test_a_solver_that_does_not_converge_is_a_warning(blobs):
    X, y = blobs(90, 6, 3, spread=3)
    (notice,) = make_head("sklearn:linear_model.LogisticRegression", max_iter=1).fit(X, y).warnings_
    assert notice.code == "not_converged"
    assert "LogisticRegression did not converge" in str(notice)


# Numbers

NUMBERS = [
    DecisionTreeRegressor(max_depth=4),
    ExtraTreeRegressor(),
    RandomForestRegressor(7, max_features=0.5),
    ExtraTreesRegressor(5, bootstrap=True),
    GradientBoostingRegressor(n_estimators=9, loss="huber"),
    HistGradientBoostingRegressor(max_iter=9, loss="absolute_error"),
    LinearRegression(),
    Ridge(3.0),
    Lasso(0.01),
    ElasticNet(0.01),
]


@pytest.mark.parametrize("estimator", NUMBERS, ids=lambda estimator: type(estimator).__name__)
def test_regressors_are_those_of_scikit_learn(estimator, tmp_path, make_features, make_cache):
    generator = np.random.default_rng(0)
    X = generator.standard_normal((240, 6)).astype(np.float32)
    y = 1000 + 50 * X[:, 0] * X[:, 1] + 20 * X[:, 2] + generator.standard_normal(240)
    texts = sorted(map(repr, y.tolist()))
    labels = [texts.index(repr(each)) for each in y.tolist()]
    splits = np.where(np.arange(240) < 160, "train", "valid")
    cache = make_cache(make_features(X, labels, splits=splits, classes=tuple(texts)))
    kind = type(estimator)
    defaults = kind().get_params()
    params = {name: value for name, value in estimator.get_params().items() if value != defaults[name]}
    seed = {"random_state": 3} if "random_state" in defaults else {}
    oracle = kind(**params, **seed).fit(X[:160], y[:160])
    name = f"sklearn:{kind.__module__.split('.')[1]}.{kind.__name__}"
    assert head_targets(name) == ("number",)
    head = train(cache, name, params=params, seed=3, target="number")
    np.testing.assert_allclose(head.predict_numbers(X), oracle.predict(X), rtol=1e-6 if kind in LINEAR_ONES else 1e-13)
    stored = TrainedHead.load(head.save(tmp_path / "head"))
    np.testing.assert_array_equal(stored.predict_numbers(X), head.predict_numbers(X))


LINEAR_ONES = {LinearRegression, Ridge, Lasso, ElasticNet}


def test_targets_that_an_estimator_does_not_learn(cache, blobs):
    with pytest.raises(ParameterError, match="Ridge' does not learn classes; take one that does"):
        train(cache, "sklearn:linear_model.Ridge")
    with pytest.raises(ParameterError, match="does not learn numbers"):
        train(cache, FOREST, target="number")
    with pytest.raises(TrainingError, match="learns numbers, not classes: train it with target=number"):
        make_head("sklearn:linear_model.Ridge").fit(*blobs(20, 3, 2))
    X = np.random.default_rng(0).standard_normal((90, 3))
    with pytest.raises(TrainingError, match="HistGradientBoostingRegressor gives other numbers than scikit-learn"):
        make_head("sklearn:ensemble.HistGradientBoostingRegressor", loss="poisson").fit(X, np.exp(X[:, 0]))


# Training


def test_errors_and_warnings_of_scikit_learn_are_those_of_the_training(blobs):
    X, y = blobs(60, 4, 3)
    with pytest.raises(TrainingError, match=r"the training broke down: .*; choose less extreme parameters"):
        make_head("sklearn:ensemble.GradientBoostingClassifier", loss="exponential").fit(X, y)  # for two classes alone
    head = make_head(FOREST, n_estimators=1, oob_score=True).fit(X, y)
    assert any("OOB" in str(notice) for notice in head.warnings_)


def test_the_seed_of_the_head_is_that_of_the_estimator(blobs):
    X, y = blobs(60, 4, 3, spread=4)
    first, again, other = (
        make_head(FOREST, seed=seed, n_estimators=5).fit(X, y).predict_proba(X) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_class_without_training_rows_has_probability_zero(cache):
    rows = cache.sets["fc2"]
    rows.y[rows.y == 1] = -1
    head = train(cache, "sklearn:ensemble.ExtraTreesClassifier", params={"n_estimators": 5}, seed=2)
    train_rows = rows.take((rows.splits == "train") & (rows.y >= 0))
    oracle = ExtraTreesClassifier(5, random_state=2).fit(train_rows.X, train_rows.y)
    probabilities = head.predict_proba(rows.X)
    assert (probabilities[:, 1] == 0).all()
    np.testing.assert_allclose(probabilities[:, [0, 2]], oracle.predict_proba(rows.X), rtol=0, atol=1e-14)


# Stored


def test_a_stored_head_is_loaded_without_scikit_learn(cache, tmp_path, fresh_python):
    head = train(cache, FOREST, params={"n_estimators": 5, "max_depth": None, "max_features": 0.5})
    head.save(tmp_path / "head")
    description = json.loads((tmp_path / "head" / "head.json").read_bytes())
    assert description["head"] == FOREST
    assert description["params"].items() >= {"n_estimators": 5, "max_depth": "None", "max_features": 0.5}.items()
    assert "scikit-learn" in description["training"]["versions"]
    X = cache.features("fc2").X
    np.save(tmp_path / "X.npy", X)
    code = """
import sys, json, numpy as np
from heads import TrainedHead
probabilities = TrainedHead.load(sys.argv[1]).predict_proba(np.load(sys.argv[2]))
print(json.dumps([sorted({"sklearn", "scipy", "joblib"} & set(sys.modules)), probabilities.tolist()]))
"""
    heavy, probabilities = json.loads(fresh_python(code, tmp_path / "head", tmp_path / "X.npy"))
    assert heavy == []
    np.testing.assert_array_equal(probabilities, head.predict_proba(X))
    assert TrainedHead.load(tmp_path / "head").params == head.params


@pytest.mark.parametrize("name", ["sklearn:os.system", "sklearn:svm.NuSVC", "sklearn:", "sklearn:ensemble.Bagging"])
def test_a_stored_head_of_another_name_is_refused(name, cache, tmp_path, monkeypatch):
    head = train(cache, FOREST, params={"n_estimators": 2})
    monkeypatch.setitem(estimator_forms.FORMS, name.removeprefix("sklearn:"), estimator_forms.FORMS[FOREST[8:]])
    object.__setattr__(head, "name", name)
    stored = head.save(tmp_path / "head")
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match=r"head.json: scikit-learn"):
        TrainedHead.load(stored)


@pytest.mark.parametrize("value", [None, [1], {"a": 1}])
def test_parameters_of_other_types_are_refused(value, cache, tmp_path):
    head = train(cache, FOREST, params={"n_estimators": 2})
    object.__setattr__(head, "params", {"n_estimators": value})
    with pytest.raises(ArtifactError, match="a parameter is neither number, truth value nor text"):
        head.save(tmp_path / "head")


def test_the_class_of_a_model_follows_from_the_name():
    assert {name: model_class(name).__name__ for name in (FOREST, BOOSTING)} == {
        FOREST: "ForestModel",
        BOOSTING: "BoostedTreesModel",
    }
