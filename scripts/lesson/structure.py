"""VGG16 layer by layer, where its weights and its work lie, and where features are taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.lesson.board import Board

if TYPE_CHECKING:
    from featurecache.backbones.network import Layer
    from heads.figures.canvas import ReportFigure

_NETWORK = "vgg16"
_MIDDLE = ("block3", "block4")


def run(board: Board, _cache: Path | None) -> dict[str, Any]:
    """Show VGG16's layers with their weights and multiplications, and say what a cache keeps."""
    from featurecache.backbones.catalog import application
    from featurecache.backbones.network import describe

    row = application(_NETWORK)
    layers = describe(row)
    work = {layer.name: multiplications(layer) for layer in layers}
    weights = {layer.name: layer.parameters for layer in layers}
    convolutions = [layer.name for layer in layers if layer.kind == "Conv2D"]
    total, convolved = sum(weights.values()), sum(weights[name] for name in convolutions)
    total_work, work_convolved = sum(work.values()), sum(work[name] for name in convolutions)
    work_middle = sum(work[name] for name in convolutions if name.startswith(_MIDDLE))

    board.say(
        "VGG16 takes a picture of 224 x 224 points with three numbers each (red, green, blue) and hands it from layer "
        f"to layer. These are its {len(layers)} layers, counted from the network as Keras builds it. An output such as "
        "224x224x64 is height, width and channels: 64 maps of 224 x 224 numbers. The work is given in millions of "
        "multiplications for one image; * marks what a cache keeps."
    )
    board.table(
        ("layer", "kind", "activation", "output", "weights", "work", "cached"),
        [
            (
                layer.name,
                layer.kind,
                layer.activation,
                "x".join(f"{side:,}" for side in layer.output_shape),
                f"{layer.parameters:,}",
                f"{work[layer.name] / 1e6:,.1f}",
                "*" if layer.tap in row.default_taps else "",
            )
            for layer in layers
        ],
        left=(0, 1, 2, 6),
    )
    board.say(
        f"Together {total:,} weights, which are also called parameters. Follow the outputs down the table: the maps "
        "become smaller (a pooling layer halves both sides), and there are more of them. Where in the picture "
        "something is gives way to what it is. flatten then writes 7 x 7 x 512 numbers in one row, and three dense "
        "layers, in which every unit looks at every number, end in a probability for each of ImageNet's 1,000 classes."
    )
    board.say("Weights are counted by hand like this; every filter and every unit has a bias besides:")
    board.code(_counted(weights))
    board.say(
        f"Now look at the picture. The weights lie at the end: fc1 alone has {_share(weights['fc1'], total)} of them, "
        f"because each of its 4,096 units looks at all 25,088 numbers. The {len(convolutions)} convolutions have "
        f"{_share(convolved, total)}. The work lies in the convolutions, most of it in the middle: a filter of 9 "
        f"weights a channel is used again at every place, so the convolutions do {_share(work_convolved, total_work)} "
        f"of the {total_work / 1e9:.1f} thousand million multiplications that one image costs, and blocks 3 and 4 "
        f"alone {_share(work_middle, total_work)}."
    )
    board.draw("structure-weights", _figure(layers, work))
    features, classes = row.taps["fc2"], 2
    board.say(
        f"That is why there is a cache. It keeps what comes out of {' and '.join(row.default_taps)}: of each image "
        f"{features:,} and {row.taps['predictions']:,} numbers. The work of the whole network is done once for each "
        f"image. A new last layer for {classes} classes on top of fc2, a head, costs {features * classes:,} "
        "multiplications for an image, and about as many again for its gradient; that is all that training has to "
        "repeat, epoch after epoch."
    )
    board.say("Other networks: featurecache summary mobilenet_v2. Other layers to cache: extract with --taps NAME.")
    return {
        "network": row.name,
        "layers": len(layers),
        "parameters": total,
        "parameters_by_layer": weights,
        "convolution_parameters": convolved,
        "multiplications": total_work,
        "multiplications_by_layer": work,
        "taps": list(row.default_taps),
    }


def multiplications(layer: Layer) -> int:
    """Return how many multiplications a layer needs for one image: each weight but the biases, once at every place."""
    if layer.kind not in {"Conv2D", "Dense"}:
        return 0
    *places, units = layer.output_shape
    each = layer.parameters - units
    for side in places:
        each *= side
    return each


def _counted(weights: dict[str, int]) -> str:
    """Return the counting of some layers' weights."""
    sums = {
        "block1_conv1": "64 filters of 3 x 3 x 3 + 64",
        "block1_conv2": "64 filters of 3 x 3 x 64 + 64",
        "fc1": "25,088 x 4,096 + 4,096",
        "fc2": "4,096 x 4,096 + 4,096",
        "predictions": "4,096 x 1,000 + 1,000",
    }
    return "\n".join(f"{name:12}  {text:29} = {weights[name]:11,}" for name, text in sums.items())


def _figure(layers: list[Layer], work: dict[str, int]) -> ReportFigure:
    """Draw the weights and the multiplications of each layer that has any, side by side."""
    from matplotlib.patches import Patch

    from heads.figures.canvas import drawing
    from heads.figures.style import BLUE, VERMILION

    shown = [layer for layer in layers if layer.parameters]
    columns = {
        "weights, in millions": [layer.parameters for layer in shown],
        "multiplications for one image, in millions": [work[layer.name] for layer in shown],
    }
    colours = {"Conv2D": BLUE, "Dense": VERMILION}
    with drawing((8.6, 5.6)) as figure:
        for axes, (title, counts) in zip(figure.subplots(1, 2, sharey=True), columns.items(), strict=True):
            millions = [count / 1e6 for count in counts]
            bars = axes.barh(range(len(shown)), millions, color=[colours[layer.kind] for layer in shown])
            axes.bar_label(bars, [f"{each:,.{3 if each < 1 else 1}f}" for each in millions], padding=3, fontsize=9)
            axes.set_yticks(range(len(shown)), [layer.name for layer in shown])
            axes.set_ylim(len(shown) - 0.4, -0.6)
            axes.set_xlim(0, 1.2 * max(millions))
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.tick_params(axis="y", length=0)
            axes.grid(visible=False, axis="y")
            axes.set_title(title, fontsize=11)
        axes.legend([Patch(color=each) for each in colours.values()], ["convolution", "dense layer"], loc="lower right")
    figure.alt = "VGG16: weights and multiplications of each layer; fc1 has most weights, convolutions do most work."
    figure.caption = "Blue: convolutions; orange: dense layers. The weights lie at the end, the work in the middle."
    return figure


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"
