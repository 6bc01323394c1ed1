"""What a start does to a signal and to learning, beside the formulas and Keras's own initialisers."""

import io
from contextlib import redirect_stdout
from math import log, sqrt

import pytest

from featurecache.backbones.keras_runtime import load_keras
from featurecache.cli.lesson.initialisation import FACTORS, run
from featurecache.cli.lesson.lesson_writer import LessonWriter

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """What the lesson found, said, and drew."""
    writer = LessonWriter(tmp_path_factory.mktemp("initialisation"))
    with redirect_stdout(io.StringIO()) as out:
        return run(writer, None), out.getvalue(), writer.pictures


@pytest.fixture(scope="module")
def found(taught):
    return taught[0]


@pytest.mark.parametrize(
    ("name", "initializer", "options"),
    [
        ("too small", "RandomNormal", {"stddev": 0.01}),
        ("too large", "RandomNormal", {"stddev": 1.0}),
        ("Glorot", "GlorotUniform", {}),
        ("He", "HeNormal", {}),
    ],
)
def test_weights_are_drawn_as_keras_draws_them(found, name, initializer, options):
    keras = load_keras()
    theirs = getattr(keras.initializers, initializer)(seed=1, **options)((128, 128))
    assert found["deviations"][name] == pytest.approx(keras.ops.convert_to_numpy(theirs).std(), rel=0.03)


@pytest.mark.parametrize(("activation", "good"), [("tanh", "Glorot"), ("tanh", "He"), ("relu", "He")])
def test_good_starts_keep_the_spread(found, activation, good):
    spread = found["spread"][activation][good]
    assert len(spread) == 10
    assert max(spread) / min(spread) < 3


def test_the_others_lose_it_or_explode(found):
    for activation in FACTORS:
        spread = found["spread"][activation]
        assert spread["zeros"] == [0.0] * 10
        assert spread["too small"][-1] < 1e-8
    relu = found["spread"]["relu"]
    assert relu["too large"][-1] > 1e8
    assert relu["Glorot"][0] > 15 * relu["Glorot"][-1]
    assert found["flat_share"] > 0.7


@pytest.mark.parametrize(
    ("activation", "start"),
    [("tanh", "too small"), ("relu", "too small"), ("relu", "too large"), ("relu", "Glorot"), ("relu", "He")],
)
def test_every_layer_multiplies_the_spread_as_the_formula_says(found, activation, start):
    spread = found["spread"][activation][start]
    measured = (spread[-1] / spread[0]) ** (1 / 9)
    assert measured == pytest.approx(FACTORS[activation] * sqrt(128) * found["deviations"][start], rel=0.05)


def test_the_signal_is_that_of_the_same_layers_in_keras(found):
    """He's numbers again, drawn and multiplied by Keras: another draw, so near and not equal."""
    from sklearn.datasets import load_digits
    from sklearn.preprocessing import StandardScaler

    keras = load_keras()
    layers = [
        keras.layers.Dense(128, "relu", kernel_initializer=keras.initializers.HeNormal(seed)) for seed in range(10)
    ]
    outputs = StandardScaler().fit_transform(load_digits().data)
    for layer, ours in zip(layers, found["spread"]["relu"]["He"], strict=True):
        outputs = keras.ops.convert_to_numpy(layer(outputs))
        assert ours == pytest.approx(outputs.std(), rel=0.4)


def test_good_starts_learn_and_the_others_do_not(found):
    nothing = log(10)
    for activation in FACTORS:
        losses = found["losses"][activation]
        for name in ("zeros", "too small"):
            assert losses[name] == pytest.approx([nothing] * 10, abs=0.01)
        assert losses["He"][-1] < 0.1
        assert losses["He"][-1] < losses["Glorot"][-1]
    assert found["losses"]["tanh"]["Glorot"][-1] < 0.3
    assert found["losses"]["tanh"]["too large"][-1] > 2 * nothing
    assert found["losses"]["relu"]["too large"] == []
    assert nothing > found["losses"]["relu"]["Glorot"][-1] > 1.5


def test_units_that_start_equal_stay_equal(found):
    units = found["equal_units"]
    assert units["all 0"] == {"largest_weight": 0.0, "apart": 0.0, "accuracy": pytest.approx(0.1, abs=0.03)}
    assert units["all 0.1"]["largest_weight"] > 0.2
    assert units["all 0.1"]["apart"] < 0.01  # rounding may tell them apart a little
    assert units["all 0.1"]["accuracy"] < 0.4
    assert units["Glorot"]["apart"] > 0.5
    assert units["Glorot"]["accuracy"] > 0.9


def test_it_draws_both_and_says_what_diverged(taught):
    found, text, pictures = taught
    assert [path.name for path in pictures] == ["initialisation-spread.png", "initialisation-loss.png"]
    printed = [line.split() for line in text.splitlines()]
    losses = [found["losses"][activation]["He"][epoch] for activation in FACTORS for epoch in (0, -1)]
    assert ["He", *(f"{loss:.3f}" for loss in losses)] in printed
    (line,) = [line for line in printed if "diverged" in line]
    assert line[:2] == ["too", "large"]
