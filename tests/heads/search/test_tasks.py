"""Candidates that are fitted together come out as those that are fitted one by one."""

import json

import numpy as np
import pytest

from heads.artifact.description import checksum
from heads.catalog import head_spec, make_head
from heads.errors import EvaluationError
from heads.notices import Code, Notice
from heads.rows import loss_and_accuracy
from heads.search.grid import Candidate, candidates_of
from heads.search.prepared import CacheRows, Kind, prepare
from heads.search.sweep_executor import groups_of
from heads.search.tasks import Outcome, decode, encode, publish_task, run_task, tasks_of
from heads.search.validation_plan import ValidationPlan, identity, parts_of
from heads.splits import labelled_images

BY_VALID = ValidationPlan(0, 0.2, 0)


def candidates(head, *settings, tap="fc2"):
    return tuple(Candidate(head, tap, head_spec(head).values(params)) for params in settings)


@pytest.fixture
def run(blob_file, tmp_path):
    """Run candidates as one task; return what came of them."""

    def run(some, validation=BY_VALID, part=0):
        images = labelled_images(blob_file, "fc2")
        source = CacheRows(
            blob_file.path,
            validation,
            identity(images, validation),
            images.classes,
            images.y,
            parts_of(images, validation),
        )
        (task,) = (each for each in tasks_of(some, validation.parts) if each.part == part)
        folder = tmp_path / f"scratch-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        rows = prepare(source, task.kind, folder)
        return run_task(task, rows), rows, task

    return run


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        ("logreg", [{"C": 0.1}]),
        ("logreg", [{"C": 0.1, "standardize": False}]),
        ("softmax", [{"lr": lr, "epochs": 3, "batch_size": 16} for lr in (0.01, 0.1)]),
        ("knn", [{"n_neighbors": n} for n in (1, 5)]),
        ("majority", [{}]),
    ],
)
def test_outcomes_are_those_of_heads_that_do_all_by_themselves(head, settings, run, blob_file):
    outcomes, _, _ = run(candidates(head, *settings))
    train, valid = (blob_file.features("fc2", split) for split in ("train", "valid"))
    for outcome, params in zip(outcomes, settings, strict=True):
        alone = make_head(head, **params).fit(train.X, train.y)
        probabilities = alone.predict_proba(valid.X)
        loss, _ = loss_and_accuracy(probabilities, alone.classes_, valid.y)
        assert outcome.correct.tolist() == (alone.classes_[probabilities.argmax(axis=1)] == valid.y).tolist()
        assert outcome.loss == pytest.approx(loss, rel=1e-4)
        assert (outcome.error, outcome.warnings) == ("", ())
        assert 0 < outcome.seconds < 60


def test_a_fold_is_judged_by_what_the_others_have_trained(run, blob_file):
    validation = ValidationPlan(3, 0.2, 0)
    (outcome,), rows, _ = run(candidates("logreg", {"C": 0.1}), validation, part=1)
    features = blob_file.features("fc2")
    train, judged = (rows.cache_rows.parts >= 0) & (rows.cache_rows.parts != 1), rows.cache_rows.parts == 1
    alone = make_head("logreg", C=0.1).fit(features.X[train], features.y[train])
    expected = alone.predict_proba(features.X[judged]).argmax(axis=1) == features.y[judged]
    assert outcome.correct.tolist() == expected.tolist()


def test_a_candidate_that_fails_does_not_stop_the_others(run):
    params = {"epochs": 3, "standardize": False, "optimizer": "sgd"}
    good, bad = run(candidates("softmax", {"lr": 0.01} | params, {"lr": 1e38} | params))[0]
    assert (good.error, len(good.correct)) == ("", 60)
    assert "no longer a finite number" in bad.error
    assert (len(bad.correct), bad.loss) == (0, 0.0)


def test_a_family_that_cannot_be_fitted_at_all_fails(run):
    outcomes = run(
        candidates("softmax", {"lr": 0.1, "keep": "best"}, {"lr": 1, "keep": "best"}), ValidationPlan(2, 0.2, 0)
    )[0]
    assert [each.error.partition(",")[0] for each in outcomes] == ["patience and keep=best need valid rows"] * 2


def test_valid_rows_may_choose_an_epoch_as_they_do_in_training(run):
    params = {"lr": 0.5, "epochs": 20, "batch_size": 4}
    (last,), (best,) = (run(candidates("softmax", params | {"keep": keep}))[0] for keep in ("last", "best"))
    assert (last.error, best.error) == ("", "")
    assert best.loss < last.loss - 0.01


def test_standardised_rows_are_not_standardised_once_more(run, monkeypatch):
    def applied(*_):
        pytest.fail("rows are copied")

    with monkeypatch.context() as patched:
        some = candidates("logreg", {"C": 0.1}), candidates("softmax", {"epochs": 1})
        prepared = [run(each)[1:] for each in some]
        patched.setattr("heads.rows.Scaling.applied", applied)
        assert [run_task(task, rows)[0].error for rows, task in prepared] == ["", ""]


def test_warnings_say_what_can_be_done(run):
    for standardize in (True, False):
        (outcome,) = run(candidates("logreg", {"max_iter": 1, "standardize": standardize}))[0]
        (warning,) = outcome.warnings
        assert warning.code == Code.NOT_CONVERGED
        assert warning.message.startswith("logreg did not converge (max_iter=1): ")
        assert ("set standardize=true" in warning.message) is not standardize


