"""``evaluate`` and ``compare`` on caches that did not train the head."""

import csv
import shutil

import pytest

import featurecache
from featurecache.backbones.fake import FakeBackbone


@pytest.fixture(scope="module")
def flat(tmp_path_factory, write_images):
    """A separate test set without splits: 9 red and 5 green images, and none of the class blue."""
    root = tmp_path_factory.mktemp("flat")
    write_images(root / "photos" / "red", 9, seed=7)
    write_images(root / "photos" / "green", 5, colour=(30, 220, 40), seed=7)
    featurecache.extract(root / "photos", root / "flat.h5", backbone=FakeBackbone())
    return root / "flat.h5"


@pytest.fixture(scope="module")
def other_head(tmp_path_factory, invoke, fake_cache):
    directory = tmp_path_factory.mktemp("other") / "centroid"
    assert invoke("train", fake_cache, directory, "--head", "centroid", "--tap", "features").code == 0
    return directory


def test_a_cache_without_splits_is_evaluated_as_a_whole(invoke, fake_head, flat, tmp_path):
    done = invoke("evaluate", fake_head, flat)
    said = "no row is in the valid split: the rows are 14 in no split; choose a split that has rows, or all rows with"
    assert done.error == f"{said} --split all"
    files = ("--predictions", tmp_path / "all.csv", "--report", tmp_path / "all.html")
    done = invoke("evaluate", fake_head, flat, "--split", "all", *files)
    assert done.code == 0
    assert "warning: 5 of 14 rows are of a class that the head does not know ('green'): they count as wrong" in done.err
    assert "trained the head" not in done.err
    with (tmp_path / "all.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["true_class"] for row in rows} == {"red", "green"}
    assert {row["predicted_class"] for row in rows} <= {"red", "blue"}
    assert {row["probability_green"] for row in rows} == {"0.0"}
    page = (tmp_path / "all.html").read_text("utf-8")
    assert "14 images of blue, red, green" in page
    assert "does not know" in page


def test_json_has_the_codes(invoke, fake_head, flat):
    found = invoke("evaluate", fake_head, flat, "--split", "all", "--json").json
    assert found["classes"] == ["blue", "red", "green"]
    assert (found["n"], found["split"], found["per_class"]["green"]["recall"]) == (14, "all", 0.0)
    assert {"class_unknown_to_head", "undefined_score"} <= {each["code"] for each in found["warnings"]}


def test_the_training_images_under_another_split_are_found(invoke, images, fake_head, tmp_path):
    shutil.copytree(images / "train", tmp_path / "photos" / "test")
    featurecache.extract(tmp_path / "photos", tmp_path / "c.h5", backbone=FakeBackbone())
    done = invoke("evaluate", fake_head, tmp_path / "c.h5", "--split", "test")
    assert "warning: all 28 rows trained the head: it is better on them than on new images" in done.err.splitlines()


def test_heads_are_compared_on_all_rows(invoke, fake_head, other_head, flat, fake_cache):
    done = invoke("compare", fake_head, other_head, flat, "--split", "all", "--json")
    assert (done.json["n"], done.json["classes"]) == (14, ["blue", "red", "green"])
    (warning,) = [each for each in done.json["warnings"] if each["code"] == "class_unknown_to_head"]
    assert warning["message"].startswith("5 of 14 rows")  # the same for both heads, said once
    trained = invoke("compare", fake_head, other_head, fake_cache, "--split", "all", "--json").json["warnings"]
    assert [each["message"] for each in trained if each["code"] == "training_rows"] == [
        "28 of 40 rows trained the head: it is better on them than on new images"
    ]


def test_copies_of_training_images_in_valid_are_counted(invoke, images, tmp_path):
    shutil.copytree(images, tmp_path / "photos")
    for number in range(3):
        source = tmp_path / "photos" / "train" / "red" / f"{number:03}.png"
        shutil.copy(source, tmp_path / "photos" / "valid" / "red" / f"copy{number}.png")
    featurecache.extract(tmp_path / "photos", tmp_path / "c.h5", backbone=FakeBackbone())
    options = ("--head", "centroid", "--tap", "features")
    trained = invoke("train", tmp_path / "c.h5", tmp_path / "head", *options)
    said = "warning: 3 of the 15 valid rows have the content of a training row: their accuracy is optimistic"
    assert said in trained.err.splitlines()
    found = invoke("evaluate", tmp_path / "head", tmp_path / "c.h5", "--json").json
    assert [each["code"] for each in found["warnings"]] == ["same_content"]
    swept = invoke("sweep", tmp_path / "c.h5", tmp_path / "sweep", *options, "--jobs", "1", "--json").json
    assert [each["code"] for each in swept["notes"]].count("same_content") == 1
    curve = invoke("curve", tmp_path / "c.h5", "--tap", "features", "--head", "centroid", "--json")
    assert "same_content" in {each["code"] for each in curve.json["warnings"]}
