"""The leaderboard: its order, its numbers, and its table."""

import csv
import io
import json

import numpy as np
import pytest
from scipy.stats import binomtest

from heads.catalog import head_spec
from heads.evaluation.intervals import wilson
from heads.notices import Notice
from heads.search.grid import Candidate
from heads.search.ranking import best_of_each, ranked, to_csv
from heads.search.tasks import Outcome


def candidate(head="logreg", tap="fc2", **params):
    return Candidate(head, tap, head_spec(head).values(params))


def outcome(correct, loss=1.0, warnings=(), **rest):
    return Outcome(np.array(correct, bool), loss, rest.pop("seconds", 2.0), said(*warnings), **rest)


def said(*messages):
    return tuple(Notice("toy", message) for message in messages)


def failed(error):
    return Outcome(np.empty(0, bool), 0.0, 3.0, error=error)


def test_order_is_by_accuracy_then_loss_then_plan_and_failures_come_last():
    candidates = [candidate(C=C) for C in (1, 2, 3, 4, 5)]
    outcomes = [
        [failed("diverged")],
        [outcome([1, 1, 0], 0.5)],
        [outcome([1, 1, 1], 0.9)],
        [outcome([1, 0, 1], 0.4)],
        [outcome([0, 1, 1], 0.4)],
    ]
    board = ranked(candidates, outcomes)
    assert [entry.candidate.params["C"] for entry in board] == [3, 4, 5, 2, 1]
    assert [entry.rank for entry in board] == [1, 2, 3, 4, 5]
    assert [entry.error for entry in board] == [""] * 4 + ["diverged"]


def test_the_order_of_the_plan_decides_between_equals_whatever_their_order():
    candidates = [candidate(C=C) for C in (7, 3, 5)]
    board = ranked(candidates, [[outcome([1, 0])]] * 3)
    assert [entry.candidate.params["C"] for entry in board] == [7, 3, 5]


def test_numbers_of_an_entry():
    first, second = [1] * 18 + [0] * 2, [1] * 10 + [0] * 10
    board = ranked([candidate(C=1), candidate(C=2)], [[outcome(second, 0.7)], [outcome(first, 0.2, warnings=("w",))]])
    expected = wilson(18, 20)
    assert (board[0].accuracy, board[0].loss, board[0].seconds, board[0].p_value) == (expected, 0.2, 2.0, 1.0)
    assert board[0].warnings == said("w")
    assert board[1].p_value == pytest.approx(binomtest(8, 8, 0.5).pvalue)


def test_folds_are_joined_row_by_row():
    folds = [outcome([1, 1, 1, 0], 0.2, warnings=("a", "b")), outcome([0, 1], 0.8, warnings=("b",), seconds=5.0)]
    (entry,) = ranked([candidate()], [folds])
    assert entry.accuracy == wilson(4, 6)
    assert entry.loss == pytest.approx((4 * 0.2 + 2 * 0.8) / 6)
    assert (entry.seconds, entry.warnings) == (7.0, said("a", "b"))


def test_one_fold_that_fails_fails_the_candidate():
    board = ranked([candidate()], [[outcome([1]), failed("diverged"), outcome([1])]])
    assert (board[0].accuracy, board[0].loss, board[0].p_value) == (None, None, None)
    assert board[0].error == "fold 2 of 3: diverged"
    assert board[0].seconds == 7.0


def test_best_of_each_head_and_tap_in_their_order():
    candidates = [candidate("logreg", tap, C=C) for tap in ("fc1", "fc2") for C in (1, 2)] + [candidate("majority")]
    outcomes = [[outcome(bits)] for bits in ([1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0])]
    best = best_of_each(ranked(candidates, outcomes))
    assert [(each.candidate.head, each.candidate.tap, each.rank) for each in best] == [
        ("logreg", "fc2", 1),
        ("logreg", "fc1", 2),
        ("majority", "fc2", 4),
    ]


def test_the_table_reads_back():
    candidates = [candidate(C=1 / 3), candidate("mlp", "fc1", hidden="64,32"), candidate("majority")]
    outcomes = [
        [outcome([1, 1, 0], 1 / 7, warnings=("a, b", "c"))],
        [outcome([1, 0, 0])],
        [failed('it "diverged"\nso')],
    ]
    board = ranked(candidates, outcomes)
    text = to_csv(board)
    assert text.endswith("\r\n")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["rank"], row["head"], row["tap"]) for row in rows] == [
        ("1", "logreg", "fc2"),
        ("2", "mlp", "fc1"),
        ("3", "majority", "fc2"),
    ]
    assert [json.loads(row["params"]) for row in rows] == [dict(each.params) for each in candidates]
    assert float(rows[0]["C"]) == 1 / 3
    assert (rows[0]["standardize"], rows[0]["hidden"], rows[1]["hidden"], rows[1]["C"]) == ("true", "", "64,32", "")
    assert float(rows[0]["valid_accuracy"]) == 2 / 3
    assert float(rows[0]["valid_loss"]) == 1 / 7
    assert (rows[0]["warnings"], rows[0]["error"]) == ("a, b; c", "")
    assert (rows[2]["valid_accuracy"], rows[2]["p_value"], rows[2]["error"]) == ("", "", 'it "diverged"\nso')


def test_an_entry_as_json_is_complete():
    (entry,) = ranked([candidate()], [[failed("diverged")]])
    assert json.loads(json.dumps(entry.to_dict())) == {
        "rank": 1,
        "head": "logreg",
        "tap": "fc2",
        "params": head_spec("logreg").values({}),
        "valid_accuracy": None,
        "low": None,
        "high": None,
        "valid_loss": None,
        "seconds": 3.0,
        "p_value": None,
        "n_train": 0,
        "n_valid": 0,
        "warnings": [],
        "error": "diverged",
    }
