"""Heads on other caches than the one that trained them: classes go by name, rows by content."""

import json
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as oracle

from heads.errors import EvaluationError, MismatchError
from heads.evaluation.compare import compare
from heads.evaluation.evaluate import evaluate, predict_table
from heads.evaluation.selection import select_rows, trained_rows
from heads.notices import Code
from heads.reporting import comparison_report, evaluation_report
from heads.training import train


def codes(result):
    return {str(notice.code) for notice in result.warnings}


def message(result, code):
    (found,) = [notice.message for notice in result.warnings if notice.code == code]
    return found


@pytest.fixture(scope="module")
def rows(blobs):
    """180 rows of six classes, in clouds that overlap."""
    return blobs(180, 6, 6, spread=3.0)


@pytest.fixture(scope="module")
def home(rows, make_features, make_cache):
    """The cache that trains: 60 train and 30 valid rows of the first three classes."""
    X, y = rows
    known = np.flatnonzero(y < 3)
    return make_cache(make_features(X[known], y[known], splits=["train"] * 60 + ["valid"] * 30, contents=known))


@pytest.fixture(scope="module")
def head(home):
    return train(home, "logreg")


def away(rows, make_features, make_cache, kept, names, *, splits="test", contents=None):
    """Return another cache with these rows, whose classes are these names in this order."""
    X, y = rows
    kept = np.flatnonzero(kept)
    called = np.array(["ant", "bee", "cow", "dog", "elk", "fox"])[y[kept]]
    labels = [names.index(name) for name in called]
    contents = [f"new {row}" for row in kept] if contents is None else contents
    return make_cache(make_features(X[kept], labels, splits=splits, classes=tuple(names), contents=contents))


def test_a_test_set_without_one_of_the_classes_is_evaluated(rows, head, make_features, make_cache):
    cache = away(rows, make_features, make_cache, np.isin(rows[1], [0, 2]), ["ant", "cow"])
    found = evaluate(head, select_rows(cache, head, "test"), cache=cache)
    X, y = rows[0][np.isin(rows[1], [0, 2])], rows[1][np.isin(rows[1], [0, 2])]
    predicted = head.predict_proba(X).argmax(axis=1)
    assert found.classes == ("ant", "bee", "cow")
    assert found.accuracy.value == np.mean(predicted == y)
    assert found.confusion.tolist() == oracle.confusion_matrix(y, predicted, labels=range(3)).tolist()
    assert found.per_class[1].support == 0
    assert found.per_class[1].recall is found.roc_auc is None
    assert "no row is of the class 'bee'" in message(found, Code.UNDEFINED_SCORE)
    assert codes(found) == {"undefined_score"}


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0)])
def test_another_order_of_classes_gives_the_same_evaluation(order, rows, head, home, make_features, make_cache):
    names = [("ant", "bee", "cow")[place] for place in order]
    same, other = (away(rows, make_features, make_cache, rows[1] < 3, each) for each in (["ant", "bee", "cow"], names))
    ours, theirs = (evaluate(head, select_rows(cache, head, "test"), cache=cache) for cache in (same, other))
    assert theirs.to_dict() == ours.to_dict()
    assert theirs.table.to_csv() == ours.table.to_csv()
    # the raw features of the cache, in its own order, are the same rows
    assert evaluate(head, other.features("fc2")).confusion.tolist() == ours.confusion.tolist()


