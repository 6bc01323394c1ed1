"""The OpenVINO engine: Keras's features, from a file that is made once; nothing but its image decides on a row."""

import errno
import hashlib
import json
import os
import re
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from featurecache.backbones import keras_runtime, openvino_engine, openvino_network
from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.backbones.openvino_engine import OpenVinoBackbone
from featurecache.backbones.protocol import EngineFault
from featurecache.errors import UnknownNameError, WeightsError
from featurecache.storage import publish

TAPS = ("avg_pool", "logits", "predictions")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache_of_this_module(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture(scope="module")
def images(photographs):
    return photographs(5)


@pytest.fixture(scope="module")
def start(weights_of, folder):
    """Return a function that starts MobileNet; the first start converts it."""

    def started(**options):
        return OpenVinoBackbone(*weights_of("mobilenet"), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        said = []
        first = started(notify=said.append)
        assert [line.split()[:2] for line in said] == [["converting", "mobilenet"]]
        started.first = first
    return started


@pytest.fixture
def kept(start):
    """Return the file of the converted network; it is as it was after the test."""
    (path,) = openvino_network.kept_folder().glob("mobilenet-*.openvino")
    data = path.read_bytes()
    yield path
    path.write_bytes(data)


@pytest.fixture
def converted_again(kept, monkeypatch):
    """Count conversions, and let them read what is kept now: they would take seconds."""
    data, made = np.fromfile(kept, np.uint8), []

    def converted(network_spec, *_):
        made.append(network_spec.name)
        return data

    monkeypatch.setattr(openvino_network, "_converted", converted)
    return made


def assert_same(found, expected):
    for tap, values in expected.items():
        np.testing.assert_array_equal(found[tap], values, err_msg=tap)


def test_a_later_start_computes_the_same_bits_and_converts_nothing(start, images, converted_again):
    assert_same(start().forward(images), start.first.forward(images))
    assert converted_again == []


@pytest.mark.parametrize("taps", [("avg_pool",), ("predictions",), TAPS])
def test_a_start_with_other_taps_computes_the_same_bits_and_converts_nothing(start, images, converted_again, taps):
    found, expected = start(taps=taps).forward(images), start.first.forward(images)
    assert set(found) == set(taps)
    assert_same(found, {tap: values for tap, values in expected.items() if tap in taps})
    assert converted_again == []


def test_a_weight_file_without_the_top_is_converted_for_its_own_taps(start, kept, images, monkeypatch, tmp_path):
    data, asked = np.fromfile(kept, np.uint8), []

    def converted(network_spec, weights, taps, key):
        asked.append(taps)
        if "logits" in taps:
            raise WeightsError("the file lacks the top")
        return data

    monkeypatch.setattr(openvino_network, "_converted", converted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="lacks the top"):
        start(taps=TAPS)
    found = start(taps=("avg_pool",)).forward(images)
    np.testing.assert_array_equal(found["avg_pool"], start.first.forward(images)["avg_pool"])
    assert asked == [TAPS, TAPS, ("avg_pool",)]


def test_of_vgg_only_the_taps_that_are_asked_for_are_converted(weights_of, monkeypatch, tmp_path):
    def converted(network_spec, weights, taps, key):
        raise EngineFault(f"asked for {taps}")

    monkeypatch.setattr(openvino_network, "_converted", converted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EngineFault, match=r"^asked for \('block3_pool',\)$"):
        OpenVinoBackbone(*weights_of("vgg16"), taps=("block3_pool",))


def test_where_keras_runs_on_another_backend_no_network_is_built(weights_of, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(keras_runtime.load_keras().backend, "backend", lambda: "jax")
    monkeypatch.setattr(KerasBackbone, "__init__", None)
    with pytest.raises(EngineFault, match=r"^Keras runs on jax here, and OpenVINO converts what TensorFlow runs$"):
        OpenVinoBackbone(*weights_of("mobilenet"))


LATER = """
import sys, time
import numpy as np
from featurecache.named_backbone import source_of
said = []
backbone = source_of("mobilenet", "random:0", engine="openvino", notify=said.append).start(8, 1)
np.save(sys.argv[1], backbone.forward(np.load(sys.argv[2]))["avg_pool"])
assert said == ["starting mobilenet with random:0 weights on openvino"], said
print([name for name in ("keras", "tensorflow", "openvino_telemetry", "openvino.tools.ovc") if name in sys.modules])
"""


def test_a_later_start_in_another_process_loads_no_keras_and_reports_nothing(start, images, run_python, tmp_path):
    np.save(tmp_path / "images.npy", images)
    done = run_python(LATER, tmp_path / "found.npy", tmp_path / "images.npy")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), start.first.forward(images)["avg_pool"])


@pytest.mark.parametrize("processors", [1, 3])
def test_a_row_does_not_depend_on_the_number_of_processors(start, images, processors, monkeypatch):
    monkeypatch.setattr(openvino_engine, "processor_count", lambda: processors)
    backbone = start(batch_size=2)
    assert backbone.provenance["threads"] == str(processors)
    assert_same(backbone.forward(images), start.first.forward(images))


def test_two_passes_at_once_do_not_meet(start, images):
    expected = start.first.forward(images)
    found = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: start.first.forward(images[::-1] if n % 2 else images)}))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, features in found.items():
        assert_same(features, {tap: values[::-1] if number % 2 else values for tap, values in expected.items()})


