"""Errors are one line that names the object and the remedy; no incomplete file stays behind."""

import contextlib
import os
import shutil
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import SLOW

WEIGHTLESS = ("--weights", "random:0")
REAL = ("--backbone", "mobilenet_v2", *WEIGHTLESS)


@pytest.fixture
def place(tmp_path, images, fake_cache, fake_part, fake_head, real_cache, real_head):
    """A folder with all files that the cases below name, relative to it."""
    links = {
        "photos": images,
        "fake.h5": fake_cache,
        "part.h5": fake_part,
        "fake_head": fake_head,
        "real.h5": real_cache,
        "real_head": real_head,
        "image.png": images / "valid" / "red" / "000.png",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    for name in ("empty", "no_images", "no_good_images/a", "folder"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "no_images" / "notes.txt").write_text("nothing to see")
    (tmp_path / "no_good_images" / "a" / "x.jpg").write_bytes(b"GIF89a is not what follows")
    (tmp_path / "no_good_images" / "a" / "y.png").write_bytes(b"")
    (tmp_path / "no_column.csv").write_text("file,label\nphotos/train/red/000.png,red\n")
    (tmp_path / "no_file.csv").write_text("path,label\nphotos/nowhere.png,red\n")
    (tmp_path / "text.h5").write_text("no HDF5 at all")
    (tmp_path / "truncated.h5").write_bytes(fake_cache.read_bytes()[:3000])
    (tmp_path / "text.weights.h5").write_text("no weights at all")
    (tmp_path / "broken_head").mkdir()
    for name, text in (("head.json", "{"), ("head.safetensors", "")):
        (tmp_path / "broken_head" / name).write_text(text)
    return tmp_path


USAGE = [
    ("", "summery", ["no such command 'summery'", "'summary'", "featurecache --help"]),
    ("extract", "photos", ["missing argument 'CACHE'", "featurecache extract --help"]),
    ("extract", "photos x.h5 --batch", ["--batch", "--batch-size", "featurecache extract --help"]),
    ("extract", "photos x.h5 --batch-size 0", ["--batch-size", "1"]),
    ("extract", "photos x.h5 --batch-size -3", ["--batch-size", "1"]),
    ("extract", "photos x.h5 --batch-size 1000000000", ["--batch-size", "1 to 4096"]),
    ("extract", "photos x.h5 --batch-size many", ["--batch-size", "neither auto nor a whole number"]),
    ("extract", "photos x.h5 --workers -1", ["--workers", "1"]),
    ("extract", "photos x.h5 --part 3/2", ["--part", "part is '3/2'", "from 1/N to N/N"]),
    ("why", "photos x.h5 --part two", ["--part", "part is 'two'", "from 1/N to N/N"]),
    ("extract", "photos x.h5 --max-pixels 0", ["--max-pixels", "1"]),
    ("extract", "photos x.h5 y.h5", ["y.h5", "featurecache extract --help"]),
    ("train", "fake.h5 x --tap features --holdout 2", ["--holdout", "0.9"]),
    ("train", "fake.h5 x --tap features --seed -1", ["--seed", "0"]),
    ("similar", "fake.h5", ["give image files, or rows of the cache with --row PATH"]),
    ("similar", "fake.h5 image.png --count 0", ["--count", "1"]),
    ("predict", "real_head", ["missing argument 'IMAGE'", "featurecache predict --help"]),
    ("predict", "real_head image.png --batch-size -1", ["--batch-size", "1"]),
    ("predict", "real_head image.png --batch-size 4097", ["--batch-size", "4096"]),
    ("predict", "real_head image.png --max-pixels 0", ["--max-pixels", "1"]),
    ("finetune", "real_head photos x.keras --unfreeze predictions --max-pixels -1", ["--max-pixels", "1"]),
    ("evaluate", "fake_head fake.h5 --format html", ["--format", "--report FILE"]),
    ("evaluate", "fake_head fake.h5 --images photos", ["--images", "--report FILE"]),
    ("evaluate", "fake_head fake.h5 --report x.txt", ["x.txt", "--format", "html, json, markdown"]),
    ("evaluate", "fake_head fake.h5 --report x.html --format pdf", ["'pdf'", "html, json, markdown"]),
    ("evaluate", "fake_head fake.h5 --report x.html --images nowhere", ["nowhere", "neither a folder"]),
    ("evaluate", "fake_head fake.h5 --report x.csv --format html --predictions x.csv", ["the same file"]),
    ("compare", "fake_head fake.h5", ["at least two heads"]),
    ("compare", "fake_head fake_head fake.h5", ["given twice"]),
    ("audit", "fake.h5 --folds 1", ["--folds", "2"]),
    ("audit", "fake.h5 --near 2", ["--near", "1"]),
    ("curve", "fake.h5 --repeats 0", ["--repeats", "1"]),
    ("why", "photos", ["missing argument 'CACHE'", "featurecache why --help"]),
    ("verify", "", ["missing argument 'CACHE'", "featurecache verify --help"]),
    ("verify", "fake.h5 --recompute -1", ["--recompute", "greater than or equal to 0"]),
    ("verify", "fake.h5 --recompute some", ["--recompute", "integer"]),
    ("verify", "fake.h5 --recompute 1 --batch-size 5000", ["--batch-size", "4096"]),
    ("merge", "x.h5", ["missing argument 'CACHE'", "featurecache merge --help"]),
]

FAULTS = [
    ("extract", "nowhere x.h5", ["nowhere does not exist", "expected a folder"]),
    ("extract", "image.png x.h5", ["image.png", "neither a folder", ".parquet file"]),
    ("extract", "empty x.h5", ["no image files in", "empty", "looked for ."]),
    ("extract", "no_images x.h5", ["no image files in", "notes.txt", "looked for ."]),
    (
        "extract",
        "no_good_images x.h5 --weights random:0",
        ["none of the 2 images can be used", "a broken GIF file", "an empty file"],
    ),
    ("extract", "no_column.csv x.h5", ["no_column.csv", "path"]),
    ("extract", "photos x.h5 --backbone vgg17", ["unknown backbone 'vgg17'", "known:", "vgg16"]),
    ("extract", "photos x.h5 --taps fc9 --weights random:0", ["unknown tap", "'fc9'", "fc2"]),
    ("extract", "photos x.h5", ["vgg16", "are not available", "https://", "--weights PATH", "random:0"]),
    ("extract", "photos x.h5 --weights nowhere.h5", ["nowhere.h5", "no such file"]),
    ("extract", "photos x.h5 --weights best", ["best cannot be read: no such file", "imagenet", "random:SEED"]),
    ("extract", "photos x.h5 --weights random:x", ["random:x", "random:0"]),
    ("extract", "photos x.h5 --weights random:0 --precision half", ["precision 'half'", "mixed"]),
    (
        "extract",
        "photos x.h5 --weights random:0 --engine onnx",
        ["unknown engine 'onnx'", "auto, keras, numba, openvino"],
    ),
    (
        "extract",
        "photos x.h5 --weights random:0 --engine numba --precision mixed",
        ["float32, not in mixed precision", "--engine keras"],
    ),
    (
        "extract",
        "photos x.h5 --weights random:0 --engine numba --backbone mobilenet",
        ["numba does not know mobilenet", "--engine keras"],
    ),
    ("extract", "photos x.h5 --weights random:0 --dtype int8", ["dtype 'int8'", "float16"]),
    ("extract", "photos x.h5 --weights random:0 --resize stretch", ["'stretch'", "squash"]),
    ("extract", "photos x.h5 --weights random:0 --filter box", ["'box'", "lanczos"]),
    ("extract", "photos no_folder/x.h5", ["no_folder/x.h5", "no_folder does not exist", "make it first"]),
    ("extract", "photos image.png/x.h5", ["image.png is not a folder", "choose another path"]),
    ("extract", "photos text.h5 --weights random:0", ["text.h5", "not a cache"]),
    ("extract", "photos truncated.h5 --weights random:0", ["truncated.h5"]),
    ("extract", "photos folder --weights random:0", ["folder", "is a directory"]),
    (
        "extract",
        "photos real.h5 --backbone vgg16",
        ["backbone", "mobilenet_v2", "vgg16", "another path", "--replace"],
    ),
    (
        "extract",
        "photos real.h5 --backbone mobilenet_v2 --weights random:1 --filter nearest",
        ["weights is 'random:0', wanted 'random:1'", "filter is 'bilinear', wanted 'nearest'", "--replace"],
    ),
    ("extract", "photos fake.h5", ["backbone 'fake'", "not in the catalogue", "choose another path"]),
    ("info", "nowhere.h5", ["there is no cache", "nowhere.h5", "featurecache extract"]),
    ("info", "text.h5", ["text.h5", "not a cache"]),
    ("info", "truncated.h5", ["truncated.h5"]),
    ("info", "folder", ["folder", "is a directory"]),
    ("summary", "vgg17", ["unknown backbone 'vgg17'", "vgg16"]),
    ("train", "nowhere.h5 x", ["there is no cache", "nowhere.h5"]),
    ("train", "text.h5 x", ["text.h5", "not a cache"]),
    ("train", "fake.h5 x", ["features (16)", "predictions (4)"]),
    ("train", "fake.h5 x --tap fc2", ["unknown tap 'fc2'", "features, predictions"]),
    ("train", "fake.h5 x --tap features --head forest", ["unknown head 'forest'", "logreg", "softmax"]),
    ("train", "fake.h5 x --tap features --from nothing", ["there is no head nothing", "featurecache train"]),
    ("train", "fake.h5 x --tap features -p lr", ["lr", "lr=VALUE"]),
    ("train", "fake.h5 x --tap features --head logreg -p C=much", ["C is 'much'", "a number above 0"]),
    ("train", "fake.h5 x --tap features --head mlp -p hidden=8,x", ["hidden is '8,x'", "whole numbers of at least 1"]),
    ("train", "fake.h5 x --tap features --head lda -p shrinkage=2", ["shrinkage is", "auto or a number"]),
    ("train", "fake.h5 x --tap features --head majority -p C=1", ["unknown parameter 'C': majority has none"]),
    ("train", "fake.h5 x --tap features --head imagenet_map", ["uses predictions, not features"]),
    ("train", "fake.h5 x --tap features -p lr=1e38 -p optimizer=sgd", ["no longer a finite number", "lower learning"]),
    ("heads", "forest", ["unknown head 'forest'"]),
    ("train", "fake.h5 x --tap features -p =1", ["unknown parameter ''", "epochs"]),
    ("train", "fake.h5 x --tap features -p speed=1", ["unknown parameter 'speed'", "lr, epochs"]),
    ("train", "fake.h5 x --tap features -p lr=fast", ["lr is 'fast'", "a number above 0"]),
    ("train", "fake.h5 x --tap features -p lr=-1", ["lr is -1.0", "a number above 0"]),
    ("train", "fake.h5 x --tap features -p lr=nan", ["lr is nan", "a number above 0"]),
    ("train", "fake.h5 x --tap features -p epochs=0", ["epochs is 0", "at least 1"]),
    ("train", "fake.h5 x --tap features -p epochs=1.5", ["epochs is '1.5'", "a whole number"]),
    ("train", "fake.h5 x --tap features -p optimizer=fast -p l2=-1", ["optimizer is 'fast'", "adam", "l2 is -1.0"]),
    ("train", "fake.h5 fake_head --tap features", ["fake_head exists already", "another directory"]),
    ("train", "fake.h5 image.png --tap features", ["image.png exists already", "another directory"]),
    ("train", "fake.h5 no_folder/x --tap features", ["no_folder does not exist", "make it first"]),
    ("evaluate", "nowhere fake.h5", ["there is no head nowhere", "featurecache train"]),
    ("evaluate", "broken_head fake.h5", ["broken_head", "head.json is damaged"]),
    ("evaluate", "image.png fake.h5", ["image.png", "head.json"]),
    ("evaluate", "fake_head nowhere.h5", ["there is no cache", "nowhere.h5"]),
    ("evaluate", "fake_head fake.h5 --split test", ["no row is in the test split", "12 in valid", "--split all"]),
    ("evaluate", "fake_head fake.h5 --split trial", ["unknown split 'trial'", "train, valid"]),
    ("evaluate", "fake_head real.h5", ["features", "avg_pool, predictions", "train a new head"]),
    ("evaluate", "fake_head fake.h5 --predictions no_folder/x.csv", ["no_folder does not exist", "make it first"]),
    ("evaluate", "fake_head fake.h5 --predictions folder", ["folder", "is a directory", "choose another path"]),
    (
        "evaluate",
        "fake_head fake.h5 --predictions fake.h5",
        ["fake.h5 exists already", "not a predictions table", "choose another path"],
    ),
    ("evaluate", "fake_head nowhere.h5 --predictions image.png", ["image.png exists already", "choose another path"]),
    ("evaluate", "fake_head fake.h5 --predictions x.parquet", ["x.parquet", ".csv or .jsonl"]),
    ("audit", "fake.h5 --folds 41", ["folds is 41", "40 labelled rows"]),
    ("evaluate", "fake_head fake.h5 --report no_folder/x.html", ["no_folder does not exist", "make it first"]),
    (
        "evaluate",
        "fake_head fake.h5 --report folder --format html",
        ["folder", "is a directory", "choose another path"],
    ),
    ("evaluate", "fake_head fake.h5 --report text.h5 --format html", ["text.h5 exists already", "not a report"]),
    ("compare", "fake_head nowhere fake.h5", ["there is no head nowhere"]),
    ("compare", "fake_head real_head fake.h5", ["tap", "avg_pool", "features, predictions"]),
    ("compare", "fake_head other_head text.h5", ["text.h5", "not a cache"]),
    ("audit", "nowhere.h5", ["there is no cache", "nowhere.h5"]),
    ("audit", "fake.h5 --tap fc2", ["unknown tap 'fc2'", "features, predictions"]),
    ("audit", "fake.h5 --head forest", ["unknown head 'forest'"]),
    ("audit", "fake.h5 --report image.png --format html", ["image.png exists already", "not a report"]),
    ("curve", "text.h5", ["text.h5", "not a cache"]),
    ("curve", "fake.h5 --tap fc2", ["unknown tap 'fc2'", "features, predictions"]),
    ("curve", "fake.h5 -p speed=1", ["unknown parameter 'speed'"]),
    ("export-features", "fake.h5 x.xyz", ["unknown format 'x.xyz'", "parquet, npy, csv"]),
    ("export-features", "text.h5 x.npy", ["text.h5", "not a cache"]),
    ("export-features", "fake.h5 x.npy", ["unknown tap", "features, predictions"]),
    ("export-features", "fake.h5 no_file.csv --tap features", ["no_file.csv exists", "choose another path"]),
    ("precision", "fake.h5 fake_head", ["nothing to compare", "another precision, dtype, engine or device"]),
    ("precision", "fake.h5 fake_head --precision half", ["unknown precision 'half'", "float32, mixed"]),
    ("precision", "fake.h5 fake_head --precision mixed", ["unknown backbone 'fake'"]),
    ("precision", "text.h5 fake_head --dtype float16", ["text.h5", "not a cache"]),
    ("similar", "text.h5 image.png", ["text.h5", "not a cache"]),
    ("similar", "fake.h5 --row nope.png --tap features", ["unknown row 'nope.png'"]),
    ("similar", "fake.h5 --row nope.png", ["unknown tap", "features, predictions"]),
    ("similar", "fake.h5 nowhere.png --tap features", ["none of the 1 images", "nowhere.png", "no such file"]),
    ("predict", "nowhere image.png", ["there is no head nowhere", "featurecache train"]),
    ("predict", "real_head nowhere.png", ["none of the 1 images", "nowhere.png", "no such file"]),
    ("predict", "real_head no_good_images", ["none of the 2 images", "x.jpg"]),
    ("predict", "real_head empty", ["no image files in", "empty"]),
    ("predict", "real_head image.png --weights random:1", ["weights", "'random:0'", "'random:1'"]),
    ("predict", "fake_head image.png", ["unknown backbone 'fake'"]),
    ("why", "nowhere fake.h5 --weights random:0", ["nowhere does not exist", "expected a folder"]),
    ("why", "empty fake.h5 --weights random:0", ["no image files in", "empty"]),
    ("why", "photos text.h5 --weights random:0", ["text.h5", "not a cache"]),
    ("why", "photos folder --weights random:0", ["folder", "is a directory"]),
    ("why", "photos x.h5", ["vgg16", "are not available", "random:0"]),
    ("why", "photos x.h5 --backbone vgg17", ["unknown backbone 'vgg17'", "vgg16"]),
    ("verify", "fake.h5 --recompute 2", ["unknown backbone 'fake'"]),
    ("verify", "real.h5 --recompute 2 --weights random:1", ["weights is 'random:0', wanted 'random:1'"]),
    ("verify", "real.h5 --recompute 2 --images empty", ["all 2 chosen images", "empty", "--images"]),
    (
        "merge",
        "x.h5 fake.h5 part.h5",
        ["part.h5 is part 1/2 of a list of images, and 2/2 of the same list are missing"],
    ),
    (
        "extract",
        "photos part.h5 --part 2/2",
        ["part.h5 is of part 1/2 of the images", "choose another path, or --replace"],
    ),
    ("merge", "x.h5 fake.h5 nowhere.h5", ["there is no cache", "nowhere.h5"]),
    ("merge", "x.h5 text.h5 fake.h5", ["text.h5", "not a cache"]),
    ("merge", "x.h5 fake.h5 folder", ["folder", "is a directory"]),
    ("merge", "x.h5 fake.h5 real.h5", ["real.h5 was made with another recipe", "backbone is 'mobilenet_v2'"]),
    ("merge", "real.h5 fake.h5 fake.h5", ["real.h5 exists already", "choose another path"]),
    ("merge", "no_folder/x.h5 fake.h5 fake.h5", ["no_folder does not exist", "make it first"]),
    ("demo", "--out folder", ["folder exists already", "--out"]),
    ("demo", "--out no_folder/demo", ["no_folder does not exist", "make it first"]),
    ("demo", "--out demo --weights nowhere.h5", ["nowhere.h5", "no such file"]),
]


def check(done, code, expected):
    assert done.code == code, done
    missing = [text for text in expected if text not in done.error]
    assert not missing, done.error


@pytest.mark.parametrize(("name", "arguments", "expected"), USAGE)
def test_wrong_usage(invoke, place, contents, monkeypatch, name, arguments, expected):
    monkeypatch.chdir(place)
    before = contents(place)
    check(invoke(*name.split(), *arguments.split()), 2, expected)
    assert contents(place) == before


@pytest.mark.parametrize(("name", "arguments", "expected"), FAULTS)
def test_fault(invoke, place, contents, monkeypatch, name, arguments, expected):
    monkeypatch.chdir(place)
    before = contents(place)
    check(invoke(name, *arguments.split()), 1, expected)
    assert contents(place) == before


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ("extract photos no_folder/x.h5 --json", 1, ["no_folder does not exist"]),
        ("train fake.h5 x --tap fc2", 1, ["unknown tap 'fc2'"]),
        ("info truncated.h5 --json", 1, ["truncated.h5"]),
        ("evaluate broken_head fake.h5", 1, ["head.json is damaged"]),
        ("predict nowhere image.png --json", 1, ["nowhere"]),
        ("extract photos", 2, ["missing argument"]),
    ],
)
def test_in_a_process_of_its_own(command, place, contents, arguments, code, expected):
    before = contents(place)
    check(command(*arguments.split(), cwd=place), code, expected)
    assert contents(place) == before


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ("train fake.h5 x --tap fc2 --json", 1, ["unknown tap 'fc2'"]),
        ("evaluate broken_head fake.h5 --json", 1, ["head.json is damaged"]),
        ("extract photos --json", 2, ["missing argument"]),
    ],
)
def test_an_error_with_json_is_the_same_line(invoke, place, contents, monkeypatch, arguments, code, expected):
    monkeypatch.chdir(place)
    before = contents(place)
    check(invoke(*arguments.split()), code, expected)
    assert contents(place) == before


