"""Run benchmarks by name; without a name, list them."""

import json
import platform
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from scripts.output import print_table

BENCHMARKS = {
    "extract": "VGG16 over photographs, beside Keras called by hand, PyTorch, ONNX Runtime and ncnn",
    "scaling": "what an image costs among 250 and among up to 4,000",
    "gpu": "VGG16 on a GPU: batch sizes, precisions, share of its matrix rate, and the whole run",
    "open": "opening a cache of 25,000 x 4096 and having X ready",
    "noop": "running an extraction again with nothing changed, 4,000 images, in a fresh process",
    "store": "what publishing costs at 1,000 images a second",
    "heads": "training and judging heads on 23,000 x 4096, beside Keras and scikit-learn",
    "sweep": "peak memory of a sweep on 23,000 x 4096, and 32 settings beside one",
    "report": "judging a head on 25,000 x 4096 of ten classes, and the report of it without thumbnails",
    "audit": "an audit of 25,000 x 4096 of ten classes: seconds of its stages, and peak memory",
    "memory": "peak memory of an extraction of 1,000 and of 10,000 images",
}


def main(arguments: list[str]) -> int:
    """Run the named benchmark and print what it measured."""
    as_json = "--json" in arguments
    names = [argument for argument in arguments if argument != "--json"]
    if len(names) != 1 or names[0] not in BENCHMARKS:
        print("usage: python -m scripts.bench NAME [--json]", file=sys.stderr)
        print_table(("name", "measures"), list(BENCHMARKS.items()), left={0, 1})
        return 2
    run: Callable[[], dict[str, Any]] = import_module(f"scripts.bench.{names[0]}_").run
    measured = {"benchmark": names[0], "machine": machine()} | run()
    if as_json:
        print(json.dumps(measured, indent=2))
    else:
        show_measured(measured)
    return 0


def show_measured(measured: dict[str, Any]) -> None:
    """Print single values as one table, and after it each list of rows as one of its own."""
    tables = {name: value for name, value in measured.items() if isinstance(value, list)}
    print_table(("what", "value"), [item for item in measured.items() if item[0] not in tables], left={0, 1})
    for name, rows in tables.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        print(f"\n{name}")
        cells = [[row.get(column, "-") for column in columns] for row in rows]
        print_table(columns, cells, left={0, len(columns) - 1})


def machine() -> str:
    """Return processor and Python, as figures in documents name them."""
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