def test_classes_that_the_head_does_not_know_count_as_wrong_in_every_score(rows, head, make_features, make_cache):
    """Their column has probability 0, and scikit-learn is told of all classes."""
    names = ["fox", "ant", "dog", "cow", "bee", "elk"]
    cache = away(rows, make_features, make_cache, np.isin(rows[1], [0, 1, 2, 3, 5]), names)
    found = evaluate(head, select_rows(cache, head, "test"), cache=cache)
    assert found.classes == ("ant", "bee", "cow", "fox", "dog")  # in the cache's order; no row is of the class elk
    kept = np.isin(rows[1], [0, 1, 2, 3, 5])
    X, true = rows[0][kept], np.array([0, 1, 2, 4, -1, 3])[rows[1][kept]]
    p = np.hstack([head.predict_proba(X), np.zeros((len(X), 2))])
    predicted = p.argmax(axis=1)
    assert found.accuracy.value == oracle.accuracy_score(true, predicted) < 0.6
    assert found.balanced_accuracy == pytest.approx(oracle.balanced_accuracy_score(true, predicted))
    assert found.log_loss == pytest.approx(oracle.log_loss(true, p, labels=range(5)))
    assert found.log_loss > 36.04 * 2 / 5
    assert found.roc_auc == pytest.approx(oracle.roc_auc_score(true, p, multi_class="ovr", labels=range(5)))
    assert found.average_precision == pytest.approx(
        np.mean([oracle.average_precision_score(true == each, p[:, each]) for each in range(5)])
    )
    for average, ours in (("macro", found.macro), ("weighted", found.weighted)):
        scores = oracle.precision_recall_fscore_support(true, predicted, average=average, zero_division=0)
        assert (ours.recall, ours.f1) == pytest.approx(scores[1:3])
        assert ours.precision is None
    assert found.confusion.tolist() == oracle.confusion_matrix(true, predicted, labels=range(5)).tolist()
    dog = found.per_class[4]
    assert (dog.precision, dog.recall, dog.f1, dog.support) == (None, 0.0, 0.0, 30)
    confidence = p.max(axis=1)
    bins = np.ceil(confidence * 15)
    gaps = [np.sum((predicted == true)[bins == each] - confidence[bins == each]) for each in np.unique(bins)]
    assert found.calibration_error == pytest.approx(np.abs(gaps).sum() / len(true))
    majority = int(np.argmax(head.training.class_counts))
    assert found.baseline_accuracy == np.mean(true == majority) == 30 / 150
    assert message(found, Code.CLASS_UNKNOWN_TO_HEAD).startswith(
        "60 of 150 rows are of a class that the head does not know ('fox', 'dog'): they count as wrong"
    )
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert read["per_class"]["fox"]["support"] == 30
    assert "path,split,true_class,predicted_class,probability_ant" in found.table.to_csv()


def test_no_tie_at_probability_0_finds_a_row_of_an_unknown_class(blobs, make_features, make_cache):
    """One neighbour: all other classes have probability 0. Six classes are known, the seventh is not."""
    X, y = blobs(140, 4, 7)
    known = y < 6
    head = train(make_cache(make_features(X[known], y[known])), "knn", params={"n_neighbors": 1}, holdout=0)
    found = evaluate(head, make_features(X, y, contents=range(1000, 1140)))
    ranked = head.predict_proba(X)
    before = (ranked[known] > ranked[known, y[known]][:, None]) | (
        (ranked[known] == ranked[known, y[known]][:, None]) & (np.arange(6) > y[known][:, None])
    )
    assert found.top_k_accuracy.value == np.count_nonzero(before.sum(axis=1) < 5) / 140
    assert found.top_k_accuracy.value <= 120 / 140


def test_five_known_classes_and_others_have_no_top_5_accuracy(rows, make_features, make_cache):
    X, y = rows
    head = train(make_cache(make_features(X[y < 5], y[y < 5])), "centroid", holdout=0)
    assert evaluate(head, make_features(X, y)).top_k_accuracy is None


def test_a_cache_none_of_whose_classes_is_known_is_refused(rows, head, make_features, make_cache):
    cache = away(rows, make_features, make_cache, rows[1] >= 3, ["dog", "elk", "fox"])
    said = r"the head knows 3 \(ant, bee, cow\), the features have 3 \(dog, elk, fox\), and no name is the same"
    with pytest.raises(MismatchError, match=said):
        select_rows(cache, head, "test")


def test_a_cache_without_labels_cannot_evaluate(rows, head, make_features, make_cache):
    cache = make_cache(make_features(rows[0], [-1] * 180, classes=()))
    with pytest.raises(EvaluationError, match="the cache has no labelled rows to evaluate on; give labels with"):
        select_rows(cache, head, "all")


def test_a_split_of_unknown_classes_alone_is_evaluated_and_all_wrong(rows, head, make_features, make_cache):
    splits = np.where(rows[1] < 3, "train", "test")
    names = ["ant", "bee", "cow", "dog", "elk", "fox"]
    cache = away(rows, make_features, make_cache, rows[1] >= 0, names, splits=splits.tolist())
    found = evaluate(head, select_rows(cache, head, "test"), cache=cache)
    assert (found.accuracy.value, len(found)) == (0.0, 90)
    assert {"class_unknown_to_head", "undefined_score"} <= codes(found)


def test_names_that_differ_by_unicode_form_alone_are_the_same_class(blobs, make_features, make_cache):
    X, y = blobs(40, 4, 2)
    names = ("Bär", "Löwe")
    head = train(make_cache(make_features(X, y, classes=names)), "centroid", holdout=0)
    decomposed = tuple(unicodedata.normalize("NFD", name) for name in names)
    assert decomposed != names
    table = predict_table(head, make_features(X, y, classes=decomposed))
    assert table.classes == names
    assert np.mean(table.correct) == np.mean(head.predict_proba(X).argmax(axis=1) == y)


