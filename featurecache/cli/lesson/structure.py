"""The lesson `structure`: weights and work of each layer of VGG16, and the layers that a cache keeps."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurecache.cli.lesson.lesson_writer import LessonWriter

if TYPE_CHECKING:
    from featurecache.backbones.network import LayerSummary
    from heads.figures.canvas import ReportFigure

_NETWORK = "vgg16"
_MIDDLE_BLOCKS = ("block3", "block4")


def run(writer: LessonWriter, _cache: Path | None) -> dict[str, Any]:
    """Print VGG16's layers with their weights and multiplications, and explain what a cache keeps."""
    from featurecache.backbones.catalog import find_network
    from featurecache.backbones.network import describe_network

    network = find_network(_NETWORK)
    layers = describe_network(network)
    work = {layer.name: multiplications(layer) for layer in layers}
    weights = {layer.name: layer.parameters for layer in layers}
    convolutions = [layer.name for layer in layers if layer.kind == "Conv2D"]
    total, convolution_weights = sum(weights.values()), sum(weights[name] for name in convolutions)
    total_work, convolution_work = sum(work.values()), sum(work[name] for name in convolutions)
    middle_work = sum(work[name] for name in convolutions if name.startswith(_MIDDLE_BLOCKS))

    writer.say(
        "VGG16 takes an image of 224 x 224 pixels with three values each (red, green, blue) and passes it from layer "
        f"to layer. The table lists its {len(layers)} layers, counted from the Keras network. An output of 224x224x64 "
        "gives height, width and channels: 64 feature maps of 224 x 224 values. The column work gives millions of "
        "multiplications for one image; * marks the layers that a cache keeps."
    )
    writer.table(
        ("layer", "kind", "activation", "output", "weights", "work", "cached"),
        [
            (
                layer.name,
                layer.kind,
                layer.activation,
                "x".join(f"{side:,}" for side in layer.output_shape),
                f"{layer.parameters:,}",
                f"{work[layer.name] / 1e6:,.1f}",
                "*" if layer.tap in network.default_taps else "",
            )
            for layer in layers
        ],
        left=(0, 1, 2, 6),
    )
    writer.say(
        f"The network has {total:,} weights, which are also called parameters. Follow the outputs down the table: the "
        "feature maps become smaller (a pooling layer halves both sides), and their number grows. The network loses "
        "information on where something is in the image and gains information on what it is. flatten writes the 7 x "
        "7 x 512 values as one row. In the three dense layers after it, every unit reads every value. The last layer "
        "returns a probability for each of ImageNet's 1,000 classes."
    )
    writer.say("You can compute the number of weights by hand. Every filter and every unit also has a bias:")
    writer.code(_counted(weights))
    writer.say(
        f"Now look at the figure. Most weights are at the end: fc1 alone has {_share(weights['fc1'], total)} of them, "
        f"because each of its 4,096 units reads all 25,088 values. The {len(convolutions)} convolutions have "
        f"{_share(convolution_weights, total)}. Most of the work is in the convolutions, above all in the middle of "
        "the network: a filter has 9 weights per channel and uses them at every position. So the convolutions do "
        f"{_share(convolution_work, total_work)} of the {total_work / 1e9:.1f} billion multiplications for one image, "
        f"and blocks 3 and 4 alone do {_share(middle_work, total_work)}."
    )
    writer.draw("structure-weights", _draw_layers(layers, work))
    features, classes = network.taps["fc2"], 2
    writer.say(
        f"This is why the project has a cache. It keeps the outputs of {' and '.join(network.default_taps)}: "
        f"{features:,} and {network.taps['predictions']:,} values per image. The whole network runs once per image. A "
        f"head, which is a new last layer for {classes} classes on top of fc2, needs {features * classes:,} "
        "multiplications per image, and about as many again for its gradient. Training repeats only these in every "
        "epoch."
    )
    writer.say(
        "For other networks: featurecache summary mobilenet_v2. To cache other layers: extract with --taps NAME."
    )
    return {
        "network": network.name,
        "layers": len(layers),
        "parameters": total,
        "parameters_by_layer": weights,
        "convolution_parameters": convolution_weights,
        "multiplications": total_work,
        "multiplications_by_layer": work,
        "taps": list(network.default_taps),
    }


def multiplications(layer: LayerSummary) -> int:
    """Return a layer's multiplications for one image: its weights without biases, times its output positions."""
    if layer.kind not in {"Conv2D", "Dense"}:
        return 0
    *sides, units = layer.output_shape
    return (layer.parameters - units) * prod(sides)


def _counted(weights: dict[str, int]) -> str:
    """Return how the weights of five layers are counted, one line per layer."""
    formulas = {
        "block1_conv1": "64 filters of 3 x 3 x 3 + 64",
        "block1_conv2": "64 filters of 3 x 3 x 64 + 64",
        "fc1": "25,088 x 4,096 + 4,096",
        "fc2": "4,096 x 4,096 + 4,096",
        "predictions": "4,096 x 1,000 + 1,000",
    }
    return "\n".join(f"{name:12}  {text:29} = {weights[name]:11,}" for name, text in formulas.items())


def _draw_layers(layers: list[LayerSummary], work: dict[str, int]) -> ReportFigure:
    """Draw the weights and the multiplications of each layer that has weights, side by side."""
    from matplotlib.patches import Patch

    from heads.figures.canvas import drawing
    from heads.figures.style import BLUE, VERMILION

    weighted = [layer for layer in layers if layer.parameters]
    columns = {
        "weights, in millions": [layer.parameters for layer in weighted],
        "multiplications for one image, in millions": [work[layer.name] for layer in weighted],
    }
    colours = {"Conv2D": BLUE, "Dense": VERMILION}
    with drawing((8.6, 5.6)) as figure:
        for axes, (title, counts) in zip(figure.subplots(1, 2, sharey=True), columns.items(), strict=True):
            millions = [count / 1e6 for count in counts]
            bars = axes.barh(range(len(weighted)), millions, color=[colours[layer.kind] for layer in weighted])
            axes.bar_label(bars, [f"{value:,.{3 if value < 1 else 1}f}" for value in millions], padding=3, fontsize=9)
            axes.set_yticks(range(len(weighted)), [layer.name for layer in weighted])
            axes.set_ylim(len(weighted) - 0.4, -0.6)
            axes.set_xlim(0, 1.2 * max(millions))
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.tick_params(axis="y", length=0)
            axes.grid(visible=False, axis="y")
            axes.set_title(title, fontsize=11)
        axes.legend(
            [Patch(color=colour) for colour in colours.values()], ["convolution", "dense layer"], loc="lower right"
        )
    figure.alt = (
        "VGG16: weights and multiplications by layer; fc1 has most weights, the convolutions do most of the work."
    )
    figure.caption = (
        "Blue: convolutions; orange: dense layers. Most weights are at the end, most work is in the middle."
    )
    return figure


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"