@pytest.fixture
def parts(monkeypatch):
    """Let small networks compute groups of images on two processors, too; list for how many each is compiled."""
    monkeypatch.setattr(openvino_engine, "_LARGE_BYTES", 0)
    monkeypatch.setattr(openvino_engine, "processor_count", lambda: 2)
    compute, computed = openvino_engine._Compiled.compute, []

    def counted(self, images, out):
        computed.append(self.images)
        compute(self, images, out)

    monkeypatch.setattr(openvino_engine._Compiled, "compute", counted)
    return computed


def test_groups_of_images_get_the_bits_of_single_ones(start, images, parts):
    grouped = start(batch_size=10)
    assert (grouped.batch_sizes, grouped.passes_at_once, parts) == ((4, 8), 2, [4])
    expected = start.first.forward(images)
    for some in ([0, 1, 2, 3, 4], [3], [4, 3, 2, 1, 0], [2, 2, 1, 4]):
        assert_same(grouped.forward(images[some]), {tap: values[some] for tap, values in expected.items()})
    assert {tap: len(values) for tap, values in grouped.forward(images[:0]).items()} == dict.fromkeys(expected, 0)


def test_small_batches_are_computed_one_by_one_with_the_same_bits(start, photographs, parts):
    images = photographs(11)
    expected = start.first.forward(images)
    grouped = start(batch_size=9)
    grouped.prepare_small_batches()
    assert grouped.batch_sizes == tuple(range(1, 10))
    for count, sizes in ((3, [1] * 3), (7, [1] * 7), (8, [4, 4]), (11, [1, 1, 1, 4, 4])):
        parts.clear()
        assert_same(grouped.forward(images[:count]), {tap: values[:count] for tap, values in expected.items()})
        assert sorted(parts) == sizes
    single = start.first
    single.prepare_small_batches()
    assert single.batch_sizes == tuple(range(1, 33))


def test_images_are_computed_alone_where_their_place_decides_on_bits(start, images, parts, monkeypatch):
    compute = openvino_engine._Compiled.compute

    def uneven(self, images, out):
        compute(self, images, out)
        out["predictions"][2:] *= np.float32(1 + 2e-7)

    with monkeypatch.context() as patch:
        patch.setattr(openvino_engine._Compiled, "compute", uneven)
        alone = start(taps=("predictions",))
    assert alone.batch_sizes == tuple(range(1, 33))
    assert_same(alone.forward(images), {"predictions": start.first.forward(images)["predictions"]})


