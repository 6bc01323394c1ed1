"""What is said about a leaderboard."""

from types import SimpleNamespace

import numpy as np
import pytest

from heads.catalog import head_spec
from heads.evaluation.intervals import wilson
from heads.notices import Code, Notice
from heads.search.grid import Candidate
from heads.search.notices import notices_on
from heads.search.ranking import Entry
from heads.search.tasks import Task
from heads.search.validation_plan import ValidationPlan

BY_VALID = ValidationPlan(0, 0.2, 0)
NOT_CONVERGED = Notice(Code.NOT_CONVERGED, "in whatever words")


def board(*entries):
    """Return a leaderboard of (head, tap, parameters, p-value or an error, warnings), best first."""
    made = []
    for rank, (head, tap, params, found, *warnings) in enumerate(entries, start=1):
        candidate = Candidate(head, tap, head_spec(head).values(params))
        good = not isinstance(found, str)
        accuracy, loss = (wilson(90 - rank, 100), 0.1) if good else (None, None)
        made.append(
            Entry(rank, candidate, accuracy, loss, 1.0, found if good else None, tuple(warnings), "" if good else found)
        )
    return made


@pytest.fixture
def notes(make_features):
    def notes(entries, *, splits=None, validation=BY_VALID, warnings=(), valid_accuracy=0.89, left=()):
        splits = splits or ["train"] * 200 + ["valid"] * 100 + ["test"] * 20
        y = np.arange(len(splits)) % 2
        images = make_features(np.empty((len(y), 0), np.float32), y, splits=splits)
        best = SimpleNamespace(training=SimpleNamespace(warnings=warnings, valid_accuracy=valid_accuracy))
        return [*map(str, notices_on(entries, best, images, validation, left=left))]

    return notes


def test_tasks_that_were_left_are_counted_and_spare_their_heads_the_advice_to_extend_a_grid(notes):
    entries = board(*[("logreg", "fc2", {"C": C}, 0.9) for C in (1, 2, 3)])
    assert about(notes(entries), "-p logreg.C=VALUES")
    for count, words in ((1, "1 task was left"), (3, "3 tasks were left")):
        tasks = [Task("0-7.json", 0, (7,), (entries[0].candidate,))] * count
        first, *others = notes(entries, left=tasks)
        assert first == f"{words} when the time was over (logreg); the same command continues the sweep"
        assert not about(others, "-p logreg.C=VALUES")


def about(notes, *words):
    return [note for note in notes if all(word in note for word in words)]


def test_heads_within_noise_are_named_with_their_p_value(notes):
    entries = board(
        ("logreg", "fc2", {"C": 2}, 1.0),
        ("logreg", "fc2", {"C": 1}, 0.9),
        ("knn", "fc2", {}, 0.3),
        ("logreg", "fc1", {"C": 1}, 0.051),
        ("centroid", "fc2", {}, 0.05),
        ("majority", "fc1", {}, 0.0),
        ("lda", "fc1", {}, "it diverged"),
    )
    assert notes(entries)[0] == (
        "2 of 4 other heads and taps are within noise of the best (exact McNemar test on the same rows, p > 0.05): "
        "knn on fc2 (0.30), logreg on fc1 (0.05)"
    )
    assert not about(notes(entries), "nothing is better")


def test_a_best_that_stands_alone(notes):
    entries = board(("logreg", "fc2", {}, 1.0), ("majority", "fc2", {}, 0.001))
    assert notes(entries)[0].startswith("no other head and tap is within noise of the best, logreg on fc2 (exact Mc")


def test_no_better_than_the_floor(notes):
    said = "no head is better than the majority baseline, beyond noise"
    for first, second in (("logreg", "majority"), ("majority", "logreg")):
        assert said in notes(board((first, "fc2", {}, 1.0), (second, "fc2", {}, 0.4)))


def test_the_floor_alone_has_nothing_to_be_compared_with(notes):
    assert not about(notes(board(("majority", "fc2", {}, 1.0))), "noise")


def test_the_best_of_many_flatters_and_test_judges(notes):
    entries = board(("logreg", "fc2", {}, 1.0), ("majority", "fc2", {}, 0.001))
    said = "the accuracy of the best of 2 tries on the same 100 rows is optimistic; "
    assert about(notes(entries), said, "evaluate the head on the test split, which no choice has used")
    splits = ["train"] * 200 + ["valid"] * 100
    assert about(
        notes(entries, splits=splits), said, "no test split to evaluate the head on: set some images aside as one"
    )
    assert about(notes(entries, validation=ValidationPlan(5, 0.2, 0)), "tries on the same 200 rows is optimistic")


