"""What another way of computing changes: errors and flips by NumPy and by the head itself."""

import numpy as np
import pytest
from PIL import Image

import featurecache
import heads
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import EngineError, ManifestError, OptionError, RecipeError, UnknownNameError
from heads.errors import MismatchError


class Noisy(FakeBackbone):
    """The fake backbone with other rounding, so to speak: it multiplies the features by factors near 1."""

    scale = 0.3

    def forward(self, images):
        features = super().forward(images)
        noise = np.random.default_rng(1).normal(1, self.scale, features["features"].shape[1]).astype(np.float32)
        return features | {"features": features["features"] * noise}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Return a cache of 60 images of noise in two classes, one of them without a label."""
    folder = tmp_path_factory.mktemp("precision")
    rng = np.random.default_rng(0)
    lines = ["path,label,split"]
    (folder / "images").mkdir()
    for number in range(60):
        pixels = rng.integers(0, 200 + 55 * (number % 2), (24, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:02d}.png")
        label, split = ("cat", "dog")[number % 2], ("train", "valid")[number % 3 == 0]
        lines.append(f"{number:02d}.png,{label if number else ''},{split}")
    (folder / "images" / "t.csv").write_text("\n".join(lines))
    return featurecache.extract(folder / "images" / "t.csv", folder / "c.h5", backbone=FakeBackbone())


@pytest.fixture(scope="module")
def head(cache):
    return heads.train(cache, "logreg", tap="features")


def by_hand(head, before, after):
    """Return the relative error of each row, and the rows whose decisions differ."""
    before, after = before.astype(np.float64), after.astype(np.float64)
    errors = np.max(np.abs(after - before), axis=1) / np.max(np.abs(before), axis=1)
    decisions = [head.predict_proba(X.astype(np.float32)).argmax(axis=1) for X in (before, after)]
    return errors, np.flatnonzero(decisions[0] != decisions[1]), decisions


def test_errors_and_flips_of_another_network(cache, head):
    found = heads.check_precision(cache, head, backbone=Noisy(), rows=1000)
    before = cache.features("features").X
    noise = np.random.default_rng(1).normal(1, Noisy.scale, before.shape[1]).astype(np.float32)
    errors, flipped, (ours, theirs) = by_hand(head, before, before * noise)
    assert (found.n, found.skipped) == (60, 0)
    assert found.error_median == pytest.approx(np.median(errors), rel=1e-5)
    assert found.error_99 == pytest.approx(np.quantile(errors, 0.99), rel=1e-5)
    assert found.error_max == pytest.approx(errors.max(), rel=1e-5)
    assert 0 < len(flipped) < 60
    assert [(flip.path, flip.before, flip.after) for flip in found.flips] == [
        (cache.paths[row], head.classes[ours[row]], head.classes[theirs[row]]) for row in flipped
    ]
    assert found.flipped.value == len(flipped) / 60
    assert found.flipped.low < found.flipped.value < found.flipped.high
    assert {flip.label for flip in found.flips} <= {"cat", "dog", None}
    assert all(0.5 <= flip.probability_before <= 1 and 0.5 <= flip.probability_after <= 1 for flip in found.flips)


def test_another_type_needs_no_network_and_no_images(cache, head, tmp_path):
    found = heads.check_precision(cache, head, dtype="float16", rows=20, seed=3, images=tmp_path)
    rows = np.sort(np.random.default_rng(3).permutation(60)[:20])
    before = np.asarray(cache.features("features").X)[rows]
    errors, flipped, _ = by_hand(head, before, before.astype(np.float16))
    assert (found.n, found.engine, found.dtype, len(found.flips)) == (20, "", "float16", len(flipped))
    assert found.error_max == pytest.approx(errors.max(), rel=1e-9)
    assert 0 < found.error_max < 2**-10


def test_the_same_network_changes_nothing(cache, head):
    found = heads.check_precision(cache, head, backbone=FakeBackbone(), rows=10)
    assert (found.error_max, found.flips, found.flipped.value) == (0.0, (), 0.0)


def test_images_that_have_changed_are_skipped(cache, head, tmp_path):
    source = featurecache.open_source(cache.made_by.images)
    for path in cache.paths[:7]:
        (tmp_path / path).write_bytes(source.read(path, max_bytes=10**6).data)
    Image.new("RGB", (24, 24)).save(tmp_path / cache.paths[0])
    found = heads.check_precision(cache, head, backbone=Noisy(), images=tmp_path, rows=60)
    assert (found.n, found.skipped) == (6, 54)
    with pytest.raises(ManifestError, match=r"all 60 chosen images in .* are missing or have changed; give the folder"):
        heads.check_precision(cache, head, backbone=Noisy(), images=tmp_path / "nowhere", rows=60)


def test_tf32_is_not_compared_on_a_cpu_which_computes_float32(blobs, make_cache, make_features):
    rows = make_features(*blobs(12, 1280, 2), tap="avg_pool", backbone="mobilenet_v2", weights="random:0")
    made = make_cache(rows)
    head = heads.train(made, "centroid", tap="avg_pool")
    with pytest.raises(EngineError, match=r"^tf32 is a precision of GPUs"):
        heads.check_precision(made, head, precision="tf32", device="cpu")


def test_what_cannot_be_compared_is_refused(cache, head):
    with pytest.raises(OptionError, match="nothing to compare: give another precision, dtype, engine or device"):
        heads.check_precision(cache, head, dtype="float32", precision="float32")
    half = featurecache.extract(
        featurecache.read_manifest(cache.made_by.images),
        cache.path.with_name("half.h5"),
        backbone=FakeBackbone(),
        dtype="float16",
    ).with_labels(dict(zip(cache.paths, ["cat", "dog"] * 30, strict=True)))
    coarse = heads.train(half, "logreg", tap="features")
    with pytest.raises(OptionError, match="the cache has float16 features, which float32 cannot make better; give an"):
        heads.check_precision(half, coarse, dtype="float32")
    with pytest.raises(UnknownNameError, match="unknown precision 'half'"):
        heads.check_precision(cache, head, precision="half")
    with pytest.raises(UnknownNameError, match="unknown engine 'gpu'"):
        heads.check_precision(cache, head, engine="gpu")
    with pytest.raises(OptionError, match="rows is 0; expected at least 1"):
        heads.check_precision(cache, head, dtype="float16", rows=0)
    with pytest.raises(RecipeError, match="precision"):  # the fake network has none
        heads.check_precision(cache, head, precision="mixed", backbone=FakeBackbone())
    numbers = cache.with_labels(dict(zip(cache.paths, map(str, range(60)), strict=True)))
    counter = heads.train(numbers, "ridge", tap="features", target="number")
    with pytest.raises(MismatchError, match="precision needs a head of the target 'class'"):
        heads.check_precision(cache, counter, dtype="float16")
    other = FakeBackbone({"features": 8, "predictions": 4})
    images = featurecache.open_source(cache.made_by.images)
    small = featurecache.extract(images.root, cache.path.with_name("small.h5"), backbone=other)
    with pytest.raises(MismatchError):
        heads.check_precision(small, head, dtype="float16")
