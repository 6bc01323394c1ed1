"""A coarse grid, then a finer one; costly heads on a sample of the rows, and only the better ones on all."""

import numpy as np
import pytest

from heads import Code, sweep
from heads.catalog import head_spec
from heads.families.shared_parameters import C_GRID
from heads.search import refinement, validation_plan
from heads.search.grid import candidates_of
from heads.search.ranking import CandidateResult
from heads.search.refinement import Refinement, long_parameters
from heads.search.validation_plan import ValidationPlan, parts_of, sample_of
from heads.splits import labelled_images

ROWS = 1000


def result(share, seed=0):
    """What came of a candidate that is right on a share of the rows."""
    correct = np.random.default_rng(seed).permutation(ROWS) < share * ROWS
    return CandidateResult(correct, 1 - share, 1.0, (), "", 10)


def run(heads, score, *, costs=None, grids=None, stops=True):
    """Answer everything that a refinement asks for; return it and the results of the sample and of all rows."""
    candidates = candidates_of(heads, ["fc2"], grids or {})
    costs = {(head, "fc2"): (costs or {}).get(head, 1.0) for head in (*heads, "majority")}
    search = Refinement(candidates, grids or {}, costs, sampled=True, stops=stops)
    results = ({}, {})
    while any(wanted := search.after(*results)):
        for found, numbers in zip(results, wanted, strict=True):
            assert not set(numbers) & set(found)
            found.update({number: result(score(candidates[number])) for number in numbers})
    return search, candidates, *results


@pytest.mark.parametrize("best", [0, 1, 7, 20, 31, 43, 44])
def test_the_top_of_a_hill_is_found_with_a_fraction_of_the_tries(best):
    distance = lambda candidate: abs(C_GRID.index(candidate.params["C"]) - best) if candidate.head == "logreg" else 90  # noqa: E731
    _, candidates, on_sample, on_all = run(["logreg"], lambda candidate: 1 - distance(candidate) / 100)
    top = max(on_all, key=lambda number: np.count_nonzero(on_all[number].correct))
    assert candidates[top].params["C"] == C_GRID[best]
    assert len(on_all) <= 13 + 1  # and majority
    assert not on_sample


def test_two_parameters_are_both_searched():
    lrs = head_spec("softmax").grid["lr"]

    def score(candidate):
        if candidate.head == "majority":
            return 0.1
        return 0.9 - abs(lrs.index(candidate.params["lr"]) - 4) / 100 - abs(candidate.params["l2"] - 0.01)

    _, candidates, _, on_all = run(["softmax"], score)
    top = max(on_all, key=lambda number: np.count_nonzero(on_all[number].correct))
    assert (candidates[top].params["lr"], candidates[top].params["l2"]) == (lrs[4], 0.01)
    assert len(on_all) < 32


def test_values_that_were_asked_for_are_all_tried():
    grids = {"logreg": {"C": C_GRID}}
    assert long_parameters(head_spec("logreg"), grids["logreg"]) == []
    *_, on_all = run(["logreg"], lambda _: 0.5, grids=grids)
    assert len(on_all) == 45 + 1


def test_of_costly_heads_the_worse_half_is_stopped_unless_it_is_within_noise():
    shares = {"logreg": 0.9, "svm": 0.895, "ridge": 0.6, "sgd": 0.7, "majority": 0.1}
    costly = dict.fromkeys(("logreg", "svm", "ridge", "sgd"), 1e12)

    def score(candidate):
        return shares[candidate.head]

    search, candidates, on_sample, on_all = run(["logreg", "svm", "ridge", "sgd"], score, costs=costly)
    assert search.stopped(on_sample) == [("sgd", "fc2"), ("ridge", "fc2")]
    assert {candidates[number].head for number in on_all} == {"logreg", "svm", "majority"}
    tried = [candidates[number].head for number in on_sample]
    assert tried.count("ridge") == len([n for n in range(45) if n % 8 == 4])
    assert tried.count("logreg") > 6
    shares |= {"ridge": 0.896, "sgd": 0.896}
    search, candidates, on_sample, on_all = run(["logreg", "svm", "ridge", "sgd"], score, costs=costly)
    assert search.stopped(on_sample) == []
    assert {candidates[number].head for number in on_all} == {*costly, "majority"}
    shares |= {"ridge": 0.6}
    search, *_, on_sample, _ = run(["logreg", "ridge"], score, costs=costly, stops=False)
    assert search.stopped(on_sample) == []


def test_a_costly_head_is_tried_on_all_rows_where_it_was_best_on_the_sample():
    def score(candidate):
        return 0.9 - abs(C_GRID.index(candidate.params["C"]) - 21) / 100 if candidate.head == "svm" else 0.1

    _, candidates, on_sample, on_all = run(["svm"], score, costs={"svm": 1e12})
    tried = [C_GRID.index(candidates[number].params["C"]) for number in on_all if candidates[number].head == "svm"]
    assert 3 <= len(tried) <= 5
    assert max(abs(index - 21) for index in tried) <= 4
    assert len(on_sample) <= 12


