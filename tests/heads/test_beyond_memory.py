"""Heads train on features that do not fit into the memory that they may use, in processes of their own."""

import json
import sys

import numpy as np
import pytest

from heads import HEADS, TrainedHead
from scripts.bench.limited import run_limited
from scripts.bench.wide import write_cache

pytestmark = pytest.mark.slow

ROWS, WIDTH, CLASSES = 100_000, 512, 3
SMALL, LARGE = 1 << 24, 1 << 40  # sizes from which on features are large
SHUFFLED = {"softmax", "mlp", "sgd"}
QUICK = {"softmax": {"epochs": 2}, "mlp": {"epochs": 2, "hidden": "16"}, "sgd": {"alpha": 0.01, "max_iter": 3}}
LEAST = ["centroid", "softmax"]  # these need least of all
ABLE = [name for name, spec in HEADS.items() if spec.by_blocks and not spec.taps and name != "svm"]  # it holds 128 MB
TRAIN = """
import json, sys
import featurecache.rows
from featurecache import FeatureCache
from heads import rows
from heads.families import shuffling
from heads.training import train
path, folder, names, params, large = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:])
rows.LARGE_BYTES = featurecache.rows._COPIED_BYTES = large
shuffling.STRIP_BYTES, shuffling.STRIPS_OF_A_WINDOW = 1 << 16, 64
cache = FeatureCache.open(path)
for name in names:
    head = train(cache, name, params=params.get(name))
    head.save(f"{folder}/{name}")
    print(json.dumps([name, head.training.valid_accuracy]), flush=True)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Return the path of a cache of 205 MB; every fifth of its rows has no label, so that rows are chosen."""
    path = tmp_path_factory.mktemp("beyond") / "wide.h5"
    centres = np.random.default_rng(0).standard_normal((CLASSES, WIDTH), np.float32) / 8
    labels = [-1 if row % 5 == 4 else row % CLASSES for row in range(ROWS)]
    write_cache(path, centres, labels, ["train"] * (ROWS - 10_000) + ["valid"] * 10_000)
    return path


def trained(cache, folder, names, *, limit, large):
    """Train heads in one process; return them, and what the process used."""
    folder.mkdir()
    command = [sys.executable, "-c", TRAIN, cache, folder, json.dumps(names), json.dumps(QUICK), json.dumps(large)]
    measured = run_limited([*map(str, command)], limit)
    return {name: TrainedHead.load(folder / name) for name in names}, measured


def same(ours, theirs, **tolerance):
    for name, array in ours.model.arrays.items():
        np.testing.assert_allclose(array, theirs.model.arrays[name], err_msg=f"{ours.name}: {name}", **tolerance)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("names", "limit"),
    [(LEAST, 220_000_000), ([name for name in ABLE if name not in LEAST], 290_000_000)],
    ids=["least", "others"],
)
def test_heads_learn_the_same_with_less_memory_than_a_copy_of_the_features_takes(names, limit, cache, tmp_path):
    limited, measured = trained(cache, tmp_path / "limited", names, limit=limit, large=SMALL)
    whole, in_memory = trained(cache, tmp_path / "whole", names, limit=LARGE, large=LARGE)
    assert measured.anonymous_bytes < limit < in_memory.anonymous_bytes
    for name in names:
        if name in SHUFFLED:  # rows come in another order
            accuracies = [heads[name].training.valid_accuracy for heads in (limited, whole)]
            assert accuracies[0] == pytest.approx(accuracies[1], abs=0.02)
            assert accuracies[0] > 0.6
        else:
            same(limited[name], whole[name], rtol=1e-9, atol=1e-9)


def test_a_head_that_holds_all_features_is_refused_before_it_starts(cache, tmp_path):
    with pytest.raises(RuntimeError, match=r"the head 'knn' holds all features in memory: 72,000 x 512 take 147.5 MB"):
        trained(cache, tmp_path / "heads", ["knn"], limit=200_000_000, large=SMALL)
