"""A small network with random weights, images, and heads on what it makes of them; for the tests of Keras models."""

from dataclasses import replace

import numpy as np
from PIL import Image

from featurecache.backbones.catalog import find_network
from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.backbones.weights import resolve_weights
from heads import train

CLASSES = ("ant", "bee", "cow")

# NumPy 2's word on TensorFlow's variables; reading them gives the right numbers
TENSORFLOW_AND_NUMPY = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"


def pixels_of(n, seed=0):
    """Return n different images, from smooth to busy: uint8, shape (n, 224, 224, 3)."""
    generator = np.random.default_rng(seed)
    coarse = [generator.integers(0, 256, (2 ** (1 + i % 5),) * 2 + (3,), dtype=np.uint8) for i in range(n)]
    return np.stack([np.asarray(Image.fromarray(each).resize((224, 224), Image.Resampling.BICUBIC)) for each in coarse])


def network(name, weights="random:0"):
    """Return the catalogue's row and its weights."""
    row = find_network(name)
    return row, resolve_weights(weights, row)


def features_of(name, pixels, *taps):
    """Return what the engine makes of images: tap to features."""
    return KerasBackbone(*network(name), taps=taps, batch_size=len(pixels)).forward(pixels)


def recipe_of(name, tap, width, **changes):
    """Return the fields of a recipe of this network with random weights, as `make_features` takes them."""
    row = find_network(name)
    fields = {"backbone": name, "weights": "random:0", "preprocessing": row.preprocessing}
    return fields | {"tap": tap, "taps": {tap: width}} | changes


def trained_on(cache, head, tap=None, **params):
    """Return a head that was trained on all rows of a cache."""
    return train(cache, head, tap=tap, params=params, holdout=0)


def with_model(head, model, **changes):
    """Return a head that has learned something else."""
    return replace(head, model=model, **changes)