def test_the_sample_has_its_share_of_every_class(blobs, make_features, monkeypatch):
    monkeypatch.setattr(validation_plan, "_SAMPLE_ROWS", 30)
    monkeypatch.setattr(validation_plan, "_SAMPLE_ROWS_PER_CLASS", 1)
    X, _ = blobs(240, 4, 3)
    y = np.repeat([0, 1, 2], [120, 100, 20])
    features = make_features(X, y, splits=(["train", "train", "train", "valid"] * 60))
    plan = ValidationPlan(0, 0.2, 0)
    parts = parts_of(features, plan)
    sample = sample_of(features, parts, plan, 3)
    assert (parts[sample] == 1).all()
    assert np.bincount(y[sample]).tolist() == [15, 12, 2]
    again = sample_of(features, parts, plan, 3)
    assert (again == sample).all()
    assert (sample_of(features, parts, ValidationPlan(0, 0.2, 1), 3) != sample).any()
    monkeypatch.setattr(validation_plan, "_SAMPLE_ROWS", 91)
    assert sample_of(features, parts, plan, 3) is None


@pytest.fixture
def small_sample(monkeypatch):
    """Let 21 rows be a sample, and every head costly."""
    monkeypatch.setattr(validation_plan, "_SAMPLE_ROWS", 20)
    monkeypatch.setattr(validation_plan, "_SAMPLE_ROWS_PER_CLASS", 1)
    monkeypatch.setattr(refinement, "_COSTLY", 0)


@pytest.mark.usefixtures("small_sample", "one_blas_thread")
def test_the_leaderboard_says_on_how_many_rows_each_candidate_was_trained(blob_file, tmp_path):
    grids = {"knn": {"n_neighbors": [1, 5, 15]}}
    found = sweep(blob_file, tmp_path / "a", heads=["knn", "logreg"], grids=grids, taps=["fc2"], jobs=1)
    rows = {(entry.candidate.head, entry.n_train) for entry in found.leaderboard}
    assert rows == {("majority", 90), ("knn", 90), ("knn", 21), ("logreg", 90), ("logreg", 21)}
    assert {entry.n_valid for entry in found.leaderboard} == {60}
    assert found.best.training.n_train == 90
    text = (tmp_path / "a" / "leaderboard.csv").read_text()
    assert ",n_train,n_valid," in text.partition("\n")[0]


@pytest.mark.usefixtures("small_sample", "one_blas_thread")
def test_what_is_stopped_is_said(blob_file, tmp_path, monkeypatch):
    stopped = [("centroid", "fc2")]
    monkeypatch.setattr(Refinement, "stopped", lambda _, on_sample: stopped if on_sample else [])
    found = sweep(blob_file, tmp_path / "a", heads=["knn", "centroid"], taps=["fc2"], jobs=1)
    (notice,) = [notice for notice in found.notes if notice.code == Code.STOPPED_EARLY]
    assert str(notice).startswith("stopped after a trial on 21 of 90 training rows")
    assert "centroid on fc2; a head that is named, with --head HEAD, is tried on all" in str(notice)
    assert {entry.n_train for entry in found.leaderboard if entry.candidate.head == "centroid"} == {21}


@pytest.mark.usefixtures("small_sample", "one_blas_thread")
@pytest.mark.parametrize("folds", [0, 3])
def test_test_rows_are_not_read_and_results_are_the_same_again(folds, blobs, write_cache, tmp_path):
    X, y = blobs(180, 6, 3, spread=3.0)
    boards = []
    for name, poison in (("a", 0), ("b", np.nan)):
        features = X.copy()
        features[150:] += poison
        cache = write_cache(
            tmp_path / f"{name}.h5", {"fc2": features}, y, ["train"] * 90 + ["valid"] * 60 + ["test"] * 30
        )
        found = sweep(cache, tmp_path / name, heads=["knn", "ridge"], folds=folds, jobs=1)
        boards.append([(entry.candidate.to_dict(), entry.accuracy, entry.n_train) for entry in found.leaderboard])
    assert boards[0] == boards[1]
    assert len({rows for _, _, rows in boards[0]}) == 2


def test_images_of_the_sample_come_from_training_rows_alone(blob_file, monkeypatch):
    monkeypatch.setattr(validation_plan, "_SAMPLE_ROWS", 20)
    monkeypatch.setattr(validation_plan, "_SAMPLE_ROWS_PER_CLASS", 1)
    images = labelled_images(blob_file, "fc2")
    for folds in (0, 3):
        plan = ValidationPlan(folds, 0.2, 0)
        sample = sample_of(images, parts_of(images, plan), plan, 3)
        assert set(images.splits[sample]) == {"train"}
