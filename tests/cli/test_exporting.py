"""``featurecache export`` and ``finetune``: their output, files and errors."""

import json
import zipfile

import joblib
import numpy as np
import onnxruntime
import pytest

import heads
from featurecache import FeatureCache
from featurecache.images.decode import DecodeRules, decode
from heads import TrainedHead

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]


def test_export_makes_a_model_that_says_what_the_head_says(command, real_head, real_cache, images, tmp_path):
    import keras

    path = tmp_path / "m.keras"
    done = command("export", real_head, path)
    assert (done.code, done.out) == (
        0,
        f"{path}: mobilenet_v2 up to avg_pool and logreg; classes in this order: blue, red\n",
    )
    sizes, building = done.err.splitlines()
    assert sizes.startswith("the model takes images of any size, and resizes them to 224 x 224 as the cache did")
    assert building == "building mobilenet_v2 with random:0 weights"
    features = FeatureCache.open(real_cache).features("avg_pool", split="valid")
    pixels = [decode((images / name).read_bytes(), DecodeRules((224, 224))) for name in features.paths]
    found = keras.saving.load_model(path).predict(np.stack(pixels), verbose=0)
    np.testing.assert_allclose(found, TrainedHead.load(real_head).predict_proba(features.X), rtol=0, atol=1e-5)
    assert json.loads(zipfile.ZipFile(path).read("featurecache.json"))["classes"] == ["blue", "red"]


def test_export_makes_a_scikit_learn_object_and_warns_of_it(command, real_head, real_cache, tmp_path):
    path = tmp_path / "m.joblib"
    done = command("export", real_head, path)
    assert (done.code, done.out) == (0, f"{path}: logreg; classes in this order: blue, red\n")
    assert done.err == "a joblib file can run code when it is loaded: load only files that you trust\n"
    features = FeatureCache.open(real_cache).features("avg_pool", split="valid")
    assert list(joblib.load(path).predict(features.X)) == [path.split("/")[1] for path in features.paths]


def test_export_writes_a_head_alone(invoke, real_head, real_cache, tmp_path):
    path = tmp_path / "m.onnx"
    done = invoke("export", real_head, path, "--head-only")
    assert (done.out, done.err) == (f"{path}: logreg; classes in this order: blue, red\n", "")
    features = FeatureCache.open(real_cache).features("avg_pool", split="valid")
    (best,) = onnxruntime.InferenceSession(path).run(["class"], {"features": features.X})
    assert [features.classes[each] for each in best] == [path.split("/")[1] for path in features.paths]
    written = invoke("export", real_head, tmp_path / "m.xml", "--head-only", "--json").json
    assert written["backbone"] is None
    assert written["size"] == sum((tmp_path / name).stat().st_size for name in ("m.xml", "m.bin"))


def test_export_prints_one_json_object(invoke, real_head, tmp_path):
    path = tmp_path / "m.joblib"
    done = invoke("export", real_head, path, "--json")
    assert done.json == {
        "path": str(path),
        "head": "logreg",
        "tap": "avg_pool",
        "classes": ["blue", "red"],
        "backbone": None,
        "size": path.stat().st_size,
        "warnings": [],
    }


def test_finetune_prints_a_line_an_epoch_and_lists_bad_images(invoke, real_head, write_images, tmp_path, monkeypatch):
    tune, tuned = heads.finetune, []

    def tune_once(*arguments, on_epoch, **options):
        if not tuned:
            tuned.append(tune(*arguments, on_epoch=on_epoch, **options))
        else:
            for epoch in tuned[0].epochs:
                on_epoch(epoch)
        return tuned[0]

    monkeypatch.setattr(heads, "finetune", tune_once)
    write_images(tmp_path / "photos" / "train" / "red", 3, (220, 40, 30))
    write_images(tmp_path / "photos" / "train" / "blue", 3, (30, 40, 220))
    write_images(tmp_path / "photos" / "valid" / "blue", 2, (30, 40, 220), 1)
    (tmp_path / "photos" / "train" / "red" / "bad.png").write_bytes(b"no image")
    path = tmp_path / "m.keras"
    options = ("--unfreeze", "predictions", "-p", "lr=1e-4", "-p", "batch_size=4", "--device", "cpu")
    done = invoke("finetune", real_head, tmp_path / "photos", path, *options)
    assert done.code == 0, done.err
    header, start, epoch, last = done.out.splitlines()
    assert header.split() == ["epoch", "loss", "accuracy", "valid_loss", "valid_accuracy"]
    assert [line.split()[0] for line in (start, epoch)] == ["0", "1"]
    assert last.startswith(f"{path}: 6 train and 2 valid images, 2,562 of 2,263,107 weights trained, ")
    assert "failed: train/red/bad.png: a text that begins with 'no image'" in done.err

    again = invoke("finetune", real_head, tmp_path / "photos", tmp_path / "n.keras", *options, "--json").json
    assert again.keys() >= {
        "model",
        "unfreeze",
        "params",
        "seed",
        "n_train",
        "n_valid",
        "epochs",
        "seconds",
        "warnings",
    }
    assert [each["epoch"] for each in again["epochs"]] == [0, 1]
    assert [each["path"] for each in again["failures"]] == ["train/red/bad.png"]
    assert path.is_file()


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("export HEAD there.keras", 1, ["there.keras exists already", "choose another name"]),
        ("export HEAD m.pb", 1, ["the suffix '.pb'", ".keras for", ".onnx for ONNX", ".xml for OpenVINO", ".joblib"]),
        ("export HEAD m.keras --head-only", 1, ["has network and head", "written to .onnx, .xml, .joblib"]),
        ("export HEAD m.onnx --head-only --weights random:0", 1, ["leave out --weights"]),
        ("export HEAD nowhere/m.keras", 1, ["nowhere does not exist", "make it first"]),
        ("export HEAD m.keras --weights random:1", 1, ["weights", "'random:0'", "'random:1'"]),
        ("export HEAD m.joblib --weights random:0", 1, ["leave out --weights"]),
        ("export nowhere m.keras", 1, ["there is no head nowhere"]),
        ("export FAKE m.keras", 1, ["unknown backbone 'fake'", "; --head-only writes the head alone to .onnx or .xml"]),
        ("finetune HEAD photos m.keras", 2, ["missing option '--unfreeze'"]),
        ("finetune HEAD photos m.keras --unfreeze blok16", 1, ["stage of mobilenet_v2", "did you mean 'block16'"]),
        ("finetune HEAD photos m.keras --unfreeze block16 -p lr=fast", 1, ["lr is 'fast'", "a number above 0"]),
        ("finetune HEAD photos m.keras --unfreeze block16 -p rate=1", 1, ["unknown parameter 'rate'", "batch_size"]),
        ("finetune HEAD photos there.keras --unfreeze block16", 1, ["there.keras exists already"]),
        ("finetune HEAD nowhere m.keras --unfreeze block16", 1, ["nowhere does not exist"]),
        ("finetune HEAD flat m.keras --unfreeze block16", 1, ["the images have none", "class folders"]),
    ],
)
def test_what_is_refused(invoke, real_head, fake_head, images, write_images, tmp_path, monkeypatch, line, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.keras").write_text("precious")
    (tmp_path / "photos").symlink_to(images)
    write_images(tmp_path / "flat", 2)
    before = sorted(tmp_path.iterdir())
    done = invoke(*line.replace("HEAD", str(real_head)).replace("FAKE", str(fake_head)).split())
    assert done.code == code
    for word in words:
        assert word in done.error
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.keras").read_text() == "precious"
