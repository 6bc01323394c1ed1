"""The lesson `initialisation`: the signal through ten layers from five initialisations, and training from each."""

from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from math import log, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from featurecache.cli.lesson.lesson_writer import LessonWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from heads.base import Head
    from heads.epochs import Monitor
    from heads.figures.canvas import ReportFigure
    from heads.fitted_model import FittedModel
    from heads.rows import Features, Labels

Series: TypeAlias = dict[str, list[float]]
"""By initialisation, one number per layer or per epoch."""

STARTS = {
    "zeros": "zeros",
    "too small": "normal:0.01",
    "too large": "normal:1",
    "Glorot": "glorot_uniform",
    "He": "he_normal",
}
"""The initialisations by their name in the text; the value is the heads' parameter ``init``."""

FACTORS = {"tanh": 1.0, "relu": sqrt(1 / 2)}
"""By which factor an activation changes the root mean square of scores; for tanh, of small scores."""

_LAYERS, _UNITS, _CLASSES = 10, 128, 10
_TABLE_LAYERS = (1, 2, 4, 7, 10)
_FLAT = 0.99  # the slope of tanh is below 0.02 beyond this output
_EPOCHS, _BATCH, _RATE = 10, 32, 0.01
_EQUAL_UNITS, _EQUAL_RATE = 8, 0.1


def run(writer: LessonWriter, _cache: Path | None) -> dict[str, Any]:
    """Send digits through ten untrained layers, then train from the same initialisations."""
    X, y = _digits()
    writer.say(
        f"A network of {_LAYERS} hidden layers with {_UNITS} units each has to classify {len(X):,} handwritten digits "
        "(8 x 8 pixels, from scikit-learn, standardised). Its weights need initial values. We try five "
        "initialisations: all 0; random and too small (standard deviation 0.01); random and too large (standard "
        "deviation 1); and the two usual choices, Glorot's and He's. Biases start at 0."
    )
    deviations = {name: _deviation(init) for name, init in STARTS.items()}
    spread: dict[str, Series] = {}
    for activation in FACTORS:
        spread[activation] = {
            name: _standard_deviations(_outputs(X, init, activation)) for name, init in STARTS.items()
        }
    flat = float((np.abs(_outputs(X, STARTS["too large"], "tanh")[-1]) > _FLAT).mean())
    _show_spread(writer, deviations, spread, flat, X.shape[1])
    figure = _draw(spread, "standard deviation of the outputs", "layer", lowest={"tanh": 0.01})
    figure.alt = (
        "The standard deviation of the outputs of ten layers, from five initialisations, with tanh and with relu."
    )
    figure.caption = "The scales differ; that of tanh ends at 0.01. Good initialisations keep the standard deviation."
    writer.draw("initialisation-spread", figure)

    losses: dict[str, Series] = {}
    for activation in FACTORS:
        losses[activation] = {name: _losses(X, y, init, activation) for name, init in STARTS.items()}
    _show_losses(writer, losses, len(X))
    figure = _draw(losses, "loss", "epoch")
    figure.alt = "The loss of ten epochs, from five initialisations, with tanh and with relu."
    figure.caption = "Networks that start from zeros or too small weights learn nothing; He's initialisation is ahead."
    writer.draw("initialisation-loss", figure)

    equal = _equal_units(X, y)
    _show_equal_units(writer, equal)
    return {"deviations": deviations, "spread": spread, "flat_share": flat, "losses": losses, "equal_units": equal}


# Computation


def _digits() -> "tuple[Features, Labels]":
    """Return scikit-learn's handwritten digits, standardised, shape (n, 64), and their labels, shape (n,)."""
    from sklearn.datasets import load_digits

    from heads.rows import Scaling

    digits = load_digits()
    scaling = Scaling.from_rows(digits.data, standardize=True)
    return ((digits.data - scaling.mean) / scaling.scale).astype(np.float32), digits.target


def _deviation(init: str) -> float:
    """Return the standard deviation of the weights between two hidden layers."""
    from heads.families.optimizers import initial_kernel

    return float(initial_kernel(init, _UNITS, _UNITS, np.random.default_rng(0)).std(dtype=np.float64))


def _outputs(X: "Features", init: str, activation: str) -> "list[NDArray[np.floating[Any]]]":
    """Return the outputs of each hidden layer, shape (n, units), with untrained weights."""
    from heads.families.layers import ACTIVATIONS
    from heads.families.optimizers import initial_kernel

    activate, _ = ACTIVATIONS[activation]
    generator = np.random.default_rng(0)
    outputs = [np.asarray(X)]
    for inputs, units in pairwise((X.shape[1], *(_UNITS,) * _LAYERS)):
        outputs.append(activate(outputs[-1] @ initial_kernel(init, inputs, units, generator)))
    return outputs[1:]


