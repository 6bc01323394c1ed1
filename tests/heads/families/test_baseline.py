"""The heads that every other must beat: the shares of the classes, and the network's own probabilities."""

import json

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from heads.catalog import make_head
from heads.errors import ArtifactError, EvaluationError, TrainingError
from heads.families.baseline import MapModel


def probabilities_of(rng, n, d=1000):
    return rng.dirichlet(np.full(d, 0.05), size=n).astype(np.float32)


@pytest.mark.parametrize("k", [2, 5])
def test_the_floor_is_that_of_scikit_learn(k, blobs):
    X, y = blobs(60, 4, k)
    X, y = X[:51], y[:51]
    expected = DummyClassifier(strategy="prior").fit(X, y).predict_proba(X)
    np.testing.assert_allclose(make_head("majority").fit(X, y).predict_proba(X), expected, atol=1e-12)


# Groups that are learned


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_an_imagenet_class_speaks_for_the_class_that_it_meets_most(class_weight):
    rng = np.random.default_rng(0)
    X, y = probabilities_of(rng, 60, 20), np.repeat([0, 1, 2], [40, 15, 5])
    head = make_head("imagenet_map", class_weight=class_weight).fit(X, y)
    measure = np.sum if class_weight == "none" else np.mean
    owners = [int(np.argmax([measure(X[y == each, column]) for each in range(3)])) for column in range(20)]
    new = probabilities_of(rng, 7, 20).astype(np.float64)
    expected = [
        [sum(row[column] for column in range(20) if owners[column] == each) for each in range(3)] for row in new
    ]
    np.testing.assert_allclose(head.predict_proba(new), expected / np.sum(expected, axis=1, keepdims=True), rtol=1e-9)


def test_what_no_row_shows_speaks_for_none_and_a_class_without_a_voice_is_named():
    X = np.array([[0.9, 0.1, 0, 0], [0.8, 0.2, 0, 0], [0.7, 0.2, 0.1, 0]], np.float32)
    head = make_head("imagenet_map").fit(X, np.array([0, 0, 2]), names=("ant", "bee", "cow"))
    assert head.model_.groups.tolist() == [[1, 1, 0, 0], [0, 0, 1, 0]]
    assert head.warnings_ == ()
    np.testing.assert_allclose(head.predict_proba(np.array([[0.0, 0, 0, 1]])), [[0.5, 0.5]])
    loud = make_head("imagenet_map").fit(X[:, :2], np.array([0, 0, 2]), names=("ant", "bee", "cow"))
    assert tuple(map(str, loud.warnings_)) == (
        "no ImageNet class is mapped to cow: its probability is 0 wherever another class has one",
    )
    nameless = make_head("imagenet_map").fit(X[:, :2], np.array([0, 0, 2]))
    assert nameless.warnings_[0].message.startswith("no ImageNet class is mapped to 2:")


# Cats and dogs


@pytest.mark.parametrize("names", [("cat", "dog"), ("Dogs", "CATS"), ("my_dog", "other", "wildcat")])
def test_cats_and_dogs_are_found_by_their_names(names):
    rng = np.random.default_rng(0)
    X = probabilities_of(rng, 8)
    labels = [index for index, name in enumerate(names) if name != "other"]
    head = make_head("imagenet_map", groups="cats_dogs").fit(X, np.array(labels * 4), names=names)
    new = probabilities_of(rng, 5).astype(np.float64)
    cats, dogs = new[:, 281:286].sum(axis=1), new[:, 151:269].sum(axis=1)
    probabilities = head.predict_proba(new)
    cat = [name for name in names if name != "other"].index(next(name for name in names if "cat" in name.lower()))
    np.testing.assert_allclose(probabilities[:, cat], cats / (cats + dogs), rtol=1e-9)
    np.testing.assert_allclose(probabilities[:, 1 - cat], dogs / (cats + dogs), rtol=1e-9)


@pytest.mark.real_data
def test_the_positions_are_those_of_wordnets_domestic_cats_and_dogs(shared_data):
    index = json.loads((shared_data / "imagenet_class_index.json").read_text())
    wordnet = np.array([index[str(position)][0] for position in range(1000)])
    head = make_head("imagenet_map", groups="cats_dogs")
    head.fit(np.ones((2, 1000)), np.array([0, 1]), names=("cat", "dog"))
    cats, dogs = (wordnet[group == 1].tolist() for group in head.model_.groups)
    assert (cats[0], cats[-1], len(cats)) == ("n02123045", "n02124075", 5)
    assert (dogs[0], dogs[-1], len(dogs)) == ("n02085620", "n02113978", 118)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), "found 2: without names"),
        (("cat", "mouse"), "found 2: cat, mouse"),
        (("cat", "tomcat"), "found 2: cat, tomcat"),
        (("catdog", "dog"), "found 2: catdog, dog"),
        (("catdog", "other"), "found 2: catdog, other"),
        (("cat", "dog", "hotdog"), "found 3: cat, dog, hotdog"),
    ],
)
def test_other_classes_are_not_cats_and_dogs(names, found):
    y = np.arange(6) % max(2, len(names))
    with pytest.raises(
        TrainingError, match=f"one with 'cat' in its name and one with 'dog'; {found}; use groups=learned"
    ):
        make_head("imagenet_map", groups="cats_dogs").fit(np.ones((6, 1000)), y, names=names)


def test_cats_and_dogs_need_all_of_imagenet():
    with pytest.raises(TrainingError, match="needs the 1000 probabilities of ImageNet, found 512 features"):
        make_head("imagenet_map", groups="cats_dogs").fit(np.ones((2, 512)), np.array([0, 1]), names=("cat", "dog"))


# Rows that are no probabilities


def test_features_below_zero_are_refused_by_row():
    X, y = np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])
    head = make_head("imagenet_map").fit(X, y)
    X[2, 1] = -0.1
    with pytest.raises(TrainingError, match="row 2 holds features below 0; train on probabilities: --tap predict") as e:
        make_head("imagenet_map").fit(X, y)
    assert e.value.row == 2
    with pytest.raises(EvaluationError, match="row 2 holds features below 0, expected probabilities") as e:
        head.predict_proba(X)
    assert e.value.row == 2


# Stored


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (np.ones((2, 3), np.float32), "groups has dtype float32"),
        (np.zeros((3, 2)), r"groups has dtype float64 and shape \(3, 2\), expected float64 and \(2, 3\)"),
        (np.array([[0.5, 0, 0], [0, 1, 0]]), "groups holds values other than 0 and 1"),
        (np.array([[np.nan, 0, 0], [0, 1, 0]]), "groups holds values other than 0 and 1"),
        (np.array([[1.0, 1, 0], [0, 1, 0]]), "groups gives a feature to more than one class"),
    ],
)
def test_stored_groups_that_are_not_as_they_must_be(groups, said):
    with pytest.raises(ArtifactError, match=said):
        MapModel.from_arrays({"groups": groups}, classes=2, width=3, params={})
