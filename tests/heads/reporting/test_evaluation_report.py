"""The report of an evaluation says what the evaluation says, whatever the order of rows and the names of classes."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from featurecache.images.sources import FolderSource
from heads import PredictionsTable, TrainedHead, evaluate, evaluate_table, select_rows, train
from heads.report import FigureBlock, Gallery, Table, Tone
from heads.report.thumbnails import Originals
from heads.reporting import evaluation_report

pytestmark = pytest.mark.slow


def make_table(n=40, k=3, *, seed=0, classes=None, true=None, splits="valid"):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(k), n)
    return PredictionsTable(
        np.array([f"{row:04}.jpg" for row in range(n)], dtype=object),
        np.array([splits] * n, dtype=object),
        random.integers(0, k, n) if true is None else np.asarray(true),
        probabilities,
        tuple(classes or [f"class {each}" for each in range(k)]),
    )


def blocks(report, kind):
    return [each for section in report.sections for each in section.blocks if isinstance(each, kind)]


def paths_of(report):
    return {each.title: [shot.path for shot in each.images] for each in blocks(report, Gallery)}


def cells(report):
    return {row[0]: row[1:] for table in blocks(report, Table) for row in table.rows}


def test_headline_and_tables_hold_the_numbers():
    evaluation = evaluate_table(make_table())
    report = evaluation_report(evaluation)
    accuracy = evaluation.accuracy
    assert report.facts[0].value == f"{100 * accuracy.value:.2f} %"
    assert f"{100 * accuracy.low:.2f} to {100 * accuracy.high:.2f} %" in report.facts[0].detail
    numbers = cells(report)
    assert numbers["accuracy"][0] == f"{accuracy.value:.4f}"
    assert numbers["log loss"][0] == f"{evaluation.log_loss:.4f}"
    interval = evaluation.intervals["log_loss"]
    assert numbers["log loss"][1] == f"{interval.low:.4f} to {interval.high:.4f}"
    assert numbers["class 1"][-1] == str(evaluation.per_class[1].support)


def test_confusions_are_listed_by_how_often_they_occur():
    true = [0] * 10 + [1] * 5 + [2] * 5
    table = make_table(20, 3, true=true)
    table.probabilities[:] = np.eye(3)[[0] * 7 + [1] * 3 + [1] * 4 + [2] + [2] * 5]
    (confusions,) = [
        each for each in blocks(evaluation_report(evaluate_table(table)), Table) if "confusions" in each.caption
    ]
    assert confusions.rows == (("class 0", "class 1", "3", "30.00 %"), ("class 1", "class 2", "1", "20.00 %"))


def test_galleries_hold_what_they_say():
    table = make_table(60)
    report = evaluation_report(evaluate_table(table))
    correct = {path: right for path, right in zip(table.paths, table.correct, strict=True)}  # noqa: C416
    tones = {shot.path: shot.tone for each in blocks(report, Gallery) for shot in each.images}
    assert len(tones) > 20
    assert all((tone is Tone.GOOD) == correct[path] for path, tone in tones.items())
    shown = [each.title for each in blocks(report, Gallery)]
    assert shown[0] == "Incorrect"
    assert len(shown) == 3 + 2 * 3


def test_galleries_of_many_classes_are_joined_by_kind():
    titles = [each.title for each in blocks(evaluation_report(evaluate_table(make_table(200, 12))), Gallery)]
    assert titles == [
        "Incorrect",
        "Most incorrect, class by class",
        "Most uncertain",
        "Most correct, class by class",
        "Correct",
    ]


@pytest.mark.slow
def test_joined_galleries_say_of_which_classes_they_are():
    few, many = (evaluation_report(evaluate_table(make_table(n, k))) for n, k in ((200, 8), (1000, 200)))
    assert {each.title: each.text for each in blocks(few, Gallery)}["Most correct, class by class"].endswith(
        "every class."
    )
    text = {each.title: each.text for each in blocks(many, Gallery)}["Most incorrect, class by class"]
    assert "classes of 200 that have the most errors" in text


@pytest.fixture(scope="module")
def ours():
    """The report of 50 rows."""
    return evaluation_report(evaluate_table(make_table(50)))


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_does_not_change_a_byte(seed, ours):
    mixed = make_table(50).take(np.random.default_rng(seed).permutation(50))
    assert evaluation_report(evaluate_table(mixed)).to_html() == ours.to_html()


def test_other_names_of_classes_give_the_same_numbers_and_images(ours):
    theirs = evaluation_report(evaluate_table(make_table(50, classes=("x", "<y>", "ж"))))
    assert [fact.value for fact in ours.facts] == [fact.value for fact in theirs.facts]
    assert list(paths_of(ours).values()) == list(paths_of(theirs).values())


@pytest.mark.parametrize(
    ("n", "k", "true"),
    [(1, 2, [0]), (1, 1, [0]), (30, 1, [0] * 30), (30, 3, [0, 1] * 15), (30, 2, [1] * 30)],
)
def test_thin_input_gives_a_whole_report(n, k, true):
    evaluation = evaluate_table(make_table(n, k, true=true))
    report = evaluation_report(evaluation)
    assert report.warnings == tuple(map(str, evaluation.warnings))
    assert "<h1" in report.to_html()
    assert report.to_markdown().startswith("#") or "\n# " in report.to_markdown()
    assert all(each.alt for each in blocks(report, FigureBlock))


@pytest.mark.slow
def test_a_thousand_classes_are_a_useful_page():
    report = evaluation_report(evaluate_table(make_table(1500, 1000)))
    text = report.to_html()
    assert len(text) < 5_000_000
    assert sum(len(each.images) for each in blocks(report, Gallery)) <= 120


def test_rows_that_are_all_right_leave_empty_galleries_that_say_so():
    table = make_table(20, 2, true=[0, 1] * 10)
    table.probabilities[:] = np.eye(2)[[0, 1] * 10]
    report = evaluation_report(evaluate_table(table))
    (incorrect,) = [each for each in blocks(report, Gallery) if each.title == "Incorrect"]
    assert incorrect.images == ()
    assert incorrect.empty in report.to_html()


def test_a_trained_head_adds_its_settings_its_epochs_and_a_map(blob_cache):
    head = train(blob_cache, "softmax", params={"epochs": 3})
    assert isinstance(head, TrainedHead)
    features = blob_cache.features("fc2")
    report = evaluation_report(evaluate(head, features), head=head, features=features)
    assert report.title == "softmax on fc2"
    assert "epochs=3" in dict(report.about)["head"]
    titles = [section.title for section in report.sections]
    assert titles[-2:] == ["How it learned", "What the features look like"]
    assert "fingerprint" in dict(report.about)


def test_held_out_rows_are_not_called_rows_of_the_split_they_came_from(blob_cache):
    head = train(blob_cache, "logreg", holdout=0.4)
    evaluation = evaluate(head, select_rows(blob_cache, head, "valid"))
    assert evaluation_report(evaluation, head=head).subtitle.startswith(f"{len(evaluation)} held-out images of")


def test_originals_are_shown(tmp_path):
    table = make_table(6, 2)
    Image.new("RGB", (30, 20), (200, 30, 30)).save(tmp_path / table.paths[0])
    digests = {path: hashlib.sha256((tmp_path / table.paths[0]).read_bytes()).hexdigest() for path in table.paths}
    report = evaluation_report(evaluate_table(table), originals=Originals(FolderSource(tmp_path), digests))
    shots = {shot.path: shot.thumbnail for each in blocks(report, Gallery) for shot in each.images}
    assert shots[table.paths[0]].jpeg
    assert shots[table.paths[1]].missing
