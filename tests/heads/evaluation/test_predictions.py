"""The predictions table: derived columns by hand and against SciPy, and texts that read back as what they were."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from heads.evaluation import predictions
from heads.evaluation.imagenet import ImageNetTop3
from heads.evaluation.predictions import PredictionsTable


def make(probabilities, true=None, paths=None, splits="valid", classes=None, imagenet_top3=None):
    probabilities = np.array(probabilities, dtype=float)
    n, k = probabilities.shape
    return PredictionsTable(
        np.array([f"{row}.jpg" for row in range(n)] if paths is None else paths, dtype=object),
        np.array([splits] * n if isinstance(splits, str) else splits, dtype=object),
        np.zeros(n, np.int64) if true is None else np.array(true, dtype=np.int64),
        probabilities,
        tuple("abcdefgh"[:k]) if classes is None else tuple(classes),
        imagenet_top3,
    )


TOP3 = ImageNetTop3(
    np.array([[281, 282, 999], [0, 1, 2]], np.int16), np.array([[0.5, 0.25, 0.125], [0.1, 0.1, 0.1]], "f4")
)


def test_derived_columns_by_hand():
    table = make([[0.5, 0.5, 0], [0.25, 0.25, 0.5], [1, 0, 0]], true=[1, 2, -1])
    assert table.predicted.tolist() == [0, 2, 0]
    assert table.correct.tolist() == [False, True, False]
    assert table.margin.tolist() == [0, 0.25, 1]
    assert table.entropy == pytest.approx([np.log(2), 1.5 * np.log(2), 0])
    assert not np.signbit(table.entropy).any()


def test_one_class_leaves_nothing_undecided():
    table = make([[1.0], [1.0]])
    assert table.margin.tolist() == [1, 1]
    assert table.entropy.tolist() == [0, 0]


def test_entropy_is_scipys():
    table = make(np.random.default_rng(0).dirichlet(np.full(8, 0.1), size=50))
    assert table.entropy == pytest.approx(entropy(table.probabilities, axis=1), abs=1e-12)


def test_the_beginning_of_both_kinds_of_file_is_recognised():
    table = make([[1, 0], [0, 1]], paths=["x" * 200, "y"])
    beginnings = (table.to_csv(), table.to_jsonl(), "path,split,true_class,predicted_class,any", '{"path": "any')
    assert all(PredictionsTable.is_beginning(text.encode()[:100]) for text in beginnings)
    others = (b"", b"path,label", b'{"file": 1}', b"split,path,true_class,predicted_class")
    assert not any(map(PredictionsTable.is_beginning, others))


def test_a_new_column_is_one_line_and_both_files_have_it(monkeypatch):
    monkeypatch.setitem(predictions._TEXTS, "length", lambda table: [str(len(path)) for path in table.paths])
    monkeypatch.setitem(predictions._NUMBERS, "highest", lambda table: table.probabilities.max(axis=1).tolist())
    table = make([[0.75, 0.25]], imagenet_top3=TOP3.take(slice(0, 1)))
    row = next(csv.DictReader(io.StringIO(table.to_csv(), newline="")))
    assert (row["length"], row["highest"], row["imagenet_3"] != "") == ("5", "0.75", True)
    line = json.loads(table.to_jsonl())
    assert (line["length"], line["highest"]) == ("5", 0.75)


def test_a_table_without_rows_is_a_table():
    table = make(np.empty((0, 3)))
    assert len(table.margin) == len(table.entropy) == len(table.sorted()) == 0
    assert table.to_csv().count("\n") == 1
    assert table.to_jsonl() == ""


def test_taking_rows_takes_all_that_belongs_to_them():
    table = make([[1, 0], [0, 1]], true=[0, -1], imagenet_top3=TOP3).take(np.array([1, 0, 1]))
    assert table.paths.tolist() == ["1.jpg", "0.jpg", "1.jpg"]
    assert table.true.tolist() == [-1, 0, -1]
    assert table.probabilities[:, 1].tolist() == [1, 0, 1]
    assert [table.imagenet_top3.texts(row)[0][0] for row in range(3)] == ["tench", "tabby", "tench"]
    assert table.classes == ("a", "b")


def test_the_order_is_that_of_a_cache():
    splits = ["", "test", "valid", "train", "train"]
    table = make([[1.0]] * 5, paths=["a", "b", "c", "e", "d"], splits=splits).sorted()
    assert table.paths.tolist() == ["d", "e", "c", "b", "a"]
    assert table.splits.tolist() == ["train", "train", "valid", "test", ""]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "ä"]), st.sampled_from(["train", "valid", "test", ""]), st.integers(-1, 1)
        ),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_sorted_tables_do_not_depend_on_the_order_even_where_paths_repeat(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)

    def built(each):
        values = [[(true + 2) / 4, 1 - (true + 2) / 4] for _, _, true in each]
        columns = (list(column) for column in zip(*each, strict=True)) if each else ([], [], [])
        paths, splits, true = columns
        return make(np.array(values).reshape(-1, 2), paths=paths, splits=splits, true=true)

    assert built(rows).sorted().to_jsonl() == built(shuffled).sorted().to_jsonl()


def test_csv_written_by_hand():
    table = make([[0.75, 0.25], [0.1, 0.9]], true=[-1, 1], imagenet_top3=TOP3)
    first, second = (make([[0.75, 0.25], [0.1, 0.9]]).entropy).tolist()
    assert table.to_csv().split("\r\n") == [
        "path,split,true_class,predicted_class,probability_a,probability_b,margin,entropy,"
        "imagenet_1,imagenet_1_probability,imagenet_2,imagenet_2_probability,imagenet_3,imagenet_3_probability",
        f"0.jpg,valid,,a,0.75,0.25,0.5,{first},tabby,0.5,tiger cat,0.25,toilet tissue,0.125",
        f"1.jpg,valid,b,b,0.1,0.9,0.8,{second},tench,{np.float32(0.1).item()},goldfish,{np.float32(0.1).item()},"
        f"great white shark,{np.float32(0.1).item()}",
        "",
    ]


def test_json_lines_written_by_hand():
    lines = make([[0.75, 0.25], [0.1, 0.9]], true=[-1, 1], imagenet_top3=TOP3).to_jsonl().splitlines()
    assert json.loads(lines[0]) == {
        "path": "0.jpg",
        "split": "valid",
        "true_class": None,
        "predicted_class": "a",
        "probabilities": {"a": 0.75, "b": 0.25},
        "margin": 0.5,
        "entropy": pytest.approx(0.5623351446),
        "imagenet": [
            {"class": "tabby", "probability": 0.5},
            {"class": "tiger cat", "probability": 0.25},
            {"class": "toilet tissue", "probability": 0.125},
        ],
    }
    assert json.loads(lines[1])["true_class"] == "b"


def test_what_the_network_saw_is_left_out_where_it_is_not_known():
    table = make([[1.0, 0.0]])
    assert "imagenet" not in table.to_csv()
    assert "imagenet" not in table.to_jsonl()


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
ANY = st.text(st.characters(), min_size=1)  # lone surrogates too


def _of(paths, classes):
    n, k = len(paths), len(classes)
    probabilities = np.random.default_rng(n).dirichlet(np.ones(k), size=n)
    return make(probabilities, np.arange(n) % (k + 1) - 1, paths, classes=classes)


@given(paths=st.lists(NAMES, min_size=1, max_size=5), classes=st.lists(NAMES, min_size=2, max_size=3, unique=True))
def test_the_csv_reads_back_whatever_images_and_classes_are_called(paths, classes):
    table, k = _of(paths, classes), len(classes)
    header, *rows = csv.reader(io.StringIO(table.to_csv(), newline=""))
    names = [f"probability_{name}" for name in classes]
    assert header == ["path", "split", "true_class", "predicted_class", *names, "margin", "entropy"]
    assert [row[0] for row in rows] == paths
    assert [row[2] for row in rows] == [classes[each] if each >= 0 else "" for each in table.true]
    assert [row[3] for row in rows] == [classes[each] for each in table.probabilities.argmax(axis=1)]
    assert [[float(cell) for cell in row[4 : 4 + k]] for row in rows] == table.probabilities.tolist()
    assert [float(row[-2]) for row in rows] == table.margin.tolist()
    assert [float(row[-1]) for row in rows] == table.entropy.tolist()


@given(paths=st.lists(ANY, min_size=1, max_size=5), classes=st.lists(ANY, min_size=2, max_size=3, unique=True))
def test_json_lines_read_back_whatever_images_and_classes_are_called(paths, classes):
    table = _of(paths, classes)
    text = table.to_jsonl()
    assert text.isascii()
    rows = [json.loads(line) for line in text.split("\n")[:-1]]
    assert [row["path"] for row in rows] == paths
    assert [list(row["probabilities"]) for row in rows] == [classes] * len(paths)
    assert [list(row["probabilities"].values()) for row in rows] == table.probabilities.tolist()
    assert [row["predicted_class"] for row in rows] == [classes[each] for each in table.predicted]


def test_lone_surrogates_are_escaped_where_a_file_cannot_hold_them():
    table = make([[1.0, 0.0]], paths=["bad\udc80.jpg"], classes=["x\ud800", "y"])
    assert "bad\\udc80.jpg,valid,x\\ud800,x\\ud800" in table.to_csv().encode("utf-8").decode()
    assert json.loads(table.to_jsonl())["path"] == "bad\udc80.jpg"


@pytest.mark.parametrize("count", [1, 10, 11])
def test_a_notebook_shows_the_first_rows_with_names_escaped(count):
    hostile = "<script>alert(1)</script>.jpg"
    html = make([[0.5, 0.5]] * count, paths=[hostile] * count, classes=["<b>", "&"])._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert html.count("&lt;script&gt;alert(1)") == min(count, 10)
    assert ("of which the first 10 are shown" in html) == (count > 10)


def test_a_notebook_shows_what_the_network_saw_where_it_is_known():
    html = make([[1, 0], [0, 1]], imagenet_top3=TOP3)._repr_html_()
    assert "tabby 0.50" in html
    assert "tiger cat" not in html  # the likeliest alone
    assert "the network saw" not in make([[1.0, 0.0]])._repr_html_()


def test_a_notebook_aligns_texts_left_and_numbers_right():
    html = make([[0.25, 0.75], [0.5, 0.5]], imagenet_top3=TOP3)._repr_html_()
    assert "<td><bdi>0.7500</bdi></td><td><bdi>0.5000</bdi></td><td><bdi>0.5623</bdi></td>" in html
    columns = re.findall('<th scope="col"(.*?)><bdi>(.*?)</bdi>', html)
    assert [name for attributes, name in columns if "words" not in attributes] == ["probability", "margin", "entropy"]


def test_every_column_is_documented():
    text = (Path(__file__).parents[3] / "docs" / "reports.md").read_text()
    section = text[text.index("## Predictions table") :]
    header = make([[1, 0], [0, 1]], imagenet_top3=TOP3).to_csv().partition("\r\n")[0].split(",")
    for name in {re.sub("^probability_.*", "probability_CLASS", each) for each in header}:
        if not name.startswith("imagenet_2"):  # between the first and the last
            assert f"`{name}`" in section
    for key in json.loads(make([[1, 0], [0, 1]], imagenet_top3=TOP3).to_jsonl().splitlines()[0]):
        assert f"`{key}`" in section
