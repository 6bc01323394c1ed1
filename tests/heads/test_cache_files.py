"""Heads on a real cache file, memory-mapped, from image files on."""

import numpy as np
import pytest
from PIL import Image

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.cache import FeatureCache
from heads import TrainedHead, evaluate, select_rows, train
from heads.catalog import HEADS
from heads.errors import MismatchError, ParameterError

COLOURS = {"blue": (30, 30, 200), "red": (200, 30, 30)}


def write_images(root, splits, count):
    rng = np.random.default_rng(0)
    for split in splits:
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(colour, 40, size=(32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    path = folder / "cache.h5"
    featurecache.extract(write_images(folder / "images", ("train", "test"), 20), path, backbone=FakeBackbone())
    return FeatureCache.open(path)


@pytest.mark.parametrize("name", [name for name in HEADS if name != "majority"])
@pytest.mark.parametrize("tap", ["features", "predictions"])
def test_trained_stored_and_judged(name, tap, cache, tmp_path):
    if tap not in (HEADS[name].taps or cache.taps):
        with pytest.raises(ParameterError, match="tap: the head"):
            train(cache, name, tap=tap)
        return
    params = {"lr": 0.1, "epochs": 5, "batch_size": 8} if name in {"softmax", "mlp"} else {}
    head = train(cache, name, tap=tap, params=params)
    assert (head.training.n_train + head.training.n_valid, head.training.holdout.fraction) == (40, 0.2)
    loaded = TrainedHead.load(head.save(tmp_path / "head"))
    for split, n in (("test", 40), ("valid", head.training.n_valid)):
        evaluation = evaluate(loaded, select_rows(cache, loaded, split))
        assert len(evaluation) == n
        # the fake network's four probabilities are nearly equal: some heads can tell little from them
        hard = tap == "predictions" and name in {"knn", "imagenet_map", "sgd"}
        assert evaluation.accuracy.value >= (0.5 if hard else 0.9)
        assert evaluation.classes == ("blue", "red")


def test_a_cache_of_another_network_is_refused(cache, tmp_path):
    other = featurecache.extract(
        write_images(tmp_path / "images", ("train",), 2), tmp_path / "cache.h5", backbone=FakeBackbone(seed=1)
    )
    head = train(cache, "logreg", tap="features")
    with pytest.raises(MismatchError, match="weights: the head has 'random:0', the features 'random:1'"):
        select_rows(other, head, "train")