def _standard_deviations(outputs: "list[NDArray[np.floating[Any]]]") -> list[float]:
    """Return the standard deviation of each layer's outputs, over all rows and units."""
    return [float(output.std(dtype=np.float64)) for output in outputs]


def _losses(X: "Features", y: "Labels", init: str, activation: str) -> list[float]:
    """Train, and return the loss of each epoch; empty if the first epoch diverged."""
    from heads.epochs import Monitor
    from heads.errors import TrainingError

    hidden = ",".join([str(_UNITS)] * _LAYERS)
    monitor = Monitor()
    with suppress(TrainingError):  # divergence is one of the results
        _train(X, y, monitor, hidden=hidden, activation=activation, init=init, lr=_RATE)
    return [epoch.loss for epoch in monitor.epochs]


def _equal_units(X: "Features", y: "Labels") -> dict[str, dict[str, float]]:
    """Train one hidden layer from equal weights and from Glorot's; return how its units differ."""
    from heads.epochs import Monitor

    results = {}
    for name, start in (("all 0", _equal(X, 0.0)), ("all 0.1", _equal(X, 0.1)), ("Glorot", None)):
        monitor = Monitor()
        head = _train(X, y, monitor, hidden=str(_EQUAL_UNITS), activation="tanh", lr=_EQUAL_RATE, start=start)
        weights = head.model_.arrays["coef_0"]  # one row per unit
        results[name] = {
            "largest_weight": float(np.abs(weights).max()),
            "apart": float(np.ptp(weights, axis=0).max()),
            "accuracy": monitor.epochs[-1].accuracy,
        }
    return results


def _equal(X: "Features", weight: float) -> "FittedModel":
    """Return a network with one hidden layer whose weights are all equal."""
    from heads.families.layers import Layer, LayersModel
    from heads.rows import Scaling

    shapes = ((X.shape[1], _EQUAL_UNITS), (_EQUAL_UNITS, _CLASSES))
    layers = tuple(Layer(np.full(shape, weight), np.zeros(shape[1])) for shape in shapes)
    return LayersModel(layers, "tanh", Scaling.from_rows(X, standardize=False))


def _train(
    X: "Features",
    y: "Labels",
    monitor: "Monitor",
    *,
    start: "FittedModel | None" = None,
    **parameters: Any,
) -> "Head":
    from heads.catalog import make_head

    head = make_head("mlp", optimizer="sgd", epochs=_EPOCHS, batch_size=_BATCH, standardize=False, **parameters)
    return head.fit(X, y, start=start, monitor=monitor)


# The text


def _show_spread(
    writer: LessonWriter, deviations: Mapping[str, float], spread: Mapping[str, Series], flat: float, inputs: int
) -> None:
    writer.say(
        f"Each unit adds up {_UNITS} products of an input and a weight (in the first layer {inputs}). If the weights "
        f"are drawn independently with mean 0 and standard deviation s, the mean square of the sum is {_UNITS} s^2 "
        f"times that of the inputs: each layer after the first multiplies the signal by sqrt({_UNITS}) s. tanh leaves "
        "small numbers nearly unchanged. The table gives the standard deviation of each layer's outputs; the column "
        "'factor' is the factor from the formula:"
    )
    _spread_table(writer, "tanh", deviations, spread["tanh"])
    writer.say(
        "Too small: the signal vanishes; after ten layers all digits look alike. Too large: the signal cannot "
        f"explode, because tanh is bounded by 1, but {flat:.0%} of the last layer's outputs are beyond {_FLAT}. There "
        f"tanh is flat (slope 1 - tanh^2 below {1 - _FLAT**2:.2f}), and changing the weights changes almost nothing. "
        "X. Glorot and Y. Bengio (2010) asked for a factor of 1: s^2 = 1 / inputs. On the way back the gradient is "
        "multiplied by the same matrices, and each sum runs over the outputs; as a compromise they chose s^2 = 2 / "
        "(inputs + outputs)."
    )
    relu, glorot, he = spread["relu"], spread["tanh"]["Glorot"], spread["tanh"]["He"]
    writer.say(
        "The factor holds for small numbers. tanh shrinks larger numbers. So with a factor of 1 every layer still "
        f"loses a little (Glorot: {glorot[0]:.2g} becomes {glorot[-1]:.2g}), and with a factor of 1.4 tanh keeps the "
        f"signal from growing (He: {he[0]:.2g} ends at {he[-1]:.2g})."
    )
    writer.say(
        "relu sets negative numbers to 0 and so removes half of the mean square: each layer multiplies by "
        f"sqrt({_UNITS} / 2) s. K. He and others (2015) compensate for this with s^2 = 2 / inputs:"
    )
    _spread_table(writer, "relu", deviations, spread["relu"])
    writer.say(
        f"With relu, Glorot's initialisation loses a factor of {relu['Glorot'][0] / relu['Glorot'][-1]:.0f} from the "
        f"first layer to the last, He's {relu['He'][0] / relu['He'][-1]:.1f}. Weights that are too large make the "
        "signal explode. The figure shows the same numbers on logarithmic scales: they do not show 0, and the left "
        "scale ends at 0.01."
    )


