"""Exported models take images of any size and resize them as the images of a cache are decoded."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import featurecache
from featurecache.images.decode import DecodeRules, fit_pixels
from featurecache.options import FILTERS
from heads import export, train
from heads.exporting.keras_model import for_any_size, notes_of
from tests.heads import networks

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(networks.TENSORFLOW_AND_NUMPY)]

SIZES = [(224, 224), (448, 672), (1000, 1500), (375, 500), (60, 50), (223, 225), (2000, 31)]
# Pillow rounds to whole levels and cuts off what is beyond 0 and 255 after each direction, Keras once: the largest
# difference of a pixel, and the largest share of pixels that differ by more than one level
TOLERANCE = {"nearest": (0, 0.0), "bilinear": (1, 0.0), "bicubic": (10, 0.01), "lanczos": (15, 0.01)}


@pytest.fixture(scope="module")
def recipe(make_features, blobs):
    rows = make_features(*blobs(12, 1280, 2), **networks.recipe_of("mobilenet_v2", "avg_pool", 1280))
    return rows.recipe


@pytest.fixture(scope="module")
def resized():
    """Return a function from pixels and a recipe to the pixels that an exported model gives to its network."""
    import keras

    images = keras.Input((224, 224, 3), dtype="uint8", name="images")
    model = keras.Model(images, keras.layers.Rescaling(1.0)(images))
    return lambda pixels, recipe: for_any_size(model, recipe).predict_on_batch(pixels[np.newaxis])[0]


def photograph(height, width, seed=0):
    """Return an image with edges, textures and noise, uint8, shape (height, width, 3)."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    smooth[: height // 2, : width // 3] = (255, 255, 0)
    return np.clip(smooth + generator.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("rule", FILTERS)
def test_a_whole_image_is_resized_as_it_is_decoded(rule, size, recipe, resized):
    pixels = photograph(*size)
    expected = fit_pixels(pixels, DecodeRules((224, 224), "squash", rule)).astype(int)
    differences = np.abs(resized(pixels, replace(recipe, filter=rule)) - expected)
    largest, share = TOLERANCE[rule]
    assert differences.max() <= largest
    assert (differences > 1).mean() <= share


@pytest.mark.parametrize("size", [(448, 672), (224, 300), (1000, 1500), (376, 500), (223, 225)], ids=str)
def test_the_centre_is_cut_out_as_it_is_decoded(size, recipe, resized):
    pixels = photograph(*size)
    expected = fit_pixels(pixels, DecodeRules((224, 224), "crop")).astype(int)
    differences = np.abs(resized(pixels, replace(recipe, resize="crop")) - expected)
    assert differences.max() <= 4
    assert (differences > 1).mean() <= 0.005


def test_a_centre_between_two_pixels_is_half_a_pixel_away(recipe, resized):
    """Pillow cuts between pixels; Keras at whole ones."""
    pixels = photograph(375, 500)
    cut = pixels[:, 62 : 62 + 375]
    expected = fit_pixels(cut, DecodeRules((224, 224), "squash")).astype(int)
    assert np.abs(resized(pixels, replace(recipe, resize="crop")) - expected).max() <= 1


def test_the_file_says_of_images_of_any_size_what_the_head_says(tmp_path):
    import keras

    for number in range(12):
        folder = tmp_path / "images" / networks.CLASSES[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(300 + 40 * number, 500 - 20 * number, seed=number)).save(folder / f"{number:02}.png")
    options = {"backbone": "mobilenet_v2", "weights": "random:0", "taps": ["avg_pool"]}
    cache = featurecache.extract(tmp_path / "images", tmp_path / "c.h5", **options)
    head = train(cache, "logreg", tap="avg_pool", holdout=0)
    said = []
    model = keras.saving.load_model(export(head, tmp_path / "m.keras", notify=said.append))
    assert model.input.shape == (None, None, None, 3)
    assert model.get_compile_config()["jit_compile"] is False  # XLA, which Keras takes on a GPU, cannot resize
    features = cache.features("avg_pool")
    rows = features.take(slice(None, None, 3))  # each size is traced anew
    for path, expected in zip(rows.paths, head.predict_proba(rows.X), strict=True):
        pixels = np.asarray(Image.open(tmp_path / "images" / path))
        for found in (model.predict_on_batch(pixels[np.newaxis]), model.predict(pixels[np.newaxis], verbose=0)):
            np.testing.assert_allclose(found[0], expected, rtol=0, atol=0.02)
    assert said[0] == notes_of(head)[0]
    assert (
        "images of any size, and resizes them to 224 x 224 as the cache did (squash, bilinear, antialiased)" in said[0]
    )


@pytest.mark.real_data
def test_photographs_of_their_own_size(cats_and_dogs, tmp_path):
    import keras

    cache = featurecache.FeatureCache.open(cats_and_dogs / "catsdogs.h5")
    head = train(cache, "logreg", tap="avg_pool")
    model = keras.saving.load_model(export(head, tmp_path / "m.keras"))
    features = cache.features("avg_pool", split="valid").take(slice(None, None, 12))  # each size is traced anew
    errors = []
    for path, expected in zip(features.paths, head.predict_proba(features.X), strict=True):
        pixels = np.asarray(Image.open(cats_and_dogs / "catsdogs" / path).convert("RGB"))
        errors.append(np.abs(model.predict_on_batch(pixels[np.newaxis])[0] - expected).max())
    assert len(errors) > 7
    assert max(errors) < 0.02
