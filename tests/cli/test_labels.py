"""``train --labels``: a head of corrected labels, on the command line and in Python."""

import json

import pytest

import heads
from featurecache import FeatureCache


@pytest.fixture
def table(tmp_path):
    """A table with three labels for rows of the cache and two for none."""
    path = tmp_path / "corrections.csv"
    path.write_text(
        "path,label\ntrain/red/000.png,blue\ntrain/red/001.png,pink\ntrain/red/002.png,pink\nno/such.png,red\n"
        "train/red/0000.png,red\n"
    )
    return path


def test_labels_train_and_unmatched_ones_are_counted(invoke, fake_cache, tmp_path, table):
    before = fake_cache.read_bytes()
    done = invoke("train", fake_cache, tmp_path / "head", "--head", "logreg", "--tap", "features", "--labels", table)

    assert done.code == 0, done.err
    assert "2 of 5 given labels are of no row of the cache: 'no/such.png', 'train/red/0000.png'" in done.err
    head = heads.TrainedHead.load(tmp_path / "head")
    assert head.classes == ("blue", "pink", "red")
    assert dict(zip(head.classes, head.training.class_counts, strict=True)) == {"blue": 15, "pink": 2, "red": 11}
    assert fake_cache.read_bytes() == before


def test_the_warning_has_a_code(invoke, fake_cache, tmp_path, table):
    done = invoke(
        "train", fake_cache, tmp_path / "head", "--head", "centroid", "--tap", "features", "--labels", table, "--json"
    )
    assert "unmatched_labels" in [warning["code"] for warning in done.json["warnings"]]


def test_python_trains_the_same_head(invoke, fake_cache, tmp_path, table):
    invoke("train", fake_cache, tmp_path / "one", "--head", "softmax", "--tap", "features", "--labels", table)
    labels = {"train/red/000.png": "blue", "train/red/001.png": "pink", "train/red/002.png": "pink"}
    labels |= {"no/such.png": "red", "train/red/0000.png": "red"}
    heads.train(FeatureCache.open(fake_cache), "softmax", tap="features", labels=labels).save(tmp_path / "other")

    for name in ("one", "other"):
        description = json.loads((tmp_path / name / "head.json").read_text())
        del description["training"]["seconds"], description["sha256"]
        (tmp_path / f"{name}.json").write_text(json.dumps(description))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()
    assert (tmp_path / "one" / "head.safetensors").read_bytes() == (
        tmp_path / "other" / "head.safetensors"
    ).read_bytes()


def test_labels_that_agree_with_the_cache_warn_of_nothing(invoke, fake_cache, tmp_path):
    (tmp_path / "same.csv").write_text("path,label\ntrain/red/000.png,red\n")
    arguments = ("--head", "centroid", "--tap", "features", "--labels", tmp_path / "same.csv")
    done = invoke("train", fake_cache, tmp_path / "head", *arguments)
    assert (done.code, done.err) == (0, "")


def test_a_row_without_a_label_does_not_train(invoke, fake_cache, tmp_path):
    (tmp_path / "none.csv").write_text("path,label\ntrain/red/000.png,\n")
    arguments = ("--head", "centroid", "--tap", "features", "--labels", tmp_path / "none.csv", "--json")
    done = invoke("train", fake_cache, tmp_path / "head", *arguments)
    assert done.json["n_train"] == 27


@pytest.mark.parametrize(
    ("text", "words"), [(None, "no such file"), ("path\n", "0 columns 'label'"), ("a;b\n", "0 columns 'path'")]
)
def test_a_bad_table_is_one_line(invoke, fake_cache, tmp_path, text, words):
    if text is not None:
        (tmp_path / "bad.csv").write_text(text)
    done = invoke("train", fake_cache, tmp_path / "head", "--tap", "features", "--labels", tmp_path / "bad.csv")
    assert done.code == 1
    assert words in done.error
    assert not (tmp_path / "head").exists()
