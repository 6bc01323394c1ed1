"""Evaluations of several labels and of numbers, with scikit-learn's scores beside ours."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics

from heads import (
    EvaluationError,
    MismatchError,
    evaluate,
    evaluate_labels,
    evaluate_numbers,
    labels_report,
    numbers_report,
    predict_labels_table,
    predict_numbers_table,
    select_rows,
    train,
)
from heads.evaluation.bootstrap import bootstrap_scores
from heads.evaluation.label_predictions import LabelPredictionsTable
from heads.evaluation.labels import _Sums
from heads.evaluation.number_predictions import NumberPredictionsTable
from heads.evaluation.numbers import _scores
from heads.evaluation.predictions import PredictionsTable
from heads.evaluation.scores import first_rows

N = 150


def cache_of(make_cache, make_features, texts, splits=None):
    X = np.random.default_rng(1).standard_normal((N, 8)).astype(np.float32)
    texts = texts(X)
    classes = tuple(sorted(set(texts) - {""}))
    y = [classes.index(text) if text else -1 for text in texts]
    splits = splits or ["valid" if row % 2 else "train" for row in range(N)]
    return make_cache(make_features(X, y, splits=splits, classes=classes))


@pytest.fixture(scope="module")
def tagged(make_cache, make_features):
    def texts(X):
        return ["|".join(name for name, each in zip("abc", row, strict=False) if each > 0.4) or "|" for row in X]

    return cache_of(make_cache, make_features, texts)


@pytest.fixture(scope="module")
def measured(make_cache, make_features):
    return cache_of(make_cache, make_features, lambda X: [repr(float(2 * row[0] + row[1] ** 2)) for row in X])


@pytest.fixture(scope="module")
def of_labels(tagged):
    head = train(tagged, "logreg", target="labels")
    return evaluate_labels(head, select_rows(tagged, head, "valid"), cache=tagged)


@pytest.fixture(scope="module")
def of_numbers(measured):
    head = train(measured, target="number")
    return evaluate_numbers(head, select_rows(measured, head, "valid"), cache=measured)


def test_scores_of_labels_are_those_of_scikit_learn(of_labels):
    true, predicted, probabilities = of_labels.table.true, of_labels.table.predicted, of_labels.table.probabilities
    assert of_labels.subset_accuracy.value == pytest.approx(metrics.accuracy_score(true, predicted))
    expected = {
        "label_accuracy": 1 - metrics.hamming_loss(true, predicted),
        "micro_f1": metrics.f1_score(true, predicted, average="micro"),
        "macro_f1": metrics.f1_score(true, predicted, average="macro"),
        "mean_average_precision": metrics.average_precision_score(true, probabilities, average="macro"),
        "ranking_precision": metrics.label_ranking_average_precision_score(true, probabilities),
    }
    assert of_labels.values == pytest.approx(expected)
    for label, scores in enumerate(of_labels.per_label):
        t, p = true[:, label], predicted[:, label]
        assert scores.precision == pytest.approx(metrics.precision_score(t, p))
        assert scores.recall == pytest.approx(metrics.recall_score(t, p))
        assert scores.f1 == pytest.approx(metrics.f1_score(t, p))
        assert scores.accuracy == pytest.approx(metrics.accuracy_score(t, p))
        assert scores.average_precision == pytest.approx(metrics.average_precision_score(t, probabilities[:, label]))
        assert scores.support == t.sum()


@pytest.mark.parametrize("seed", range(4))
def test_scores_of_weighted_rows_are_those_of_repeated_rows(seed):
    generator = np.random.default_rng(seed)
    n, k = 30, 4
    true = (generator.random((n, k)) < 0.4).astype(np.int8)
    true[0] = 0
    probabilities = generator.integers(0, 9, (n, k)) / 9  # with ties
    weights = generator.integers(0, 4, (n, 1))
    text = np.full(n, "", object)

    def table(rows):
        return LabelPredictionsTable(
            text[rows], text[rows], true[rows], probabilities[rows], np.full(k, 0.5), ("w", "x", "y", "z")
        )

    whole = _Sums(table(np.arange(n))).scores(weights.astype(np.float64))
    repeated = _Sums(table(np.repeat(np.arange(n), weights[:, 0])))
    expected = repeated.scores(np.ones((int(weights.sum()), 1)))
    assert {name: each[0] for name, each in whole.items()} == pytest.approx(
        {name: each[0] for name, each in expected.items()}
    )
    y, predicted = generator.standard_normal(n), generator.standard_normal(n)
    ours = _scores(y, predicted, weights.astype(np.float64))
    assert ours["r2"][0] == pytest.approx(metrics.r2_score(y, predicted, sample_weight=weights[:, 0]))
    assert ours["mean_absolute_error"][0] == pytest.approx(
        metrics.mean_absolute_error(y, predicted, sample_weight=weights[:, 0])
    )


def test_labels_that_no_row_has_are_left_out_of_means():
    true = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0]], np.int8)
    probabilities = np.array([[0.9, 0.1, 0.7], [0.8, 0.6, 0.6], [0.2, 0.3, 0.1]])
    text = np.full(3, "", object)
    scores = _Sums(LabelPredictionsTable(text, text, true, probabilities, np.full(3, 0.5), ("x", "y", "z")))
    found = scores.scores(np.ones((3, 1)))
    present = [0, 2]
    expected = metrics.f1_score(true, probabilities >= 0.5, labels=present, average="macro")
    assert found["macro_f1"][0] == pytest.approx(expected)
    expected = metrics.average_precision_score(true[:, present], probabilities[:, present])
    assert found["mean_average_precision"][0] == pytest.approx(expected)
    once, never, _ = scores.per_label()
    assert (once.precision, once.recall, once.f1, once.support) == (0.5, 0.5, 0.5, 2)
    assert (never.precision, never.recall, never.f1, never.average_precision) == (0.0, None, 0.0, None)


def test_labels_that_no_row_has_or_gets():
    text = np.full(3, "", object)
    table = LabelPredictionsTable(text, text, np.zeros((3, 2)), np.full((3, 2), 0.1), np.full(2, 0.5), ("x", "y"))
    found = {name: each[0] for name, each in _Sums(table).scores(np.ones((3, 1))).items()}
    assert (found.pop("label_accuracy"), found.pop("ranking_precision")) == (1, 1)
    assert np.isnan(list(found.values())).all()
    scores = _Sums(table).per_label()[0]
    assert (scores.accuracy, scores.support) == (1.0, 0)
    assert scores.precision is scores.recall is scores.f1 is scores.average_precision is None


def test_scores_of_labels_as_json(of_labels):
    told = json.loads(json.dumps(of_labels.to_dict()))
    assert (told["target"], told["n"], told["split"], told["labels"]) == ("labels", 75, "valid", ["a", "b", "c"])
    assert told["subset_accuracy"]["value"] == of_labels.subset_accuracy.value
    assert told["micro_f1"] == of_labels.values["micro_f1"]
    assert told["per_label"]["b"]["f1"] == of_labels.per_label[1].f1
    methods = [score.method for score in of_labels.scores()]
    assert methods == ["Wilson", *["bootstrap"] * 5]


def test_scores_of_numbers_are_those_of_scikit_learn(of_numbers, measured):
    true, predicted = of_numbers.table.true, of_numbers.table.predicted
    assert of_numbers.values == pytest.approx(
        {
            "r2": metrics.r2_score(true, predicted),
            "mean_absolute_error": metrics.mean_absolute_error(true, predicted),
            "root_mean_squared_error": metrics.root_mean_squared_error(true, predicted),
        }
    )
    of_train = measured.features().with_target("number")
    mean = of_train.y[of_train.splits == "train"].mean()
    assert of_numbers.baseline_error == pytest.approx(metrics.mean_absolute_error(true, np.full(len(true), mean)))
    without = replace(train(measured, target="number"), number_range=None)
    found = evaluate_numbers(without, select_rows(measured, without, "valid"))
    assert found.baseline_error == pytest.approx(metrics.mean_absolute_error(true, np.full(len(true), true.mean())))


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (1e5, 1), (1.7e9, 100), (0, 1e-90), (1e90, 1e88)])
def test_r2_of_numbers_of_any_size(offset, size):
    """The seconds of a few minutes since 1970 are different numbers."""
    generator = np.random.default_rng(3)
    true = offset + size * generator.standard_normal(50)
    predicted = true + size * generator.standard_normal(50) / 2
    found = _scores(true, predicted, np.ones((50, 1)))
    assert found["r2"][0] == pytest.approx(metrics.r2_score(true, predicted), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -1.7e9, 1e90])
def test_r2_of_equal_numbers_is_undefined(value):
    generator = np.random.default_rng(3)
    true, predicted = np.full(30, value), generator.standard_normal(30)
    assert np.isnan(_scores(true, predicted, np.ones((30, 1)))["r2"][0])
    assert np.isnan(_scores(true, true, np.ones((30, 1)))["r2"][0]), "all of them predicted exactly"
    drawn = np.zeros((30, 1))
    drawn[7] = 30
    true = value + generator.standard_normal(30) * max(1.0, abs(value) / 10)
    assert np.isnan(_scores(true, predicted, drawn)["r2"][0]), "a resample of one row"


def test_a_head_as_good_as_the_mean_is_not_worse(measured):
    head = train(measured, "majority", target="number")
    found = evaluate_numbers(head, select_rows(measured, head, "valid"))
    assert found.values["mean_absolute_error"] == pytest.approx(found.baseline_error, rel=1e-12)
    assert not found.warnings


def test_intervals_cover_the_scores_and_shrink_with_rows(of_labels, of_numbers):
    for evaluation in (of_labels, of_numbers):
        for name, interval in evaluation.intervals.items():
            assert interval.low < evaluation.values[name] < interval.high
    generator = np.random.default_rng(0)

    def width(n):
        values = generator.standard_normal(n)
        found = bootstrap_scores(n, lambda weights: {"mean": values @ weights / n}, {"mean": values.mean()}, steps=n)
        return found["mean"].high - found["mean"].low

    assert width(400) == pytest.approx(2 * 1.96 / 20, rel=0.15), "that of the normal distribution"
    assert width(6400) == pytest.approx(2 * 1.96 / 80, rel=0.15)


def test_what_is_said_of_labels(of_labels):
    texts = [str(each) for each in of_labels.warnings]
    assert texts == ["the thresholds were chosen on valid rows: scores that depend on them are optimistic there"]


@pytest.mark.parametrize(("split", "chosen"), [("valid", True), ("all", True), ("train", False)])
def test_thresholds_are_optimistic_on_the_rows_that_chose_them(split, chosen, tagged):
    head = train(tagged, "ridge", target="labels")
    notes = evaluate_labels(head, select_rows(tagged, head, split)).warnings
    assert ("thresholds_from_rows" in [note.code for note in notes]) == chosen


def test_thresholds_that_no_valid_row_chose_are_not_optimistic(make_cache, make_features):
    cache = cache_of(make_cache, make_features, lambda X: np.where(X[:, 0] > 0, "a|b", "b").tolist(), ["train"] * N)
    head = train(cache, "ridge", target="labels", holdout=0)
    assert head.training.n_valid == 0
    notes = evaluate_labels(head, select_rows(cache, head, "all")).warnings
    assert "thresholds_from_rows" not in [note.code for note in notes]


def test_the_train_split_did_train(tagged, measured):
    for cache, target, measure in ((tagged, "labels", evaluate_labels), (measured, "number", evaluate_numbers)):
        head = train(cache, "ridge", target=target)
        notes = measure(head, select_rows(cache, head, "train"), cache=cache).warnings
        assert "training_rows" in [note.code for note in notes], target


def test_unlabelled_rows_are_left_out_and_counted(make_cache, make_features):
    cache = cache_of(
        make_cache, make_features, lambda X: ["" if row % 10 == 1 else str(each) for row, each in enumerate(X[:, 0])]
    )
    head = train(cache, target="number")
    found = evaluate_numbers(head, select_rows(cache, head, "valid"))
    assert len(found) == 60
    assert str(found.warnings[0]) == "15 rows without a label: left out"
    table = predict_numbers_table(head, select_rows(cache, head, "valid"))
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [row["true_number"] for row in rows].count("") == 15
    assert [json.loads(line)["true_number"] for line in table.to_jsonl().splitlines()].count(None) == 15
    with pytest.raises(EvaluationError, match="none of 15 rows has a label"):
        evaluate_numbers(head, select_rows(cache, head, "valid").take(~cache.features().labelled[1::2]))


def test_labels_that_the_head_does_not_know(tagged, make_cache, make_features):
    head = train(tagged, "ridge", target="labels")
    other = cache_of(make_cache, make_features, lambda X: ["a|new" if row[0] > 0 else "c" for row in X])
    found = evaluate_labels(head, select_rows(other, head, "valid"))
    assert found.labels == ("a", "b", "c", "new")
    assert "the head does not know the labels 'new': no image gets them" in map(str, found.warnings)
    assert "no row has the label 'b': its recall and average precision are undefined" in map(str, found.warnings)
    assert (found.table.probabilities[:, 3] == 0).all()
    assert found.per_label[1].average_precision is None
    assert found.per_label[3].threshold == 0.5
    with pytest.raises(MismatchError, match="no name is the same"):
        evaluate_labels(head, cache_of(make_cache, make_features, lambda X: ["x"] * N).features())


def test_a_head_without_errors_is_not_worse_than_the_mean(make_cache, make_features):
    cache = cache_of(make_cache, make_features, lambda X: [repr(float(row[0]) / 100) for row in X])
    head = train(cache, "knn", params={"n_neighbors": 1}, target="number")
    found = evaluate_numbers(head, select_rows(cache, head, "train"))
    assert found.values["mean_absolute_error"] == 0 < found.baseline_error
    assert "below_baseline" not in [note.code for note in found.warnings]


def test_a_head_that_is_worse_than_the_mean_is_said(make_cache, make_features):
    noise = np.random.default_rng(5).standard_normal(N)
    cache = cache_of(make_cache, make_features, lambda X: [repr(float(each)) for each in noise])
    head = train(cache, "knn", params={"n_neighbors": 1}, target="number")
    found = evaluate_numbers(head, select_rows(cache, head, "valid"))
    assert found.values["r2"] < 0
    assert [note.code for note in found.warnings] == ["below_baseline"]


def test_equal_numbers_have_no_r2(measured):
    head = train(measured, target="number")
    rows = select_rows(measured, head, "valid")
    found = evaluate_numbers(head, replace(rows, y=np.full(len(rows), 2.0)))
    assert found.values["r2"] is None
    assert "R2 is undefined" in str(found.warnings[0])
    assert found.to_dict()["r2"] is None
    assert found.to_dict()["intervals"]["r2"] is None
    interval = found.intervals["mean_absolute_error"]
    assert found.to_dict()["intervals"]["mean_absolute_error"] == {"low": interval.low, "high": interval.high}
    methods = {score.key: score.method for score in found.scores()}
    assert (methods["r2"], methods["mean_absolute_error"], methods["baseline_error"]) == ("", "bootstrap", "")


def test_each_evaluation_is_of_its_own_target(tagged, measured, blob_cache):
    heads = {"labels": train(tagged, "ridge", target="labels"), "number": train(measured, target="number")}
    with pytest.raises(MismatchError, match="evaluate needs a head of the target 'class', this one has 'labels'"):
        evaluate(heads["labels"], tagged.features())
    with pytest.raises(MismatchError, match="evaluate_labels needs a head of the target 'labels'"):
        evaluate_labels(heads["number"], measured.features())
    with pytest.raises(MismatchError, match="evaluate_numbers needs a head of the target 'number'"):
        evaluate_numbers(heads["labels"], tagged.features())
    with pytest.raises(MismatchError, match="predict_labels_table needs a head of the target 'labels'"):
        predict_labels_table(heads["number"], measured.features())
    with pytest.raises(MismatchError, match="predict_numbers_table needs a head of the target 'number'"):
        predict_numbers_table(heads["labels"], tagged.features())


def test_tables_of_labels_read_back(of_labels):
    table = of_labels.table
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    lines = [json.loads(line) for line in table.to_jsonl().splitlines()]
    for row, (record, line) in enumerate(zip(rows, lines, strict=True)):
        has = {name for name, each in zip(table.labels, table.true[row], strict=True) if each}
        assert set(filter(None, record["true_labels"].split("|"))) == has == set(line["true_labels"])
        assert record["predicted_labels"] == ("|".join(line["predicted_labels"]) or "|")
        assert [float(record[f"probability_{name}"]) for name in table.labels] == table.probabilities[row].tolist()
    assert LabelPredictionsTable.is_beginning(table.to_csv().encode())


def test_a_table_of_labels_by_hand():
    """A threshold itself gives the label; an image without a label has none, and gets some all the same."""
    texts = [np.array(each, object) for each in (["a.png", "b.png"], ["valid", ""])]
    true, probabilities = np.array([[0, 0], [-1, -1]], np.int8), np.array([[0.5, 0.2], [0.1, 0.9]])
    table = LabelPredictionsTable(*texts, true, probabilities, np.array([0.5, 0.4]), ("x", "y"))
    header = "path,split,true_labels,predicted_labels,probability_x,probability_y"
    assert table.to_csv().splitlines() == [header, "a.png,valid,|,x,0.5,0.2", "b.png,,,y,0.1,0.9"]
    first, second = map(json.loads, table.to_jsonl().splitlines())
    assert (first["true_labels"], first["predicted_labels"]) == ([], ["x"])
    assert (second["true_labels"], second["predicted_labels"]) == (None, ["y"])


def test_a_table_of_numbers_by_hand():
    texts = [np.array(each, object) for each in (["a.png", "b.png"], ["valid", ""])]
    table = NumberPredictionsTable(*texts, np.array([1.5, np.nan]), np.array([0.1, 2.0]))
    header = "path,split,true_number,predicted_number"
    assert table.to_csv().splitlines() == [header, "a.png,valid,1.5,0.1", "b.png,,,2.0"]
    assert [json.loads(line)["true_number"] for line in table.to_jsonl().splitlines()] == [1.5, None]
    assert all(map(NumberPredictionsTable.is_beginning, (table.to_csv().encode(), table.to_jsonl().encode())))
    assert not NumberPredictionsTable.is_beginning(b"path,split,true_class")
    assert repr(table) == "<NumberPredictionsTable: 2 rows>"
    np.testing.assert_allclose(table.errors, [-1.4, np.nan])


def test_groups_are_the_last_column_of_a_table():
    texts = [np.array(each, object) for each in (["a.png", "b.png"], ["valid", "valid"])]
    groups = np.array(["p1", "p\udc80"], object)
    numbers = NumberPredictionsTable(*texts, np.array([1.5, 2.0]), np.array([0.1, 2.0]), groups)
    labels = LabelPredictionsTable(
        *texts, np.array([[0], [1]], np.int8), np.array([[0.5], [0.1]]), np.array([0.5]), ("x",), groups
    )
    classes = PredictionsTable(*texts, np.array([0, 1]), np.eye(2), ("x", "y"), groups=groups)
    for table in (numbers, labels, classes):
        header, first, second = table.to_csv().splitlines()
        assert (header.split(",")[-1], first.split(",")[-1], second.split(",")[-1]) == ("group", "p1", "p\\udc80")
        assert [json.loads(line)["group"] for line in table.to_jsonl().splitlines()] == groups.tolist()
        assert table.is_beginning(table.to_csv().encode())
        assert table.is_beginning(table.to_jsonl().encode())


def test_reports_show_scores_and_images(tagged, measured, of_labels, of_numbers):
    page = labels_report(of_labels, head=train(tagged, "logreg", target="labels"))
    text = page.to_markdown()
    assert "75 valid images, 3 labels: a, b, c" in text
    for scores in of_labels.per_label:
        assert f"{scores.f1:.4f}" in text
    assert any(section.title == "Images" and len(section.blocks) == 6 for section in page.sections)
    numbers = numbers_report(of_numbers, head=train(measured, target="number"))
    assert f"{of_numbers.values['r2']:.4f}" in numbers.to_markdown()
    worst = of_numbers.table.paths[np.argmax(np.abs(of_numbers.table.errors))]
    (images,) = (section for section in numbers.sections if section.title == "Images")
    assert images.blocks[0].images[0].path == worst


def test_results_show_themselves_in_a_notebook(of_labels, of_numbers, tagged):
    assert "ranking precision" in of_labels._repr_html_()
    assert "root mean squared error" in of_numbers._repr_html_()
    head = train(tagged, "ridge", target="labels")
    assert repr(predict_labels_table(head, tagged.features())) == "<LabelPredictionsTable: 150 rows, 3 labels>"
    assert repr(head) == "<TrainedHead: ridge on fc2, 3 labels, 75 training rows>"


@pytest.mark.parametrize(("count", "more"), [(20, ""), (21, ", of which the first 20 are shown")])
def test_a_notebook_shows_the_first_rows_of_a_table(count, more):
    table = first_rows(("label",), [(str(each),) for each in range(count)], "labels")
    assert table.caption == f"{count} labels{more}"
    assert table.rows == tuple((str(each),) for each in range(20))


def test_intervals_of_groups_are_wider_where_groups_agree(tagged, measured):
    for cache, target, measure in ((tagged, "labels", evaluate_labels), (measured, "number", evaluate_numbers)):
        head = train(cache, "ridge", target=target)
        rows = select_rows(cache, head, "valid")
        repeated = rows.take(np.repeat(np.arange(len(rows)), 4))
        alone = measure(head, repeated)
        grouped = measure(head, replace(repeated, groups=repeated.paths))
        assert grouped.n_groups == len(rows)
        assert grouped.values == alone.values
        for name, interval in grouped.intervals.items():
            ratio = (interval.high - interval.low) / (alone.intervals[name].high - alone.intervals[name].low)
            assert 1.5 < ratio < 2.6, "the same four times over is no more evidence: twice as wide"
        assert {score.method for score in grouped.scores()} <= {"bootstrap of groups", ""}
        few = measure(head, replace(repeated, groups=np.array([str(row % 9) for row in range(len(repeated))], object)))
        assert [note.code for note in (*grouped.warnings, *few.warnings)].count("few_groups") == 1
