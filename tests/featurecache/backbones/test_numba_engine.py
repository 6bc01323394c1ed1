"""The numba engine: the features of the Keras engine, for every tap and whatever the weights come from."""

import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import heads
from featurecache import extract
from featurecache.backbones import numba_engine, vgg, winograd
from featurecache.backbones.catalog import find_network
from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.backbones.network import build
from featurecache.backbones.numba_engine import NumbaBackbone, _Workspace
from featurecache.backbones.weights import resolve_weights
from featurecache.errors import UnknownNameError, WeightsError
from featurecache.verification import verify

TOLERANCE = 1e-4
ALL_TAPS = tuple(find_network("vgg16").taps)
RUN_TAPS = ("fc2", "predictions")


def relative_error(found, expected):
    """Return the largest difference, relative to the largest value."""
    return np.abs(found - expected).max() / np.abs(expected).max()


def assert_close(found, expected):
    assert set(found) == set(expected)
    errors = {tap: relative_error(found[tap], values) for tap, values in expected.items()}
    assert max(errors.values()) < TOLERANCE, errors


@pytest.fixture(scope="module", autouse=True)
def _weights_drawn_once():
    """Let this module's networks share VGG16's random weights: drawing and transforming them takes seconds."""
    drawn, by_id = [], {}
    transformed = winograd.transformed

    def shared(network_spec, weights, needed):
        if (network_spec.name, weights.identity) != ("vgg16", "random:0"):
            yield from vgg.weights_of(network_spec, weights, needed)
            return
        if len(drawn) < needed:
            drawn[:] = vgg.weights_of(network_spec, weights, needed)
            by_id.clear()
        yield from drawn[:needed]

    def transformed_once(kernel):
        if not any(kernel is known for known, _ in drawn):
            return transformed(kernel)
        if id(kernel) not in by_id:
            by_id[id(kernel)] = transformed(kernel)
        return by_id[id(kernel)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba_engine, "weights_of", shared)
        patch.setattr(winograd, "transformed", transformed_once)
        yield


class Recorded:
    """What a backbone computed from certain images; the network itself is gone, which leaves memory for the other one.

    All taps of the first batch are there, and of the other images those that runs need.
    """

    def __init__(self, backbone, images):
        self.spec, self.provenance = backbone.spec, backbone.provenance
        self.batch_size, self.passes_at_once = backbone.batch_size, backbone.passes_at_once
        self._rows = {}
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            features = backbone.forward(batch)
            for number, image in enumerate(batch):
                taps = RUN_TAPS if start else features
                self._rows[image.tobytes()] = {tap: features[tap][number].copy() for tap in taps}

    def forward(self, images):
        rows = [self._rows[image.tobytes()] for image in images]
        return {tap: np.stack([row[tap] for row in rows]) for tap in set.intersection(*map(set, rows))}


@pytest.fixture(scope="module")
def by_keras(weights_of, photographs, release_memory):
    """Return the taps of VGG16 with random weights, computed by Keras."""
    release_memory()  # of VGG19
    needed = photographs(30)[[number for number in range(30) if number < 3 or is_photo(number)]]
    recorded = Recorded(KerasBackbone(*weights_of("vgg16"), taps=ALL_TAPS, batch_size=3), needed)
    release_memory()
    return recorded


@pytest.fixture(scope="module")
def by_numba(weights_of):
    """Return the same, run by numba."""
    return NumbaBackbone(*weights_of("vgg16"), taps=ALL_TAPS, batch_size=3)


# the largest networks come first: before this module's own ones are there, they take less memory together


MANY = """
import sys
import numpy as np
from featurecache.backbones.catalog import find_network
from featurecache.backbones.numba_engine import NumbaBackbone
from featurecache.backbones.weights import resolve_weights
row = find_network("vgg16")
many = NumbaBackbone(row, resolve_weights("random:0", row), batch_size=40)
images = np.random.default_rng(0).integers(0, 256, (12, 224, 224, 3), dtype=np.uint8)
expected = many.forward(images)
reversed_order = many.forward(images[::-1])
many.resize(3)
for found, wanted in (
    (reversed_order, {tap: values[::-1] for tap, values in expected.items()}),
    (many.forward(images[:5]), {tap: values[:5] for tap, values in expected.items()}),
):
    for tap, values in wanted.items():
        assert (found[tap] == values).all(), tap
print(many.provenance["blas"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["Haswell", "", "SkylakeX"])
def test_a_row_is_the_same_wherever_it_stands_and_whatever_blas_does(kernels, run_python):
    """Of OpenBLAS's code for processors, the one for Haswell rounds differently from row to row."""
    if kernels == "SkylakeX" and "avx512f" not in Path("/proc/cpuinfo").read_text("utf-8"):
        pytest.skip("this processor cannot run it")
    done = run_python(MANY, **({"OPENBLAS_CORETYPE": kernels} if kernels else {}))
    assert done.returncode == 0, done.stderr
    assert kernels in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "taps",
    [
        ("block1_pool", "block3_conv4", "block4_conv4"),
        ("block5_conv4", "flatten", "fc1", "fc2", "logits", "predictions"),
    ],
)
def test_vgg19_is_that_of_keras(taps, weights_of, photographs):
    images = photographs(2)
    expected = KerasBackbone(*weights_of("vgg19"), taps=taps, batch_size=2).forward(images)
    assert_close(NumbaBackbone(*weights_of("vgg19"), taps=taps, batch_size=2).forward(images), expected)


def test_every_tap_is_that_of_keras(by_keras, by_numba, photographs):
    assert by_numba.spec == by_keras.spec
    assert_close(by_numba.forward(photographs(3)), by_keras.forward(photographs(3)))


@pytest.mark.parametrize("tap", ["block1_conv2", "block3_pool", "block5_conv1", "block5_pool", "fc1", "predictions"])
def test_one_tap_alone_is_what_it_is_among_others(tap, weights_of, by_numba, photographs):
    images = photographs(2)
    alone = NumbaBackbone(*weights_of("vgg16"), taps=(tap,), batch_size=3).forward(images)
    np.testing.assert_array_equal(alone[tap], by_numba.forward(images)[tap])


def test_another_batch_size_gives_the_same_bytes(weights_of, photographs):
    images = photographs(3)
    one, three = (NumbaBackbone(*weights_of("vgg16"), taps=("fc2",), batch_size=n).forward(images) for n in (1, 3))
    np.testing.assert_array_equal(one["fc2"], three["fc2"])


def test_provenance_says_what_runs_it(by_numba, monkeypatch, weights_of):
    import numba

    monkeypatch.setattr(numba_engine, "processor_count", lambda: 3)
    other = NumbaBackbone(*weights_of("vgg16"), taps=("block1_pool",), batch_size=24)
    provenance = dict(other.provenance)
    assert re.fullmatch(r"\w+ [\d.]+ \w+", provenance.pop("blas"))
    assert provenance == {
        "engine": "numba",
        "numba": numba.__version__,
        "device": "cpu",
        "threads": "3",
        "batch_size": "24",
    }


def test_an_unknown_tap_comes_with_the_close_match(weights_of):
    with pytest.raises(UnknownNameError, match=r"unknown tap of vgg16 'fc3'; did you mean 'fc[12]'"):
        NumbaBackbone(*weights_of("vgg16"), taps=("fc3",))


def test_an_error_in_one_image_ends_the_pass(by_numba, photographs, monkeypatch):
    seen = []

    def failing(*_):
        seen.append(1)
        raise KeyboardInterrupt

    expected = by_numba.forward(photographs(1))
    with monkeypatch.context() as patch:
        patch.setattr(_Workspace, "convolve", failing)
        with pytest.raises(KeyboardInterrupt):
            by_numba.forward(photographs(3))
    assert 1 <= len(seen) <= 3
    for tap, values in by_numba.forward(photographs(1)).items():  # and the next is as good as ever
        np.testing.assert_array_equal(values, expected[tap])


def is_photo(index):
    return index % 5 in {1, 4}


@pytest.fixture(scope="module")
def photos(photographs, tmp_path_factory):
    """Return a folder of smooth and of busy images, 6 each, train and valid."""
    root = tmp_path_factory.mktemp("photos")
    for index, pixels in enumerate(photographs(30)):
        if is_photo(index):
            path = root / ("train" if index < 20 else "valid") / ("busy" if index % 5 == 4 else "smooth")
            path.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path / f"{index}.png")
    return root


class Part:
    """A backbone of which only some taps are kept; it counts images."""

    def __init__(self, whole, *taps):
        self.spec = replace(whole.spec, taps={tap: whole.spec.taps[tap] for tap in taps})
        self.provenance = whole.provenance
        self.batch_size, self.passes_at_once = whole.batch_size, whole.passes_at_once
        self._whole = whole
        self.forwarded, self.has_forwarded = 0, threading.Event()

    def forward(self, images):
        features = self._whole.forward(images)
        self.forwarded += len(images)
        self.has_forwarded.set()
        return {tap: features[tap] for tap in self.spec.taps}


