"""The names of ImageNet's classes against Keras's own list, and the likeliest of each row against a sort."""

import json
from dataclasses import replace

import numpy as np
import pytest

from heads.errors import MismatchError
from heads.evaluation.imagenet import imagenet_top3, names


def predictions(n, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(1000, 0.05), size=n).astype(np.float32)


@pytest.fixture
def cache(make_cache, make_features):
    def make(X, *, width=2, **changes):
        n, taps = len(X), {"fc2": width, "predictions": X.shape[1]}
        recipe = {"weights": "sha256:" + "0" * 64} | changes
        own = make_features(np.zeros((n, width), np.float32), np.zeros(n), taps=taps, **recipe)
        return make_cache(own, make_features(X, np.zeros(n), tap="predictions", taps=taps, **recipe))

    return make


def test_names_are_a_thousand_in_the_order_of_keras():
    assert len(names()) == 1000
    assert (names()[0], names()[281], names()[282], names()[999]) == ("tench", "tabby", "tiger cat", "toilet tissue")
    assert all(name == name.strip() and name and "_" not in name for name in names())


@pytest.mark.real_data
def test_names_are_those_of_the_index_of_keras(shared_data):
    index = json.loads((shared_data / "imagenet_class_index.json").read_text())
    assert list(names()) == [index[str(each)][1].replace("_", " ") for each in range(1000)]


def test_what_was_seen_is_what_a_sort_puts_first(cache):
    X = predictions(5000)  # more rows than one block
    top3 = imagenet_top3(cache(X), cache(X).features("fc2"))
    order = np.argsort(-X, axis=1, kind="stable")[:, :3]
    assert top3.classes.dtype == np.int16
    assert top3.probabilities.dtype == np.float32
    np.testing.assert_array_equal(top3.classes, order)
    np.testing.assert_array_equal(top3.probabilities, np.take_along_axis(X, order, axis=1))
    assert len(top3) == 5000
    assert top3.texts(7) == tuple((names()[each], float(X[7, each])) for each in order[7])


def test_the_features_are_left_as_they_are_and_read_by_blocks(cache):
    asked = []

    class Watched(np.ndarray):
        def __getitem__(self, rows):
            asked.append(len(rows))
            return np.asarray(super().__getitem__(rows))

    X = predictions(5000)
    X.setflags(write=False)
    made = cache(X)
    made.sets["predictions"] = replace(made.sets["predictions"], X=X.view(Watched))
    imagenet_top3(made, made.features("fc2"))
    assert sum(asked) == 5000
    assert max(asked) * 1000 <= 2**21


def test_rows_are_found_by_their_paths(cache):
    X = predictions(6)
    rows = np.array([4, 0, 4])
    top3 = imagenet_top3(cache(X), cache(X).features("fc2").take(rows))
    np.testing.assert_array_equal(top3.classes[:, 0], X[rows].argmax(axis=1))


def test_rows_of_another_cache_are_refused(cache, make_features):
    foreign = make_features(np.zeros((1, 2), np.float32), [0], paths=["else.jpg"])
    with pytest.raises(MismatchError, match=r"'else\.jpg' is not in the cache"):
        imagenet_top3(cache(predictions(2)), foreign)


def test_a_network_that_learned_nothing_saw_nothing(cache):
    made = cache(predictions(2), weights="random:0")
    assert imagenet_top3(made, made.features("fc2")) is None


def test_other_classes_than_imagenets_and_no_such_tap_tell_nothing(cache, make_cache, make_features):
    ten = cache(predictions(2)[:, :10])
    assert imagenet_top3(ten, ten.features("fc2")) is None
    alone = make_features(np.zeros((1, 2), np.float32), [0], weights="sha256:" + "0" * 64)
    assert imagenet_top3(make_cache(alone), alone) is None


def test_equal_probabilities_go_by_the_order_of_classes_and_nan_counts_as_nothing(cache):
    X = np.full((2, 1000), 0.001, np.float32)
    X[1] = np.nan
    made = cache(X)
    top3 = imagenet_top3(made, made.features("fc2"))
    assert top3.classes.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert top3.probabilities[1].tolist() == [0, 0, 0]


def test_of_no_row_nothing_is_seen(cache):
    made = cache(predictions(2))
    assert len(imagenet_top3(made, made.features("fc2").take(slice(0, 0)))) == 0
