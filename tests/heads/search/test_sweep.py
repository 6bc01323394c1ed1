"""A whole sweep: what it finds, that it goes on, and that test rows play no part in it."""

import csv
import io
import json
import os
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featurecache.cache import FeatureCache
from featurecache.errors import OutputError, UnknownNameError
from heads import TrainedHead, evaluate, select_rows, sweep
from heads.catalog import HEADS
from heads.errors import ParameterError, TrainingError
from heads.evaluation.intervals import wilson
from heads.search import best_of_each, sweep_executor, tasks, workers

CS = (0.001, 0.1, 10.0)
QUICK = {
    "logreg": {"C": CS},
    "softmax": {"lr": [0.01, 0.1], "l2": [0], "epochs": [3]},
    "knn": {"n_neighbors": [1, 5]},
}


def quick(cache, directory, **options):
    """Sweep over few candidates in this process."""
    return sweep(cache, directory, **({"heads": list(QUICK), "grids": QUICK, "jobs": 1} | options))


def found(sweep_dir):
    """Return all that a leaderboard on disk says, but for times."""
    data = json.loads((sweep_dir / "leaderboard.json").read_bytes())
    data.pop("seconds")
    for entry in (*data["leaderboard"], data["best"], data["best"]["trained"]):
        entry.pop("seconds")
    text = (sweep_dir / "leaderboard.csv").read_bytes().decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    seconds = rows[0].index("seconds")
    return data, [row[:seconds] + row[seconds + 1 :] for row in rows]


def test_accuracies_are_those_that_scikit_learn_finds(blob_file, tmp_path):
    swept = quick(blob_file, tmp_path / "sweep", heads=["logreg"], grids={"logreg": {"C": CS}})
    train, valid = (blob_file.features("fc2", split) for split in ("train", "valid"))
    for C in CS:
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000)).fit(train.X, train.y)
        (entry,) = (
            each for each in swept.leaderboard if (each.candidate.tap, each.candidate.params.get("C")) == ("fc2", C)
        )
        right = int(np.sum(pipeline.predict(valid.X) == valid.y))
        assert entry.accuracy == wilson(right, 60)
        probabilities = pipeline.predict_proba(valid.X)[np.arange(60), valid.y]
        assert entry.loss == pytest.approx(-np.log(probabilities).mean(), abs=1e-3)
    (floor,) = (each for each in swept.leaderboard if each.candidate.head == "majority")
    assert floor.accuracy.value == 20 / 60


def test_what_lies_in_the_directory(blob_file, tmp_path):
    swept = quick(blob_file, tmp_path / "sweep")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs.h5", "sweep"]
    assert sorted(os.listdir(tmp_path / "sweep")) == ["best", "leaderboard.csv", "leaderboard.json"]
    data = json.loads((tmp_path / "sweep" / "leaderboard.json").read_bytes())
    assert data == json.loads(json.dumps(swept.to_dict()))
    assert list(data) == ["leaderboard", "best", "notes", "seconds"]
    assert len(data["leaderboard"]) == 2 * (3 + 2 + 2 * 2) + 1
    assert [entry["rank"] for entry in data["leaderboard"]] == list(range(1, 20))
    accuracies = [entry["valid_accuracy"] for entry in data["leaderboard"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert set(data["seconds"]) == {"total", "preparing", "final", "heads"}
    assert set(data["seconds"]["heads"]) == {*QUICK, "majority"}


def test_the_best_is_trained_again_and_kept(blob_file, tmp_path):
    swept = quick(blob_file, tmp_path / "sweep")
    first = swept.leaderboard[0]
    head = TrainedHead.load(tmp_path / "sweep" / "best")
    assert (head.name, head.tap, head.params) == (first.candidate.head, first.candidate.tap, first.candidate.params)
    assert head.training.n_train == 90
    judged = evaluate(head, select_rows(blob_file, head, "valid"))
    assert judged.accuracy == first.accuracy
    assert judged.log_loss == pytest.approx(first.loss, rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"folds": 3}, {"holdout": 0.3}])
