"""What the weights of a network start from: how far a signal comes through ten layers, and what is then learned."""

from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from math import log, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from scripts.lesson.board import Board

if TYPE_CHECKING:
    from heads.base import Head, Monitor, Predictor
    from heads.figures.canvas import ReportFigure
    from heads.rows import Features, Labels

Series: TypeAlias = dict[str, list[float]]
"""Numbers of each start: one for each layer, or for each epoch."""

STARTS = {
    "zeros": "zeros",
    "too small": "normal:0.01",
    "too large": "normal:1",
    "Glorot": "glorot_uniform",
    "He": "he_normal",
}
"""What is compared, to what the project's heads call it (``-p init=``)."""

FACTORS = {"tanh": 1.0, "relu": sqrt(1 / 2)}
"""What an activation leaves of the root of the mean square of scores; tanh, as long as they are small."""

_LAYERS, _UNITS, _CLASSES = 10, 128, 10
_SHOWN = (1, 2, 4, 7, 10)  # layers that the tables show
_FLAT = 0.99  # where the slope of tanh is below 0.02
_EPOCHS, _BATCH, _RATE = 10, 32, 0.01
_EQUAL_UNITS, _EQUAL_RATE = 8, 0.1


def run(board: Board, _cache: Path | None) -> dict[str, Any]:
    """Send digits through ten layers of random weights, then train from the same starts."""
    X, y = _digits()
    board.say(
        f"A network of {_LAYERS} hidden layers with {_UNITS} units each shall tell {len(X):,} handwritten digits apart "
        "(8 x 8 pixels, from scikit-learn, standardised). Before it learns, its weights must be something. We try five "
        "starts: all 0; drawn at random and too small (spread 0.01); too large (spread 1); and two choices that have "
        "become the rule, Glorot's and He's. Spread is the standard deviation. Biases start at 0."
    )
    deviations = {name: _deviation(init) for name, init in STARTS.items()}
    spread: dict[str, Series] = {}
    for activation in FACTORS:
        spread[activation] = {name: _spread(_outputs(X, init, activation)) for name, init in STARTS.items()}
    flat = float((np.abs(_outputs(X, STARTS["too large"], "tanh")[-1]) > _FLAT).mean())
    _show_spread(board, deviations, spread, flat, X.shape[1])
    figure = _draw(spread, "spread of the outputs", "layer", lowest={"tanh": 0.01})
    figure.alt = "The spread of what ten layers pass on, from five starts, with tanh and with relu."
    figure.caption = "Scales differ; what falls below 0.01 with tanh is cut off. Good starts keep the spread."
    board.draw("initialisation-spread", figure)

    losses: dict[str, Series] = {}
    for activation in FACTORS:
        losses[activation] = {name: _losses(X, y, init, activation) for name, init in STARTS.items()}
    _show_losses(board, losses, len(X))
    figure = _draw(losses, "loss", "epoch")
    figure.alt = "The loss of ten epochs, from five starts, with tanh and with relu."
    figure.caption = "From zeros and from too small weights nothing is learned; He's start is ahead."
    board.draw("initialisation-loss", figure)

    equal = _equal_units(X, y)
    _show_equal_units(board, equal)
    return {"deviations": deviations, "spread": spread, "flat_share": flat, "losses": losses, "equal_units": equal}


# What is computed


def _digits() -> "tuple[Features, Labels]":
    """Return scikit-learn's handwritten digits, standardised, shape (n, 64), and which digit each is."""
    from sklearn.datasets import load_digits

    from heads.rows import Scaling

    digits = load_digits()
    scaling = Scaling.of(digits.data, standardize=True)
    return ((digits.data - scaling.mean) / scaling.scale).astype(np.float32), digits.target


def _deviation(init: str) -> float:
    """Return the standard deviation of the weights between two hidden layers."""
    from heads.optimizers import initial_kernel

    return float(initial_kernel(init, _UNITS, _UNITS, np.random.default_rng(0)).std(dtype=np.float64))


def _outputs(X: "Features", init: str, activation: str) -> "list[Features]":
    """Return what each hidden layer passes on, with weights as they are drawn."""
    from heads.layers import ACTIVATIONS
    from heads.optimizers import initial_kernel

    activate, _ = ACTIVATIONS[activation]
    generator = np.random.default_rng(0)
    outputs = [X]
    for inputs, units in pairwise((X.shape[1], *(_UNITS,) * _LAYERS)):
        outputs.append(activate(outputs[-1] @ initial_kernel(init, inputs, units, generator)))
    return outputs[1:]


def _spread(outputs: "list[Features]") -> list[float]:
    """Return the standard deviation of the outputs of each layer, all rows and units together."""
    return [float(output.std(dtype=np.float64)) for output in outputs]