def test_tasks_are_all_candidates_on_all_parts_once():
    some = candidates_of(["softmax", "logreg"], ["fc1", "fc2"], {"logreg": {"C": [1, 2]}})
    tasks = tasks_of(some, range(3))
    done = sorted((task.part, number) for task in tasks for number in task.numbers)
    assert done == [(part, number) for part in range(3) for number in range(len(some))]
    assert len({task.name for task in tasks}) == len(tasks) == 3 * (2 + 4 + 1)
    for task in tasks:
        assert [some[number] for number in task.numbers] == list(task.candidates)
    assert tasks[0].kind == Kind(0, "fc1", True)


def test_no_more_candidates_are_in_a_task_than_it_pays_to_fit_together():
    some = candidates_of(["softmax"], ["fc1"], {"softmax": {"lr": [1, 2, 3], "l2": [0]}})
    few = tasks_of(some, range(2), together={("softmax", "fc1"): 2.9, ("majority", "fc1"): 0.0})
    assert [(task.part, task.numbers) for task in few] == [
        (part, each) for part in range(2) for each in [(0, 1), (2,), (3,)]
    ]
    assert len({task.name for task in few}) == len(few)


def test_cheap_tasks_of_all_taps_come_first_where_time_is_short_and_else_the_costly_ones_of_a_tap():
    heads = ["svm", "logreg", "centroid", "lda", "knn"]
    tasks = tasks_of(candidates_of(heads, ["fc1", "fc2"], {"logreg": {"C": [1]}, "svm": {"C": [1]}}), range(1))
    costs = {task.name: head_spec(task.candidates[0].head).cost(9000, 1280, 100) for task in tasks}
    cheap, costly = (list(groups_of(tasks, costs, cheap_first=first)) for first in (True, False))
    order = list(dict.fromkeys(task.candidates[0].head for _, group in cheap for task in group))
    assert order == ["majority", "centroid", "knn", "lda", "logreg", "svm"]
    assert [[task.candidates[0].head for task in group] for _, group in costly] == [
        ["svm", "logreg", "lda", "centroid"],
        ["svm", "logreg", "lda", "centroid"],
        ["knn", "knn", "majority"],
        ["knn", "knn"],
    ]
    for groups in (cheap, costly):
        assert sorted(task.name for _, group in groups for task in group) == sorted(costs)
        assert all(task.kind == kind for kind, group in groups for task in group)


@pytest.mark.parametrize("n", [0, 1, 8, 61])
def test_outcomes_read_back(n):
    random = np.random.default_rng(n)
    written = [Outcome(random.random(n) < 0.5, 1 / 3, 0.1, (Notice("a", "b"), Notice("c", "ü\n")), "")] * 2 + [
        Outcome(random.random(0) < 0, 0, 1, error="no")
    ]
    read = decode(encode(written, "plan"), "plan")
    assert [(each.correct.tolist(), each.loss, each.seconds, each.warnings, each.error) for each in read] == [
        (each.correct.tolist(), each.loss, each.seconds, each.warnings, each.error) for each in written
    ]


def test_what_is_damaged_or_of_another_plan_is_not_believed():
    content = encode([Outcome(np.ones(20, bool), 0.5, 1.0)], "plan")
    assert decode(content, "plan") is not None
    assert decode(content, "another") is None
    for position in range(len(content)):
        assert decode(content[:position], "plan") is None
        changed = bytearray(content)
        changed[position] ^= 1
        assert decode(bytes(changed), "plan") is None
    for strange in (
        b"",
        b"[]",
        b"{}",
        b"3",
        b"\xff",
        b"[" * 100_000,
        json.dumps({"sha256": "", "plan": "plan"}).encode(),
    ):
        assert decode(strange, "plan") is None


def test_what_came_of_a_task_is_kept(run, tmp_path):
    _, rows, task = run(candidates("majority", {}))
    outcomes = publish_task(task, rows, tmp_path / "result.json", "plan")
    (read,) = decode((tmp_path / "result.json").read_bytes(), "plan")
    assert read.correct.tolist() == outcomes[0].correct.tolist()


def test_a_candidate_that_breaks_its_library_fails_alone(run):
    (broken,) = run(candidates("sgd", {"alpha": 1e-300}))[0]
    assert "the training broke down" in broken.error


def test_a_candidate_whose_judgement_is_not_finite_fails_alone(run, monkeypatch):
    def overflowing(self, X):
        raise EvaluationError("row 3 gets no probabilities", 3)

    monkeypatch.setattr("heads.families.affine.AffineModel.predict_proba", overflowing)
    (failed,) = run(candidates("logreg", {}))[0]
    assert (failed.error, len(failed.correct)) == ("row 3 gets no probabilities", 0)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 10**30},
        {"rows": 10**9},
        {"rows": 21 * 8},
        {"loss": "x"},
        {"loss": None},
        {"correct": "!"},
        {"rows": "20"},
    ],
    ids=str,
)
def test_outcomes_that_cannot_be_are_not_believed(change):
    data = json.loads(encode([Outcome(np.ones(20, bool), 0.5, 1.0)], "plan"))
    data["outcomes"][0] |= change
    data["sha256"] = checksum({name: value for name, value in data.items() if name != "sha256"})
    assert decode(json.dumps(data).encode(), "plan") is None


def test_candidates_that_hold_all_features_fail_where_there_is_no_room_for_them(run, monkeypatch):
    monkeypatch.setattr("heads.training.free_memory", lambda: 0)
    [outcome], _, _ = run(candidates("knn", {}))
    assert "the head 'knn' holds all features in memory" in outcome.error
    [outcome], _, _ = run(candidates("centroid", {}))
    assert outcome.error == ""
