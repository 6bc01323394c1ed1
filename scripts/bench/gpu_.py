"""VGG16, ResNet50 and ViT-B/16 on a GPU: bytes in other batches, precisions, the card's matrix rate, and whole runs.

It takes some seven minutes: a network is measured alone with a few batch sizes in each precision, and in whole
extractions with the best of them. What has not begun after `LIMIT_SECONDS` is left out, and named.
"""

import json
import math
import statistics
import sys
import tempfile
import time
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from featurecache.backbones.engines import start_engine
from featurecache.backbones.keras_runtime import find_device, load_keras, load_keras_hub, products, versions
from featurecache.backbones.protocol import Backbone
from featurecache.backbones.vgg import layers_of
from featurecache.backbones.weights import PRESET_CONVERTER
from featurecache.errors import EngineError
from featurecache.extraction import extract
from featurecache.named_backbone import find_network
from featurecache.prefetch import ahead
from scripts.bench.bytes_ import measure, weights_of
from scripts.bench.images import write_photographs

BATCH_SIZES = {"vgg16": (64, 128, 256), "resnet50": (64, 256), "vit_b16": (64, 256)}
RESNET50_OPERATIONS = (
    2 * 3_800_000_000
)  # multiply-adds count as two; He et al., "Deep residual learning" (2015), table 1
VIT = {"patch_size": 16, "num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3_072}
"""Sizes of ViT-B/16; Dosovitskiy et al., "An image is worth 16x16 words" (2021), table 1."""

VIT_SIDE = 224
BYTES_BATCH, BYTES_SIZES = 32, (1, 8, 64)
PRECISIONS = {"float32": "float32", "tf32": "tf32", "mixed": "float16"}
"""The precisions of networks, and those of the matrix products in them."""

IMAGES, ROUNDS = 4_096, 3
SIDE, PRODUCTS = 8_192, 20
LIMIT_SECONDS = 400
_FORWARD_IMAGES = 1_024  # in memory at a time


def run() -> dict[str, Any]:
    """Return images per second of the networks alone and of whole extractions, and shares of the card's matrix rates.

    Keras runs on the backend that it is set up with.
    """
    if find_device("auto") != "gpu":
        return {"gpu": f"none: {versions()['backend']} finds none, so nothing was measured"}
    until = time.monotonic() + LIMIT_SECONDS
    rates = {dtype: matrix_rate(dtype) for dtype in ("float32", "tf32", "float16", "bfloat16")}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_photographs(folder / "images", IMAGES)
        networks = [of_network(name, "gpu", rates, folder, until) for name in BATCH_SIZES]
    runs = [row for network in networks for row in network.pop("runs")]
    return {
        **versions(),
        **{f"matrix_{dtype}_TFLOP_s": round(rate, 1) for dtype, rate in rates.items()},
        "bar_share_of_matrix_rate": 0.6,
        "bar_end_to_end_over_forward": 0.95,
        "networks": networks,
        "runs": runs,
    }


def of_network(
    name: str, device: str, rates: dict[str, float], folder: Path, until: float = math.inf
) -> dict[str, Any]:
    """Return what a network does on a device: how rows differ in other batches, and ``"runs"``, one for each setting.

    Parameters
    ----------
    name
        One of `BATCH_SIZES`.
    device
        As in `featurecache.extract`.
    rates
        The device's rates of matrix products, in TFLOP/s, by their precision.
    folder
        Has the folder ``images``; the preset of ViT is written there.
    until
        When nothing more begins, by `time.monotonic`.
    """
    found: dict[str, Any] = {"network": name}
    try:
        network = write_vit(folder / name) if name == "vit_b16" else name
    except EngineError as e:  # KerasHub is not installed
        return found | {"left_out": str(e), "runs": []}
    if time.monotonic() > until:
        return found | {"left_out": "no time", "runs": []}
    _say(f"{name}: bytes in other batches")
    compared = measure("keras", network, BYTES_BATCH, sizes=BYTES_SIZES, device=device)["differences"]
    found |= {which: f"{value:.0e}" if value else "same" for which, value in compared.items()}
    runs: list[dict[str, Any]] = []
    for precision, of_products in PRECISIONS.items():
        rows: list[dict[str, Any]] = []
        for size in BATCH_SIZES[name]:
            if time.monotonic() > until:
                found["left_out"] = f"from {precision} in batches of {size} on: no time"
                return found | {"runs": runs + rows}
            _say(f"{name}: {precision}, batches of {size}")
            backbone = _started(network, device, precision, size)
            speed = _forward_rate(backbone)
            share = speed * operations(name) / 1e12 / rates[of_products]
            measured = {"forward_images_per_second": round(speed, 1), "share_of_matrix_rate": round(share, 3)}
            rows.append({"network": name, "precision": precision, "batch_size": size} | measured)
        best = max(rows, key=lambda row: row["forward_images_per_second"])
        whole, bound = _whole_rate(_started(network, device, precision, best["batch_size"]), folder)
        best["end_to_end_images_per_second"] = round(whole, 1)
        best["end_to_end_over_forward"] = round(whole / best["forward_images_per_second"], 3)
        best["bound"] = bound
        runs += rows
    return found | {"runs": runs}


def operations(name: str) -> int:
    """Return the floating-point operations of one image in layers with weights and in attention; see `BATCH_SIZES`.

    A multiply-add counts as two.
    """
    if name == "resnet50":
        return RESNET50_OPERATIONS
    if name == "vit_b16":
        patches, width = (VIT_SIDE // VIT["patch_size"]) ** 2, VIT["hidden_dim"]
        tokens = patches + 1
        dense = 4 * width**2 + 2 * width * VIT["mlp_dim"]  # queries, keys, values, output; two layers
        embedding = patches * VIT["patch_size"] ** 2 * 3 * width
        return 2 * (embedding + VIT["num_layers"] * (tokens * dense + 2 * tokens**2 * width))
    row = find_network(name)
    # a kernel's weights are used once for each place of the layer's output
    return 2 * sum(math.prod(layer.kernel) * row.taps[layer.tap] // layer.kernel[-1] for layer in layers_of(row))


def write_vit(folder: Path) -> str:
    """Write a preset of ViT with random weights, and return its path."""
    hub = load_keras_hub("the network ViT-B/16")
    hub.models.ViTBackbone(image_shape=(VIT_SIDE, VIT_SIDE, 3), **VIT).save_to_preset(str(folder))
    converter = {"image_size": (VIT_SIDE, VIT_SIDE), "scale": 1 / 127.5, "offset": -1, "crop_to_aspect_ratio": False}
    (folder / PRESET_CONVERTER).write_text(json.dumps({"config": converter}))
    return str(folder)


def matrix_rate(dtype: str, side: int = SIDE, count: int = PRODUCTS) -> float:
    """Return the rate of square matrix products on Keras's device, in TFLOP/s, the median of rounds.

    ``dtype`` is Keras's name of a type, or ``"tf32"``.
    """
    ops = load_keras().ops
    matrix = ops.convert_to_tensor(np.random.default_rng(0).standard_normal((side, side), np.float32))
    matrix = ops.cast(matrix, "float32" if dtype == "tf32" else dtype)

    def multiply() -> float:
        began = time.perf_counter()
        for _ in range(count):
            product = ops.matmul(matrix, matrix)
        ops.convert_to_numpy(ops.cast(product[0, :1], "float32"))  # waits for the device
        return time.perf_counter() - began

    with products(dtype):
        multiply()
        return 2 * side**3 * count / statistics.median(multiply() for _ in range(ROUNDS)) / 1e12


def _say(text: str) -> None:
    """Print a line of progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def _started(network: str, device: str, precision: str, batch_size: int) -> Backbone:
    row = find_network(network)
    return start_engine(
        "keras",
        row,
        weights_of(row),
        taps=row.default_taps,
        batch_size=batch_size,
        precision=precision,
        device=device,
    )


def _forward_rate(backbone: Backbone) -> float:
    """Return images per second of the network alone."""
    shape = (_FORWARD_IMAGES, *backbone.spec.input_size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    size, workers = backbone.batch_size, backbone.passes_at_once  # as in a run
    batches = [pixels[start : start + size] for start in range(0, len(pixels), size)]

    def forward() -> float:
        began = time.perf_counter()
        with closing(ahead(backbone.forward, batches, workers=workers, window=workers)) as rows:
            deque(rows, maxlen=0)
        return time.perf_counter() - began

    backbone.forward(pixels[: backbone.batch_size])  # compiles
    return len(pixels) / statistics.median(forward() for _ in range(ROUNDS))


def _whole_rate(backbone: Backbone, folder: Path) -> tuple[float, str]:
    """Return images per second of extractions from files to a cache, and the bottleneck of the last one."""
    rates, ledger = [], {}
    for number in range(ROUNDS):
        cache = folder / f"{number}.h5"
        began = time.perf_counter()
        made = extract(folder / "images", cache, backbone=backbone)
        rates.append(len(made) / (time.perf_counter() - began))
        ledger = made.provenance["run"]
        cache.unlink()
    return statistics.median(rates), str(ledger["bound"])
