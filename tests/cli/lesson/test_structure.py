"""The lesson ``structure``: its numbers are Keras's."""

import io
from contextlib import redirect_stdout

import pytest

from featurecache.backbones.keras_runtime import load_keras
from featurecache.cli.lesson import structure
from featurecache.cli.lesson.lesson_writer import LessonWriter


@pytest.fixture(scope="module")
def vgg16():
    """VGG16 as Keras builds it; its weights are 0, since only their numbers are looked at."""
    keras = load_keras()
    with keras.utils.custom_object_scope({"glorot_uniform": keras.initializers.Zeros}):
        return keras.applications.VGG16(weights=None)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """What the lesson found, said, and drew."""
    writer = LessonWriter(tmp_path_factory.mktemp("structure"))
    with redirect_stdout(io.StringIO()) as out:
        results = structure.run(writer, None)
    return results, out.getvalue(), writer.pictures


def test_the_totals_are_those_of_keras(taught, vgg16):
    results, text, _ = taught
    assert results["parameters"] == vgg16.count_params() == 138_357_544
    assert results["layers"] == len(vgg16.layers)
    assert "The network has 138,357,544 weights" in text


def test_every_layer_has_as_many_weights_as_in_keras(taught, vgg16):
    counted = {layer.name: layer.count_params() for layer in vgg16.layers}
    found = taught[0]["parameters_by_layer"]
    assert list(found.values()) == list(counted.values())
    # Keras numbers input layers through the process
    assert dict(list(found.items())[1:]) == dict(list(counted.items())[1:])
    assert found["fc1"] == 102_764_544


def test_the_multiplications_are_those_of_every_filter_at_every_place(taught, vgg16):
    found = taught[0]["multiplications_by_layer"]
    for layer in vgg16.layers[1:]:
        kernel = layer.weights[0].shape if layer.weights else ()
        places = layer.output.shape[1:-1] if len(kernel) == 4 else ()
        expected = 1 if kernel else 0
        for side in (*kernel, *places):
            expected *= side
        assert found[layer.name] == expected, layer.name
    assert taught[0]["multiplications"] == sum(found.values())
    assert round(sum(found.values()) / 1e9, 1) == 15.5  # as it is quoted for VGG16 everywhere


def test_where_it_says_the_work_lies_it_does(taught):
    by_layer = taught[0]["multiplications_by_layer"]
    middle = sum(count for name, count in by_layer.items() if name[:6] in {"block3", "block4"})
    share = f"{100 * middle / sum(by_layer.values()):.1f} %"
    assert middle > sum(by_layer.values()) / 2
    assert f"blocks 3 and 4 alone do {share}." in " ".join(taught[1].split())


def test_what_is_counted_by_hand_comes_to_what_was_counted(taught):
    sums = [line.split(" = ") for line in taught[1].splitlines() if line.startswith("    ")]
    assert len(sums) == 5
    for left, right in sums:
        terms = left.split(maxsplit=1)[1].replace("filters of", "x").replace(",", "").replace("x", "*")
        assert eval(terms) == int(right.replace(",", ""))  # noqa: S307 - the lesson's own sums


def test_it_says_where_the_cache_taps(taught):
    results, text, _ = taught
    assert results["taps"] == ["fc2", "predictions"]
    marked = [line.split()[0] for line in text.splitlines() if line.endswith("  *")]
    assert marked == ["fc2", "predictions"]


def test_it_draws_one_picture(taught):
    (picture,) = taught[2]
    assert picture.name == "structure-weights.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
