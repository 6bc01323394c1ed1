"""Which rows the galleries show."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heads.errors import ParameterError
from heads.evaluation import galleries
from heads.evaluation.predictions import PredictionsTable


def make_table(true, probabilities, *, paths=None, classes=None):
    probabilities = np.asarray(probabilities, dtype=np.float64)
    n, k = probabilities.shape
    paths = [f"{row:04}.jpg" for row in range(n)] if paths is None else paths
    return PredictionsTable(
        np.array(paths, dtype=object),
        np.array(["valid"] * n, dtype=object),
        np.asarray(true, dtype=np.int64),
        probabilities,
        tuple(f"c{index}" for index in range(k)) if classes is None else classes,
    )


def drawn(n, k, seed=0):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(k), size=n).round(1)  # many ties
    return make_table(rng.integers(-1, k, n), probabilities)


@pytest.fixture
def known():
    """Cats (0) and dogs (1); rows f and g have no label."""
    rows = [
        ("a", 0, 0.9),
        ("b", 0, 0.7),
        ("c", 0, 0.4),
        ("d", 1, 0.8),
        ("e", 1, 0.1),
        ("f", -1, 0.5),
        ("g", -1, 0.99),
        ("h", 0, 0.9),
        ("i", 0, 0.05),
    ]
    paths, true, cat = zip(*rows, strict=True)
    return make_table(true, [(each, 1 - each) for each in cat], paths=paths, classes=("cat", "dog"))


def shown(table, choice):
    return "".join(table.paths[row] for row in choice.rows)


def test_every_choice_of_a_known_table(known):
    chosen = {(each.name, each.class_index): shown(known, each) for each in galleries.choose(known)}
    by_hash = sorted("abeh", key=lambda path: hashlib.sha256(f"0:{path}".encode()).digest())
    assert chosen.pop(("correct", None)) == "".join(by_hash)
    assert set(chosen.pop(("incorrect", None))) == set("cdi")
    assert chosen == {
        ("most_incorrect", 0): "ic",
        ("most_incorrect", 1): "d",
        ("most_correct", 0): "ahb",
        ("most_correct", 1): "e",
        ("most_uncertain", None): "fcbdaehig",
    }


def test_titles_and_texts_say_how_many_of_how_many(known):
    chosen = galleries.choose(known, count=2)
    assert [each.title for each in chosen] == [
        "Correct",
        "Incorrect",
        "Most incorrect: cat",
        "Most incorrect: dog",
        "Most correct: cat",
        "Most correct: dog",
        "Most uncertain",
    ]
    assert chosen[0].text == "2 of 4 correct rows, drawn at random (seed 0)."
    assert chosen[2].text.startswith("2 of 2 incorrect rows of this class")
    assert chosen[4].text.startswith("2 of 3 correct rows of this class")


@pytest.mark.parametrize("draw", [galleries.correct, galleries.incorrect])
def test_another_seed_draws_other_rows(draw):
    table = drawn(300, 3)
    assert draw(table).rows == draw(table, seed=0).rows != draw(table, seed=1).rows
    assert draw(table, seed=1) in galleries.choose(table, seed=1)


@given(order=st.permutations(range(40)), k=st.integers(1, 6), count=st.integers(1, 8))
def test_the_order_of_rows_changes_nothing(order, k, count):
    table = drawn(40, k, seed=k)
    order = list(order)
    columns = (table.true[order], table.probabilities[order])
    shuffled = make_table(*columns, paths=table.paths[order])
    for ours, theirs in zip(galleries.choose(table, count=count), galleries.choose(shuffled, count=count), strict=True):
        assert list(table.paths[list(ours.rows)]) == list(shuffled.paths[list(theirs.rows)])
        assert (ours.name, ours.title, ours.text) == (theirs.name, theirs.title, theirs.text)


@given(
    k=st.integers(1, 50),
    n=st.integers(0, 60),
    count=st.integers(1, 20),
    limit=st.integers(0, 200),
    seed=st.integers(0, 3),
)
def test_never_more_than_the_limit_and_unlabelled_rows_as_uncertain_ones_only(k, n, count, limit, seed):
    table = drawn(n, k, seed)
    chosen = galleries.choose(table, count=count, limit=limit)
    assert sum(len(each.rows) for each in chosen) <= limit
    for choice in chosen:
        assert len(choice.rows) <= count
        assert len(set(choice.rows)) == len(choice.rows)
        if choice.name != "most_uncertain":
            right = [table.predicted[row] == table.true[row] for row in choice.rows]
            assert all(table.true[row] >= 0 for row in choice.rows)
            assert all(each == choice.name.endswith("_correct") or choice.name == "correct" for each in right)
        if choice.class_index is not None:
            assert all(table.true[row] == choice.class_index for row in choice.rows)


def test_one_row():
    chosen = galleries.choose(make_table([1], [[0.3, 0.7]]))
    assert [(each.name, each.rows) for each in chosen] == [
        ("correct", (0,)),
        ("incorrect", ()),
        ("most_incorrect", ()),
        ("most_correct", (0,)),
        ("most_uncertain", (0,)),
    ]


def test_with_one_class_nothing_is_uncertain():
    chosen = galleries.choose(make_table([0, 0], [[1.0], [1.0]]))
    assert {each.name: each.rows for each in chosen}["most_correct"] == (0, 1)
    assert {each.name: each.rows for each in chosen}["most_uncertain"] == ()


def test_a_class_without_rows_has_no_choices():
    chosen = galleries.choose(make_table([0, 2], np.eye(3)[[0, 2]]))
    assert [each.class_index for each in chosen if each.class_index is not None] == [0, 2, 0, 2]


def test_of_ten_classes_each_is_shown_with_fewer_rows():
    true = np.repeat(np.arange(10), 20)
    chosen = galleries.choose(make_table(true, np.eye(10)[np.where(np.arange(200) % 2, true, 9 - true)]))
    of_classes = [each for each in chosen if each.class_index is not None]
    assert [len(each.rows) for each in of_classes] == [4] * 20
    assert not any("Shown are" in each.text for each in of_classes)


def test_of_a_thousand_classes_those_with_the_most_errors_are_shown():
    true = np.repeat(np.arange(1000), 6)
    predicted = true.copy()
    for index, errors in ((7, 5), (500, 4), (999, 6)):
        predicted[np.flatnonzero(true == index)[:errors]] = 0
    chosen = galleries.choose(make_table(true, np.eye(1000)[predicted]))
    of_classes = [each for each in chosen if each.name == "most_incorrect"]
    shown = [each.class_index for each in of_classes]
    assert {7, 500, 999} < set(shown)
    assert shown == sorted(shown), "in the order of the classes, not of their errors"
    assert len(of_classes) == 10
    assert sum(len(each.rows) for each in chosen) <= 120
    assert "Shown are 10 of 1000 classes, those with the most errors." in of_classes[0].text


@pytest.mark.parametrize(
    ("limit", "drawn", "of_a_class", "classes"),
    [(120, 12, 12, 3), (60, 10, 5, 3), (24, 4, 4, 1), (6, 1, 1, 1), (5, 0, 2, 1), (1, 0, 0, 0), (0, 0, 0, 0)],
)
def test_the_limit_is_shared_by_all_choices(limit, drawn, of_a_class, classes):
    """The three that are not about a class take half of it at most; of each class, right and wrong rows are shown."""
    true = np.repeat(np.arange(3), 30)
    named = np.where(np.arange(90) % 2, true, (true + 1) % 3)
    chosen = galleries.choose(make_table(true, np.eye(3)[named]), limit=limit)
    assert [len(each.rows) for each in chosen if each.class_index is None] == [drawn] * 3
    assert [len(each.rows) for each in chosen if each.class_index is not None] == [of_a_class] * 2 * classes


@pytest.mark.parametrize(("rows", "shown"), [([2, 3, 5, 4], 2), ([4, 5, 3, 5], 1)])
def test_of_classes_with_equal_errors_that_with_the_most_rows_is_shown_or_else_the_first(rows, shown):
    true = np.repeat(np.arange(4), rows)
    chosen = galleries.choose(make_table(true, np.eye(4)[true]), limit=24)
    assert {each.class_index for each in chosen} == {None, shown}


def test_a_path_that_is_no_utf_8_is_drawn_like_any_other():
    assert galleries.correct(make_table([0], [[1.0, 0.0]], paths=["\udc80.jpg"])).rows == (0,)


@pytest.mark.parametrize("options", [{"count": 0}, {"limit": -1}])
def test_senseless_numbers_are_refused(options):
    with pytest.raises(ParameterError, match="expected at least 1 and at least 0"):
        galleries.choose(make_table([0], [[1.0, 0.0]]), **options)
