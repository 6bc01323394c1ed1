"""The pixels against those of ``keras.utils.load_img``, for ordinary JPEG and PNG files."""

import numpy as np
import pytest
from PIL import Image

from featurecache.images.decode import DecodeRules, decode

NEAREST = DecodeRules(size=(224, 224), filter="nearest")


def assert_equal_to_keras(path):
    keras = pytest.importorskip("keras")
    expected = keras.utils.img_to_array(keras.utils.load_img(path, target_size=(224, 224)))
    pixels = decode(path.read_bytes(), NEAREST)
    assert isinstance(pixels, np.ndarray), pixels
    assert np.array_equal(pixels, expected.astype(np.uint8))


def photograph(height, width):
    generator = np.random.default_rng(height * 10_000 + width)
    coarse = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (224, 224), (100, 100), (32, 32), (1, 1), (1025, 768)])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_sizes(shape, suffix, tmp_path):
    path = tmp_path / f"photograph{suffix}"
    photograph(*shape).save(path)

    assert_equal_to_keras(path)


@pytest.mark.parametrize(
    ("mode", "suffix", "options"),
    [
        ("L", ".jpg", {}),
        ("CMYK", ".jpg", {}),
        ("RGB", ".jpg", {"progressive": True, "quality": 40}),
        ("RGB", ".jpg", {"subsampling": 0}),
        ("1", ".png", {}),
        ("L", ".png", {}),
        ("P", ".png", {}),
        ("RGBA", ".png", {}),  # opaque
    ],
)
def test_modes(mode, suffix, options, tmp_path):
    path = tmp_path / f"photograph{suffix}"
    photograph(375, 500).convert(mode).save(path, **options)

    assert_equal_to_keras(path)


@pytest.mark.real_data
def test_real_photographs(shared_data):
    paths = sorted((shared_data / "catsdogs").rglob("*.jpg"))[::15]

    assert len(paths) >= 50
    for path in paths:
        assert_equal_to_keras(path)
