"""The use case ``predict``: images in order and in batches, bad ones aside, the most probable classes first."""

import numpy as np
import pytest
from PIL import Image

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import NoImagesError, OptionError
from featurecache.images.failures import Failure
from heads import PredictionsTable, train
from heads.errors import MismatchError
from heads.prediction import Prediction, predict


class Watched(FakeBackbone):
    """The fake backbone, which remembers how many images each pass had."""

    def __init__(self, **options):
        super().__init__(**options)
        self.passes = []

    def forward(self, images):
        self.passes.append(len(images))
        return super().forward(images)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 11 images, of which 03 is none."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(11):
        name = "ab"[number % 2]
        (root / name).mkdir(exist_ok=True)
        pixels = generator.integers(0, 200, (32, 32, 3)) + 50 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:02}.png")
    (root / "b" / "03.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def cache(photos, tmp_path_factory):
    return featurecache.extract(photos, tmp_path_factory.mktemp("cache") / "c.h5", backbone=FakeBackbone())


@pytest.fixture(scope="module")
def head(cache):
    return train(cache, "logreg", tap="features", holdout=0)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 32])
def test_every_image_gets_what_its_cached_features_say(head, cache, photos, batch_size):
    backbone = Watched()
    found = predict(head, [photos], backbone=backbone, batch_size=batch_size)
    features = cache.features("features")
    expected = dict(zip(features.paths, head.predict_proba(features.X), strict=True))
    assert found.table.paths.tolist() == [f"{photos}/{path}" for path in sorted(expected)]
    np.testing.assert_allclose(found.table.probabilities, [expected[path] for path in sorted(expected)], atol=1e-12)
    assert backbone.passes == [batch_size] * (10 // batch_size) + [10 % batch_size] * (10 % batch_size > 0)


def test_files_come_in_the_order_given_and_bad_ones_aside(head, photos, tmp_path):
    files = [photos / "b" / "05.png", tmp_path / "gone.png", photos / "a" / "00.png", photos / "b" / "03.png"]
    found = predict(head, files, backbone=FakeBackbone())
    assert found.table.paths.tolist() == [str(files[0]), str(files[2])]
    assert list(found.failures) == [str(files[1]), str(files[3])]
    assert found.failures[str(files[1])] == Failure("not_found", "no such file")
    with pytest.raises(
        NoImagesError, match=r"none of the 2 images can be used; the first is .*gone\.png: no such file"
    ):
        predict(head, [files[1], files[3]], backbone=FakeBackbone())


def test_one_path_is_a_list_of_one(head, photos):
    several = predict(head, [photos], backbone=FakeBackbone())
    for one in (photos, str(photos)):
        assert predict(head, one, backbone=FakeBackbone()).to_dict() == several.to_dict()
    file = str(photos / "a" / "00.png")
    assert predict(head, file, backbone=FakeBackbone()).table.paths.tolist() == [file]
    assert predict(head, (file,), backbone=FakeBackbone()).table.paths.tolist() == [file]


def test_a_word_is_no_batch_size(head, photos):
    with pytest.raises(OptionError, match=r"batch_size is 'auto'; expected a whole number from 1 to 4,096$"):
        predict(head, photos, backbone=FakeBackbone(), batch_size="auto")


def test_another_network_is_refused_before_it_sees_an_image(head, photos):
    backbone = Watched(seed=1)
    with pytest.raises(MismatchError, match="weights: the head has 'random:0', the features 'random:1'"):
        predict(head, [photos], backbone=backbone)
    assert backbone.passes == []


def prediction(probabilities):
    probabilities = np.array(probabilities)
    n, k = probabilities.shape
    nothing = np.full(n, "", dtype=object)
    paths = np.array([f"{row}.png" for row in range(n)], dtype=object)
    table = PredictionsTable(paths, nothing, np.full(n, -1), probabilities, tuple("abcde"[:k]))
    return Prediction(table, {"x.png": Failure("not_found", "no such file")})


def test_the_most_probable_classes_come_first_and_of_equal_ones_the_first():
    found = prediction([[0.1, 0.6, 0.3], [0.4, 0.2, 0.4]])
    assert [list(ranked.items()) for ranked in found.ranked()] == [
        [("b", 0.6), ("c", 0.3), ("a", 0.1)],
        [("a", 0.4), ("c", 0.4), ("b", 0.2)],
    ]
    assert [list(ranked) for ranked in found.ranked(2)] == [["b", "c"], ["a", "c"]]
    assert [list(ranked) for ranked in found.ranked(9)] == [["b", "c", "a"], ["a", "c", "b"]]


def test_json_has_all_classes_in_their_order_or_the_most_probable_ones():
    found = prediction([[0.1, 0.6, 0.3]])
    (row,) = found.to_dict()["predictions"]
    assert row == {"path": "0.png", "class": "b", "probabilities": {"a": 0.1, "b": 0.6, "c": 0.3}}
    assert list(row["probabilities"]) == ["a", "b", "c"]
    best = found.to_dict(top=2)
    assert best["classes"] == ["a", "b", "c"]
    assert list(best["predictions"][0]["probabilities"].items()) == [("b", 0.6), ("c", 0.3)]
    assert best["predictions"][0]["class"] == "b"
    assert best["failures"] == [{"path": "x.png", "code": "not_found", "reason": "no such file"}]