@pytest.mark.parametrize(
    ("best", "side"), [(0.1, "lowest of 3 tried: try lower"), (10, "highest of 3 tried: try higher")]
)
def test_a_best_value_at_the_edge_is_said(best, side, notes):
    rest = [("logreg", "fc2", {"C": C}, 0.5) for C in (0.1, 1, 10) if best != C]
    found = about(notes(board(("logreg", "fc2", {"C": best}, 1.0), *rest)), "try")
    assert found == [f"the best C of logreg on fc2, {best:g}, is the {side} ones, with -p logreg.C=VALUES"]


@pytest.mark.parametrize(
    "entries",
    [
        [("logreg", "fc2", {"C": C}, 1.0) for C in (1, 0.1, 10)],
        [("logreg", "fc2", {"C": C}, 1.0) for C in (1, 10)],
        [
            ("logreg", "fc2", {"C": 10}, 1.0),
            *(("logreg", "fc2", {"C": C}, 0.5) for C in (1, 0.1)),
            ("logreg", "fc2", {"C": 100}, "diverged"),
        ],
        [("softmax", "fc2", {"l2": l2}, 1.0) for l2 in (0, 0.1, 0.2)],
        [("lda", "fc2", {"shrinkage": value}, 1.0) for value in ("auto", 0.1, 0.2, 0.3)],
        [("lda", "fc2", {"shrinkage": value}, 1.0) for value in (1, 0.1, 0.2, 0.3)],
        [("logreg", "fc2", {"C": 1}, 1.0), *(("logreg", "fc1", {"C": C}, 0.5) for C in (0.1, 0.01))],
    ],
    ids=["inside", "two values", "beyond it diverges", "lowest there is", "no number", "highest there is", "other tap"],
)
def test_what_is_no_edge(entries, notes):
    assert not about(notes(board(*entries)), "tried: try")


def test_edges_are_said_of_each_head_where_it_is_best(notes):
    entries = board(
        ("logreg", "fc2", {"C": 1}, 1.0),
        *(("logreg", "fc2", {"C": C}, 0.5) for C in (0.1, 10)),
        *(("logreg", "fc1", {"C": C}, 0.5) for C in (0.1, 1, 10)),
        *(("knn", "fc1", {"n_neighbors": n}, 0.5) for n in (50, 5, 10)),
    )
    assert about(notes(entries), "tried: try") == [
        "the best n_neighbors of knn on fc1, 50, is the highest of 3 tried: "
        "try higher ones, with -p knn.n_neighbors=VALUES"
    ]


def test_what_failed_or_did_not_converge_is_counted(notes):
    entries = board(
        ("logreg", "fc2", {"C": 1}, 1.0, NOT_CONVERGED),
        ("logreg", "fc2", {"C": 2}, 0.5, NOT_CONVERGED, Notice("other", "something else")),
        ("softmax", "fc2", {"lr": 1}, "diverged"),
        ("mlp", "fc2", {"lr": 1}, "diverged"),
        ("softmax", "fc2", {"lr": 2}, "diverged"),
    )
    assert "3 of 5 candidates failed, and come last: 2 of softmax, 1 of mlp" in notes(entries)
    assert "2 of 5 candidates did not converge: 2 of logreg" in notes(entries)


def test_what_the_final_training_says_is_passed_on_once(notes):
    known = Notice("known", "known")
    entries = board(("logreg", "fc2", {}, 1.0, known))
    found = notes(entries, warnings=(known, Notice(Code.UNLABELLED_ROWS, "6 rows without a label: not used")))
    assert "6 rows without a label: not used" in found
    assert "known" not in found


def test_what_the_final_training_says_of_valid_rows_is_no_note_where_folds_validated(notes):
    entries = board(("logreg", "fc2", {}, 1.0))
    for code in (Code.NO_VALID_ROWS, Code.SAME_CONTENT):
        about_valid_rows = (Notice(code, "in whatever words"),)
        assert "in whatever words" in notes(entries, warnings=about_valid_rows)
        assert "in whatever words" not in notes(
            entries, warnings=about_valid_rows, validation=ValidationPlan(2, 0.2, 0)
        )


def test_a_final_training_that_comes_out_otherwise_is_said(notes):
    entries = board(("logreg", "fc2", {}, 1.0))
    said = "trained again, the best head has a valid accuracy of 0.8800, not 0.8900"
    assert said in notes(entries, valid_accuracy=0.88)
    assert not about(notes(entries), "trained again")
    assert not about(notes(entries, valid_accuracy=None), "trained again")
    assert not about(notes(entries, valid_accuracy=0.88, validation=ValidationPlan(2, 0.2, 0)), "trained again")