@pytest.mark.parametrize("name", ["nowhere.h5", "text.h5", "truncated.h5", "folder"])
def test_verify_of_what_is_no_whole_cache_is_a_problem(invoke, place, contents, monkeypatch, name):
    monkeypatch.chdir(place)
    before = contents(place)
    done = invoke("verify", name)
    assert (done.code, done.err) == (1, "")
    (line,) = done.out.splitlines()
    assert line.startswith("problem: ")
    assert name in line
    assert contents(place) == before


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_an_earlier_table_of_predictions_is_replaced(invoke, place, monkeypatch, json):
    monkeypatch.chdir(place)
    for split, rows in (("train", 28), ("valid", 12)):
        done = invoke("evaluate", "fake_head", "fake.h5", "--split", split, "--predictions", "table.csv", *json)
        assert done.code == 0, done.err
        assert len(Path("table.csv").read_text().splitlines()) == 1 + rows


def test_predictions_do_not_replace_what_may_not_be_read(invoke, unprivileged, open_folder, fake_head, fake_cache):
    table = open_folder / "table.csv"
    for path, target in ((open_folder / "head", fake_head), (open_folder / "c.h5", fake_cache)):
        copy = shutil.copytree if target.is_dir() else shutil.copyfile
        copy(target, path)
    table.write_text("mine")
    table.chmod(0)
    open_folder.chmod(0o777)
    with unprivileged():
        done = invoke("evaluate", open_folder / "head", open_folder / "c.h5", "--predictions", table)
    check(done, 1, ["table.csv exists already", "choose another path"])


