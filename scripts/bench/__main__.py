"""Run benchmarks by name; without a name, list them."""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Any

from featurecache.cli.console.output import print_table

BENCHMARKS = {
    "extract": "VGG16, or --backbone NAME, over photographs, beside Keras, PyTorch, ONNX Runtime and ncnn",
    "scaling": "what an image costs among 250 and among up to 4,000",
    "bytes": "whether a row's bytes depend on its batch, for every engine and network",
    "networks": "images a second of every network of the catalogue on this machine's processors",
    "gpu": "VGG16, ResNet50 and ViT-B/16 on a GPU: bytes, precisions, share of its matrix rate, and whole runs",
    "open": "opening a cache of 25,000 x 4096 and having X ready",
    "parts": "reading 100,000 x 4096 in 20 parts beside one file, from memory and from the disk",
    "noop": "running an extraction again with nothing changed, 4,000 images, in a fresh process",
    "store": "what publishing costs at 1,000 images a second",
    "heads": "training and judging heads on 23,000 x 4096, beside Keras and scikit-learn",
    "sweep": "peak memory of a sweep on 23,000 x 4096, and 32 settings beside one",
    "refine": "what a sweep finds with few values of long grids, beside all values, on small data sets",
    "report": "judging a head on 25,000 x 4096 of ten classes, and the report of it without thumbnails",
    "audit": "an audit of 25,000 x 4096 of ten classes: seconds of its stages, and peak memory",
    "serve": "the head service under load, beside FastAPI with Keras by hand, LitServe, BentoML and MLServer",
    "similar": "the most similar of 100,000 and of 1,000,000 rows of 1,280 features",
    "cluster": "runs with workers beside plain ones, slow workers, many rows; --kills N and --rows N alone",
    "simulate": "a thousand simulated workers that fail and lag, dealt to as in real runs",
    "beyond": "training heads on 16 GiB of features with 2 GB of memory, beside the disk's own speed",
    "listing": "listing 300,000 files: seconds and peak memory",
    "memory": "peak memory of an extraction of 1,000 and of 10,000 images",
}


def main(arguments: list[str]) -> int:
    """Run the named benchmark and print its measurements."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench", add_help=False)
    parser.add_argument("name", choices=BENCHMARKS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="serve: few requests")
    parser.add_argument("--backbone", help="extract: the network, beside its Keras engine")
    parser.add_argument("--images", type=int, help="extract: how many photographs")
    parser.add_argument("--rounds", type=int, help="extract: how often each contestant has its turn")
    parser.add_argument("--kills", type=int, help="cluster: processes to kill at random, and nothing else")
    parser.add_argument("--rows", type=int, help="cluster: rows of a run whose memory is measured, alone; beyond: rows")
    parser.add_argument("--heads", help="beyond: which ones, separated by commas")
    parser.add_argument("--features", help="sweep and refine: an .npz file of X and y, alone")
    try:
        options = parser.parse_args(arguments)
    except SystemExit:
        print_table(("name", "measures"), list(BENCHMARKS.items()), left={0, 1})
        return 2
    module = import_module(f"scripts.bench.{options.name}_")
    run: Callable[..., dict[str, Any]] = module.run
    if options.quick:
        if not hasattr(module, "QUICK"):
            print(f"--quick is not for {options.name}", file=sys.stderr)
            return 2
        run = partial(run, module.QUICK)
    sizes = ("backbone", "images", "rounds", "kills", "rows", "heads", "features")
    asked = {name: getattr(options, name) for name in sizes if getattr(options, name) is not None}
    if foreign := asked.keys() - signature(run).parameters.keys():
        print(f"--{min(foreign)} is not for {options.name}", file=sys.stderr)
        return 2
    measured = {"benchmark": options.name, "machine": machine()} | run(**asked)
    if options.json:
        print(json.dumps(measured, indent=2))
    else:
        show_measured(measured)
    return 0


def show_measured(measured: dict[str, Any]) -> None:
    """Print single values as one table, then one table per list of rows."""
    tables = {name: value for name, value in measured.items() if isinstance(value, list)}
    print_table(("what", "value"), [item for item in measured.items() if item[0] not in tables], left={0, 1})
    for name, rows in tables.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        print(f"\n{name}")
        cells = [[row.get(column, "-") for column in columns] for row in rows]
        print_table(columns, cells, left={0, len(columns) - 1})


def machine() -> str:
    """Return the names of processor and Python, for documents."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:  # noqa: PTH123 - a device of the kernel
            lines = [line for line in stream if line.startswith("model name")]
        model = f"{lines[0].partition(':')[2].strip()}, {len(lines)} cores"
    except (OSError, IndexError):
        pass
    return f"{model}; Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