def test_small_batches_with_other_bits_are_not_taken(start, images, parts, monkeypatch):
    compute = openvino_engine._Compiled.compute

    def rounded(self, images, out):
        compute(self, images, out)
        if len(images) == 1:
            out["predictions"] *= np.float32(1 + 2e-7)

    grouped = start(batch_size=8, taps=("predictions",))
    with monkeypatch.context() as patch:
        patch.setattr(openvino_engine._Compiled, "compute", rounded)
        grouped.prepare_small_batches()
    assert grouped.batch_sizes == (4, 8)


@pytest.mark.parametrize(
    ("side", "weights", "precision", "expected"),
    [
        (224, 100_000_000, "f32", 4),
        (224, 14_000_000, "f32", 1),
        (224, 14_000_000, "bf16", 4),
        (299, 95_000_000, "f32", 2),
        (380, 78_000_000, "bf16", 1),
        (600, 266_000_000, "f32", 1),
    ],
)
def test_few_images_are_computed_together_where_that_is_faster(side, weights, precision, expected):
    assert openvino_engine._images_together((side, side), weights, precision) == expected


@pytest.mark.parametrize(("processors", "batch_size", "passes"), [(1, 32, 2), (2, 32, 2), (16, 32, 3), (64, 32, 9)])
def test_passes_at_once_keep_all_processors_busy(start, parts, processors, batch_size, passes, monkeypatch):
    monkeypatch.setattr(openvino_engine, "processor_count", lambda: processors)
    assert start(batch_size=batch_size).passes_at_once == passes


def signed(data, sizes=None, description=None):
    """Return the file with other sizes or another description, and a digest that fits."""
    line = json.loads(data[:4096])
    line["bytes"] = line["bytes"] if sizes is None else sizes
    changed = data[4096:] if description is None else description.ljust(len(data) - 4096, b"\0")
    digest = hashlib.sha256(json.dumps(line["bytes"]).encode() + changed).hexdigest()
    return json.dumps(line | {"sha256": digest}).encode().ljust(4096) + changed


DAMAGE = {
    "three sizes": lambda data: signed(data, sizes=[1, 2, 3]),
    "sizes that are none": lambda data: signed(data, sizes={"a": None}),
    "a description that is none": lambda data: signed(data, description=b"<net"),
    "nested": lambda data: b"[" * 4096 + data[4096:],
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "one bit of a weight": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "one bit of the description": lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
    "one digit of a size": lambda data: data.replace(b'"bytes": [', b'"bytes": [1', 1)[: len(data)],
    "no JSON": lambda data: b"x" + data[1:],
    "other JSON": lambda data: b"[]".ljust(4096) + data[4096:],
    "of something else": lambda data: data.replace(b'{"key": "', b'{"key": "0', 1)[: len(data)],
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_or_foreign_file_is_made_again(start, kept, images, case, converted_again):
    good = kept.read_bytes()
    kept.write_bytes(DAMAGE[case](good))
    assert_same(start().forward(images), start.first.forward(images))
    assert converted_again == ["mobilenet"]
    start()
    assert converted_again == ["mobilenet"]


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(openvino_network, "CONVERTER", 0),
        lambda patch: patch.setattr(openvino_network, "version", lambda package: f"{package} 0"),
    ],
)
def test_another_version_has_a_file_of_its_own(start, kept, change, converted_again, monkeypatch):
    change(monkeypatch)
    start()
    assert converted_again == ["mobilenet"]
    (other,) = set(kept.parent.iterdir()) - {kept}
    other.unlink()


@pytest.fixture
def _folder_that_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))


@pytest.fixture
def _full_disk(tmp_path, monkeypatch):
    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(publish.FILE_SYSTEM, "write", write)


