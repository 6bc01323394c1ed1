"""Every command on a cache in parts: the same numbers as on one file."""

import csv
import json
import re
import shutil

import numpy as np
import pytest

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.planning import why
from heads import SimilaritySearch, TrainedHead, head_spec
from heads.catalog import HEADS

pytestmark = pytest.mark.slow

DIFFERENT = {"seconds", "sha256", "created", "images_per_second", "path", "run", "part_rows", "train_seconds"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory, images):
    """Return two caches of the same images, one file and three parts of at most 15 rows, under one name."""
    paths = []
    for name, rows in (("plain", None), ("parts", 15)):
        path = tmp_path_factory.mktemp(name) / "photos.h5"
        featurecache.extract(images, path, backbone=FakeBackbone(), part_rows=rows)
        paths.append(path)
    assert len(featurecache.FeatureCache.open(paths[1]).parts) == 3
    return paths


@pytest.fixture(scope="module")
def trained(pair, invoke):
    """Return the folders of the heads that each cache has trained, by family."""
    folders = {}
    for name in ("logreg", "softmax", "knn", "ridge"):
        folders[name] = [path.parent / name for path in pair]
        for path, folder in zip(pair, folders[name], strict=True):
            options = ("-p", "epochs=3") if name == "softmax" else ()
            done = invoke("train", path, folder, "--head", name, "--tap", "features", *options)
            assert done.code == 0, done.err
    return folders


def plain(value):
    """Return what two runs have in common."""
    if isinstance(value, dict):
        return {name: plain(member) for name, member in value.items() if name not in DIFFERENT}
    return [plain(member) for member in value] if isinstance(value, list) else value


def same(one, other):
    """Check that two commands said the same."""
    ours, theirs = plain(one.json), plain(other.json)
    assert ours == theirs
    assert one.err == other.err


def test_info_and_verify(pair, invoke):
    one, other = (invoke("info", path, "--json") for path in pair)
    ours, theirs = (plain(done.json) for done in (one, other))
    assert (ours.pop("parts"), theirs.pop("parts")) == (0, 3)
    assert ours == theirs
    assert invoke("info", pair[1]).out.startswith(f"{pair[1]}: 40 rows in 3 parts, 0 failures\n")
    assert invoke("verify", pair[1], "--json").json["ok"]


def test_why(pair, images):
    plan = why(images, pair[1], backbone=FakeBackbone())
    assert plan.to_dict()["reasons"] == {"unchanged": 40}


def test_merge(pair, invoke, tmp_path):
    done = invoke("merge", tmp_path / "linked.h5", pair[1], pair[0], "--parts", "--json")
    assert done.json == {"rows": 40, "parts": 3, "failures": 0, "classes": ["blue", "red"]}
    done = invoke("merge", tmp_path / "whole.h5", tmp_path / "linked.h5")
    assert done.out == f"{tmp_path / 'whole.h5'}: 40 rows, 0 failures\n"
    ours, theirs = (featurecache.FeatureCache.open(path) for path in (tmp_path / "whole.h5", pair[0]))
    np.testing.assert_array_equal(ours.features("features").X, theirs.features("features").X)
    done = invoke("merge", tmp_path / "again.h5", pair[1], "--parts")
    assert done.out == f"{tmp_path / 'again.h5'}: 40 rows in 3 parts, 0 failures\n"


@pytest.mark.parametrize("name", [name for name in HEADS if not head_spec(name).taps])
def test_every_head_learns_the_same(name, pair, invoke, tmp_path):
    folders = [tmp_path / "plain", tmp_path / "parts"]
    options = ("-p", "epochs=3") if name in {"softmax", "mlp"} else ()
    done = [
        invoke("train", path, folder, "--head", name, "--tap", "features", *options, "--json")
        for path, folder in zip(pair, folders, strict=True)
    ]
    same(*done)
    one, other = (TrainedHead.load(folder) for folder in folders)
    assert (folders[0] / "head.safetensors").read_bytes() == (folders[1] / "head.safetensors").read_bytes()
    assert one.training.rows_sha256 == other.training.rows_sha256