def test_test_rows_play_no_part(options, blobs, write_cache, tmp_path):
    X, y = blobs(180, 6, 3, spread=3.0)
    splits = ["train"] * 90 + (["train"] if "holdout" in options else ["valid"]) * 60 + ["test"] * 30
    poisoned, relabelled = X.copy(), y.copy()
    poisoned[150:], relabelled[150:] = np.nan, 0
    results = []
    for name, features, labels in (("plain", X, y), ("poisoned", poisoned, relabelled)):
        cache = write_cache(tmp_path / f"{name}.h5", {"fc1": features[:, :4], "fc2": features}, labels, splits)
        quick(cache, tmp_path / name, **options)
        results.append(found(tmp_path / name))
    assert results[0] == results[1]


def test_folds_judge_every_training_row_once(blob_file, tmp_path):
    swept = quick(blob_file, tmp_path / "sweep", folds=3)
    for entry in swept.leaderboard:
        assert entry.accuracy.value * 90 == pytest.approx(round(entry.accuracy.value * 90))
    assert swept.best.training.n_train == 90
    assert swept.leaderboard[0].accuracy.value > 0.4


def test_folds_need_no_valid_rows_and_hold_none_out(blobs, write_cache, tmp_path):
    X, y = blobs(90, 6, 3)
    cache = write_cache(tmp_path / "c.h5", {"fc2": X}, y, [""] * 90)
    best = quick(cache, tmp_path / "folds", folds=3).best
    assert (best.training.n_train, best.training.holdout) == (90, None)
    best = quick(cache, tmp_path / "holdout", holdout=0.3, seed=4).best
    assert (best.training.holdout.fraction, best.training.holdout.seed) == (0.3, 4)


def test_the_seed_decides_everything_and_numpys_own_is_left_alone(blob_file, tmp_path):
    np.random.seed(5)  # noqa: NPY002
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        quick(blob_file, tmp_path / name, seed=seed)
    assert found(tmp_path / "a") == found(tmp_path / "b") != found(tmp_path / "c")
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_several_processes_find_the_same(blob_file, tmp_path, capfd):
    alone, together = (quick(blob_file, tmp_path / str(jobs), jobs=jobs, folds=2) for jobs in (1, 2))
    assert capfd.readouterr() == ("", "")
    for entries in zip(alone.leaderboard, together.leaderboard, strict=True):
        ours, theirs = (entry.candidate.to_dict() | {"accuracy": entry.accuracy} for entry in entries)
        assert ours == theirs


def test_all_heads_are_tried_on_the_taps_that_they_can_take(blobs, write_cache, tmp_path):
    X, y = blobs(180, 6, 3, spread=3.0)
    probabilities = np.abs(X) / np.abs(X).sum(axis=1, keepdims=True)
    splits = ["train"] * 90 + ["valid"] * 90
    cache = write_cache(tmp_path / "c.h5", {"fc2": X, "predictions": probabilities}, y, splits)
    few = {"softmax": {"epochs": [2]}, "mlp": {"epochs": [2]}, "sgd": {"alpha": [0.1]}, "ridge": {"alpha": [1, 10]}}
    grids = few | {name: {"C": [0.01, 0.1]} for name in ("logreg", "svm")}
    swept = sweep(cache, tmp_path / "sweep", grids=grids, jobs=1)
    expected = {(name, tap) for name, spec in HEADS.items() for tap in spec.taps or cache.taps}
    expected.remove(("majority", "predictions"))
    assert {(each.candidate.head, each.candidate.tap) for each in best_of_each(swept.leaderboard)} == expected


def test_a_sweep_that_was_interrupted_goes_on(blob_file, tmp_path, monkeypatch):
    quick(blob_file, tmp_path / "whole")
    done, notices = [], []

    def once(task, rows, *arguments):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(task.name)
        return tasks.publish_task(task, rows, *arguments)

    monkeypatch.setattr(sweep_executor, "publish_task", once)
    with pytest.raises(KeyboardInterrupt):
        quick(blob_file, tmp_path / "sweep")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs.h5", "sweep.work", "whole"]
    assert sorted(path.name for path in (tmp_path / "sweep.work").iterdir()) == ["plan.json", "results"]
    assert sorted(os.listdir(tmp_path / "sweep.work" / "results")) == sorted(done)
    first, *_ = done
    (tmp_path / "sweep.work" / "results" / first).write_bytes(b"damaged")
    again = []

    def rest(task, *arguments):
        again.append(task.name)
        return tasks.publish_task(task, *arguments)

    monkeypatch.setattr(sweep_executor, "publish_task", rest)
    swept = quick(blob_file, tmp_path / "sweep", notify=notices.append)
    assert first in again
    assert not set(done[1:]) & set(again)
    assert notices == ["known from before and kept: 3 tasks"]
    assert found(tmp_path / "sweep") == found(tmp_path / "whole")
    assert len(swept.leaderboard) == 19
    assert not (tmp_path / "sweep.work").exists()