def _losses(X: "Features", y: "Labels", init: str, activation: str) -> list[float]:
    """Train, and return the loss of each epoch; of none if it was beyond all numbers in the first."""
    from heads.base import Monitor
    from heads.errors import TrainingError

    hidden = ",".join([str(_UNITS)] * _LAYERS)
    watched = Monitor()
    with suppress(TrainingError):  # that it diverges is what there is to be seen
        _train(X, y, watched, hidden=hidden, activation=activation, init=init, lr=_RATE)
    return [epoch.loss for epoch in watched.epochs]


def _equal_units(X: "Features", y: "Labels") -> dict[str, dict[str, float]]:
    """Train one hidden layer from weights that are equal, and from Glorot's; return what became of its units."""
    from heads.base import Monitor

    found = {}
    for name, start in (("all 0", _equal(X, 0.0)), ("all 0.1", _equal(X, 0.1)), ("Glorot", None)):
        watched = Monitor()
        head = _train(X, y, watched, hidden=str(_EQUAL_UNITS), activation="tanh", lr=_EQUAL_RATE, start=start)
        weights = head.predictor_.arrays["coef_0"]  # a row for each unit
        found[name] = {
            "largest_weight": float(np.abs(weights).max()),
            "apart": float(np.ptp(weights, axis=0).max()),
            "accuracy": watched.epochs[-1].accuracy,
        }
    return found


def _equal(X: "Features", weight: float) -> "Predictor":
    """Return a network of one hidden layer, all of whose weights are the same."""
    from heads.layers import Layer, LayersPredictor
    from heads.rows import Scaling

    shapes = ((X.shape[1], _EQUAL_UNITS), (_EQUAL_UNITS, _CLASSES))
    layers = tuple(Layer(np.full(shape, weight), np.zeros(shape[1])) for shape in shapes)
    return LayersPredictor(layers, "tanh", Scaling.of(X, standardize=False))


def _train(
    X: "Features",
    y: "Labels",
    watched: "Monitor",
    *,
    start: "Predictor | None" = None,
    **parameters: Any,  # noqa: ANN401 - they are of many types
) -> "Head":
    from heads.catalog import make_head

    head = make_head("mlp", optimizer="sgd", epochs=_EPOCHS, batch_size=_BATCH, standardize=False, **parameters)
    return head.fit(X, y, start=start, monitor=watched)


# What is said of it


def _show_spread(
    board: Board, deviations: Mapping[str, float], spread: Mapping[str, Series], flat: float, inputs: int
) -> None:
    board.say(
        f"Each unit adds up {_UNITS} products of an input and a weight (in the first layer {inputs}). If weights are "
        f"drawn independently with mean 0 and spread s, the sum has a mean square {_UNITS} s^2 times that of the "
        f"inputs: each layer after the first multiplies the signal by sqrt({_UNITS}) s. tanh leaves small "
        "numbers nearly as they are. These are the spreads of what the layers pass on; the column 'each layer' is the "
        "factor of the formula:"
    )
    _spread_table(board, "tanh", deviations, spread["tanh"])
    board.say(
        "Too small: the signal vanishes; after ten layers all digits look alike. Too large: it cannot explode, since "
        f"tanh ends at 1, but {flat:.0%} of the last layer's outputs are beyond {_FLAT}, where tanh is flat "
        f"(slope 1 - tanh^2 below {1 - _FLAT**2:.2f}) and a change of the weights changes nearly nothing. X. Glorot "
        "and Y. Bengio (2010) asked for the factor 1: s^2 = 1 / inputs. On its way back the gradient is multiplied by "
        "the same matrices, and there the sum is over the outputs; so they took s^2 = 2 / (inputs + outputs)."
    )
    glorot, he = spread["tanh"]["Glorot"], spread["tanh"]["He"]
    board.say(
        "The factor counts for small numbers. tanh shrinks those that are not small, so that with a factor of 1 every "
        f"layer still loses a little (Glorot's {glorot[0]:.2g} becomes {glorot[-1]:.2g}), and one of 1.4 is held by "
        f"tanh's bend (He's {he[0]:.2g} ends at {he[-1]:.2g})."
    )
    board.say(
        "relu cuts away everything below 0, and with it half of the mean square, so that each layer multiplies by "
        f"sqrt({_UNITS} / 2) s. K. He and others (2015) made up for it with s^2 = 2 / inputs:"
    )
    _spread_table(board, "relu", deviations, spread["relu"])
    board.say(
        f"With relu, Glorot's start loses a factor of {spread['relu']['Glorot'][0] / spread['relu']['Glorot'][-1]:.0f} "
        f"from the first layer to the last, He's {spread['relu']['He'][0] / spread['relu']['He'][-1]:.1f}; and what is "
        "too large explodes. The picture has the same numbers on logarithmic scales: 0 is not on them, and the left "
        "one ends at 0.01."
    )