def test_predictions_do_not_wait_for_a_pipe(invoke, tmp_path, fake_head, fake_cache):
    os.mkfifo(tmp_path / "pipe")
    done = invoke("evaluate", fake_head, fake_cache, "--predictions", tmp_path / "pipe")
    check(done, 1, ["pipe exists already", "choose another path"])


@pytest.mark.parametrize("shape", [(1 << 60,), None])
def test_memory_that_does_not_suffice(invoke, tmp_path, images, contents, monkeypatch, shape):
    def extract(*_, **__):
        if shape is None:
            raise MemoryError
        np.empty(shape, np.uint8)

    monkeypatch.setattr("featurecache.extract", extract)
    done = invoke("extract", images, tmp_path / "x.h5")
    check(done, 1, ["out of memory", "lower --batch-size"] + (["Unable to allocate"] if shape else []))
    assert contents(tmp_path) == {}


def test_memory_that_does_not_suffice_for_a_command_without_batches(invoke, fake_cache, monkeypatch):
    def open_(_):
        raise MemoryError

    monkeypatch.setattr("featurecache.FeatureCache.open", open_)
    done = invoke("info", fake_cache)
    check(done, 1, ["out of memory; close other programs"])
    assert "--batch-size" not in done.error


def test_weights_of_another_network(invoke, place, contents, keras_file):
    before = contents(place)
    wrong = "is not a weight file of mobilenet_v2"
    for weights, words in ((keras_file, [wrong, "--backbone"]), (place / "text.weights.h5", ["is not an HDF5 file"])):
        done = invoke("extract", place / "photos", place / "x.h5", "--backbone", "mobilenet_v2", "--weights", weights)
        check(done, 1, [str(weights), *words])
    assert contents(place) == before