def test_a_sweep_that_is_finished_but_for_the_last_step_computes_nothing_again(blob_file, tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("heads.search.run.train", stop)
        with pytest.raises(KeyboardInterrupt):
            quick(blob_file, tmp_path / "sweep")
    monkeypatch.setattr(sweep_executor, "publish_task", stop)
    monkeypatch.setattr(sweep_executor, "prepare", stop)
    assert len(quick(blob_file, tmp_path / "sweep").leaderboard) == 19


def test_another_sweep_in_the_same_place_is_refused(blob_file, tmp_path, monkeypatch):
    monkeypatch.setattr("heads.search.run.train", None)
    with pytest.raises(TypeError):
        quick(blob_file, tmp_path / "sweep")
    with pytest.raises(OutputError, match="of another kind: seed is 0 there and 1 here; finish it"):
        quick(blob_file, tmp_path / "sweep", seed=1)


def test_a_directory_that_exists_is_refused_before_any_work(tmp_path):
    (tmp_path / "sweep").mkdir()
    with pytest.raises(OutputError, match="sweep exists already; remove it or choose another directory for the sweep"):
        sweep(None, tmp_path / "sweep")
    with pytest.raises(OutputError, match=r"the folder .* does not exist; make it first"):
        sweep(None, tmp_path / "nowhere" / "sweep")
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


def test_a_directory_that_somebody_makes_meanwhile_is_left_alone(blob_file, tmp_path):
    def make(progress):
        if progress.doing.endswith("again"):
            (tmp_path / "sweep").mkdir()
            (tmp_path / "sweep" / "mine").write_bytes(b"x")

    with pytest.raises(OutputError, match="sweep exists already"):
        quick(blob_file, tmp_path / "sweep", progress=make)
    assert os.listdir(tmp_path / "sweep") == ["mine"]
    assert (tmp_path / "sweep.work" / "results").is_dir()


def test_a_tap_named_twice_is_tried_once(blob_file, tmp_path):
    swept = quick(blob_file, tmp_path / "sweep", taps=["fc2", "fc2"])
    assert [entry.candidate.tap for entry in swept.leaderboard] == ["fc2"] * 10


def test_progress_counts_every_fit(blob_file, tmp_path):
    seen = []
    quick(blob_file, tmp_path / "sweep", folds=2, progress=seen.append)
    assert {each.total for each in seen} == {38}
    assert [each.done for each in seen] == sorted(each.done for each in seen)
    assert (seen[0].done, seen[-1].done) == (0, 38)
    assert seen[0].doing == "preparing fc1, fold 1 of 2"
    assert {"fc2, fold 2 of 2"} < {each.doing for each in seen}
    assert seen[-1].doing.startswith("training ")


def test_a_grid_that_diverges_leaves_the_rest(blob_file, tmp_path):
    grids = {"softmax": {"lr": [0.01, 1e38], "l2": [0], "epochs": [2], "standardize": [False], "optimizer": ["sgd"]}}
    swept = quick(blob_file, tmp_path / "sweep", heads=["softmax"], grids=grids, taps=["fc2"])
    assert [entry.candidate.params.get("lr") for entry in swept.leaderboard] == [0.01, None, 1e38]
    assert "no longer a finite number" in swept.leaderboard[-1].error
    assert "1 of 3 candidates failed, and come last: 1 of softmax" in [note.fact for note in swept.notes]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"taps": ["fc3"]}, UnknownNameError, r"unknown tap 'fc3'.* \(known: fc1, fc2\)"),
        ({"heads": ["logrek"]}, UnknownNameError, "unknown head 'logrek'; did you mean 'logreg'"),
        ({"heads": ["logreg"], "grids": {"logreg": {"C": [-1]}}}, ParameterError, "C is -1, expected a number above 0"),
        ({"folds": 1}, ParameterError, "folds is 1, expected at least 2"),
        ({"holdout": 1}, ParameterError, "holdout is 1, expected at least 0 and below 1"),
        ({"seed": -1}, ParameterError, "the seed is -1, expected a whole number from 0"),
        ({"jobs": 0}, ParameterError, "jobs is 0, expected at least 1"),
        ({"seconds": 0}, ParameterError, "seconds is 0, expected a number above 0"),
        ({"seconds": float("nan")}, ParameterError, "seconds is nan, expected a number above 0"),
        (
            {"folds": 31},
            TrainingError,
            "31 folds need as many different training images of each class, and 'ant' has 30",
        ),
    ],
)
def test_bad_arguments(options, error, said, blob_file, tmp_path):
    with pytest.raises(error, match=said):
        quick(blob_file, tmp_path / "sweep", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["blobs.h5"]


@pytest.mark.parametrize(
    ("y", "splits", "said"),
    [
        ([-1] * 8, ["train"] * 8, "the cache has no labelled rows"),
        ([1] * 8, ["train"] * 4 + ["valid"] * 4, "all 4 training rows are of the class 'bee'"),
        ([0, 1] * 4, ["test"] * 8, "there are no training rows: the labelled rows are 8 in test"),
    ],
)
def test_rows_that_cannot_be_swept_over(y, splits, said, write_cache, tmp_path):
    X = np.random.default_rng(0).normal(size=(8, 2))
    cache = write_cache(tmp_path / "c.h5", {"fc2": X}, y, splits)
    with pytest.raises(TrainingError, match=said):
        quick(cache, tmp_path / "sweep")
    assert [path.name for path in tmp_path.iterdir()] == ["c.h5"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_features_that_are_not_finite_name_the_image(jobs, blobs, write_cache, tmp_path):
    X, y = blobs(60, 4, 2)
    X[7, 1] = np.nan
    cache = write_cache(tmp_path / "c.h5", {"fc2": X}, y, ["train"] * 40 + ["valid"] * 20)
    with pytest.raises(
        TrainingError, match=r"^00007.jpg: row 7 holds features that are not finite; extract them again"
    ):
        quick(cache, tmp_path / "sweep", jobs=jobs)
    assert [path.name for path in tmp_path.iterdir()] == ["c.h5"]


def test_the_cache_is_not_changed(blob_file, tmp_path):
    before = blob_file.path.read_bytes()
    quick(blob_file, tmp_path / "sweep")
    assert blob_file.path.read_bytes() == before
    assert FeatureCache.open(blob_file.path).problems() == []


@pytest.mark.parametrize("params", [{"patience": [2]}, {"keep": ["best"]}])
def test_choosing_epochs_is_refused_with_folds(params, blob_file, tmp_path):
    grids = {"softmax": {"lr": [0.1], "l2": [0], "epochs": [2], **params}}
    with pytest.raises(
        ParameterError, match="patience and keep=best choose an epoch by valid rows, and with folds there"
    ):
        quick(blob_file, tmp_path / "sweep", heads=["softmax"], grids=grids, folds=2)


def test_more_folds_than_rows_are_refused_at_once(blob_file, tmp_path):
    with pytest.raises(TrainingError, match=r"1000000 folds of \d+ training rows; take fewer folds"):
        quick(blob_file, tmp_path / "sweep", folds=10**6)


def test_if_all_that_was_asked_for_fails_the_floor_is_not_the_winner(blob_file, tmp_path):
    with pytest.raises(TrainingError, match=r"none of .* candidates could be trained; sgd: the training broke down"):
        quick(blob_file, tmp_path / "sweep", heads=["sgd"], grids={"sgd": {"alpha": [1e-300]}})
    assert not (tmp_path / "sweep").exists()


@pytest.fixture
def clock(monkeypatch):
    """The clock of the workers; a call moves it on by more than any limit."""
    passed = []
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + sum(passed)))
    return lambda: passed.append(10**6)


