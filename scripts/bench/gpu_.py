"""VGG16 and ResNet50 on a GPU: whether bytes depend on the batch, and images per second beside the GPU's matrix rate.

It takes some six minutes: the networks, two precisions and a few batch sizes, each alone and in whole extractions.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featurecache.backbones.catalog import NetworkSpec, find_network
from featurecache.backbones.engines import start_engine
from featurecache.backbones.keras_runtime import find_device, load_keras, versions
from featurecache.backbones.protocol import Backbone
from featurecache.backbones.vgg import layers_of
from featurecache.backbones.weights import resolve_weights
from featurecache.extraction import extract
from scripts.bench.bytes_ import measure
from scripts.bench.images import write_photographs

BATCH_SIZES = {"vgg16": (32, 64, 128, 256), "resnet50": (64, 256)}
RESNET50_OPERATIONS = (
    2 * 3_800_000_000
)  # multiply-adds count as two; He et al., "Deep residual learning" (2015), table 1
BYTES_BATCH, BYTES_SIZES = 32, (1, 8, 64)
PRECISIONS = ("float32", "mixed")
IMAGES, ROUNDS = 4_096, 3
SIDE, PRODUCTS = 8_192, 20
_FORWARD_IMAGES = 2_048  # in memory at a time


def run() -> dict[str, Any]:
    """Return images per second of the network alone and of whole extractions, and shares of the card's matrix rate.

    Keras runs on the backend that it is set up with. In float32 it may use TF32 products where the backend does so.
    """
    if find_device("auto") != "gpu":
        return {"gpu": f"none: {versions()['backend']} finds none, so nothing was measured"}
    rates = {dtype: matrix_rate(dtype) for dtype in ("float32", "float16", "bfloat16")}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_photographs(folder / "images", IMAGES)
        found = {name: of_network(name, "gpu", rates["bfloat16"], folder) for name in BATCH_SIZES}
    return {
        **versions(),
        **{f"matrix_{dtype}_TFLOP_s": round(rate, 1) for dtype, rate in rates.items()},
        "bar_share_of_bfloat16_rate": 0.6,
        "bar_end_to_end_over_forward": 0.95,
        **found,
    }


def of_network(name: str, device: str, matrix_rate: float, folder: Path) -> dict[str, Any]:
    """Return what a network does on a device: how rows differ in other batches, its best run, and all of them.

    Parameters
    ----------
    name
        ``"vgg16"`` or ``"resnet50"``.
    device
        As in `featurecache.extract`.
    matrix_rate
        The device's rate of matrix products in bfloat16, in TFLOP/s.
    folder
        Has the folder ``images``.
    """
    network = find_network(name)
    compared = measure("keras", name, BYTES_BATCH, sizes=BYTES_SIZES, device=device)
    runs = measured(network, device, BATCH_SIZES[name], _FORWARD_IMAGES, folder)
    for row in runs:
        achieved = row["forward_images_per_second"] * operations(network) / 1e12
        row["share_of_bfloat16_rate"] = round(achieved / matrix_rate, 3)
    best = max(runs, key=lambda row: row["forward_images_per_second"])
    return {
        "row_differs": {which: value or "same" for which, value in compared["differences"].items()},
        "best_forward": f"batches of {best['batch_size']}, {best['precision']}",
        "share_of_bfloat16_rate": best["share_of_bfloat16_rate"],
        "end_to_end_over_forward": best["end_to_end_over_forward"],
        "runs": runs,
    }


def operations(row: NetworkSpec) -> int:
    """Return the floating-point operations of one image in layers with weights; a multiply-add counts as two.

    Parameters
    ----------
    row
        A network of the VGG family, or ResNet50.
    """
    if not row.blocks:
        return RESNET50_OPERATIONS
    # a kernel's weights are used once for each place of the layer's output
    return 2 * sum(math.prod(layer.kernel) * row.taps[layer.tap] // layer.kernel[-1] for layer in layers_of(row))


def matrix_rate(dtype: str, side: int = SIDE, products: int = PRODUCTS) -> float:
    """Return the rate of square matrix products on Keras's device, in TFLOP/s, the median of rounds."""
    ops = load_keras().ops
    matrix = ops.cast(ops.convert_to_tensor(np.random.default_rng(0).standard_normal((side, side), np.float32)), dtype)

    def multiply() -> float:
        began = time.perf_counter()
        for _ in range(products):
            product = ops.matmul(matrix, matrix)
        ops.convert_to_numpy(ops.cast(product[0, :1], "float32"))  # waits for the device
        return time.perf_counter() - began

    multiply()
    return 2 * side**3 * products / statistics.median(multiply() for _ in range(ROUNDS)) / 1e12


def measured(
    row: NetworkSpec, device: str, batch_sizes: Sequence[int], images: int, folder: Path
) -> list[dict[str, Any]]:
    """Return a row for each precision and batch size: the network alone, and the extraction of ``folder/images``."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, *row.input_size, 3), dtype=np.uint8)
    weights = resolve_weights("random:0", row)
    rows = []
    for precision in PRECISIONS:
        for size in batch_sizes:
            taps = row.default_taps
            backbone = start_engine(
                "keras", row, weights, taps=taps, batch_size=size, precision=precision, device=device
            )
            backbone.forward(pixels[:size])  # compiles
            forward = images / statistics.median(_forward(backbone, pixels) for _ in range(ROUNDS))
            whole, bound = _whole(backbone, folder, size)
            rates = {"forward_images_per_second": round(forward, 1), "end_to_end_images_per_second": round(whole, 1)}
            kept = {"end_to_end_over_forward": round(whole / forward, 3), "bound": bound}
            rows.append({"precision": precision, "batch_size": size, **rates, **kept})
    return rows


def _forward(backbone: Backbone, pixels: Any) -> float:  # noqa: ANN401 - an array
    began = time.perf_counter()
    backbone.forward(pixels)
    return time.perf_counter() - began


def _whole(backbone: Backbone, folder: Path, batch_size: int) -> tuple[float, str]:
    """Return images per second of extractions from files to a cache, and the bottleneck of the last one."""
    rates, ledger = [], {}
    for number in range(ROUNDS):
        cache = folder / f"{number}.h5"
        began = time.perf_counter()
        made = extract(folder / "images", cache, backbone=backbone, batch_size=batch_size)
        rates.append(len(made) / (time.perf_counter() - began))
        ledger = made.provenance["run"]
        cache.unlink()
    return statistics.median(rates), str(ledger["bound"])