def _spread_table(board: Board, activation: str, deviations: Mapping[str, float], spread: Series) -> None:
    board.table(
        (activation, "s", "each layer", *(f"layer {layer}" for layer in _SHOWN)),
        [
            (
                name,
                f"{deviation:.4f}",
                f"{FACTORS[activation] * sqrt(_UNITS) * deviation:.3f}",
                *(f"{spread[name][layer - 1]:.2g}" for layer in _SHOWN),
            )
            for name, deviation in deviations.items()
        ],
    )


def _show_losses(board: Board, losses: Mapping[str, Series], rows: int) -> None:
    steps = _EPOCHS * -(-rows // _BATCH)
    board.say(
        f"Now the same networks learn, by {steps} steps of gradient descent (learning rate {_RATE:g}, "
        f"{_BATCH} digits each, {_EPOCHS} epochs). Who knows nothing and says 1/10 for each digit has "
        f"the loss log(10) = {log(_CLASSES):.3f}."
    )
    board.table(
        ("loss", *(f"{activation}, epoch {epoch}" for activation in losses for epoch in (1, _EPOCHS))),
        [
            (name, *(_loss(losses[activation][name], epoch) for activation in losses for epoch in (0, -1)))
            for name in STARTS
        ],
    )
    board.say(
        "From zeros and from too small weights nothing is learned. From too large ones the network says nonsense, and "
        "is sure of it (a higher loss than that of knowing nothing); with relu its loss grows beyond all numbers at "
        "once. Of the two good starts He's is ahead, and with relu it is the only one that gets far in so few steps. "
        "Dense layers in Keras and the heads of this project start with Glorot's unless told otherwise (-p init=NAME): "
        "with a layer or two, losing a third of the signal in each does no harm. Deep networks with relu take He's."
    )


def _loss(losses: list[float], epoch: int) -> str:
    return f"{losses[epoch]:.3f}" if losses else "diverged"


def _show_equal_units(board: Board, equal: Mapping[str, Any]) -> None:
    board.say(
        "Why must it be chance at all? Units that start with the same weights get the same gradients, and so stay the "
        f"same for ever. One hidden layer of {_EQUAL_UNITS} units (tanh), trained for {_EPOCHS} epochs "
        f"with learning rate {_EQUAL_RATE:g}; how far apart are the weights that different units give to the same "
        "input, at most?"
    )
    board.table(
        ("start", "largest weight", "apart at most", "accuracy"),
        [
            (name, f"{row['largest_weight']:.3f}", f"{row['apart']:.2g}", f"{row['accuracy']:.3f}")
            for name, row in equal.items()
        ],
    )
    board.say(
        "From zeros the layer has not moved: its gradient is a product with the weights above it, which are 0. From "
        f"equal weights it learns, but its {_EQUAL_UNITS} units are one unit, {_EQUAL_UNITS} times. Random weights "
        "break the tie."
    )


def _draw(
    numbers: Mapping[str, Series], what: str, along: str, lowest: Mapping[str, float] | None = None
) -> "ReportFigure":
    """Draw the numbers of each start, a panel for each activation; some scales may end before the lowest number."""
    from matplotlib.ticker import MaxNLocator

    from heads.figures.canvas import drawing, legend
    from heads.figures.style import BLUE, COLOURS, FAINT, GREEN, VERMILION
    from scripts.lesson.axes import make_logarithmic

    colours = dict(zip(STARTS, (FAINT, COLOURS[5], VERMILION, BLUE, GREEN), strict=True))
    with drawing((8.0, 3.8)) as figure:
        panels = figure.subplots(1, len(numbers), sharey=lowest is None, squeeze=False)[0]
        handles = {}
        for axes, (activation, series) in zip(panels, numbers.items(), strict=True):
            for name, values in series.items():
                if any(values):
                    width = 6.0 if name == "zeros" else 1.8  # it lies under another line
                    places = range(1, len(values) + 1)
                    (handles[name],) = axes.plot(places, values, "o-", color=colours[name], markersize=4, lw=width)
            make_logarithmic(axes)
            if lowest and activation in lowest:
                axes.set_ylim(bottom=lowest[activation])
            axes.set_title(activation)
            axes.set_xlabel(along)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_ylabel(what)
        legend(figure, list(handles.values()), list(handles), "outside lower center", columns=5)
    return figure