ENDLESS = {"heads": ["centroid", "softmax"], "grids": {"softmax": {"lr": [0.1], "l2": [0], "epochs": [10**9]}}}


def interrupted(cache, directory, clock, **options):
    """Sweep until all but the endless candidate is done on both taps, which needs its time; return the result."""

    def watch(progress):
        if progress.done == 3:
            clock()

    return sweep(cache, directory, **ENDLESS, jobs=1, seconds=3600, progress=watch, **options)


def test_when_the_time_is_over_the_best_of_what_is_done_is_kept(blob_file, tmp_path, clock):
    swept = interrupted(blob_file, tmp_path / "sweep", clock)
    assert {entry.candidate.head for entry in swept.leaderboard} == {"centroid", "majority"}
    assert len(swept.leaderboard) == 3
    notice = swept.notes[0]
    assert (notice.code, notice.fact) == (
        "time_over",
        "2 tasks were left when the time was over (softmax); the same command continues the sweep",
    )
    assert TrainedHead.load(tmp_path / "sweep" / "best").name == swept.leaderboard[0].candidate.head
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs.h5", "sweep", "sweep.work"]
    assert sorted(path.name for path in (tmp_path / "sweep.work").iterdir()) == ["plan.json", "results"]


def test_a_sweep_whose_time_was_over_goes_on_and_replaces_its_results(blob_file, tmp_path, clock, monkeypatch):
    first = interrupted(blob_file, tmp_path / "sweep", clock)
    ran = []

    def rest(task, *arguments):
        ran.append(task.name)
        few = [replace(each, params={**each.params, "epochs": 3}) for each in task.candidates]
        return tasks.publish_task(replace(task, candidates=tuple(few)), *arguments)

    monkeypatch.setattr(sweep_executor, "publish_task", rest)
    notices = []
    with monkeypatch.context() as patched:
        patched.setattr("heads.search.run.train", lambda *_, **__: first.best)
        swept = sweep(blob_file, tmp_path / "sweep", **ENDLESS, jobs=1, notify=notices.append)
    assert notices == ["known from before and kept: 3 tasks"]
    assert (len(ran), len(swept.leaderboard)) == (2, 5)
    assert "time_over" not in [notice.code for notice in swept.notes]
    assert len(found(tmp_path / "sweep")[0]["leaderboard"]) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs.h5", "sweep"]


