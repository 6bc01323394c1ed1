"""Images in memory: arrays as data sets of Keras come, and the bytes of files."""

import io
import re

import numpy as np
import pytest
from PIL import Image

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError, NoImagesError
from tests.featurecache.conftest import CountingBackbone

RNG = np.random.default_rng(5)
COLOURED = RNG.integers(0, 256, (6, 9, 7, 3), dtype=np.uint8)
GREY = COLOURED[..., 0]


def columns(manifest):
    """Return path, class and split of every entry."""
    classes = (*manifest.classes, None)
    return [(entry.path, classes[entry.label], entry.split) for entry in manifest.entries]


@pytest.mark.parametrize("images", [COLOURED, GREY, COLOURED[..., :1], [*COLOURED[:3], *GREY[3:]], COLOURED[:, ::-1]])
def test_pixels_have_the_features_of_a_png_file_of_them(tmp_path, images):
    for number, pixels in enumerate(images):
        (tmp_path / "files").mkdir(exist_ok=True)
        Image.fromarray(pixels.squeeze()).save(tmp_path / "files" / f"{number:08d}.png")
    cache = featurecache.extract(featurecache.from_memory(images), tmp_path / "m.h5", backbone=FakeBackbone())
    files = featurecache.extract(tmp_path / "files", tmp_path / "f.h5", backbone=FakeBackbone())
    assert [f"{path}.png" for path in cache.paths] == files.paths.tolist()
    assert np.array_equal(cache.features("features").X, files.features("features").X)


def test_bytes_are_known_from_a_cache_of_their_files(photos, tmp_path):
    cache_path = tmp_path / "photos.h5"
    before = featurecache.extract(photos, cache_path, backbone=FakeBackbone())
    images = [(photos / path).read_bytes() for path in before.paths]
    splits = [path.partition("/")[0] for path in before.paths]
    labels = before.index.images["label"]
    manifest = featurecache.from_memory(images, labels, splits=splits, paths=before.paths, classes=before.classes)
    never = CountingBackbone(stop_after=0)
    after = featurecache.extract(manifest, cache_path, backbone=never)
    assert never.seen == 0
    assert after.index.images["sha256"].tolist() == before.index.images["sha256"].tolist()
    assert np.array_equal(after.features("features").X, before.features("features").X)
    found = featurecache.verify(cache_path, images=manifest.source, recompute=20, backbone=FakeBackbone())
    assert (found.ok, found.recomputed) == (True, 20)


def test_labels_and_splits_as_data_sets_of_keras_have_them():
    names = ["airplane", "automobile", "bird"]
    labels = np.array([[2], [0], [2], [1], [-1], [0]])
    splits = ["train"] * 3 + ["Validation", "", "testing"]
    manifest = featurecache.from_memory(COLOURED, labels, splits=splits, classes=names[::-1])
    assert manifest.classes == ("bird", "automobile", "airplane")
    assert columns(manifest) == [
        ("00000000", "airplane", "train"),
        ("00000001", "bird", "train"),
        ("00000002", "airplane", "train"),
        ("00000003", "automobile", "valid"),
        ("00000005", "bird", "test"),
        ("00000004", None, ""),
    ]


def test_numbers_are_names_in_the_order_of_numbers():
    assert featurecache.from_memory(COLOURED, [10, 2, 10, 1, None, 2]).classes == ("1", "2", "10")
    assert featurecache.from_memory(COLOURED, ["10", "2", "", "1", None, "2"]).classes == ("1", "10", "2")
    assert featurecache.from_memory(COLOURED, np.array(list("bacbca")), classes=["c", "d", "b", "a"]).classes == tuple(
        "cba"
    )


def test_flags_missing_labels_and_paths_of_any_kind():
    assert featurecache.from_memory(COLOURED, np.arange(6) > 2).classes == ("False", "True")
    labels = [10, 2, float("nan"), "", None, 9]
    manifest = featurecache.from_memory(COLOURED, labels, paths=range(6))
    assert manifest.classes == ("2", "9", "10")
    assert [label for _, label, _ in columns(manifest)] == ["10", "2", None, None, None, "9"]
    assert [path for path, _, _ in columns(manifest)] == list("012345")


