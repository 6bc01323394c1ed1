"""Training epoch by epoch with three learning rates, and lowering the one that is too large."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from scripts.lesson.board import Board
from scripts.lesson.caches import open_cache, require_usable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featurecache import FeatureCache
    from heads import Epoch, TrainedHead
    from heads.figures.canvas import ReportFigure

_EPOCHS = 8
_SMALL, _MIDDLE, _LARGE = 0.0001, 0.001, 0.08
_LOWERED = f"{_LARGE:g}, then {_MIDDLE:g}"
_SEEDS = (1, 2, 3, 4, 5)  # beside 0, to see whether it was luck
_SETTINGS = {"optimizer": "sgd", "batch_size": 8, "l2": 0.5}


def run(board: Board, cache: Path | None) -> dict[str, Any]:
    """Train the same head with three learning rates, then the largest with a lower one from half-way on."""
    from heads import head_spec
    from heads.training import feature_tap

    opened = open_cache(cache)
    tap = opened.require_tap(feature_tap(opened, head_spec("softmax"), None))
    require_usable(opened, tap)
    half = _EPOCHS // 2
    heads = _four_heads(opened, tap, seed=0)
    epochs = {name: head.training.epochs for name, head in heads.items()}
    record = heads[_LOWERED].training

    board.say(
        f"A softmax head learns to tell the classes of {opened.path} apart by {opened.taps[tap]:,} features of each "
        f"image ({tap}). An epoch shows it each of the {record.n_train:,} training images once, "
        f"{_SETTINGS['batch_size']} at a time; after each batch it takes a step downhill, against the gradient of its "
        "loss. How long the steps are, the learning rate says. Here are three rates, from the same start, with the "
        f"images in the same order. The loss is that of {record.n_valid:,} other images, which judge and never teach."
    )
    board.table(
        ("epoch", *heads),
        [(number + 1, *(f"{_loss(each[number]):.4f}" for each in epochs.values())) for number in range(_EPOCHS)],
        left=(),
    )
    board.draw("epochs-learning-rates", _figure(epochs, half))
    finals = {name: _end(each) for name, each in epochs.items()}
    board.say("At the end, and how far the accuracy went up and down in the second half:")
    board.table(
        ("learning rate", "loss", "accuracy", "lowest to highest, last half"),
        [
            (name, f"{end['loss']:.4f}", f"{end['accuracy']:.4f}", f"{end['lowest']:.4f} to {end['highest']:.4f}")
            for name, end in finals.items()
        ],
    )
    board.say(_about_small(finals) + " " + _about_large(finals))
    board.say(
        f"If accuracy does not settle, lower the learning rate. The last column did: after {half} epochs with "
        f"{_LARGE:g} the head went on with {_MIDDLE:g}. {_about_lowered(finals)} Long steps come quickly to "
        "where the loss is low, and cannot stay there, since the gradient of a few images points a little to the side "
        "each time. Short steps stay, but are long on the way."
    )
    again = _again(opened, tap)
    if again:
        board.say(_about_others(again))
    board.say("On the command line, where train shows loss and accuracy of both kinds of images after every epoch:")
    board.code(_commands(opened.path, tap, half))
    board.say(
        "(l2 is a penalty on large weights. It gives the loss a lowest place to settle in, even where the head could "
        "tell all training images apart and would grow surer for ever.)"
    )
    return {
        "tap": tap,
        "epochs": _EPOCHS,
        "losses": {name: [_loss(each) for each in records] for name, records in epochs.items()},
        "final": finals,
        "lowered": _LOWERED,
        "best": _best(heads),
        "best_with_other_seeds": again,
    }


def _four_heads(cache: FeatureCache, tap: str, seed: int) -> dict[str, TrainedHead]:
    """Return heads that were trained with three learning rates, and with one that was lowered half-way."""
    from heads import train

    heads = {
        f"{rate:g}": train(cache, "softmax", tap=tap, params={**_SETTINGS, "lr": rate, "epochs": _EPOCHS}, seed=seed)
        for rate in (_SMALL, _MIDDLE, _LARGE)
    }
    half = _EPOCHS // 2
    begun = train(cache, "softmax", tap=tap, params={**_SETTINGS, "lr": _LARGE, "epochs": half}, seed=seed)
    rest = {"lr": _MIDDLE, "epochs": _EPOCHS - half}
    return heads | {_LOWERED: train(cache, tap=tap, params=rest, seed=seed, start=begun)}


def _again(cache: FeatureCache, tap: str) -> list[str]:
    """Return which of the four ends with the lowest loss, for each other seed that leaves images to judge by."""
    found = [_four_heads(cache, tap, seed) for seed in _SEEDS]
    return [_best(heads) for heads in found if heads[_LOWERED].training.n_valid]


def _best(heads: dict[str, TrainedHead]) -> str:
    return min(heads, key=lambda name: _loss(heads[name].training.epochs[-1]))


def _loss(epoch: Epoch) -> float:
    return epoch.valid_loss or 0.0


def _accuracy(epoch: Epoch) -> float:
    return epoch.valid_accuracy or 0.0


def _end(epochs: Sequence[Epoch]) -> dict[str, float]:
    """Return loss and accuracy of the last epoch, and the range of accuracies in the second half."""
    late = [_accuracy(epoch) for epoch in epochs[len(epochs) // 2 :]]
    return {"loss": _loss(epochs[-1]), "accuracy": late[-1], "lowest": min(late), "highest": max(late)}


def _about_small(finals: dict[str, dict[str, float]]) -> str:
    small, middle = finals[f"{_SMALL:g}"], finals[f"{_MIDDLE:g}"]
    if small["loss"] <= middle["loss"]:
        return f"With {_SMALL:g} the loss fell slowly, and here that was enough."
    return (
        f"{_SMALL:g} is too small: the loss falls, but at the end it is still {small['loss']:.3f}, where {_MIDDLE:g} "
        f"came down to {middle['loss']:.3f}."
    )


def _about_large(finals: dict[str, dict[str, float]]) -> str:
    large, middle = finals[f"{_LARGE:g}"], finals[f"{_MIDDLE:g}"]
    wide, narrow = (end["highest"] - end["lowest"] for end in (large, middle))
    jumps = (
        f"from epoch {_EPOCHS // 2 + 1} on the accuracy lay between {large['lowest']:.3f} and {large['highest']:.3f}"
    )
    if wide <= narrow:
        return f"With {_LARGE:g}, {jumps}: on these features even such steps settle."
    return f"{_LARGE:g} is too large: {jumps}, and the loss jumps with it, because the steps overshoot."


def _about_lowered(finals: dict[str, dict[str, float]]) -> str:
    end, large = finals[_LOWERED], finals[f"{_LARGE:g}"]
    reached = f"It ended with a loss of {end['loss']:.4f} and an accuracy of {end['accuracy']:.4f}"
    if end["loss"] == min(each["loss"] for each in finals.values()):
        middle = finals[f"{_MIDDLE:g}"]["loss"]
        return f"{reached}: the lowest loss of the four; {_MIDDLE:g} from the start came to {middle:.4f}."
    if end["loss"] < large["loss"]:
        return f"{reached}, better than staying at {_LARGE:g} ({large['loss']:.4f})."
    return f"{reached}; staying at {_LARGE:g} gave {large['loss']:.4f}, so here the luck of the last epoch was better."


def _about_others(best: list[str]) -> str:
    wins, runs = best.count(_LOWERED), len(best)
    settled = {runs: "so it is not this draw alone.", 0: "so it was this draw alone."}.get(
        wins, "so it is no law: how a run of long steps ends is partly luck."
    )
    return (
        "This is one draw of where the head starts and in which order it meets the images. Of "
        f"{runs} other draws the lowered one ends with the lowest loss of the four in {wins}, {settled}"
    )


def _commands(cache: Path, tap: str, half: int) -> str:
    file, settings = quote(str(cache)), " ".join(f"-p {name}={value}" for name, value in _SETTINGS.items())
    return (
        f"featurecache train {file} fast --tap {tap} \\\n"
        f"    {settings} -p lr={_LARGE:g} -p epochs={half}\n"
        f"featurecache train {file} settled --from fast -p lr={_MIDDLE:g} -p epochs={_EPOCHS - half}"
    )


def _figure(epochs: dict[str, tuple[Epoch, ...]], half: int) -> ReportFigure:
    """Draw loss and accuracy of the judging images after each epoch; the lowered rate from where it was lowered."""
    from matplotlib.ticker import MaxNLocator

    from heads.figures.canvas import drawing, legend
    from heads.figures.style import BLUE, GREEN, INK, VERMILION
    from scripts.lesson.axes import make_logarithmic

    with drawing((7.0, 5.6)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for (name, records), colour in zip(epochs.items(), (BLUE, GREEN, VERMILION, INK), strict=True):
            shown = records[half - 1 :] if colour == INK else records
            line = {"color": colour, "marker": "o", "markersize": 4, "linestyle": "--" if colour == INK else "-"}
            upper.plot([each.epoch for each in shown], [_loss(each) for each in shown], label=name, **line)
            lower.plot([each.epoch for each in shown], [_accuracy(each) for each in shown], **line)
        make_logarithmic(upper, subs=(1, 2, 5))
        upper.set_ylabel("loss")
        lower.set_ylabel("accuracy")
        lower.set_xlabel("epoch")
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, names = upper.get_legend_handles_labels()
        legend(figure, handles, names, "outside upper center", title="learning rate", columns=4)
    figure.alt = (
        "Loss and accuracy after each epoch for three learning rates, and for the largest one lowered half-way."
    )
    figure.caption = (
        "Judging images; the loss on a logarithmic scale. Too small creeps, too large jumps, lowered settles."
    )
    return figure