def test_results_that_are_not_all_of_the_sweep_are_not_replaced(blob_file, tmp_path, clock):
    interrupted(blob_file, tmp_path / "sweep", clock)
    (tmp_path / "sweep" / "notes.txt").write_bytes(b"mine")
    with pytest.raises(OutputError, match="sweep exists already"):
        sweep(blob_file, tmp_path / "sweep", **ENDLESS)
    (tmp_path / "sweep" / "notes.txt").unlink()
    (tmp_path / "sweep.work").rename(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="sweep exists already"):
        sweep(blob_file, tmp_path / "sweep", **ENDLESS)


def test_finished_results_are_never_replaced(blob_file, tmp_path):
    quick(blob_file, tmp_path / "sweep")
    (tmp_path / "sweep.work").mkdir()
    with pytest.raises(OutputError, match="sweep exists already"):
        quick(blob_file, tmp_path / "sweep")


def test_time_for_no_candidate_is_an_error_and_leaves_nothing(blob_file, tmp_path, clock):
    with pytest.raises(TrainingError, match=r"^no candidate was done after 3600 s; give the sweep more time$"):
        quick(blob_file, tmp_path / "sweep", seconds=3600, progress=lambda _: clock())
    assert [path.name for path in tmp_path.iterdir()] == ["blobs.h5"]


@pytest.mark.parametrize("folds", [0, 2])
def test_a_sweep_that_has_the_time_it_needs_finds_what_one_without_limit_finds(folds, blob_file, tmp_path):
    quick(blob_file, tmp_path / "free", folds=folds)
    quick(blob_file, tmp_path / "limited", folds=folds, seconds=3600)
    assert found(tmp_path / "limited") == found(tmp_path / "free")
