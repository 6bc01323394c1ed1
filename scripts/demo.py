"""``featurecache demo``: the whole way on images that need no download."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from scripts.output import Json, number, print_json, print_table, progress_bar, say

TRAIN_IMAGES = 160
TEST_IMAGES = 80
_SIDE = 64


def demo(
    out: Annotated[Path, typer.Option(help="The folder to make for images, cache and heads.")] = Path(
        "featurecache-demo"
    ),
    weights: Annotated[
        str | None,
        typer.Option(help="imagenet, a path, or random:SEED.", show_default="imagenet if it can be had, else random:0"),
    ] = None,
    json: Json = False,
) -> None:
    """Extract, train and evaluate on handwritten digits: no download, no data needed."""
    from featurecache.errors import OutputError
    from featurecache.extraction import extract
    from featurecache.publish import require_place

    require_place(out)
    if out.exists():
        raise OutputError(f"{out} exists already; remove it, or choose another folder with --out")
    chosen = _weights(weights)
    began = time.monotonic()
    write_digits(out / "digits")
    seconds = {"writing images": time.monotonic() - began}

    began = time.monotonic()
    with progress_bar("extracting", shown=not json) as show:
        cache = extract(out / "digits", out / "digits.h5", weights=chosen, progress=show, notify=say)
    seconds["extracting"] = time.monotonic() - began

    results = []
    for tap in cache.taps:
        for head in ("softmax", "logreg"):
            began = time.monotonic()
            results.append(_try_head(cache, head, tap, out / f"{head}-{tap}"))
            seconds[f"{head} on {tap}"] = time.monotonic() - began
    if json:
        print_json({"folder": str(out), "weights": chosen, "heads": results, "seconds": seconds})
        return
    print(f"{len(cache)} digits, VGG16 with {chosen} weights; accuracy on {TEST_IMAGES} test images:\n")
    print_table(
        ("head", "tap", "accuracy", "95 % interval", "seconds"),
        [
            (
                r["head"],
                r["tap"],
                number(r["accuracy"]["value"]),
                f"{number(r['accuracy']['low'])} to {number(r['accuracy']['high'])}",
                f"{seconds[r['head'] + ' on ' + r['tap']]:.1f}",
            )
            for r in results
        ],
        left=2,
    )
    print(f"\nwriting the images took {seconds['writing images']:.1f} s, extracting {seconds['extracting']:.1f} s")
    print(f"images {out / 'digits'}, cache {out / 'digits.h5'}, heads {out}/*-*")
    print(f"now try: featurecache evaluate {out / 'logreg-fc2'} {out / 'digits.h5'} --split test")


def write_digits(folder: Path) -> None:
    """Write scikit-learn's first handwritten digits as PNG files, ``folder/<split>/<digit>/<number>.png``."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for index in range(TRAIN_IMAGES + TEST_IMAGES):
        split = "train" if index < TRAIN_IMAGES else "test"
        path = folder / split / str(digits.target[index]) / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = (digits.images[index] * 255 / 16).round().astype("uint8")
        Image.fromarray(grey).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(path)


def _weights(asked: str | None) -> str:
    """Return the weights to use: those asked for, else ImageNet's if they can be had, else random ones."""
    from featurecache.backbones.catalog import application
    from featurecache.backbones.weights import resolve_weights
    from featurecache.errors import WeightsError

    try:
        return resolve_weights(asked or "imagenet", application("vgg16"), notify=say).source
    except WeightsError as e:
        if asked is not None:
            raise
        say(f"NOTE: {e}")
        say("NOTE: going on with random:0, a network that has learnt nothing; pretrained weights do much better")
        return "random:0"


def _try_head(cache: Any, head: str, tap: str, directory: Path) -> dict[str, Any]:  # noqa: ANN401 - imported on use
    from heads import evaluate, select_rows, train

    trained = train(cache, head, tap=tap, holdout=0)
    trained.save(directory)
    evaluation = evaluate(trained, select_rows(cache, trained, "test"))
    return {"head": head, "tap": tap, "accuracy": evaluation.to_dict()["accuracy"]}


COMMANDS = (demo,)