def test_a_cache_of_images_in_memory_tells_where_they_were(tmp_path):
    path = tmp_path / "m.h5"
    featurecache.extract(featurecache.from_memory(COLOURED), path, backbone=FakeBackbone())
    with pytest.raises(
        ManifestError, match=r"the images of .*m\.h5 were in memory; give a folder with them by --images"
    ):
        featurecache.verify(path, recompute=2, backbone=FakeBackbone())


def test_any_iterable_is_taken_and_a_file_that_is_no_image_is_a_failure(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(COLOURED[0]).save(stream, "jpeg")
    images = (data for data in (stream.getvalue(), b"no image", b""))
    cache = featurecache.extract(featurecache.from_memory(images), tmp_path / "m.h5", backbone=FakeBackbone())
    assert cache.paths.tolist() == ["00000000"]
    assert cache.failures.keys() == {"00000001", "00000002"}


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (COLOURED / 255, {}, "image 0 has dtype float64 and shape (9, 7, 3); expected uint8 of shape (height, width)"),
        (COLOURED / 255, {}, "multiply values from 0 to 1 by 255, and round them"),
        (COLOURED.astype(np.int64), {}, "image 0 has dtype int64"),
        (COLOURED.transpose(0, 3, 1, 2), {}, "image 0 has dtype uint8 and shape (3, 9, 7)"),
        (COLOURED[0], {}, "the array has shape (9, 7, 3), which is one image; give a list of images"),
        (COLOURED[0, 0], {}, "the array has shape (7, 3), which is one image"),
        (np.zeros((2, 4, 4, 4), dtype=np.uint8), {}, "image 0 has dtype uint8 and shape (4, 4, 4)"),
        (np.zeros((2, 0, 4, 3), dtype=np.uint8), {}, "image 0 has dtype uint8 and shape (0, 4, 3)"),
        ([COLOURED[0], "a.png"], {}, "image 1 is of type str; expected the bytes of an image file, or an array"),
        (
            [Image.new("P", (3, 3))],
            {},
            "of type Image; expected the bytes of an image file",
        ),
        (COLOURED, {"labels": [1, 2]}, "got 2 labels for 6 images; expected one for each image"),
        (COLOURED, {"labels": np.eye(6)}, "got 36 labels for 6 images"),
        (COLOURED, {"paths": ["a"]}, "got 1 paths for 6 images"),
        (COLOURED, {"splits": ["train"]}, "got 1 splits for 6 images"),
        (COLOURED, {"splits": "half"}, "split 'half' is unknown"),
        (COLOURED, {"labels": [0.5] * 6}, "the label 0.5 is of type float; expected a name, a number or None"),
        (COLOURED, {"labels": [3] * 6, "classes": ["a", "b"]}, "the label 3 is not the number of one of 2 classes"),
        (COLOURED, {"labels": ["c"] * 6, "classes": ["a", "b"]}, "the label 'c' is not one of the classes 'a', 'b'"),
        (COLOURED, {"paths": list("aabcde")}, "path 'a' occurs in two rows"),
        (COLOURED, {"splits": [0, 1, 0, 1, 0, 1]}, "split 1 is unknown"),
        (COLOURED, {"labels": [True] * 6, "classes": ["a"]}, "labels of True and False need two classes, got 'a'"),
        (COLOURED, {"labels": "cat"}, "the labels are the text 'cat'; expected one for each image, in a list"),
    ],
)
def test_what_is_no_image_or_does_not_fit_is_refused_in_one_line(images, options, message):
    with pytest.raises(ManifestError, match=re.escape(message)) as caught:
        featurecache.from_memory(images, **options)
    assert "\n" not in str(caught.value)


def test_no_images_are_refused():
    with pytest.raises(NoImagesError, match="no images were given"):
        featurecache.from_memory([])
