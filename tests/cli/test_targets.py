"""``train --target``: several labels and numbers, from a table of labels to predictions of new images."""

import csv
import json

import pytest

from featurecache import FeatureCache

FEATURES = ("--tap", "features")


@pytest.fixture(scope="module")
def tables(tmp_path_factory, fake_cache):
    """Tables for the cache: labels (``labels.csv``) and numbers (``numbers.csv``)."""
    folder = tmp_path_factory.mktemp("tables")
    paths = FeatureCache.open(fake_cache).paths.tolist()
    columns = {
        "labels": [f"{path.split('/')[1]}{'|odd' if number % 2 else ''}" for number, path in enumerate(paths)],
        "numbers": [str(number / 4) for number in range(len(paths))],
    }
    for name, values in columns.items():
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("path", "label"), *zip(paths, values, strict=True)])
    return folder


@pytest.fixture(scope="module")
def trained(tables, invoke, fake_cache):
    """Both heads, trained by the command."""
    for target, name in (("labels", "labels"), ("number", "numbers")):
        options = (*FEATURES, "--target", target, "--labels", tables / f"{name}.csv", "--seed", "0")
        result = invoke("train", fake_cache, tables / f"{name}-head", *options)
        assert result.code == 0, result.err
    return tables


@pytest.mark.parametrize(
    ("name", "score", "line"),
    [("labels", "accuracy of all labels", "all labels right"), ("numbers", "R2", "root mean squared error")],
)
def test_a_head_is_trained_evaluated_and_reported(name, score, line, trained, invoke, fake_cache, tmp_path):
    options = ("--labels", trained / f"{name}.csv")
    target = {"labels": "labels", "numbers": "number"}[name]
    said = invoke("train", fake_cache, tmp_path / "head", *FEATURES, "--target", target, *options).out
    assert f"valid {score} " in said
    files = ("--report", tmp_path / "report.html", "--predictions", tmp_path / "predictions.csv")
    found = invoke("evaluate", trained / f"{name}-head", fake_cache, *options, *files)
    assert found.code == 0, found.err
    assert line in found.out
    assert "Largest errors" in (tmp_path / "report.html").read_text() or name == "labels"
    again = invoke("evaluate", trained / f"{name}-head", fake_cache, *options, *files, "--json")
    result = json.loads(again.out)
    assert (result["target"], result["n"]) == (target, 12)
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert len(rows) == 12
    assert rows[0].keys() >= {"path", "split", f"true_{name.rstrip('s') if name == 'numbers' else name}"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["labels", "numbers"])
def test_new_images_are_predicted(name, tables, invoke, real_cache, images, tmp_path):
    target = {"labels": "labels", "numbers": "number"}[name]
    options = ("--tap", "avg_pool", "--target", target, "--labels", tables / f"{name}.csv")
    assert invoke("train", real_cache, tmp_path / "head", *options).code == 0
    command = ("predict", tmp_path / "head", images / "valid", "--predictions", tmp_path / "p.csv")
    result = json.loads(invoke(*command, "--json").out)
    first = result["predictions"][0]
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert len(rows) == len(result["predictions"]) == 12
    if name == "labels":
        assert result["labels"] == ["blue", "odd", "red"]
        assert rows[0]["predicted_labels"] == ("|".join(first["labels"]) or "|")
    else:
        assert float(rows[0]["predicted_number"]) == first["number"]
    shown = invoke(*command).out
    assert f"predictions: {tmp_path / 'p.csv'}" in shown
    assert shown.split()[0] == target
    top = invoke(*command, "--top", "1")
    assert top.code == 2
    assert "--top is for classes" in top.err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("train", "CACHE", "NEW", "--target", "tags"), "unknown target 'tags' (known: class, labels, number)"),
        (("train", "CACHE", "NEW", "--target", "number"), "labels are no numbers from -1e100 to 1e100: 'blue', 'red'"),
        (("train", "CACHE", "NEW", "--target", "number", "--head", "svm"), "'svm' does not learn numbers; take one"),
        (("export", "HEAD", "NEW.joblib"), "export to .joblib needs a head of the target 'class', this one has"),
        (("compare", "HEAD", "OTHER", "CACHE"), "labels-head, needs a head of the target 'class'"),
    ],
)
def test_one_line_where_a_target_does_not_apply(command, message, trained, invoke, fake_cache, tmp_path):
    names = {"CACHE": fake_cache, "HEAD": trained / "labels-head", "OTHER": trained / "numbers-head"}
    words = [names.get(word, tmp_path / word.lower() if word.startswith("NEW") else word) for word in command]
    result = invoke(*words, *(FEATURES if command[0] == "train" else ()))
    assert result.code != 0
    (line,) = result.err.strip().splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_columns_of_flags_are_labels_of_a_table_and_of_the_cache(invoke, fake_cache, images, tmp_path):
    paths = FeatureCache.open(fake_cache).paths.tolist()
    rows = [(path, int("red" in path), number % 2) for number, path in enumerate(paths)]
    with (tmp_path / "flags.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "red", "odd"), *rows])
    command = ("train", fake_cache, tmp_path / "head", *FEATURES, "--target", "labels", "--json", "--labels")
    trained = json.loads(invoke(*command, f"{tmp_path / 'flags.csv'}:red,odd").out)
    assert (trained["n_train"], trained["target"]) == (28, "labels")
    assert trained["thresholds"].keys() == {"odd", "red"}
    found = invoke("evaluate", tmp_path / "head", fake_cache, "--labels", f"{tmp_path / 'flags.csv'}:red,odd", "--json")
    assert json.loads(found.out)["per_label"]["red"]["f1"] == 1
    missing = invoke("evaluate", tmp_path / "head", fake_cache, "--labels", ":red,odd")
    assert "unknown column 'red'" in missing.err


@pytest.mark.parametrize("name", ["red||odd", "red|", "|red"])
def test_several_labels_with_an_empty_name_are_one_line(name, invoke, fake_cache, tmp_path):
    path = FeatureCache.open(fake_cache).paths[0]
    (tmp_path / "tags.csv").write_text(f"path,label\n{path},{name}\n")
    result = invoke(
        "train", fake_cache, tmp_path / "head", *FEATURES, "--target", "labels", "--labels", tmp_path / "tags.csv"
    )
    assert repr(name) in result.error
    assert "empty" in result.error
    assert not (tmp_path / "head").exists()