def test_a_holdout_and_labels_of_a_table(pair, invoke, tmp_path):
    cache = featurecache.FeatureCache.open(pair[0])
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["path,label", *(f"{path},{'ab'[n % 2]}" for n, path in enumerate(cache.paths))]) + "\n")
    folders = [tmp_path / "plain", tmp_path / "parts"]
    done = [
        invoke("train", path, folder, "--head", "sgd", "--tap", "features", "--labels", table, "--json")
        for path, folder in zip(pair, folders, strict=True)
    ]
    same(*done)
    assert (folders[0] / "head.safetensors").read_bytes() == (folders[1] / "head.safetensors").read_bytes()


@pytest.mark.parametrize("split", ["valid", "all"])
def test_evaluate_with_predictions_and_report(split, pair, trained, invoke, tmp_path):
    tables, pages = [], []
    done = []
    for number, path in enumerate(pair):
        files = (tmp_path / f"{number}.csv", tmp_path / f"{number}.md")
        done.append(
            invoke(
                "evaluate",
                trained["logreg"][0],
                path,
                "--split",
                split,
                "--predictions",
                files[0],
                "--report",
                files[1],
                "--json",
            )
        )
        with files[0].open(newline="") as stream:
            tables.append(list(csv.DictReader(stream)))
        pages.append(re.sub(r"/[^\s`]*photos\.h5", "CACHE", files[1].read_text("utf-8")))
    same(*done)
    assert tables[0] == tables[1]
    assert pages[0] == pages[1]


def test_compare(pair, trained, invoke):
    same(*(invoke("compare", trained["logreg"][0], trained["knn"][0], path, "--json") for path in pair))


def test_audit(pair, invoke):
    same(*(invoke("audit", path, "--tap", "features", "--head", "logreg", "--folds", "3", "--json") for path in pair))


def test_curve(pair, invoke):
    same(*(invoke("curve", path, "--tap", "features", "--repeats", "2", "--json") for path in pair))


@pytest.mark.parametrize("folds", ["0", "3"])
def test_sweep(folds, pair, invoke, tmp_path):
    grid = (
        "--head",
        "logreg",
        "--head",
        "softmax",
        "-p",
        "C=0.1,1",
        "-p",
        "softmax.lr=0.1",
        "-p",
        "l2=0",
        "-p",
        "epochs=3",
        "--tap",
        "features",
        "--folds",
        folds,
    )
    found = []
    for number, (path, jobs) in enumerate(zip(pair, ("1", "2"), strict=True)):
        done = invoke("sweep", path, tmp_path / str(number), *grid, "--jobs", jobs, "--json")
        assert done.code == 0, done.err
        found.append(plain(json.loads((tmp_path / str(number) / "leaderboard.json").read_bytes())))
    assert found[0] == found[1]


def test_continuing_and_export(pair, trained, invoke, tmp_path):
    folders = [tmp_path / "plain", tmp_path / "parts"]
    for path, folder, start in zip(pair, folders, trained["softmax"], strict=True):
        assert invoke("train", path, folder, "--from", start).code == 0
        assert invoke("export", folder, folder.with_suffix(".joblib")).code == 0
    assert (folders[0] / "head.safetensors").read_bytes() == (folders[1] / "head.safetensors").read_bytes()


def test_similar_images(pair):
    one, other = (featurecache.FeatureCache.open(path) for path in pair)
    queries = one.features("features", "valid").X
    found = [SimilaritySearch(cache, "features").nearest(queries, 5) for cache in (one, other)]
    assert found[0] == found[1]


def test_a_missing_part_is_one_line(pair, trained, invoke, tmp_path):
    for path in (pair[1], pair[1].with_suffix(".parts")):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    lost = tmp_path / "photos.parts" / "000002.h5"
    lost.unlink()
    for command in (("info", tmp_path / "photos.h5"), ("evaluate", trained["knn"][0], tmp_path / "photos.h5")):
        done = invoke(*command)
        assert done.code == 1
        assert f"the part {lost} of {tmp_path / 'photos.h5'} is missing; put it back, or" in done.error
