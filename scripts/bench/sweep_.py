"""A sweep on 23,000 x 4096: peak memory of all its processes together, and the time of 32 settings against one.

And the time of a default sweep of 9,000 x 1280 in 102 classes, or of given features.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache import FeatureCache
from heads import sweep
from scripts.bench.refine_ import clusters
from scripts.bench.wide import WIDTH, features_of, write_cache, write_split

ROWS, VALID = 23_000, 3_000
JOBS = 2
MANY = {"rows": 9_000, "width": 1_280, "classes": 102}
_MB = 2**20
_SAMPLE_SECONDS = 0.05
_SWEEP = """
import json, sys
from featurecache import FeatureCache
from heads import sweep
options = json.loads(sys.argv[3])
found = sweep(FeatureCache.open(sys.argv[1]), sys.argv[2], progress=lambda p: print(p.doing, flush=True), **options)
print(json.dumps(found.seconds))
"""
_SETTINGS = {"softmax": {"lr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1], "l2": [0.0, 1e-4, 1e-3, 1e-2]}}
_ONE = {"softmax": {"lr": [1e-3], "l2": [0.0]}}
_FEW = {  # for heads that take minutes with their full grids
    "svm": {"C": [1e-6, 1e-5, 1e-4]},
    "sgd": {"alpha": [0.1]},
    "mlp": {"epochs": [1]},
    "knn": {"n_neighbors": [5]},
}
SCENARIOS: dict[str, dict[str, Any]] = {
    "logreg": {"heads": ["logreg"]},
    "softmax_32_settings": {"heads": ["softmax"], "grids": _SETTINGS},
    "softmax_1_setting": {"heads": ["softmax"], "grids": _ONE},
    "all_heads": {"grids": _FEW},
}


def run(features: str | None = None) -> dict[str, Any]:
    """Return peaks in MB (proportional set sizes of the whole process tree, added up) and wall times in seconds.

    Of given features, an ``.npz`` file of ``X`` and ``y``, only the times of a default sweep.
    """
    if features is not None:
        with tempfile.TemporaryDirectory() as folder:
            return default_sweep(Path(folder), *features_of(features))
    measured: dict[str, Any] = {"rows": ROWS, "width": WIDTH, "X_MB": round(ROWS * WIDTH * 4 / _MB)}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "wide.h5"
        centres = np.zeros((2, WIDTH), np.float32)
        centres[:, :64] = [[0.15], [-0.15]]
        labels = [n % 2 for n in range(ROWS)]
        write_cache(cache, centres, labels, ["train"] * (ROWS - VALID) + ["valid"] * VALID)
        for name, options in SCENARIOS.items():
            peaks, seconds = watched(cache, Path(folder) / name, options | {"jobs": JOBS})
            measured |= {f"{name}_peak_MB_{stage}": round(peak / _MB) for stage, peak in peaks.items()}
            measured |= {f"{name}_s": round(seconds["total"], 1), f"{name}_final_s": round(seconds["final"], 1)}
            measured[f"{name}_heads_s"] = {head: round(each, 1) for head, each in seconds["heads"].items()}
        measured |= many_classes(Path(folder))
    trying = {name: measured[f"{name}_s"] - measured[f"{name}_final_s"] for name in SCENARIOS}
    ratio = trying["softmax_32_settings"] / trying["softmax_1_setting"]
    return measured | {"32_settings_over_one": round(ratio, 1), "bar_32_settings_over_one": 3}


def many_classes(folder: Path) -> dict[str, Any]:
    """Return the times of a default sweep of drawn rows in many classes."""
    X, y = clusters(MANY["rows"], MANY["width"], MANY["classes"])
    return default_sweep(folder, X.astype(np.float32), y)


def default_sweep(folder: Path, X: NDArray[np.float32], y: NDArray[np.int64]) -> dict[str, Any]:
    """Return the times of a default sweep in seconds, by head as well, its processor time, and the best head."""
    write_split(folder / "many.h5", X, y, valid_share=0.2)
    before, load = processor_seconds(), os.getloadavg()[0]
    found = sweep(FeatureCache.open(folder / "many.h5"), folder / "many", jobs=JOBS)
    best = found.leaderboard[0]
    return {
        "many_classes": {"rows": X.shape[0], "width": X.shape[1], "classes": len(np.unique(y))},
        "many_classes_s": round(found.seconds["total"], 1),
        "bar_many_classes_s": 180,
        "many_classes_processor_s": round(processor_seconds() - before, 2),
        "many_classes_final_s": round(found.seconds["final"], 1),
        "many_classes_tries": len(found.leaderboard),
        "many_classes_heads_s": {head: round(each, 1) for head, each in found.seconds["heads"].items()},
        "many_classes_best": [best.candidate.head, best.accuracy and round(best.accuracy.value, 4)],
        "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def processor_seconds() -> float:
    """Return what this process and its children that have ended computed."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def watched(cache: Path, sweep_dir: Path, options: dict[str, Any]) -> tuple[dict[str, int], dict[str, Any]]:
    """Sweep in a separate process; return the peak memory of each stage in bytes, and the time per step."""
    command = [sys.executable, "-c", _SWEEP, str(cache), str(sweep_dir), json.dumps(options)]
    peaks = {"preparing": 0, "trying": 0, "final": 0}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        stage, lines = "preparing", []

        def sample() -> None:
            while process.poll() is None:
                during = stage
                # a map that one process drops and another takes up between two looks counts twice in one of them
                peaks[during] = max(min(memory_of_tree(process.pid), memory_of_tree(process.pid)), peaks[during])
                time.sleep(_SAMPLE_SECONDS)

        sampler = threading.Thread(target=sample)
        sampler.start()
        for line in process.stdout or ():
            lines.append(line)
            words = line.split()
            stage = "preparing" if words[0] == "preparing" else "final" if words[0] == "training" else "trying"
        sampler.join()
    if process.returncode:
        raise RuntimeError(f"the sweep ended with {process.returncode}")
    return peaks, json.loads(lines[-1])


def memory_of_tree(root: int) -> int:
    """Return the sum of the proportional set sizes of a process and its descendants, in bytes."""
    parents: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            text = _read(f"/proc/{entry.name}/stat")
            if text:
                parents[int(entry.name)] = int(text.rpartition(")")[2].split()[1])
    tree = {root}
    while grown := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= grown
    return sum(_proportional(pid) for pid in tree)


def _proportional(pid: int) -> int:
    lines = _read(f"/proc/{pid}/smaps_rollup").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:  # the process has ended
        return ""
