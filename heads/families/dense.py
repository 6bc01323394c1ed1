"""Dense heads, ``Dense(k, softmax)`` with or without hidden layers, trained by gradient descent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast, final

from heads.base import Learned
from heads.epochs import Monitor
from heads.errors import TrainingError
from heads.families.affine import AffineModel
from heads.families.dense_head import DenseHead, Start, train_numbers, trained_together
from heads.families.epoch_head import CHOICE, LATER, STEPS
from heads.families.gradient_descent import absolute_error, squared_error
from heads.families.layers import Layer, LayersModel, LayersNumberModel
from heads.families.shared_parameters import CLASS_WEIGHT, STANDARDIZE
from heads.fitted_model import FittedModel
from heads.parameters import HeadSpec, Parameter
from heads.rows import Features, Floats, Scaling

_DESCENT = (
    *STEPS,
    Parameter(
        "init",
        "choice",
        "glorot_uniform",
        "Distribution of the initial weights; normal:S is normal with standard deviation S.",
        choices=("glorot_uniform", "glorot_normal", "he_normal", "lecun_normal", "zeros", "normal:0.01", "normal:1"),
    ),
    STANDARDIZE,
    Parameter("l2", "float", 0.0, "Factor of the l2 penalty: l2 times the sum of the squared weights.", low=0),
    CLASS_WEIGHT,
    *CHOICE,
    *LATER,
    Parameter(
        "trainer",
        "choice",
        "auto",
        "What takes the steps: numpy; keras, on any backend and device; auto is keras for what only Keras can, and for "
        "large trainings where there is a GPU.",
        choices=("auto", "numpy", "keras"),
        later=True,
    ),
)


@final
@dataclass(slots=True, kw_only=True, eq=False)
class SoftmaxHead(DenseHead):
    """``Dense(k, softmax)`` on features; see `DenseHead`."""

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="softmax",
        summary="One dense layer with softmax, trained by gradient descent as in Keras.",
        parameters=_DESCENT,
        shared=("lr", "l2"),
        fixed=("init", "standardize"),
        grid={
            "lr": tuple(10.0**exponent for exponent in (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5)),
            "l2": (0.0, 0.001, 0.01, 0.1),
        },
        by_blocks=True,
        weighted=True,
        cost=lambda n, d, k: 30 * n * d * k,
        together=lambda n, d, k: trained_together(k * d),
    )
    model_class: ClassVar[type[FittedModel]] = AffineModel

    @property
    def units(self) -> tuple[int, ...]:
        """Empty: there is no hidden layer."""
        return ()

    @property
    def hidden_activation(self) -> str:
        """Not used."""
        return "linear"

    @property
    def dropout_rate(self) -> float:
        """No dropout."""
        return 0.0

    def _model(self, layers: Sequence[Layer], scaling: Scaling) -> AffineModel:
        return AffineModel.learned(layers[0].kernel.T, layers[0].bias, scaling)

    def _start(self, model: FittedModel) -> Start:
        affine = cast(AffineModel, model)
        return Start([Layer(affine.coef.T, affine.intercept)], affine.scaling)


@final
@dataclass(slots=True, kw_only=True, eq=False)
class MLPHead(DenseHead):
    """Dense layers with an activation and dropout after each, then ``Dense(k, softmax)``; see `DenseHead`."""

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="mlp",
        summary="Dense layers with an activation between them and softmax at the end, trained like softmax.",
        parameters=(
            Parameter("hidden", "sizes", "256", "Units of each hidden layer, separated by commas."),
            Parameter(
                "activation",
                "choice",
                "relu",
                "Activation of the hidden layers.",
                choices=("relu", "tanh", "sigmoid", "linear"),
            ),
            Parameter("dropout", "float", 0.0, "Share of the hidden units left out of each step.", low=0, below=1),
            *_DESCENT,
            Parameter(
                "number_loss",
                "choice",
                "mse",
                "Loss where a number is learned: the mean squared, or the mean absolute error.",
                choices=("mse", "mae"),
                later=True,
            ),
        ),
        shared=("lr", "l2"),
        fixed=("hidden", "activation", "init", "standardize"),
        grid={"lr": (0.0001, 0.0003, 0.001, 0.003), "l2": (0.0, 0.001)},
        by_blocks=True,
        weighted=True,
        cost=lambda n, d, k: 30 * n * d * 256,
        together=lambda n, d, k: trained_together(256 * d),
    )
    model_class: ClassVar[type[FittedModel]] = LayersModel
    number_model_class: ClassVar[type[FittedModel] | None] = LayersNumberModel

    hidden: str
    activation: str
    dropout: float
    number_loss: str

    def _learn_numbers(self, X: Features, y: Floats, monitor: Monitor) -> Learned | TrainingError:
        """Learn numbers with one linear output."""

        def model_of(layers: Sequence[Layer], scaling: Scaling) -> LayersNumberModel:
            return LayersNumberModel.learned(layers, self.activation, scaling)

        loss = {"mse": squared_error, "mae": absolute_error}[self.number_loss]
        return train_numbers(self, X, y, monitor, loss=loss, model_of=model_of)

    @property
    def units(self) -> tuple[int, ...]:
        """Units of each hidden layer."""
        return tuple(map(int, self.hidden.split(",")))

    @property
    def hidden_activation(self) -> str:
        """Activation of the hidden layers."""
        return self.activation

    @property
    def dropout_rate(self) -> float:
        """Share of the hidden units that are left out of each step."""
        return self.dropout

    def _model(self, layers: Sequence[Layer], scaling: Scaling) -> LayersModel:
        return LayersModel.learned(layers, self.activation, scaling)

    def _start(self, model: FittedModel) -> Start:
        network = cast(LayersModel, model)
        return Start(network.layers, network.scaling)