def test_rows_without_a_label_stay_without(rows, head, make_features):
    X, y = rows
    labels = np.where(y == 0, 1, -1)
    table = predict_table(head, make_features(X, labels, classes=("bee", "ant")))
    assert table.true.tolist() == np.where(y == 0, 0, -1).tolist()
    assert predict_table(head, make_features(X, [-1] * 180, classes=())).classes == ("ant", "bee", "cow")


# Caches without splits, and rows that trained the head


def test_a_cache_without_splits_says_what_there_is(rows, head, make_features, make_cache):
    cache = away(rows, make_features, make_cache, rows[1] < 3, ["ant", "bee", "cow"], splits="")
    said = "no row is in the valid split: the rows are 90 in no split; .* --split all"
    with pytest.raises(EvaluationError, match=said):
        select_rows(cache, head, "valid")
    for split in ("all", "train"):
        found = evaluate(head, select_rows(cache, head, split), cache=cache)
        assert (len(found), found.split, codes(found)) == (90, split, set())


@pytest.mark.parametrize("listed", [True, False])
def test_rows_that_trained_the_head_are_found_by_content_in_a_split_of_any_name(
    listed, rows, head, home, make_features, make_cache
):
    """Whether the head has the list of its rows or not."""
    head = head if listed else replace(head, rows=None)
    trained = home.features("fc2", "train")
    other = np.flatnonzero(rows[1] < 3)[60:]
    X, y = rows
    features = make_features(
        np.concatenate([X[other], trained.X]),
        [*np.array([2, 1, 0])[y[other]], *np.array([2, 1, 0])[trained.y]],
        splits=["train"] * 20 + ["valid"] * 10 + ["test"] * 60,
        classes=("cow", "bee", "ant"),
        contents=[*(f"new {row}" for row in other), *np.flatnonzero(y < 3)[:60]],
    )
    cache = make_cache(features)
    on_test, on_train = (evaluate(head, select_rows(cache, head, split), cache=cache) for split in ("test", "train"))
    said = "all 60 rows trained the head: it is better on them than on new images"
    assert message(on_test, Code.TRAINING_ROWS) == said
    assert codes(on_train) == set()
    everything = evaluate(head, select_rows(cache, head, "all"), cache=cache)
    assert message(everything, Code.TRAINING_ROWS).startswith("60 of 90 rows trained the head: ")
    # without the cache, the rows themselves are asked
    assert "training_rows" in codes(evaluate(head, select_rows(cache, head, "test")))


def test_rows_that_trained_the_head_are_found_whatever_their_label(rows, head, home, make_features):
    trained = home.features("fc2", "train")
    kept = np.flatnonzero(rows[1] < 3)[:60]
    again = make_features(trained.X, trained.y, contents=kept)
    assert trained_rows(head, again).all()
    relabelled = make_features(trained.X, np.roll(trained.y, 1), contents=kept)
    assert trained_rows(head, relabelled).all()
    assert trained_rows(head, again.take(slice(0, 59))).all()
    without = replace(head, rows=None)
    assert trained_rows(without, again).all()
    assert trained_rows(without, replace(again, splits=np.array(["valid", "test"] * 30, object))).all()
    assert not trained_rows(without, relabelled).any()
    assert not trained_rows(without, again.take(slice(0, 59))).any()


@pytest.mark.parametrize("listed", [True, False])
def test_held_out_rows_are_no_training_rows(listed, blob_cache):
    head = train(blob_cache, "logreg", holdout=0.4)
    head = head if listed else replace(head, rows=None)
    n_train, n_valid = head.training.n_train, head.training.n_valid
    on_train, on_valid, on_all = (
        evaluate(head, select_rows(blob_cache, head, split), cache=blob_cache) for split in ("train", "valid", "all")
    )
    assert (on_train.split, on_valid.split, on_all.split) == ("train", "valid", "all")
    assert f"all {n_train} rows trained the head" in message(on_train, Code.TRAINING_ROWS)
    assert codes(on_valid) == set()
    assert f"{n_train} of {n_train + n_valid} rows trained the head" in message(on_all, Code.TRAINING_ROWS)


@pytest.mark.parametrize("name", ["validation", "VALID"])
def test_a_split_has_several_names(name, blob_cache):
    head = train(blob_cache, "logreg", holdout=0.4)
    rows, expected = (select_rows(blob_cache, head, each) for each in (name, "valid"))
    assert (rows.split, rows.paths.tolist()) == ("valid", expected.paths.tolist())


