"""The limit for the pixels of an image follows the cache and the head, and can be raised."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import OptionError
from featurecache.images.failures import Failure
from featurecache.options import MAX_PIXELS, PIXEL_LIMIT
from featurecache.preparation import find
from featurecache.provenance import Provenance
from heads import Originals, Predictor, TrainedHead, predict, train
from heads.artifact.description import DESCRIPTION
from heads.errors import ArtifactError
from tests.heads.forging import rewrite


class Interrupted(FakeBackbone):
    """The fake backbone; Ctrl-C comes after its first batch."""

    begun = False

    def forward(self, images):
        if self.begun:
            raise KeyboardInterrupt
        self.begun = True
        return super().forward(images)


LARGE = (9000, 7000)  # above the default limit
RAISED = 70_000_000


def write(path, size, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).save(path)
    return path


@pytest.fixture
def images(tmp_path):
    """Return a folder with six images of 30 x 20 pixels in each of two classes."""
    for number in range(12):
        write(tmp_path / "images" / ("dark", "light")[number % 2] / f"{number}.png", (30, 20), 20 * number)
    return tmp_path / "images"


def extracted(images, name="c.h5", **options):
    return featurecache.extract(images, images.with_name(name), backbone=FakeBackbone(), **options)


def head_of(cache):
    return train(cache, "centroid", tap="features", holdout=0)


@pytest.mark.slow
def test_a_raised_limit_is_needed_once(images):
    large = write(images / "dark" / "large.png", LARGE, 5)
    cache = extracted(images)
    assert cache.failures["dark/large.png"] == (
        "63,000,000 pixels are more than the limit of 50,000,000; --max-pixels raises it"
    )
    cache = extracted(images, max_pixels=RAISED)
    assert not cache.failures
    assert cache.made_by.max_pixels == RAISED

    further = write(images / "light" / "further.png", LARGE, 250)
    cache = extracted(images)  # without the option
    assert not cache.failures
    assert cache.made_by.max_pixels == RAISED

    head = TrainedHead.load(head_of(cache).save(images.with_name("head")))
    assert head.max_pixels == RAISED
    assert not predict(head, [large, further], backbone=FakeBackbone()).failures
    assert predict(head, [large, images / "dark"], backbone=FakeBackbone(), max_pixels=10**6).failures.keys() == {
        str(large)
    }
    assert Originals.from_cache(cache).thumbnail("dark/large.png").jpeg
    found = featurecache.verify(cache.path, recompute=len(cache), backbone=FakeBackbone())
    assert (found.recomputed, found.skipped, found.ok) == (14, 0, True)


def test_the_limit_of_a_head_is_followed_and_can_be_raised(images, tmp_path):
    head = replace(head_of(extracted(images)), max_pixels=600)
    larger = write(tmp_path / "larger.png", (30, 21), 9)
    too_large = Failure("too_many_pixels", "630 pixels are more than the limit of 600; --max-pixels raises it")

    assert predict(head, [larger, images / "dark"], backbone=FakeBackbone()).failures == {str(larger): too_large}
    assert not predict(head, [larger], backbone=FakeBackbone(), max_pixels=630).failures
    for options, expected in (({}, True), ({"max_pixels": 630}, False), ({"max_pixels": 629}, True)):
        with Predictor(head, backbone=FakeBackbone(), **options) as predictor:
            [result] = predictor.predict(larger)
            assert isinstance(result, Failure) is expected
    for limit in (0, PIXEL_LIMIT + 1):
        with pytest.raises(OptionError, match=r"max_pixels is .*expected a whole number from 1 to 1,000,000,000"):
            predict(head, [larger], backbone=FakeBackbone(), max_pixels=limit)


def test_a_predictor_takes_the_largest_limit_of_its_heads(images):
    head = head_of(extracted(images))

    with Predictor(
        [replace(head, max_pixels=600), replace(head, max_pixels=700)], backbone=FakeBackbone()
    ) as predictor:
        assert predictor.rules.max_pixels == 700


def test_a_cache_keeps_the_largest_limit(images):
    extracted(images, max_pixels=RAISED)
    write(images / "dark" / "new.png", (10, 10), 3)

    assert extracted(images, max_pixels=700).made_by.max_pixels == RAISED  # larger images may still be rows


def test_a_lower_limit_holds_for_one_run(images):
    write(images / "dark" / "large.png", (30, 21), 3)
    cache = extracted(images, max_pixels=600)
    assert list(cache.failures) == ["dark/large.png"]
    assert cache.made_by.max_pixels == 600
    assert head_of(cache).max_pixels == MAX_PIXELS

    cache = extracted(images)
    assert not cache.failures
    assert cache.made_by.max_pixels == MAX_PIXELS


def test_an_unfinished_run_goes_on_with_its_limit(images):
    with pytest.raises(KeyboardInterrupt):
        featurecache.extract(images, images.with_name("c.h5"), backbone=Interrupted(), batch_size=4, max_pixels=RAISED)

    assert find(images.with_name("c.h5")).max_pixels == RAISED
    assert extracted(images).made_by.max_pixels == RAISED


def test_replace_begins_with_the_default(images):
    extracted(images, max_pixels=RAISED)

    assert extracted(images, replace=True, resize="crop").made_by.max_pixels == MAX_PIXELS


def test_a_merged_cache_has_the_largest_limit(images, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(images / "dark", other / "cold")
    write(other / "cold" / "new.png", (8, 8), 77)
    paths = [extracted(images, max_pixels=800).path, extracted(other, "d.h5", max_pixels=900).path]

    assert featurecache.merge(tmp_path / "m.h5", paths).made_by.max_pixels == 900


@pytest.mark.parametrize("value", [0, -5, PIXEL_LIMIT + 1, "70000000", 2.5, None])
def test_a_limit_that_makes_no_sense_is_kept_but_not_followed(value):
    found = Provenance.from_dict({"max_pixels": value})

    assert found.max_pixels is None
    assert found.pixel_limit == 89_478_485  # what versions that did not record it allowed
    assert found.to_dict() == {"max_pixels": value}


def test_a_head_of_the_default_is_stored_as_before(images):
    head = head_of(extracted(images))
    stored = json.loads((head.save(images.with_name("head")) / DESCRIPTION).read_text())

    assert "max_pixels" not in stored
    assert replace(head, max_pixels=70_000_000).identity != head.identity


@pytest.mark.parametrize("value", [0, PIXEL_LIMIT + 1, True, "1", 1.0])
def test_a_head_with_a_limit_out_of_range_is_refused(images, value):
    directory = head_of(extracted(images)).save(images.with_name("head"))
    rewrite(directory, max_pixels=value)

    with pytest.raises(ArtifactError, match="max_pixels"):
        TrainedHead.load(directory)


# Images that become nearly black


def test_dark_images_are_told(images):
    for number in range(2):
        deep = np.random.default_rng(number).integers(0, 4096, (20, 30)).astype(np.uint16)
        Image.fromarray(deep).save(images / "light" / f"deep{number}.png")
    told = []
    cache = extracted(images, progress=told.append)
    head = head_of(cache)

    [warning] = told[-1].to_dict()["warnings"]
    assert warning["code"] == "dark_images"
    assert warning["message"].startswith(
        "2 images with more than 8 bits per sample, the first light/deep0.png, use less"
    )
    assert cache.made_by.run["warnings"] == [warning]
    prediction = predict(head, [images / "light"], backbone=FakeBackbone())
    [code] = [warning.code for warning in prediction.warnings]
    assert code == "dark_images"
    assert prediction.to_dict()["warnings"][0]["code"] == "dark_images"
    assert not predict(head, [images / "dark"], backbone=FakeBackbone()).warnings
