"""``featurecache demo``: extracts, trains and evaluates on handwritten digits, without a download."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Annotated, Any

import typer

from featurecache.cli.console.output import Json, print_json, print_table, say, show
from featurecache.cli.console.progress import progress
from featurecache.text import number

TRAIN_IMAGES = 160
TEST_IMAGES = 80
_SIDE = 64


def demo(
    out: Annotated[Path, typer.Option(help="The folder to create for images, cache and heads.")] = Path(
        "featurecache-demo"
    ),
    weights: Annotated[
        str | None,
        typer.Option(help="imagenet, a path, or random:SEED.", show_default="imagenet, or random:0 if not available"),
    ] = None,
    json: Json = False,
) -> None:
    """Extract, train and evaluate on handwritten digits: no download, no data needed."""
    from featurecache import require_place
    from featurecache.errors import OutputError

    require_place(out)
    if out.exists() or out.is_symlink():
        raise OutputError(f"{out} exists already; remove it, or choose another folder with --out")
    chosen = _weights(weights)
    try:
        results, seconds = _run_demo(out, chosen)
    except BaseException:
        rmtree(out, ignore_errors=True)  # so that the same command can start again
        raise
    if json:
        print_json({"folder": str(out), "weights": chosen, "heads": results, "seconds": seconds})
        return
    show(f"{TRAIN_IMAGES + TEST_IMAGES} digits, VGG16 with {chosen} weights; accuracy on {TEST_IMAGES} test images:")
    show()
    print_table(
        ("head", "tap", "accuracy", "95 % interval", "seconds", "directory"),
        [
            (
                result["head"],
                result["tap"],
                number(result["accuracy"]["value"]),
                f"{number(result['accuracy']['low'])} to {number(result['accuracy']['high'])}",
                number(seconds[f"{result['head']} on {result['tap']}"], 1),
                result["directory"],
            )
            for result in results
        ],
        left=(0, 1, 5),
    )
    show()
    show(f"writing the images took {seconds['writing images']:.1f} s, extracting {seconds['extracting']:.1f} s")
    show(f"the images are in {out / 'digits'}, their features in {out / 'digits.h5'}")
    show(f"now try: featurecache evaluate {out / 'logreg-fc2'} {out / 'digits.h5'} --split test")


def _run_demo(out: Path, weights: str) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Write images, extract features, train and evaluate heads; return results, and seconds by step."""
    from featurecache import extract

    seconds: dict[str, float] = {}
    with _timed(seconds, "writing images"):
        write_digits(out / "digits")
    with _timed(seconds, "extracting"), progress("extracting", "image") as update:
        cache = extract(
            out / "digits",
            out / "digits.h5",
            weights=weights,
            progress=lambda state: update(state.done, state.total, rate=state.rate),
            notify=say,
        )
    results = []
    for tap in cache.taps:
        for head in ("softmax", "logreg"):
            with _timed(seconds, f"{head} on {tap}"):
                results.append(_try_head(cache, head, tap, out / f"{head}-{tap}"))
    return results, seconds


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Record the duration of the block in seconds."""
    began = time.monotonic()
    yield
    seconds[step] = round(time.monotonic() - began, 3)


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
    """Return the requested weights, or ImageNet weights if available, or random ones."""
    from featurecache import find_network, resolve_weights
    from featurecache.errors import WeightsError

    try:
        return resolve_weights(asked or "imagenet", find_network("vgg16"), notify=say).source
    except WeightsError as e:
        if asked is not None:
            raise
        say(f"notice: {e}")
        say("notice: using random:0, an untrained network; pretrained weights give much better results")
        return "random:0"


def _try_head(cache: Any, head: str, tap: str, directory: Path) -> dict[str, Any]:  # noqa: ANN401 - imported on use
    from heads import evaluate, select_rows, train

    trained = train(cache, head, tap=tap, holdout=0)
    trained.save(directory)
    evaluation = evaluate(trained, select_rows(cache, trained, "test"))
    return {"head": head, "tap": tap, "directory": str(directory), "accuracy": evaluation.to_dict()["accuracy"]}