def _spread_table(writer: LessonWriter, activation: str, deviations: Mapping[str, float], spread: Series) -> None:
    writer.table(
        (activation, "s", "factor", *(f"layer {layer}" for layer in _TABLE_LAYERS)),
        [
            (
                name,
                f"{deviation:.4f}",
                f"{FACTORS[activation] * sqrt(_UNITS) * deviation:.3f}",
                *(f"{spread[name][layer - 1]:.2g}" for layer in _TABLE_LAYERS),
            )
            for name, deviation in deviations.items()
        ],
    )


def _show_losses(writer: LessonWriter, losses: Mapping[str, Series], rows: int) -> None:
    steps = _EPOCHS * -(-rows // _BATCH)
    writer.say(
        f"Now we train the same networks with {steps} steps of gradient descent (learning rate {_RATE:g}, {_BATCH} "
        f"digits per batch, {_EPOCHS} epochs). A network that knows nothing predicts 1/10 for each digit; its loss is "
        f"log(10) = {log(_CLASSES):.3f}."
    )
    writer.table(
        ("loss", *(f"{activation}, epoch {epoch}" for activation in losses for epoch in (1, _EPOCHS))),
        [
            (name, *(_loss(losses[activation][name], epoch) for activation in losses for epoch in (0, -1)))
            for name in STARTS
        ],
    )
    writer.say(
        "Networks that start from zeros or from too small weights learn nothing. Networks that start from too large "
        "weights predict wrong classes with high probability (their loss is higher than log(10)); with relu the loss "
        "diverges at once. Of the two good initialisations He's is ahead; with relu it is the only one that makes "
        "progress in so few steps. Dense layers in Keras and the heads of this project use Glorot's by default (-p "
        "init=NAME selects another): with one or two layers, losing a third of the signal in each does no harm. Deep "
        "networks with relu use He's."
    )


def _loss(losses: list[float], epoch: int) -> str:
    return f"{losses[epoch]:.3f}" if losses else "diverged"


def _show_equal_units(writer: LessonWriter, equal: Mapping[str, Any]) -> None:
    writer.say(
        "Why must the weights be random? Units that start with the same weights get the same gradients and so stay "
        f"equal. We train one hidden layer of {_EQUAL_UNITS} units (tanh) for {_EPOCHS} epochs with learning rate "
        f"{_EQUAL_RATE:g}. The column 'difference' gives the largest difference between the weights of two units for "
        "the same input:"
    )
    writer.table(
        ("start", "largest weight", "difference", "accuracy"),
        [
            (name, f"{row['largest_weight']:.3f}", f"{row['apart']:.2g}", f"{row['accuracy']:.3f}")
            for name, row in equal.items()
        ],
    )
    writer.say(
        "From zeros the layer does not change: its gradient contains the weights above it as a factor, and they are "
        f"0. From equal weights it learns, but its {_EQUAL_UNITS} units all compute the same number, so they are "
        "worth one unit. Random weights break the symmetry."
    )


def _draw(
    numbers: Mapping[str, Series], ylabel: str, xlabel: str, lowest: Mapping[str, float] | None = None
) -> "ReportFigure":
    """Draw one line per initialisation, in one panel per activation; ``lowest`` cuts the scale of an activation."""
    from matplotlib.ticker import MaxNLocator

    from featurecache.cli.lesson.axes import make_logarithmic
    from heads.figures.canvas import drawing, legend
    from heads.figures.style import BLUE, COLOURS, FAINT, GREEN, VERMILION

    colours = dict(zip(STARTS, (FAINT, COLOURS[5], VERMILION, BLUE, GREEN), strict=True))
    with drawing((8.0, 3.8)) as figure:
        panels = figure.subplots(1, len(numbers), sharey=lowest is None, squeeze=False)[0]
        handles = {}
        for axes, (activation, series) in zip(panels, numbers.items(), strict=True):
            for name, values in series.items():
                if any(values):
                    width = 6.0 if name == "zeros" else 1.8  # another line covers it
                    positions = range(1, len(values) + 1)
                    (handles[name],) = axes.plot(positions, values, "o-", color=colours[name], markersize=4, lw=width)
            make_logarithmic(axes)
            if lowest and activation in lowest:
                axes.set_ylim(bottom=lowest[activation])
            axes.set_title(activation)
            axes.set_xlabel(xlabel)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_ylabel(ylabel)
        legend(figure, list(handles.values()), list(handles), "outside lower center", columns=5)
    return figure
