"""What every backbone must do: the one of NumPy, Keras's and OpenVINO's (with the smallest network), numba's."""

import numpy as np
import pytest

from featurecache.backbones.fake import FakeBackbone

BATCH_SIZE = 4


@pytest.fixture(scope="module", params=["fake", "keras", "openvino", "numba"])
def backbone(request, weights_of, small_vgg16):
    if request.param == "fake":
        return FakeBackbone({"features": 16, "logits": 5, "predictions": 5})
    if request.param == "numba":
        from featurecache.backbones.numba_engine import NumbaBackbone

        taps = ("block5_conv1", "flatten", "logits", "predictions")
        return NumbaBackbone(*small_vgg16, taps=taps, batch_size=BATCH_SIZE)
    from featurecache.backbones.keras_engine import KerasBackbone
    from featurecache.backbones.openvino_engine import OpenVinoBackbone

    taps = ("avg_pool", "logits", "predictions")
    kind = {"keras": KerasBackbone, "openvino": OpenVinoBackbone}[request.param]
    return kind(*weights_of("mobilenet_v2"), taps=taps, batch_size=BATCH_SIZE)


@pytest.fixture(scope="module")
def images(backbone, photographs):
    images = photographs(2 * BATCH_SIZE + 1, backbone.spec.input_size)
    images.setflags(write=False)
    return images


@pytest.fixture(scope="module")
def features(backbone, images):
    return backbone.forward(images)


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for tap, values in expected.items():
        np.testing.assert_array_equal(found[tap], values, err_msg=tap)


@pytest.mark.parametrize("count", ["0", "1", "batch - 1", "batch", "batch + 1"])
def test_any_number_of_images_gives_as_many_rows_of_every_tap(backbone, images, features, count):
    n = {"0": 0, "1": 1, "batch - 1": BATCH_SIZE - 1, "batch": BATCH_SIZE, "batch + 1": BATCH_SIZE + 1}[count]
    found = backbone.forward(images[:n])
    assert {tap: values.shape for tap, values in found.items()} == {
        tap: (n, width) for tap, width in backbone.spec.taps.items()
    }
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}
    assert_equal(found, {tap: values[:n] for tap, values in features.items()})


def test_features_are_finite_and_differ_between_images(features):
    for values in features.values():
        assert np.isfinite(values).all()
        assert len(np.unique(values, axis=0)) == len(values)


def test_predictions_are_the_softmax_of_the_logits(backbone, features):
    predictions = features["predictions"].astype(np.float64)
    np.testing.assert_allclose(predictions.sum(axis=1), 1, atol=1e-5)
    assert (predictions >= 0).all()
    if not isinstance(backbone, FakeBackbone):  # whose taps have nothing to do with each other
        logits = features["logits"].astype(np.float64)
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(predictions, expected, rtol=1e-5)


def test_a_row_depends_on_its_image_alone_bit_for_bit(backbone, images, features):
    """On a CPU; a GPU may choose its arithmetic by the place in the batch, which `verify` allows for."""
    order = np.array([6, 2, 8, 0, 4, 1, 7, 3, 5])
    assert_equal(backbone.forward(images[order]), {tap: values[order] for tap, values in features.items()})
    neighbours = np.full_like(images[: BATCH_SIZE - 1], 255)
    found = backbone.forward(np.concatenate([neighbours, images[:1]]))
    assert_equal({tap: values[-1:] for tap, values in found.items()}, {t: v[:1] for t, v in features.items()})


def test_the_same_image_twice_gives_the_same_row(backbone, images):
    for values in backbone.forward(np.stack([images[3]] * (BATCH_SIZE + 2))).values():
        assert (values == values[0]).all()


def test_the_answer_is_the_callers_own(backbone, images, features):
    first = backbone.forward(images[:2])
    kept = {tap: values.copy() for tap, values in first.items()}
    backbone.forward(images[3:5])
    assert_equal(first, kept)


def test_images_are_not_changed(backbone, images):
    images = images[: BATCH_SIZE + 1]
    writable = images.copy()
    backbone.forward(writable)
    np.testing.assert_array_equal(writable, images)


def test_images_may_lie_in_memory_as_they_like(backbone, images, features):
    images = images[: BATCH_SIZE + 1]
    expected = {tap: values[: len(images)] for tap, values in features.items()}
    for layout in (np.asfortranarray(images), np.repeat(images, 2, axis=0)[::2], images[:, ::-1][:, ::-1]):
        assert_equal(backbone.forward(layout), expected)


def test_channels_and_orientation_matter(backbone, images, features):
    images = images[:2]
    for other in (images[..., ::-1], images[:, ::-1], images[:, :, ::-1]):
        for tap, values in backbone.forward(other).items():
            assert (values != features[tap][:2]).any(axis=1).all(), tap


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda images: images.astype(np.float32), id="float32"),
        pytest.param(lambda images: images.astype(np.int8), id="int8"),
        pytest.param(lambda images: images[0], id="one image without its axis"),
        pytest.param(lambda images: images[..., :1], id="grey"),
        pytest.param(lambda images: images[:, :-8], id="too low"),
        pytest.param(lambda images: np.moveaxis(images, -1, 1), id="channels first"),
    ],
)
def test_another_dtype_or_shape_is_refused_by_name(backbone, images, spoil):
    spoilt = spoil(images)
    height, width = backbone.spec.input_size
    with pytest.raises(ValueError, match="expected uint8 of shape") as caught:
        backbone.forward(spoilt)
    assert f"{spoilt.dtype} of shape {spoilt.shape}" in str(caught.value)
    assert f"(n, {height}, {width}, 3)" in str(caught.value)


def test_the_spec_names_its_taps_in_order(backbone):
    assert list(backbone.spec.taps) == sorted(backbone.spec.taps)


def test_provenance_is_text(backbone):
    assert backbone.provenance["engine"]
    assert backbone.provenance["device"] in {"cpu", "gpu"}
    assert all(isinstance(value, str) for value in backbone.provenance.values())


def test_a_second_fake_of_the_same_seed_is_the_same(photographs):
    images = photographs(3, (16, 24))
    first, second, other = (FakeBackbone(seed=seed, input_size=(16, 24)) for seed in (1, 1, 2))
    assert first.spec == second.spec != other.spec
    assert_equal(first.forward(images), second.forward(images))
    assert (first.forward(images)["features"] != other.forward(images)["features"]).any()
