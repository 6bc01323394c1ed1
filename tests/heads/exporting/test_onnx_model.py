"""Network and head as ONNX, OpenVINO and LiteRT models: they say of images what the head says."""

import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import featurecache
from featurecache.backbones.openvino_network import core
from featurecache.errors import OptionError, OutputError
from heads import export, train
from heads.errors import HeadError, MismatchError
from heads.exporting import keras_model, onnx_model, openvino_model
from tests.heads import networks

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(networks.TENSORFLOW_AND_NUMPY)]

SIDES = (20, 24)
OUTPUTS = Path(__file__).parents[3] / "docs" / "outputs.md"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A cache of 40 small images in two classes, by a network of one's own that has small and large weights."""
    import keras

    layers, folder = keras.layers, tmp_path_factory.mktemp("photos")
    keras.utils.set_random_seed(7)
    keras.Sequential(
        [
            keras.Input((*SIDES, 3)),
            layers.Rescaling(1 / 127.5, -1.0),
            layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.5, 0.6, 0.7]),
            layers.ZeroPadding2D(1),
            layers.Conv2D(32, 3, strides=2, name="first"),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3, padding="same", activation="swish"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),  # 2**14 values and more are large
            layers.GlobalAveragePooling2D(),
            layers.Dense(256, name="top"),
        ]
    ).save(folder / "mine.keras")
    generator = np.random.default_rng(0)
    for number in range(40):
        path = folder / "images" / networks.CLASSES[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(90 * (number % 2), 166 + 90 * (number % 2), (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(SIDES[::-1], Image.Resampling.BICUBIC).save(path)
    cache = featurecache.extract(
        folder / "images", folder / "photos.h5", backbone=str(folder / "mine.keras"), taps=["top"]
    )
    return cache, decoded(folder / "images", cache.features("top").paths)


@pytest.fixture(scope="module")
def head(photos):
    return train(photos[0], "logreg", holdout=0)


def decoded(folder, paths):
    return np.stack([np.asarray(Image.open(folder / path).convert("RGB")) for path in paths])


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def openvino_says(path, pixels):
    model = core().read_model(path)
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled([pixels])
    return model, {output.any_name: found[output.any_name] for output in model.outputs}


def assert_same(found, head, X):
    expected = head.predict_proba(X)
    np.testing.assert_allclose(found["probabilities"], expected, rtol=0, atol=1e-5)
    assert found["class"].tolist() == expected.argmax(axis=1).tolist()
    assert 0 < found["class"].mean() < 1


def test_onnx_and_openvino_say_of_images_what_the_head_says(photos, head, tmp_path, monkeypatch):
    cache, pixels = photos
    network = onnx_model._network
    known = []

    def once(*arguments):
        known.append(known[0] if known else network(*arguments).SerializeToString())
        return onnx.load_from_string(known[0])

    monkeypatch.setattr(onnx_model, "_network", once)
    X, said = cache.features("top").X, []
    path = export(head, tmp_path / "m.onnx", notify=said.append)
    assert said[0].startswith("the model takes images of 20 x 24: resize them as the cache did (squash, bilinear, ant")
    onnx.checker.check_model(path, full_check=True)
    session = session_of(path)
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["n", *SIDES, 3])
    assert [(each.name, each.shape) for each in session.get_outputs()] == [
        ("probabilities", ["n", 2]),
        ("class", ["n"]),
    ]
    described = json.loads(session.get_modelmeta().custom_metadata_map["featurecache.json"])
    assert described["classes"] == list(head.classes)
    assert described["head_sha256"] == head.identity
    for rows in (slice(None), slice(19, 21)):
        found = session.run(["probabilities", "class"], {"images": pixels[rows]})
        assert_same(dict(zip(("probabilities", "class"), found, strict=True)), head, X[rows])

    model, found = openvino_says(export(head, tmp_path / "m.xml"), pixels)
    assert_same(found, head, X)
    assert json.loads(model.get_rt_info(["featurecache.json"]).astype(str)) == described
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.bin", "m.onnx", "m.xml"]

    labels = cache.with_labels(dict(zip(cache.paths.tolist(), ["a|b", "b", "a", "|"] * 10, strict=True)))
    tagged = train(labels, "softmax", params={"epochs": 2}, target="labels", holdout=0)
    found = session_of(export(tagged, tmp_path / "labels.onnx")).run(None, {"images": pixels})
    np.testing.assert_allclose(found[0], tagged.predict_proba(X), rtol=0, atol=1e-5)
    assert (found[1] == tagged.predict_labels(X)).all()


def test_an_export_takes_a_few_times_the_memory_of_the_weights(photos, tmp_path):
    import keras

    model = keras.Sequential([keras.Input((*SIDES, 3)), keras.layers.Flatten(), keras.layers.Dense(7_000, name="top")])
    model.save(tmp_path / "large.keras")
    size = 4 * model.count_params()
    large = featurecache.extract(
        photos[0].path.parent / "images",
        tmp_path / "large.h5",
        backbone=str(tmp_path / "large.keras"),
        taps=["top"],
        preprocess="unit",
    )
    train(large, "logreg", holdout=0).save(tmp_path / "head")
    program = """
import re
import sys
from pathlib import Path
from featurecache.backbones.keras_runtime import load_keras
import heads

def peak():  # unlike that of getrusage, it does not begin with the peak of the process that started this one
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

folder = Path(sys.argv[1])
load_keras()
import tf2onnx

head, before = heads.TrainedHead.load(folder / "head"), peak()
for name in ("m.onnx", "m.xml"):
    heads.export(head, folder / name)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert size < int(done.stdout) < 10 * size


def test_litert_says_of_an_image_what_the_head_says(photos, head, tmp_path):
    cache, pixels = photos
    X = cache.features("top").X
    path = export(head, tmp_path / "m.tflite")
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("featurecache.json"))["classes"] == list(head.classes)
    one_vs_rest = train(cache, "svm", holdout=0)
    for each, file in ((head, path), (one_vs_rest, export(one_vs_rest, tmp_path / "svm.tflite"))):
        found = np.concatenate([litert_says(file, pixels[row : row + 1]) for row in range(0, 40, 7)])
        np.testing.assert_allclose(found, each.predict_proba(X)[::7], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def litert_says(path, image):
    import tensorflow as tf

    with pytest.warns(UserWarning, match="Interpreter is deprecated"):
        interpreter = tf.lite.Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(taken["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(given["index"])


@pytest.mark.real_data
def test_photographs_through_a_pretrained_network_in_a_program_of_ten_lines(cats_and_dogs, tmp_path, mobilenet_weights):
    """The program of the document, which does not have this project, on files as they are."""
    cache = featurecache.FeatureCache.open(cats_and_dogs / "catsdogs.h5")
    head = train(cache, "logreg", tap="avg_pool")
    export(head, tmp_path / "pets.onnx", weights=str(mobilenet_weights))
    program = re.search(r"```python\n(import json\n.*?)```", OUTPUTS.read_text("utf-8"), re.DOTALL)[1]
    assert "onnxruntime" in program
    assert "heads" not in program
    rows = cache.features("avg_pool", "valid").take(slice(None, None, 4))
    photographs = [cats_and_dogs / "catsdogs" / path for path in rows.paths]
    done = subprocess.run(
        [sys.executable, "-c", program, *photographs], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = [
        line.removeprefix(str(path)).split() for line, path in zip(done.stdout.splitlines(), photographs, strict=True)
    ]
    expected = head.predict_proba(rows.X)
    assert [best for best, *_ in said] == [head.classes[best] for best in expected.argmax(axis=1)]
    np.testing.assert_allclose([[float(each) for each in row] for _, *row in said], expected, rtol=0, atol=1e-5)
    assert len(said) >= 20


def test_an_openvino_model_has_two_files_or_none(head, tmp_path, monkeypatch):
    path = tmp_path / "m.xml"
    (tmp_path / "m.bin").write_text("precious")
    with pytest.raises(OutputError, match=r"m\.bin exists already"):
        export(head, path, head_only=True)
    assert (tmp_path / "m.bin").read_text() == "precious"
    (tmp_path / "m.bin").unlink()
    publish = openvino_model.publish_written

    def interrupted(place, write, **options):
        if place == path:
            raise KeyboardInterrupt
        publish(place, write, **options)

    monkeypatch.setattr(openvino_model, "publish_written", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(head, path, head_only=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "name", "words"),
    [
        ("onnx", "m.onnx", r"ONNX is not installed: pip install 'featurecache\[onnx\]'"),
        ("tf2onnx", "m.onnx", r"tf2onnx, with which Keras .* is not installed: pip install 'featurecache\[onnx\]'"),
        ("openvino", "m.xml", r"OpenVINO is not installed: pip install 'featurecache\[fast,onnx\]'"),
    ],
)
def test_a_missing_package_is_named_before_any_work(head, tmp_path, monkeypatch, missing, name, words):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr("heads.exporting.export.network_of", None)
    with pytest.raises(HeadError, match=words):
        export(head, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("memory", "largest", "words"),
    [
        (
            10_000,
            2e9,
            r"the export of the model takes about 0\.0 GB of memory, and 0\.0 GB are free; export the head alone",
        ),
        (1e12, 1_000, r"takes 0\.0 GB, more than the 2 GB that a \.onnx file can have"),
    ],
)
def test_a_network_that_is_too_large_is_refused(head, tmp_path, monkeypatch, memory, largest, words):
    monkeypatch.setattr(onnx_model, "free_memory", lambda: memory)
    monkeypatch.setattr(onnx_model, "_LARGEST", largest)
    with pytest.raises(HeadError, match=words):
        export(head, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        (".onnx", "Keras converts networks to ONNX on TensorFlow, and runs on jax"),
        (".tflite", "Keras converts networks to LiteRT on TensorFlow, and runs on jax"),
        (".xml", "Keras runs on jax here, and OpenVINO converts what TensorFlow runs"),
    ],
)
def test_networks_are_converted_on_tensorflow_alone(head, tmp_path, monkeypatch, suffix, words):
    monkeypatch.setattr(keras_model.load_keras().backend, "backend", lambda: "jax")
    with pytest.raises(HeadError, match=words):
        export(head, tmp_path / f"m{suffix}")


def test_operations_that_onnx_lacks_are_refused(photos, tmp_path, caplog):
    import keras

    images = keras.Input((*SIDES, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.ops.erfinv(images / 512))
    keras.Model(images, keras.layers.Dense(4, name="top")(pooled)).save(tmp_path / "odd.keras")
    odd = featurecache.extract(
        photos[0].path.parent / "images",
        tmp_path / "odd.h5",
        backbone=str(tmp_path / "odd.keras"),
        taps=["top"],
        preprocess="unit",
    )
    head = train(odd, "centroid", holdout=0)
    with pytest.raises(HeadError, match=r"^Keras cannot convert the model to ONNX \(No Op registered for Erfinv"):
        export(head, tmp_path / "m.onnx")
    assert not [each for each in caplog.records if each.name.startswith("tf2onnx")]
    assert not (tmp_path / "m.onnx").exists()


def test_a_network_that_openvino_computes_otherwise_is_refused(head, tmp_path, monkeypatch):
    monkeypatch.setattr("featurecache.backbones.openvino_network.TOLERANCE", 1e-12)
    with pytest.raises(HeadError, match=r"^OpenVINO computes top of the model otherwise than Keras, by "):
        export(head, tmp_path / "m.xml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("suffix", "form", "old", "needed"), [(".onnx", "ONNX", "3.11.3", "3.12"), (".tflite", "LiteRT", "3.12.0", "3.13")]
)
def test_an_old_keras_is_named(head, tmp_path, monkeypatch, suffix, form, old, needed):
    monkeypatch.setattr(keras_model.load_keras(), "__version__", old)
    with pytest.raises(
        HeadError, match=f"^the export to {form} needs Keras {needed}, found {old}: pip install -U keras$"
    ):
        export(head, tmp_path / f"m{suffix}")


@pytest.mark.parametrize(("suffix", "error"), [(".onnx", MemoryError()), (".tflite", OSError(28, "No space left"))])
def test_a_full_disk_is_not_the_networks_fault(head, tmp_path, monkeypatch, suffix, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(keras_model.load_keras().Model, "export", fail)
    with pytest.raises(type(error)):
        export(head, tmp_path / f"m{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_operations_that_litert_lacks_are_refused(head, tmp_path, monkeypatch):
    converted = [b"TFL3 Flex\x08\0\0\0FlexNet/kernel\0", b"TFL3\x07\0\0\0FlexErf\0"]
    monkeypatch.setattr(
        keras_model.load_keras().Model, "export", lambda _, path, **__: Path(path).write_bytes(converted.pop(0))
    )
    assert export(head, tmp_path / "m.tflite").is_file()  # a layer may have such a name
    with pytest.raises(HeadError, match=r"has operations that LiteRT does not have; export it to a \.onnx file"):
        export(head, tmp_path / "n.tflite")


def test_options_that_do_not_fit_are_refused(head, tmp_path):
    for suffix in (".keras", ".tflite"):
        with pytest.raises(
            OptionError, match=r"has network and head; the head alone can be written to \.onnx, \.xml, "
        ):
            export(head, tmp_path / f"m{suffix}", head_only=True)
    with pytest.raises(OptionError, match="leave out --weights"):
        export(head, tmp_path / "m.onnx", head_only=True, weights="random:0")
    with pytest.raises(MismatchError, match=r"export to \.tflite needs a head of the target 'class'"):
        export(replace(head, target="labels"), tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []
