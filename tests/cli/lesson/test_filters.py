"""The lesson ``filters``: learned and random filters side by side, and what features of a random network are worth."""

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import featurecache
from featurecache.backbones.catalog import NETWORKS, find_network
from featurecache.backbones.vgg import layers_of
from featurecache.cli.lesson.filters import colour_agreement
from featurecache.errors import UnknownNameError, WeightsError
from heads import Originals

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def without_a_cache(teach):
    return teach("filters")


@pytest.fixture(scope="module")
def with_a_cache(teach, learned_cache):
    return teach("filters", learned_cache)


def size(path):
    with Image.open(path) as image:
        return image.size


def test_without_weights_there_are_64_random_filters_and_words_on_how_to_see_the_learned(without_a_cache):
    results, text, pictures = without_a_cache
    assert list(pictures) == ["filters-first-layer"]
    assert (results["network"], results["filters"], results["grid"]) == ("vgg16", 64, [8, 8])
    assert results["drawn"] == ["random"]
    assert results["heads"] is None
    for words in ("a lesson downloads nothing", "featurecache filters vgg16", "featurecache lesson filters CACHE"):
        assert words in text


def test_imagenet_weights_that_are_there_are_drawn(teach, monkeypatch, tmp_path):
    """They are other weights of VGG16 here, where Keras would keep ImageNet's, which nobody can have in a test."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    row = replace(find_network("vgg16"), weights_md5=None)
    monkeypatch.setitem(NETWORKS, "vgg16", row)
    write_first_layers(tmp_path / "models" / row.weights_file, row)
    results, text, _ = teach("filters")
    assert results["drawn"] == ["learned", "random"]
    assert "On the left" in text
    assert "downloads nothing" not in text


def write_first_layers(path, row):
    """Write a VGG network's weights in the layout of Keras's old files; only the first layer is not 0."""
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        layers = layers_of(row)
        file.attrs["layer_names"] = [layer.tap.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.tap)
            group.attrs["weight_names"] = [b"kernel", b"bias"]
            group.create_dataset("kernel", layer.kernel, np.float32)
            group.create_dataset("bias", layer.kernel[-1:], np.float32)
        file[layers[0].tap]["kernel"][:] = np.random.default_rng(0).normal(size=layers[0].kernel)


def test_with_a_cache_the_filters_of_its_network_stand_beside_random_ones(with_a_cache, without_a_cache):
    results = with_a_cache[0]
    assert (results["network"], results["filters"], results["grid"]) == ("mobilenet_v2", 32, [4, 8])
    assert results["drawn"] == ["learned", "random"]
    wide, narrow = (size(taught[2]["filters-first-layer"]) for taught in (with_a_cache, without_a_cache))
    assert wide[0] == 2 * narrow[0]


def test_with_a_cache_the_same_head_is_trained_twice(with_a_cache):
    results, text, _ = with_a_cache
    heads = results["heads"]
    assert (heads["n_train"], heads["n_valid"]) == (28, 12)
    assert heads["learned"] == heads["random"] == 1.0  # red and blue are told apart by any network
    assert "the difference may be chance (p = 1, exact McNemar test)" in text


def test_a_cache_of_a_random_network_has_nothing_to_show_and_says_what_has(teach, real_cache):
    results, text, _ = teach("filters", real_cache)
    assert results["drawn"] == ["random"]
    assert results["heads"] is None
    assert "which has learned nothing" in text
    assert "--weights imagenet" in text


def test_weights_that_have_moved(teach, moved):
    (moved.parent / "w.weights.h5").unlink()
    with pytest.raises(WeightsError, match=r"the weights that made .*c\.h5 are not available: .*w\.weights\.h5"):
        teach("filters", moved)


def test_weights_that_were_exchanged(teach, moved):
    with (moved.parent / "w.weights.h5").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(WeightsError, match=r"w\.weights\.h5 is not the file that made .*c\.h5; put that"):
        teach("filters", moved)


def test_images_whose_folder_is_gone(teach, moved):
    shutil.rmtree(moved.parent / "photos")
    results, text, pictures = teach("filters", moved)
    assert results["heads"] is None
    assert "photos is gone" in text
    assert pictures


def test_a_cache_that_does_not_say_where_its_images_lie(teach, moved, monkeypatch):
    monkeypatch.setattr(Originals, "from_cache", lambda _: Originals(None, {}))
    results, text, _ = teach("filters", moved)
    assert results["heads"] is None
    assert "the cache does not record where they are" in text
    assert "None" not in text


@pytest.mark.parametrize("gone", ["valid", "train/red", "*"])
def test_images_of_which_too_many_are_gone(teach, moved, gone):
    for path in list((moved.parent / "photos").glob(f"{gone}/**/*.png")):
        path.unlink()
    results, text, _ = teach("filters", moved)
    assert results["heads"] is None
    assert "so this comparison is left out" in text


def test_some_images_that_are_gone_are_left_out_of_both(teach, moved):
    (moved.parent / "photos" / "valid" / "red" / "000.png").unlink()
    heads = teach("filters", moved)[0]["heads"]
    assert (heads["n_train"], heads["n_valid"]) == (28, 11)


def test_a_cache_without_labels_leaves_the_heads_out(teach, tmp_path, write_images, weight_file):
    write_images(tmp_path / "photos", 4)
    featurecache.extract(tmp_path / "photos", tmp_path / "c.h5", backbone="mobilenet_v2", weights=str(weight_file))
    results, text, _ = teach("filters", tmp_path / "c.h5")
    assert results["heads"] is None
    assert "labelled images of at least two classes" in text


def test_a_network_that_is_none_of_the_catalogue(teach, fake_cache):
    with pytest.raises(UnknownNameError, match="unknown backbone 'fake'"):
        teach("filters", fake_cache)


def test_colours_that_agree_and_colours_that_do_not():
    generator = np.random.default_rng(0)
    grey = np.repeat(generator.normal(size=(3, 3, 1, 500)), 3, axis=2)
    assert colour_agreement(grey) == pytest.approx(1)
    assert colour_agreement(generator.normal(size=(3, 3, 3, 500))) == pytest.approx(0, abs=0.05)


@pytest.mark.real_data
def test_on_photographs_learned_features_are_worth_far_more_than_random_ones(teach_on_photographs, photographs):
    results, text = teach_on_photographs("filters")
    assert results["colour_agreement"]["learned"] > 0.5
    assert abs(results["colour_agreement"]["random"]) < 0.1
    heads = results["heads"]
    assert heads["learned"] > 0.95
    assert heads["random"] < 0.7
    assert heads["p"] < 1e-6
    assert "the difference is significant" in text
    # the same by scikit-learn alone, on as many images of each class
    cache = featurecache.FeatureCache.open(photographs)
    train, valid = (cache.features("avg_pool", split) for split in ("train", "valid"))
    rows = [np.concatenate([np.flatnonzero(each.y == y)[::4][:60] for y in (0, 1)]) for each in (train, valid)]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(train.X[rows[0]], train.y[rows[0]])
    assert abs(model.score(valid.X[rows[1]], valid.y[rows[1]]) - heads["learned"]) < 0.05