def test_a_run_goes_on_with_the_other_engine_and_a_head_decides_the_same(by_keras, by_numba, photos, tmp_path):
    by_keras, by_numba = Part(by_keras, *RUN_TAPS), Part(by_numba, *RUN_TAPS)
    made = {
        "keras": extract(photos, tmp_path / "keras.h5", backbone=by_keras, batch_size=3),
        "numba": extract(photos, tmp_path / "numba.h5", backbone=by_numba, batch_size=3),
    }

    def interrupt(progress):
        if progress.done == 8:
            assert by_numba.has_forwarded.wait(60)
            raise KeyboardInterrupt

    path = tmp_path / "both.h5"
    by_numba.forwarded = 0
    by_numba.has_forwarded.clear()
    with pytest.raises(KeyboardInterrupt):
        extract(photos, path, backbone=by_numba, batch_size=3, progress=interrupt)
    forwarded = by_numba.forwarded
    made["both"] = extract(photos, path, backbone=by_keras, batch_size=3)
    assert len({cache.recipe.fingerprint for cache in made.values()}) == 1
    assert made["both"].provenance["engine"]["engine"] == "keras"
    assert [each["engine"]["engine"] for each in made["both"].provenance["earlier"]] == ["numba"]
    assert made["both"].provenance["run"]["reused"] == forwarded
    assert verify(path, recompute=5, backbone=by_numba).max_relative_error < TOLERANCE

    train, valid = ({name: cache.features("fc2", split=s) for name, cache in made.items()} for s in ("train", "valid"))
    assert_close({name: train[name].X for name in made}, dict.fromkeys(made, train["keras"].X))
    head = heads.train(made["numba"], "logreg", tap="fc2")
    for features in (train, valid):
        decisions = {name: head.predict_proba(each.X).argmax(axis=1).tolist() for name, each in features.items()}
        assert decisions["numba"] == decisions["keras"] == decisions["both"]


WITHOUT_KERAS = """
import json, sys
from pathlib import Path
import heads
from featurecache import extract
from featurecache.verification import verify
photos, folder, weights, tap = sys.argv[1:]
said = []
options = {"engine": "auto", "notify": said.append, "device": "cpu"}
cache = extract(photos, folder + "/x.h5", weights=weights, taps=(tap,), **options)
head = heads.train(cache, "centroid", tap=tap)
heads.predict(head, [Path(photos, "valid")], **options)
found = verify(folder + "/x.h5", recompute=3, **options)
loaded = sorted({"keras", "tensorflow", "jax", "torch"} & set(sys.modules))
engine = cache.provenance["engine"]["engine"]
print(json.dumps({"loaded": loaded, "said": said, "error": found.max_relative_error, "engine": engine}))
"""


def assert_runs_without_keras(run_python, photos, tmp_path, weights, tap):
    done = run_python(WITHOUT_KERAS, photos, tmp_path, weights, tap)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["loaded"] == []
    assert found["said"][0].startswith("found 12 images: 2 classes (busy, smooth); ")
    assert found["said"][1:] == [f"starting vgg16 with {weights} weights on numba"] * 3
    assert found["error"] == 0  # whatever the images around a row were
    assert found["engine"] == "numba"
    assert done.stderr == ""


def test_extracting_predicting_and_verifying_load_no_framework(run_python, photos, tmp_path):
    assert_runs_without_keras(run_python, photos, tmp_path, "random:0", "block2_pool")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_a_weight_file_that_keras_wrote_gives_the_features_of_its_network(
    suffix, weights_of, by_numba, photographs, photos, run_python, tmp_path
):
    import h5py
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    network = build(*weights_of("vgg16"))
    path, no_top = tmp_path / f"vgg16{suffix}", tmp_path / f"no_top{suffix}"
    part = keras.Model(network.inputs, network.get_layer("block5_pool").output)
    for each, target in ((network, path), (part, no_top)):
        if suffix == ".weights.h5":
            each.save_weights(target)
        else:
            with h5py.File(target, "w") as file:
                legacy_h5_format.save_weights_to_hdf5_group(file, each)
    del network, part
    row = find_network("vgg16")
    found = NumbaBackbone(row, resolve_weights(str(path), row), taps=("block1_conv1", "fc2"), batch_size=3)
    images = photographs(3)
    expected = by_numba.forward(images)
    for tap, values in found.forward(images).items():
        np.testing.assert_array_equal(values, expected[tap])
    assert_runs_without_keras(run_python, photos, tmp_path, str(no_top), "block2_pool")
    with pytest.raises(WeightsError, match="is not a weight file of vgg19"):
        NumbaBackbone(find_network("vgg19"), resolve_weights(str(path), find_network("vgg19")))
