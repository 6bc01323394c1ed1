"""The lesson `epochs`: training with three learning rates, and lowering the one that is too large."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from featurecache.cli.lesson.caches import open_cache, require_usable
from featurecache.cli.lesson.lesson_writer import LessonWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featurecache import FeatureCache
    from heads import Epoch, TrainedHead
    from heads.figures.canvas import ReportFigure

_EPOCHS = 8
_SMALL, _MEDIUM, _LARGE = 0.0001, 0.001, 0.08
_LOWERED = f"{_LARGE:g}, then {_MEDIUM:g}"
_SEEDS = (1, 2, 3, 4, 5)  # repetitions of the comparison; the lesson shows seed 0
_SETTINGS = {"optimizer": "sgd", "batch_size": 8, "l2": 0.5}


def run(writer: LessonWriter, cache: Path | None) -> dict[str, Any]:
    """Train the same head with three learning rates, and with the largest one lowered half-way."""
    from heads import head_spec
    from heads.training import feature_tap

    opened = open_cache(cache)
    tap = opened.require_tap(feature_tap(opened, head_spec("softmax"), None))
    require_usable(opened, tap)
    half = _EPOCHS // 2
    heads = _four_heads(opened, tap, seed=0)
    epochs = {name: head.training.epochs for name, head in heads.items()}
    record = heads[_LOWERED].training

    writer.say(
        f"A softmax head learns to predict the classes of {opened.path} from {opened.taps[tap]:,} features per image "
        f"({tap}). An epoch uses each of the {record.n_train:,} training images once, in batches of "
        f"{_SETTINGS['batch_size']}. After each batch the head takes a step against the gradient of its loss. The "
        "learning rate sets the length of the steps. Here are three learning rates, with the same initial weights "
        f"and the same order of images. The table gives the loss on {record.n_valid:,} validation images, which do "
        "not train the head."
    )
    writer.table(
        ("epoch", *heads),
        [(number + 1, *(f"{_loss(records[number]):.4f}" for records in epochs.values())) for number in range(_EPOCHS)],
        left=(),
    )
    writer.draw("epochs-learning-rates", _draw_rates(epochs, half))
    finals = {name: _final_metrics(records) for name, records in epochs.items()}
    writer.say("The results after the last epoch, and the range of the accuracy in the second half:")
    writer.table(
        ("learning rate", "loss", "accuracy", "lowest to highest, second half"),
        [
            (name, f"{end['loss']:.4f}", f"{end['accuracy']:.4f}", f"{end['lowest']:.4f} to {end['highest']:.4f}")
            for name, end in finals.items()
        ],
    )
    writer.say(_about_small(finals) + " " + _about_large(finals))
    writer.say(
        f"If the accuracy does not settle, lower the learning rate. The last column shows this: after {half} epochs "
        f"with {_LARGE:g} the head continued with {_MEDIUM:g}. {_about_lowered(finals)} Long steps reach the region "
        "of low loss quickly but cannot stay there, because the gradient of a few images has a random error in each "
        "step. Short steps stay there but take longer to reach it."
    )
    best_by_seed = _repeat(opened, tap)
    if best_by_seed:
        writer.say(_about_others(best_by_seed))
    writer.say(
        "These are the commands; train shows loss and accuracy on training and validation images after every epoch:"
    )
    writer.code(_commands(opened.path, tap, half))
    writer.say(
        "(l2 is a penalty on large weights. With it the loss has a minimum even if the head can separate all "
        "training images; without it the weights would then grow without bound.)"
    )
    return {
        "tap": tap,
        "epochs": _EPOCHS,
        "losses": {name: [_loss(record) for record in records] for name, records in epochs.items()},
        "final": finals,
        "lowered": _LOWERED,
        "best": _best(heads),
        "best_with_other_seeds": best_by_seed,
    }


def _four_heads(cache: FeatureCache, tap: str, seed: int) -> dict[str, TrainedHead]:
    """Return heads trained with three learning rates, and one whose learning rate is lowered half-way, by name."""
    from heads import train

    heads = {
        f"{rate:g}": train(cache, "softmax", tap=tap, params={**_SETTINGS, "lr": rate, "epochs": _EPOCHS}, seed=seed)
        for rate in (_SMALL, _MEDIUM, _LARGE)
    }
    half = _EPOCHS // 2
    first_half = train(cache, "softmax", tap=tap, params={**_SETTINGS, "lr": _LARGE, "epochs": half}, seed=seed)
    second_half = {"lr": _MEDIUM, "epochs": _EPOCHS - half}
    return heads | {_LOWERED: train(cache, tap=tap, params=second_half, seed=seed, start=first_half)}


def _repeat(cache: FeatureCache, tap: str) -> list[str]:
    """Return the name with the lowest final loss for each seed that leaves validation images."""
    runs = [_four_heads(cache, tap, seed) for seed in _SEEDS]
    return [_best(heads) for heads in runs if heads[_LOWERED].training.n_valid]


def _best(heads: dict[str, TrainedHead]) -> str:
    return min(heads, key=lambda name: _loss(heads[name].training.epochs[-1]))


def _loss(epoch: Epoch) -> float:
    return epoch.valid_loss or 0.0


def _accuracy(epoch: Epoch) -> float:
    return epoch.valid_accuracy or 0.0


def _final_metrics(epochs: Sequence[Epoch]) -> dict[str, float]:
    """Return loss and accuracy of the last epoch, and the lowest and highest accuracy of the second half."""
    late = [_accuracy(epoch) for epoch in epochs[len(epochs) // 2 :]]
    return {"loss": _loss(epochs[-1]), "accuracy": late[-1], "lowest": min(late), "highest": max(late)}


def _about_small(finals: dict[str, dict[str, float]]) -> str:
    small, medium = finals[f"{_SMALL:g}"], finals[f"{_MEDIUM:g}"]
    if small["loss"] <= medium["loss"]:
        return f"With {_SMALL:g} the loss falls slowly, and here that is enough."
    return (
        f"{_SMALL:g} is too small: the loss falls, but at the end it is still {small['loss']:.3f}; {_MEDIUM:g} "
        f"reached {medium['loss']:.3f}."
    )


def _about_large(finals: dict[str, dict[str, float]]) -> str:
    large, medium = finals[f"{_LARGE:g}"], finals[f"{_MEDIUM:g}"]
    large_range, medium_range = (end["highest"] - end["lowest"] for end in (large, medium))
    fluctuation = (
        f"from epoch {_EPOCHS // 2 + 1} on the accuracy varies between {large['lowest']:.3f} and {large['highest']:.3f}"
    )
    if large_range <= medium_range:
        return f"With {_LARGE:g}, {fluctuation}: on these features even such steps settle."
    return f"{_LARGE:g} is too large: {fluctuation}, and the loss varies with it, because the steps overshoot."


def _about_lowered(finals: dict[str, dict[str, float]]) -> str:
    end, large = finals[_LOWERED], finals[f"{_LARGE:g}"]
    reached = f"It ended with a loss of {end['loss']:.4f} and an accuracy of {end['accuracy']:.4f}"
    if end["loss"] == min(final["loss"] for final in finals.values()):
        medium = finals[f"{_MEDIUM:g}"]["loss"]
        return f"{reached}: the lowest loss of the four; {_MEDIUM:g} from the start reached {medium:.4f}."
    if end["loss"] < large["loss"]:
        return f"{reached}, better than staying at {_LARGE:g} ({large['loss']:.4f})."
    return f"{reached}; staying at {_LARGE:g} gave {large['loss']:.4f}: by chance its last epoch was better here."


def _about_others(best: list[str]) -> str:
    wins, runs = best.count(_LOWERED), len(best)
    conclusion = {
        runs: "so the result does not depend on this draw.",
        0: "so the result holds for this draw only.",
    }.get(wins, "so this is no rule: the last loss of a run with long steps is partly chance.")
    return (
        "This is one random draw of initial weights and order of images. In "
        f"{wins} of {runs} other draws the lowered rate ends with the lowest loss of the four, {conclusion}"
    )


def _commands(cache: Path, tap: str, half: int) -> str:
    file, settings = quote(str(cache)), " ".join(f"-p {name}={value}" for name, value in _SETTINGS.items())
    return (
        f"featurecache train {file} fast --tap {tap} \\\n"
        f"    {settings} -p lr={_LARGE:g} -p epochs={half}\n"
        f"featurecache train {file} settled --from fast -p lr={_MEDIUM:g} -p epochs={_EPOCHS - half}"
    )


def _draw_rates(epochs: dict[str, tuple[Epoch, ...]], half: int) -> ReportFigure:
    """Draw validation loss and accuracy after each epoch; the lowered rate from the epoch before it is lowered."""
    from matplotlib.ticker import MaxNLocator

    from featurecache.cli.lesson.axes import make_logarithmic
    from heads.figures.canvas import drawing, legend
    from heads.figures.style import BLUE, GREEN, INK, VERMILION

    with drawing((7.0, 5.6)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for (name, records), colour in zip(epochs.items(), (BLUE, GREEN, VERMILION, INK), strict=True):
            shown = records[half - 1 :] if colour == INK else records
            line = {"color": colour, "marker": "o", "markersize": 4, "linestyle": "--" if colour == INK else "-"}
            upper.plot([record.epoch for record in shown], [_loss(record) for record in shown], label=name, **line)
            lower.plot([record.epoch for record in shown], [_accuracy(record) for record in shown], **line)
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
        "Validation images; the loss on a logarithmic scale. The smallest rate is slow, the largest fluctuates, the "
        "lowered one settles."
    )
    return figure
