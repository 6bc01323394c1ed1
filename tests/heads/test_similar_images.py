"""Similar images of given files and of rows, and the features of images that a cache may have."""

import numpy as np
import pytest
from PIL import Image

import featurecache
import heads
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import NoImagesError, OptionError, RecipeError, UnknownNameError
from heads.errors import ParameterError


class Counting(FakeBackbone):
    """The fake backbone; it counts images."""

    seen = 0

    def forward(self, images):
        self.seen += len(images)
        return super().forward(images)


def write(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with 12 images for a cache, and three others."""
    root = tmp_path_factory.mktemp("similar")
    for number in range(12):
        write(root / "images" / ("train", "valid")[number % 2] / ("a", "b")[number % 3 > 1] / f"{number}.png", number)
    for number in range(3):
        write(root / "new" / f"{number}.png", 100 + number)
    return root


@pytest.fixture(scope="module")
def cache(folder):
    return featurecache.extract(folder / "images", folder / "c.h5", backbone=FakeBackbone())


def cosines(X, query):
    """Return similarities by NumPy, float64."""
    X, query = X.astype(np.float64), query.astype(np.float64)
    return X @ query / np.linalg.norm(X, axis=1) / np.linalg.norm(query)


def test_images_that_the_cache_has_take_no_pass_and_others_do(cache, folder):
    rows = cache.features("features")
    known = [folder / "images" / path for path in rows.paths]
    network = Counting()
    found, failures = featurecache.features_of(
        cache, [known[3], folder / "new", known[0]], "features", backbone=network, batch_size=2
    )
    computed = featurecache.extract(folder / "new", folder / "new.h5", backbone=FakeBackbone()).features("features")
    assert (network.seen, failures) == (3, {})
    assert found.paths.tolist() == [str(known[3]), *(str(folder / "new" / f"{n}.png") for n in range(3)), str(known[0])]
    assert np.array_equal(found.X, np.concatenate([rows.X[3:4], computed.X, rows.X[:1]]))
    assert found.sha256.tolist() == [rows.sha256[3], *computed.sha256, rows.sha256[0]]
    assert (found.y.tolist(), found.classes) == ([-1] * 5, ())


def test_labels_and_splits_of_a_manifest_are_those_of_its_features(cache, folder):
    manifest = featurecache.read_manifest(folder / "images")
    found, _ = featurecache.features_of(cache, manifest, "features", backbone=Counting())
    rows = cache.features("features")
    for name in ("X", "y", "paths", "splits", "sha256"):
        assert np.array_equal(getattr(found, name), getattr(rows, name)), name
    assert found.classes == rows.classes


def test_the_network_is_looked_for_only_if_an_image_needs_it(cache, folder):
    known = folder / "images" / cache.paths[0]
    found, _ = featurecache.features_of(cache, known, "features")  # the catalogue has no such network
    assert len(found) == 1
    with pytest.raises(UnknownNameError, match="unknown backbone 'fake'"):
        featurecache.features_of(cache, folder / "new", "features")
    other = FakeBackbone({"features": 16, "predictions": 10}, input_size=(16, 16))
    with pytest.raises(RecipeError, match="input_size"):
        featurecache.features_of(cache, folder / "new", "features", backbone=other)
    with pytest.raises(OptionError, match="batch_size"):
        featurecache.features_of(cache, known, "features", batch_size=0)


def test_similar_images_are_those_with_the_largest_cosine(cache, folder):
    rows = cache.features("features")
    found = heads.similar(cache, folder / "new", rows=rows.paths[[5, 2]], k=4, tap="features", backbone=FakeBackbone())
    new, _ = featurecache.features_of(cache, folder / "new", "features", backbone=FakeBackbone())
    assert [(one.path, one.in_cache) for one in found.found] == [
        *((path, True) for path in rows.paths[[5, 2]]),
        *((path, False) for path in new.paths),
    ]
    queries = [(5, rows.X[5]), (2, rows.X[2]), *((-1, query) for query in new.X)]
    for one, (own, query) in zip(found.found, queries, strict=True):
        expected = cosines(rows.X, query)
        order = [row for row in np.argsort(-expected, kind="stable") if row != own][:4]
        assert [image.path for image in one.images] == rows.paths[order].tolist()
        assert [image.similarity for image in one.images] == pytest.approx(expected[order], abs=1e-12)
    assert (found.n_images, found.tap, found.failures) == (12, "features", {})


def test_a_given_image_that_the_cache_has_finds_itself(cache, folder):
    path = cache.paths[4]
    [one] = heads.similar(cache, folder / "images" / path, k=1, tap="features").found
    assert [(image.path, image.similarity) for image in one.images] == [(path, 1.0)]


def test_more_similar_images_than_there_are_and_images_that_fail(cache, folder, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    found = heads.similar(cache, [broken], rows=cache.paths[:1], k=50, tap="features")
    assert [len(one.images) for one in found.found] == [11]
    assert found.failures.keys() == {str(broken)}
    assert found.to_dict()["failures"][0]["code"] == "not_an_image"
    with pytest.raises(NoImagesError, match=r"none of the 1 images can be used; the first is .*broken\.jpg: "):
        heads.similar(cache, [broken], tap="features")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ParameterError, "nothing to compare; give image files, or paths of rows of the cache"),
        ({"rows": ["nope.png"]}, UnknownNameError, "unknown row 'nope.png'"),
        ({"rows": "nope.png"}, UnknownNameError, "unknown row 'nope.png'"),
        ({"rows": ["nope.png"], "k": 0}, ParameterError, "k is 0; expected at least 1"),
        ({"rows": ["nope.png"], "tap": "nope"}, UnknownNameError, "unknown tap 'nope'"),
    ],
)
def test_what_cannot_be_compared_is_refused(cache, options, error, message):
    with pytest.raises(error, match=message):
        heads.similar(cache, **({"tap": "features"} | options))


def test_the_report_has_a_gallery_for_each_image(cache, folder):
    found = heads.similar(cache, folder / "new", rows=cache.paths[:1], k=3, tap="features", backbone=FakeBackbone())
    given = heads.Originals(featurecache.FolderSource(folder, confined=False), found.given)
    report = heads.similar_report(found, recipe=cache.recipe, originals=heads.Originals.from_cache(cache), given=given)
    [section] = report.sections
    assert [gallery.title for gallery in section.blocks] == [one.path for one in found.found]
    for gallery, one in zip(section.blocks, found.found, strict=True):
        assert [image.path for image in gallery.images] == [one.path, *(image.path for image in one.images)]
        assert all(image.thumbnail.jpeg for image in gallery.images)
