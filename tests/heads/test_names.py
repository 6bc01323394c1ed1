"""Names of images and classes in what heads give: as they are, in the order of the head."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import featurecache
from featurecache import Failure, ImageSource, content_of, encode_name
from featurecache.backbones.fake import FakeBackbone
from heads import Code, Originals, evaluate, predict, select_rows, train
from heads.finetuning.finetune import sides


@pytest.fixture
def images(tmp_path):
    """12 images of the classes 2 and 10 with percent signs in their names."""
    root = tmp_path / "images"
    for number in range(12):
        path = root / ("valid" if number % 3 == 2 else "train") / ("2", "10")[number % 2] / f"50%25 {number:02}%41.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 200, (32, 32, 3)) + 50 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.fixture
def cache(images, tmp_path):
    return featurecache.extract(images, tmp_path / "c.h5", backbone=FakeBackbone(), class_order="natural")


@pytest.fixture
def head(cache):
    return train(cache, "centroid", tap="features")


def test_tables_name_files_that_are_there(cache, head, images):
    table = evaluate(head, select_rows(cache, head, "Validation")).table
    rows = list(csv.DictReader(table.to_csv().splitlines()))
    lines = [json.loads(line) for line in table.to_jsonl().splitlines()]
    assert len(rows) == len(lines) == 4
    assert all((images / row["path"]).is_file() for row in (*rows, *lines))


def test_originals_are_found_by_the_names_that_are_shown(cache):
    originals = Originals.from_cache(cache)
    thumbnails = [originals.thumbnail(path) for path in cache.paths]
    assert [thumbnail.missing for thumbnail in thumbnails] == [""] * 12


class Archive(ImageSource):
    """Files by their encoded names, and by no other."""

    name = "archive"

    def __init__(self, folder):
        self.files = {encode_name(bytes(path.relative_to(folder))): path for path in folder.rglob("*.png")}

    def stat(self, path):
        return None

    def read(self, path, *, max_bytes):
        if path not in self.files:
            return Failure("not_found", "no such image")
        return content_of(self.files[path].read_bytes(), max_bytes=max_bytes)


def test_originals_of_another_source_are_found_by_the_names_that_are_shown(cache, images):
    originals = Originals.from_cache(cache, Archive(images))
    assert [originals.thumbnail(path).missing for path in cache.paths] == [""] * 12


def test_predictions_and_failures_name_files_that_are_there(head, images):
    broken = images / "valid" / "2" / "%00.png"
    broken.write_bytes(b"no image")
    found = predict(head, [images], backbone=FakeBackbone())
    assert list(found.failures) == [str(broken)]
    assert {*found.table.paths} == {str(path) for path in images.rglob("*.png") if path != broken}
    assert found.to_dict()["failures"][0]["path"] == str(broken)


def test_fine_tuning_takes_the_order_of_the_head(head, images):
    manifest = featurecache.read_manifest(images)
    assert (manifest.classes, head.classes) == (("10", "2"), ("2", "10"))
    for side in sides(manifest, head, max_bytes=10**6):
        assert side
        assert all(entry.path.split("/")[1] == head.classes[entry.label] for entry in side)


def test_training_warns_of_suspicious_classes(images, tmp_path):
    for split in ("train", "valid"):
        (images / split / "2").rename(images / split / "nan")
    cache = featurecache.extract(images, tmp_path / "nan.h5", backbone=FakeBackbone())
    head = train(cache, "centroid", tap="features")
    (warning,) = head.training.warnings
    assert warning.code == Code.SUSPICIOUS_CLASS
    assert "'nan'" in warning.message