@pytest.mark.parametrize(("obstacle", "why"), [("_folder_that_is_a_file", "file"), ("_full_disk", "no space left")])
def test_where_nothing_can_be_kept_it_is_converted_for_this_run(
    obstacle, why, start, images, converted_again, request, tmp_path
):
    request.getfixturevalue(obstacle)
    said = []
    assert_same(start(notify=said.append).forward(images), start.first.forward(images))
    assert converted_again == ["mobilenet"]
    assert re.match("converting is needed at every start, since the result cannot be kept: ", said[1])
    assert re.search(why, said[1])
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "file"]


@pytest.mark.parametrize("parameters", [4_000_000, 0])  # of a user's model, the recipe of a cache tells none
def test_without_the_memory_for_a_conversion_no_network_is_built(
    parameters, weights_of, mobilenet_file, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(openvino_network, "free_memory", lambda: 10_000_000)
    monkeypatch.setattr(KerasBackbone, "__init__", None)
    row, weights = weights_of("mobilenet_v2", str(mobilenet_file))
    with pytest.raises(EngineFault, match=r"converting mobilenet_v2 takes about 0.1 GB of memory, and 0.0 GB are fre"):
        OpenVinoBackbone(replace(row, parameters=parameters), weights, taps=("avg_pool",))


def test_another_version_of_kerashub_converts_a_users_model_again(weights_of, monkeypatch):
    row, weights = weights_of("mobilenet")
    own = replace(row, constructor="")
    before = [openvino_network._key(network, weights, TAPS) for network in (row, own)]
    version = openvino_network.version
    monkeypatch.setattr(openvino_network, "version", lambda name: "9.9" if name == "keras-hub" else version(name))
    after = [openvino_network._key(network, weights, TAPS) for network in (row, own)]
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_a_fault_that_lasts_is_kept_and_said_again_without_a_conversion(start, kept, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data, tried, said = np.fromfile(kept, np.uint8), [], []

    def converted(network_spec, *_):
        tried.append(network_spec.name)
        model = openvino_network._model(data, TAPS)
        images = np.zeros((1, 224, 224, 3), np.uint8)
        openvino_network.require_same("mobilenet", model, images, {"avg_pool": np.ones((1, 1024))})

    monkeypatch.setattr(openvino_network, "_converted", converted)
    for _ in range(2):
        with pytest.raises(EngineFault, match=r"^OpenVINO computes avg_pool of mobilenet otherwise than Keras, by "):
            start(notify=said.append)
    assert (tried, len(said)) == (["mobilenet"], 1)
    (path,) = tmp_path.rglob("*.openvino")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EngineFault, match=r"^OpenVINO computes avg_pool"):
        start()
    assert tried == ["mobilenet"] * 2


def no_memory(_data):
    raise openvino_network.conversion_fault("mobilenet", RuntimeError("no memory"))


def no_number(data):
    model = openvino_network._model(data, TAPS)
    images = np.zeros((1, 224, 224, 3), np.uint8)
    openvino_network.require_same("mobilenet", model, images, {"avg_pool": np.full((1, 1024), np.nan)})


@pytest.mark.parametrize(("fail", "message"), [(no_memory, "no memory"), (no_number, "otherwise than Keras, by nan")])
def test_a_fault_of_today_is_not_kept(fail, message, start, kept, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = np.fromfile(kept, np.uint8)
    monkeypatch.setattr(openvino_network, "_converted", lambda *_: fail(data))
    with pytest.raises(EngineFault, match=message):
        start()
    assert not list(tmp_path.rglob("*.openvino"))


def test_two_that_convert_at_once_leave_one_whole_file(start, kept, images, converted_again):
    kept.unlink()
    both = threading.Barrier(2)
    found = []
    threads = [threading.Thread(target=lambda: found.append(start(notify=lambda _: both.wait()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert converted_again == ["mobilenet"] * 2
    for backbone in (*found, start()):
        assert_same(backbone.forward(images), start.first.forward(images))
    assert len(converted_again) == 2
    assert list(kept.parent.iterdir()) == [kept]


def test_an_interrupted_conversion_leaves_nothing(start, kept, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    kept.unlink()
    monkeypatch.setattr(openvino_network, "_converted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start()
    assert not list(kept.parent.iterdir())


def test_the_files_that_were_not_used_for_longest_go(start, kept, converted_again, monkeypatch, tmp_path):
    folder = tmp_path / "featurecache" / "openvino"
    folder.mkdir(parents=True)
    size = kept.stat().st_size
    for name, when in (("left", 1000), ("published", time.time())):
        (folder / f".{name}.0123456789abcdef.tmp").touch()
        os.utime(folder / f".{name}.0123456789abcdef.tmp", (when, when))
    for age, name in enumerate(("new", "older", "oldest")):
        (folder / f"{name}.openvino").write_bytes(bytes(size))
        os.utime(folder / f"{name}.openvino", (1000 - age, 1000 - age))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(openvino_network, "_KEPT_BYTES", 2 * size)
    start()
    left = {path.name.partition("-")[0] for path in folder.iterdir()}
    assert left == {"mobilenet", "new.openvino", ".published.0123456789abcdef.tmp"}


def test_mixed_precision_is_bfloat16_or_a_fault(start, images):
    if "BF16" not in openvino_network.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(EngineFault, match=r"^OpenVINO computes in f32 on this processor, not in bf16$"):
            start(precision="mixed")
        return
    mixed = start(precision="mixed")
    assert mixed.provenance["computes_in"] == "bf16"
    for tap, values in start.first.forward(images).items():
        found = mixed.forward(images)[tap]
        assert 1e-5 < np.linalg.norm(found - values) / np.linalg.norm(values) < 0.05
        np.testing.assert_array_equal(mixed.forward(images[[4, 1]])[tap], found[[4, 1]])


def test_unknown_taps_and_weights_of_another_network_are_refused(start, weights_of, mobilenet_file):
    with pytest.raises(UnknownNameError, match="did you mean 'avg_pool'"):
        start(taps=("avgpool",))
    row, _ = weights_of("mobilenet")
    _, weights = weights_of("mobilenet_v2", str(mobilenet_file))
    with pytest.raises(WeightsError, match="mobilenet"):
        OpenVinoBackbone(row, weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("vgg16", ("block3_pool",)),
        ("resnet50", ("avg_pool",)),
        ("mobilenet_v2", ("avg_pool",)),
        ("efficientnet_b0", TAPS),  # the test below takes the converted file
        ("convnext_tiny", ("avg_pool",)),
    ],
)
def test_a_row_depends_on_its_image_alone(name, taps, weights_of, images):
    backbone = OpenVinoBackbone(*weights_of(name), taps=taps)  # a new one is compared with Keras
    expected = backbone.forward(images)
    for some in ([4, 3, 2, 1, 0], [2], [0, 0, 3], [1, 4]):
        assert_same(backbone.forward(images[some]), {tap: values[some] for tap, values in expected.items()})


@pytest.mark.slow
def test_features_are_those_of_keras(weights_of, images):
    found = OpenVinoBackbone(*weights_of("efficientnet_b0"), taps=TAPS).forward(images)
    expected = KerasBackbone(*weights_of("efficientnet_b0"), taps=TAPS, batch_size=5).forward(images)
    for tap, values in expected.items():
        assert (np.abs(found[tap] - values).max(axis=1) / np.abs(values).max(axis=1)).max() < 1e-4


@pytest.mark.slow
def test_a_network_that_computes_something_else_is_not_used(weights_of, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forward = KerasBackbone.forward
    monkeypatch.setattr(
        KerasBackbone, "forward", lambda *a: {tap: values * 1.001 for tap, values in forward(*a).items()}
    )
    with pytest.raises(EngineFault, match="OpenVINO computes avg_pool of mobilenet otherwise than Keras, by 1e-03"):
        OpenVinoBackbone(*weights_of("mobilenet"), taps=("avg_pool",))
    (path,) = tmp_path.rglob("*.openvino")
    assert path.stat().st_size < 5000  # what is wrong, and no network
