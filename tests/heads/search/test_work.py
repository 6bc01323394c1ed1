"""What an unfinished sweep keeps: its own plan alone, results that are whole, and nothing if there is nothing."""

import json

import numpy as np
import pytest

from featurecache.errors import OutputError
from heads.search.grid import candidates_of
from heads.search.tasks import Outcome, encode, tasks_of
from heads.search.validation_plan import ValidationPlan
from heads.search.work import locked, plan_of

GRID = {"logreg": {"C": [1, 2]}, "softmax": {"lr": [0.1], "l2": [0]}}


def plan(heads=("logreg", "softmax"), taps=("fc1",), grids=GRID, rows="aa", folds=0, holdout=0.2, seed=0, recipe="ff"):
    return plan_of(recipe, rows, ValidationPlan(folds, holdout, seed), candidates_of(heads, taps, grids), {})


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "sweep.work"


def fill(directory, some=None):
    """Leave a result of the first task behind, as a run that was killed does; return its task and outcomes."""
    task = tasks_of(candidates_of(("logreg", "softmax"), ("fc1",), GRID), [0])[0]
    outcomes = [Outcome(np.array([True, False]), 0.5, 1.0)]
    with locked(directory, some or plan()) as work:
        work.result(task).write_bytes(encode(outcomes, work.digest))
    return task, outcomes


def test_a_result_is_found_again(directory):
    task, outcomes = fill(directory)
    with locked(directory, plan()) as work:
        (found,) = work.outcomes(task)
        assert found.correct.tolist() == outcomes[0].correct.tolist()


def test_a_result_without_its_final_name_is_as_none(directory):
    task, _ = fill(directory)
    result = directory / "results" / task.name
    result.rename(result.with_name(f".{task.name}.0123456789abcdef.tmp"))
    with locked(directory, plan()) as work:
        assert work.count() == 0
    with pytest.raises(KeyboardInterrupt), locked(directory, plan()):
        raise KeyboardInterrupt
    assert not directory.exists()


@pytest.mark.parametrize(
    "damage", ["truncate", "flip", "empty", "remove", "directory", "another plan", "too few", "too many"]
)
def test_a_damaged_result_is_as_none(directory, damage):
    task, outcomes = fill(directory)
    path = directory / "results" / task.name
    content = path.read_bytes()
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage != "remove":
        changed = {
            "truncate": content[:-9],
            "flip": content.replace(b'"loss": 0.5', b'"loss": 0.4'),
            "empty": b"",
            "another plan": encode(outcomes, "another"),
            "too few": encode([], json.loads(content)["plan"]),
            "too many": encode(outcomes * 2, json.loads(content)["plan"]),
        }
        path.write_bytes(changed[damage])
    with locked(directory, plan()) as work:
        assert work.outcomes(task) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 3}, "seed is 0 there and 3 here"),
        ({"folds": 5}, "folds is 0 there and 5 here"),
        ({"holdout": 0.3}, "holdout is 0.2 there and 0.3 here"),
        ({"rows": "bb"}, "the images, labels or splits"),
        ({"recipe": "ee"}, "the recipe of the features"),
        ({"heads": ("logreg",), "grids": {}}, "heads are logreg, softmax, majority there and logreg, majority here"),
        ({"taps": ("fc1", "fc2")}, "taps are fc1 there and fc1, fc2 here"),
        ({"grids": GRID | {"logreg": {"C": [1, 3]}}}, "the grid of logreg"),
        ({"grids": GRID | {"logreg": {"C": [2, 1]}}}, "the grid of logreg"),
        ({"heads": ("softmax", "logreg")}, "the order of candidates"),
        ({"seed": 3, "rows": "bb"}, "the images, labels or splits; seed is 0 there and 3 here"),
    ],
)
def test_another_sweep_is_refused_naming_what_differs(changes, said, directory):
    fill(directory)
    before = sorted(directory.rglob("*"))
    with pytest.raises(OutputError) as caught, locked(directory, plan(**changes)):
        pass
    assert str(caught.value) == (
        f"{directory} holds an unfinished sweep of another kind: {said}; "
        "finish it with the command that began it, remove it, or choose another directory"
    )
    assert sorted(directory.rglob("*")) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"format": "x"}', b"\xff"])
def test_a_plan_that_is_damaged(content, directory):
    fill(directory)
    (directory / "plan.json").write_bytes(content)
    with (
        pytest.raises(OutputError, match=r"plan\.json is damaged, or no plan of a sweep; remove "),
        locked(directory, plan()),
    ):
        pass


@pytest.mark.parametrize("candidates", [3, [3], [{"head": "x"}]])
def test_a_plan_whose_candidates_are_strange(candidates, directory):
    fill(directory)
    (directory / "plan.json").write_text(json.dumps(plan() | {"candidates": candidates}), encoding="ascii")
    with pytest.raises(OutputError, match="of another kind: its candidates;"), locked(directory, plan()):
        pass


def test_two_runs_at_once_are_refused(directory):
    with (
        locked(directory, plan()),
        pytest.raises(OutputError, match=r"another run is at work in .*sweep\.work; wait until it has ended"),
        locked(directory, plan()),
    ):
        pass
    with locked(directory, plan()):
        pass


def test_what_a_killed_run_has_left_besides_is_removed(directory):
    fill(directory)
    for name in ("scratch", "finished"):
        (directory / name).mkdir()
        (directory / name / "half").write_bytes(b"x")
    with locked(directory, plan()):
        assert sorted(path.name for path in directory.iterdir()) == ["plan.json", "results"]


def test_a_run_that_fails_before_any_result_leaves_nothing(directory):
    def fail():
        with locked(directory, plan()):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not directory.exists()
    fill(directory)
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert directory.exists()


def test_a_folder_is_gone_afterwards_however_it_ends(directory):
    with locked(directory, plan()) as work:

        def fail():
            with work.folder("scratch") as folder:
                (folder / "file").write_bytes(b"x")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fail()
        assert not (directory / "scratch").exists()