def test_the_holdout_of_another_cache_is_said(blob_cache, blobs, make_features, make_cache):
    head = train(blob_cache, "logreg", holdout=0.4)
    X, y = blobs(70, 5, 3)
    other = make_cache(make_features(X, y, splits=[""] * 60 + ["test"] * 10, contents=range(100, 170)))
    found = evaluate(head, select_rows(other, head, "valid"), cache=other)
    assert message(found, Code.ROWS_BY_HOLDOUT) == (
        "the cache has no valid split, and other rows trained the head: its holdout chose these "
        f"{len(found)} of 60 rows; --split all evaluates all"
    )
    assert codes(evaluate(head, select_rows(other, head, "valid"))) == set(), "the cache is not known"
    assert codes(evaluate(head, select_rows(other, head, "all"), cache=other)) == set()
    splits = [""] * 50 + ["valid"] * 20
    divided = make_cache(make_features(X, y, splits=splits, contents=range(100, 170)))
    found = evaluate(head, select_rows(divided, head, "valid"), cache=divided)
    assert (len(found), codes(found)) == (20, set())


def test_valid_rows_with_the_content_of_training_rows_are_counted(blobs, make_features, make_cache):
    X, y = blobs(60, 5, 3)
    contents = [*range(40), *range(7), *range(100, 113)]
    cache = make_cache(make_features(X, y, splits=["train"] * 40 + ["valid"] * 20, contents=contents))
    head = train(cache, "centroid")
    said = "7 of the 20 valid rows have the content of a training row: their accuracy is optimistic"
    assert said in map(str, head.training.warnings)
    found = evaluate(head, select_rows(cache, head, "valid"), cache=cache)
    assert message(found, Code.SAME_CONTENT).startswith("7 of 20 rows that did not train the head have the content")
    everything = evaluate(head, select_rows(cache, head, "all"), cache=cache)
    assert message(everything, Code.TRAINING_ROWS).startswith("40 of 60 rows trained the head")
    assert message(everything, Code.SAME_CONTENT).startswith("7 of 20 rows")
    on_train = evaluate(head, select_rows(cache, head, "train"), cache=cache)
    assert codes(on_train) == {"training_rows"}


# Comparisons and reports


def test_heads_that_know_other_classes_are_compared_on_the_same_rows(rows, head, make_features, make_cache):
    X, y = rows
    wider = train(make_cache(make_features(X[y < 4], y[y < 4], classes=("ant", "bee", "cow", "dog"))), "logreg")
    cache = away(rows, make_features, make_cache, y < 4, ["dog", "cow", "bee", "ant"])
    found = {
        name: evaluate(each, select_rows(cache, each, "test"), cache=cache)
        for name, each in (("narrow", head), ("wide", wider))
    }
    comparison = compare(found)
    own, theirs = (each.predict_proba(X[y < 4]).argmax(axis=1) == y[y < 4] for each in (head, wider))
    (pair,) = comparison.pairs
    assert (pair.only_a, pair.only_b) == (np.sum(own & ~theirs), np.sum(theirs & ~own))
    assert found["narrow"].classes == found["wide"].classes == ("ant", "bee", "cow", "dog")
    assert [notice.message for notice in comparison.warnings if notice.code == Code.CLASS_UNKNOWN_TO_HEAD] == [
        "narrow: 30 of 120 rows are of a class that the head does not know ('dog'): they count as wrong, "
        "and each costs 36.04 in the log loss"
    ]
    assert comparison_report(comparison).title == "2 heads on the same images"


def test_a_report_names_unknown_classes_and_its_map_takes_labels_by_name(rows, head, make_features, make_cache):
    cache = away(rows, make_features, make_cache, rows[1] < 4, ["dog", "cow", "bee", "ant"], splits="")
    found = evaluate(head, select_rows(cache, head, "all"), cache=cache)
    aligned = evaluation_report(found, head=head, features=select_rows(cache, head, "all"))
    raw = evaluation_report(found, head=head, features=cache.features("fc2"))
    assert aligned.subtitle == "120 images of ant, bee, cow, dog"
    assert any("does not know ('dog')" in line for line in aligned.warnings)
    maps = [report.sections[-1].blocks[0] for report in (aligned, raw)]
    assert maps[0].svg == maps[1].svg
    assert f"Ringed: rows that the head gets wrong ({np.count_nonzero(~found.table.correct):,})" in maps[0].caption
