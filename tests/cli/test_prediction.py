"""``featurecache predict``: its output, files and errors."""

import csv
import shutil

import numpy as np
import pytest

from featurecache.cli.commands.predict import print_predictions
from heads import Prediction, PredictionsTable


def predictions(k, n=2):
    probabilities = np.full((n, k), 0.1 / (k - 1))
    probabilities[:, 1] = 0.9
    nothing = np.full(n, "", dtype=object)
    table = PredictionsTable(
        paths=np.array([f"photos/{'long/' * row}{row}\n.jpg" for row in range(n)], dtype=object),
        splits=nothing,
        true=np.full(n, -1),
        probabilities=probabilities,
        classes=tuple(f"class\x1b{index}" for index in range(k)),
    )
    return Prediction(table, {})


def test_predictions_of_few_classes_have_a_column_each(capsys):
    print_predictions(predictions(3))
    assert capsys.readouterr().out.splitlines() == [
        "class       class\\x1b0  class\\x1b1  class\\x1b2  image",
        "class\\x1b1      0.0500      0.9000      0.0500  photos/0\\n.jpg",
        "class\\x1b1      0.0500      0.9000      0.0500  photos/long/1\\n.jpg",
    ]


def test_of_many_classes_the_most_probable_ones_are_shown(capsys):
    print_predictions(predictions(100))
    assert capsys.readouterr().out.splitlines() == [
        "class       probability  next                                  image",
        "class\\x1b1       0.9000  class\\x1b0 0.0010, class\\x1b2 0.0010  photos/0\\n.jpg",
        "class\\x1b1       0.9000  class\\x1b0 0.0010, class\\x1b2 0.0010  photos/long/1\\n.jpg",
    ]


def test_as_many_classes_are_shown_as_are_asked_for(capsys):
    print_predictions(predictions(3, n=1), top=1)
    print_predictions(predictions(100, n=1), top=2)
    assert capsys.readouterr().out.splitlines() == [
        "class       probability  next  image",
        "class\\x1b1       0.9000        photos/0\\n.jpg",
        "class       probability  next               image",
        "class\\x1b1       0.9000  class\\x1b0 0.0010  photos/0\\n.jpg",
    ]


@pytest.fixture
def folder(tmp_path, images):
    """A folder of five images and one that is none."""
    for name in ("red", "blue"):
        shutil.copytree(images / "valid" / name, tmp_path / "photos" / name)
    for path in sorted((tmp_path / "photos").glob("*/*"))[5:-1]:
        path.unlink()
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    return tmp_path / "photos"


def test_a_folder_is_classified_in_batches_and_bad_images_are_listed(invoke, real_head, folder, tmp_path):
    table = tmp_path / "table.csv"
    done = invoke("predict", real_head, folder, "--batch-size", "2", "--predictions", table)
    assert done.code == 0, done.err
    header, *rows, nothing, last = done.out.splitlines()
    assert header.split() == ["class", "blue", "red", "image"]
    assert [row.split()[0] for row in rows] == ["blue"] * 5 + ["red"]
    assert (nothing, last) == ("", f"predictions: {table}")
    assert f"failed: {folder}/broken.png: a text that begins with 'no image'" in done.err
    with table.open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [row["path"].rpartition("/")[0] for row in written] == [f"{folder}/blue"] * 5 + [f"{folder}/red"]
    for row, line in zip(written, rows, strict=True):
        assert row["predicted_class"] == line.split()[0]
        assert (row["true_class"], row["split"]) == ("", "")
        assert f"{float(row['probability_red']):.4f}" == line.split()[2]

    again = invoke("predict", real_head, folder, "--batch-size", "2", "--predictions", table, "--top", "1", "--json")
    prediction = again.json
    assert prediction["classes"] == ["blue", "red"]
    assert [list(row["probabilities"]) for row in prediction["predictions"]] == [["blue"]] * 5 + [["red"]]
    assert [each["path"] for each in prediction["failures"]] == [f"{folder}/broken.png"]
    assert table.read_text().count("\n") == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/t.csv", "nowhere does not exist; make it first"),
        ("photos", "it is a directory; choose another path"),
        ("photos/broken.png", "exists already and is not a predictions table"),
    ],
)
def test_a_table_that_cannot_be_written_is_refused_before_any_work(invoke, fake_head, folder, name, message):
    done = invoke("predict", fake_head, folder / "none.png", "--predictions", folder.parent / name)
    assert done.code == 1
    assert message in done.error
    assert (folder / "broken.png").read_bytes() == b"no image"


def test_no_classes_at_all_cannot_be_asked_for(invoke, fake_head, image):
    done = invoke("predict", fake_head, image, "--top", "0")
    assert done.code == 2
    assert "--top" in done.error