@pytest.fixture(scope="session")
def keras_file(tmp_path_factory):
    """A weight file of a network that is in no catalogue."""
    import keras

    path = tmp_path_factory.mktemp("weights") / "other.weights.h5"
    with warnings.catch_warnings(action="ignore"):
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(path)
    return path


def test_a_demo_that_fails_leaves_nothing(invoke, tmp_path, keras_file):
    check(invoke("demo", "--out", tmp_path / "demo", "--weights", keras_file), 1, [str(keras_file), "vgg16"])
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_device(invoke, tmp_path, images, contents):
    done = invoke("extract", images, tmp_path / "x.h5", *REAL, "--device", "tpu")
    check(done, 1, ["unknown device 'tpu'", "auto, cpu, gpu"])
    assert contents(tmp_path) == {}


@pytest.mark.usefixtures("fast_network")
def test_a_corrupt_image_among_good_ones(invoke, tmp_path, write_images):
    write_images(tmp_path / "photos", 5)
    good = (tmp_path / "photos" / "000.png").read_bytes()
    (tmp_path / "photos" / "bad.png").write_bytes(good[: len(good) // 2])
    cache = tmp_path / "c.h5"
    done = invoke("extract", tmp_path / "photos", cache, *REAL, "--batch-size", "4")
    assert done.code == 0
    assert f"{cache}: 5 rows of mobilenet_v2 (avg_pool 1280, predictions 1000), 1 failure\n" in done.out
    info = invoke("info", cache, "--json").json
    assert info["rows"] == 5
    (failure,) = info["failures"]
    assert failure["path"] == "bad.png"
    assert done.err.endswith(f"failed: bad.png: {failure['reason']}\n")


@pytest.mark.usefixtures("fast_network")
def test_strict_fails_after_the_good_rows_are_saved(invoke, tmp_path, write_images):
    write_images(tmp_path / "photos", 3)
    (tmp_path / "photos" / "bad.png").write_bytes(b"bad")
    path = tmp_path / "c.h5"
    done = invoke("extract", tmp_path / "photos", path, *REAL, "--batch-size", "4", "--strict", "--json")
    assert done.code == 1
    assert done.err.endswith(f"error: 1 image failed, and --strict was given; all good rows are saved in {path}\n")
    assert "failed: bad.png: " in done.err
    assert invoke("info", path, "--json").json["rows"] == 3
    assert sorted(each.name for each in tmp_path.iterdir()) == ["c.h5", "photos"]


def test_names_that_are_not_utf8_or_have_line_breaks(command, tmp_path, write_images, hostile, monkeypatch):
    monkeypatch.setenv("PASS_SECONDS", "0")
    photos = os.fsencode(tmp_path) + b"/photos"
    write_images(tmp_path / "photos", 3)
    for number, name in enumerate((b"\xff\xfe.png", hostile.encode() + b".png", "Füße.png".encode())):
        os.rename(photos + f"/{number:03d}.png".encode(), photos + b"/" + name)  # noqa: PTH104 - no text
    Path(os.fsdecode(photos + b"/\xff bad.png")).write_bytes(b"bad")
    cache = os.fsdecode(b"\xff\n.h5")
    program = (sys.executable, "-c", SLOW)
    done = command("extract", "photos", cache, *REAL, "--batch-size", "4", cwd=tmp_path, program=program)
    assert done.code == 0, done.err
    assert "\\udcff\\n.h5: 3 rows" in done.out
    assert "failed: %FF bad.png: " in done.err
    info = command("info", cache, cwd=tmp_path)
    assert "\x1b" not in done.out + done.err + info.out + info.err
    assert command("info", cache, "--json", cwd=tmp_path).json["rows"] == 3
    wrong = command("info", os.fsdecode(b"no\xff\n.h5"), cwd=tmp_path)
    check(wrong, 1, ["there is no cache no\\udcff\\n.h5"])


def test_no_permission(invoke, unprivileged, open_folder, fake_cache, write_images):
    write_images(open_folder / "photos", 2)
    for name in ("readable.h5", "unreadable.h5"):
        (open_folder / name).write_bytes(fake_cache.read_bytes())
    for name in ("writable", "closed", "secret"):
        (open_folder / name).mkdir()
    modes = {"unreadable.h5": 0, "secret": 0, "closed": 0o555, "writable": 0o777}
    for name, mode in modes.items():
        (open_folder / name).chmod(mode)
    closed = ["no permission to write in the folder", "closed"]
    cases = [
        ("extract photos closed/x.h5", closed),
        ("extract secret writable/x.h5", ["secret", "permission denied", "make it readable"]),
        ("extract photos writable/x.h5 --weights secret/x.h5", ["secret/x.h5", "permission denied"]),
        ("info unreadable.h5", ["unreadable.h5", "permission denied"]),
        ("train readable.h5 closed/x --tap features --head logreg", closed),
        ("train unreadable.h5 writable/x --tap features", ["unreadable.h5", "permission denied"]),
        ("demo --out closed/x", closed),
    ]
    with contextlib.chdir(open_folder), unprivileged():
        for arguments, expected in cases:
            check(invoke(*arguments.split()), 1, expected)
    assert list((open_folder / "writable").iterdir()) == list((open_folder / "closed").iterdir()) == []


@pytest.mark.usefixtures("fast_network")
def test_an_image_that_may_not_be_read_is_a_failure(invoke, unprivileged, open_folder, write_images):
    write_images(open_folder / "photos", 3)
    (open_folder / "photos" / "001.png").chmod(0)
    (open_folder / "writable").mkdir()
    (open_folder / "writable").chmod(0o777)
    with unprivileged():
        done = invoke("extract", open_folder / "photos", open_folder / "writable" / "x.h5", *REAL)
    assert done.code == 0, done.err
    assert "failed: 001.png: no permission to read the file\n" in done.err


def test_the_version_is_that_of_the_package(invoke):
    done = invoke("--version")
    assert (done.code, done.out, done.err) == (0, f"featurecache {version('featurecache')}\n", "")


@pytest.mark.parametrize("arguments", [("info", "CACHE"), ("--help",), ("train", "--help")])
def test_a_full_disk_or_a_reader_that_leaves_is_no_traceback(start, fake_cache, arguments):
    arguments = [fake_cache if argument == "CACHE" else argument for argument in arguments]
    with Path("/dev/full").open("w") as full:
        process = start(*arguments, stdout=full, stderr=-1, text=True)
        assert process.communicate(timeout=60)[1] == "error: no space left on device\n"
        assert process.returncode == 1
