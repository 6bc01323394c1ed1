"""One network on several devices: the rows of one of them, all at work, errors, memory, and which devices take part."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

import featurecache.run.units
from featurecache import extract
from featurecache.backbones import engines, keras_engine, keras_runtime
from featurecache.backbones.device_group import DeviceGroup
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import DeviceError

SECONDS = 60  # after which a test that waits has failed
BATCH = 3  # 20 photographs make 7 batches


class Device(FakeBackbone):
    """The fake backbone on a device of its own, which calls ``act`` with the images of a pass before it computes."""

    def __init__(self, act=lambda images: None, holds=100):
        super().__init__()
        self.batch_size, self.holds, self.seen, self._act = BATCH, holds, [], act

    def resize(self, batch_size):
        self.batch_size = batch_size

    def forward(self, images):
        self.seen.append(images)
        self._act(images)
        self.batch_size = min(self.batch_size, self.holds)
        return super().forward(images)


@pytest.fixture
def expected(photos, tmp_path):
    """Return the cache that one device makes."""
    return extract(photos, tmp_path / "expected.h5", backbone=FakeBackbone(), batch_size=BATCH)


def require_same(cache, expected):
    """Compare paths and the bytes of all taps."""
    for tap in expected.taps:
        assert cache.features(tap).paths.tolist() == expected.features(tap).paths.tolist()
        np.testing.assert_array_equal(cache.features(tap).X, expected.features(tap).X)


def test_all_devices_compute_at_the_same_time_and_the_cache_is_that_of_one(photos, tmp_path, expected):
    """The first three passes wait for each other; then the first one ends last."""
    together, first_images, others = threading.Barrier(3), [], threading.Semaphore(0)

    def act(images):
        number = passes.pop(0)
        if number < 3:
            together.wait(SECONDS)
        if number == 0:
            first_images.append(images)
            assert all(others.acquire(timeout=SECONDS) for _ in range(2))
        others.release()

    passes = list(range(7))
    group = DeviceGroup([Device(act) for _ in range(3)])
    require_same(extract(photos, tmp_path / "x.h5", backbone=group, batch_size=BATCH), expected)
    assert first_images
    assert passes == []


def test_batches_are_dealt_in_turns_and_whole():
    members = [Device(), Device()]
    for member in members:
        member.passes_at_once = 2
    group = DeviceGroup(members)
    assert group.passes_at_once == 4
    for number in range(6):
        group.forward(np.full((BATCH, 32, 32, 3), number, np.uint8))
    assert [[int(images[0, 0, 0, 0]) for images in member.seen] for member in members] == [[0, 2, 4], [1, 3, 5]]
    assert {len(images) for member in members for images in member.seen} == {BATCH}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_after_an_error_of_one_device_what_came_before_is_known_and_the_rest_is_made(
    photos, tmp_path, expected, monkeypatch, error
):
    monkeypatch.setattr(featurecache.run.units, "SHARD_ROWS", BATCH)
    fourth = []
    extract(photos, tmp_path / "batches.h5", backbone=Device(fourth.append), batch_size=BATCH)

    def fail(images):
        if np.array_equal(images, fourth[3]):
            raise error

    members = [Device(fail) for _ in range(3)]
    with pytest.raises(error):
        extract(photos, tmp_path / "x.h5", backbone=DeviceGroup(members), batch_size=BATCH)
    again = Device()
    cache = extract(photos, tmp_path / "x.h5", backbone=DeviceGroup([again]), batch_size=BATCH)
    assert cache.provenance["run"]["reused"] == 3 * BATCH
    require_same(cache, expected)
    group = DeviceGroup(members)
    failing, others = fourth[3], [images for images in fourth if images is not fourth[3]]
    with pytest.raises(error):
        group.forward(failing)
    for images in others:  # a device that failed takes part again
        group.forward(images)


def test_when_one_device_has_not_the_memory_all_make_smaller_batches():
    members = [Device(), Device(holds=1)]
    group, images = DeviceGroup(members), np.zeros((BATCH, 32, 32, 3), np.uint8)
    assert group.batch_size == BATCH
    group.forward(images)
    assert [member.batch_size for member in members] == [3, 3]
    group.forward(images)
    assert (group.batch_size, group.provenance["batch_size"]) == (1, "1")
    group.forward(images)
    assert [member.batch_size for member in members] == [1, 1]
    group.resize(2)
    assert group.batch_size == 2


def test_the_batches_of_a_device_become_smaller_once_and_when_no_pass_runs_there():
    began, may_end, running, resized = threading.Event(), threading.Event(), [], []

    class Busy(Device):
        def resize(self, batch_size):
            assert running == []
            resized.append((self.batch_size, batch_size))
            super().resize(batch_size)

        def forward(self, images):
            running.append(images)
            began.set()
            try:
                assert may_end.wait(SECONDS)
                return super().forward(images)
            finally:
                running.pop()

    members = [Busy(), Device(holds=1)]
    for member in members:
        member.passes_at_once = 3
    group, images = DeviceGroup(members), np.zeros((BATCH, 32, 32, 3), np.uint8)
    with ThreadPoolExecutor() as pool:
        passes = [pool.submit(group.forward, images)]
        assert began.wait(SECONDS)
        group.forward(images)  # on the other device, which has not the memory
        assert group.batch_size == 1
        passes += [pool.submit(group.forward, images) for _ in range(4)]
        while group._free.qsize() > 3:  # two more passes are on the first device
            time.sleep(0.001)
        may_end.set()
        for each in passes:
            each.result(SECONDS)
    assert resized == [(BATCH, 1)]


def test_the_cache_says_how_many_devices_computed_it_but_its_recipe_does_not(photos, tmp_path, expected):
    cache = extract(photos, tmp_path / "x.h5", backbone=DeviceGroup([Device(), Device()]), batch_size=BATCH)
    assert cache.provenance["engine"]["devices"] == "2"
    assert cache.recipe == expected.recipe


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that puts GPUs of these models into the machine, for one of Keras's backends."""

    def install(backend, models):
        modules = {
            "tensorflow": SimpleNamespace(
                config=SimpleNamespace(
                    list_physical_devices=lambda kind: models if kind == "GPU" else ["a processor"],
                    experimental=SimpleNamespace(get_device_details=lambda gpu: {"device_name": gpu}),
                )
            ),
            "jax": SimpleNamespace(
                local_devices=lambda: (
                    [SimpleNamespace(platform="gpu", device_kind=model) for model in models]
                    or [SimpleNamespace(platform="cpu", device_kind="cpu")]
                )
            ),
            "torch": SimpleNamespace(
                cuda=SimpleNamespace(device_count=lambda: len(models), get_device_name=models.__getitem__)
            ),
        }
        keras = SimpleNamespace(backend=SimpleNamespace(backend=lambda: backend))
        monkeypatch.setattr(keras_runtime, "load_keras", lambda: keras)
        monkeypatch.setattr(keras_runtime, "import_module", modules.__getitem__)

    return install


@pytest.mark.parametrize("backend", keras_runtime.BACKENDS)
@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([], ("cpu",)),
        (["A"], ("gpu",)),
        (["A", "A", "A"], ("gpu:0", "gpu:1", "gpu:2")),
        (["A", "B", "A"], ("gpu:0", "gpu:2")),
        (["A", "B"], ("gpu",)),
    ],
)
def test_gpus_of_the_first_ones_model_take_part(gpus, backend, models, expected):
    gpus(backend, models)
    assert keras_runtime.find_devices("auto") == expected
    assert keras_runtime.find_devices("cpu") == ("cpu",)


@pytest.mark.parametrize(
    ("images", "device", "expected"),
    [
        (0, "auto", ["gpu:0"]),
        (3_999, "auto", ["gpu:0"]),
        (4_000, "auto", ["gpu:0", "gpu:1"]),
        (10**9, "gpu", ["gpu:0", "gpu:1", "gpu:2"]),
        (10**9, "cpu", ["cpu"]),
    ],
)
def test_a_run_of_many_images_starts_more_devices(gpus, monkeypatch, images, device, expected):
    started, said = [], []

    class Recording(Device):
        def __init__(self, *_, device, **__):
            super().__init__()
            started.append(device)

    gpus("torch", ["A", "A", "A"])
    monkeypatch.setattr(keras_engine, "KerasBackbone", Recording)
    backbone = engines.start_engine(
        "keras",
        None,
        None,
        taps=(),
        batch_size=8,
        precision="float32",
        device=device,
        images=images,
        notify=said.append,
    )
    assert started == expected
    assert isinstance(backbone, DeviceGroup) == (len(expected) > 1)
    assert said == ([f"computing on {len(expected)} GPUs"] if len(expected) > 1 else [])


def start_on_three(gpus, monkeypatch, make):
    """Start Keras on three GPUs; return the backbone and the messages."""
    said = []
    gpus("torch", ["A", "A", "A"])
    monkeypatch.setattr(keras_engine, "KerasBackbone", lambda *_, device, batch_size, **__: make(device, batch_size))
    options = {"taps": (), "batch_size": BATCH, "precision": "float32", "device": "auto", "images": 10**6}
    return engines.start_engine("keras", None, None, **options, notify=said.append), said


def fail_with(error):
    raise error


class ResourceExhaustedError(Exception):
    """As TensorFlow's."""


@pytest.mark.parametrize("error", [ResourceExhaustedError("OOM"), DeviceError("not one image"), None])
@pytest.mark.parametrize("when", ["at the start", "in a pass"])
def test_a_device_without_free_memory_takes_no_part(gpus, monkeypatch, error, when):
    def make(device, batch_size):
        if device != "gpu:1":
            return Device()
        if error is None:
            return Device(holds=2)
        return fail_with(error) if when == "at the start" else Device(lambda _: fail_with(error))

    backbone, said = start_on_three(gpus, monkeypatch, make)
    assert backbone.provenance["devices"] == "2"
    assert backbone.batch_size == BATCH
    assert said == [
        "computing without gpu:1: its free memory does not suffice for batches of 3 images",
        "computing on 2 GPUs",
    ]


def test_other_errors_of_a_device_end_the_start(gpus, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        start_on_three(gpus, monkeypatch, lambda *_: Device(lambda _: fail_with(ZeroDivisionError())))


def test_without_the_others_the_first_device_is_alone(gpus, monkeypatch):
    def make(device, batch_size):
        return Device() if device == "gpu:0" else fail_with(ResourceExhaustedError("OOM"))

    backbone, said = start_on_three(gpus, monkeypatch, make)
    assert isinstance(backbone, Device)
    assert len(said) == 2


def test_batches_that_no_device_has_memory_for_leave_none_out(gpus, monkeypatch):
    def make(device, batch_size):
        backbone = Device(holds=1)
        backbone.resize(batch_size)
        return backbone

    backbone, said = start_on_three(gpus, monkeypatch, make)
    assert (backbone.provenance["devices"], backbone.batch_size) == ("3", 1)
    assert said == ["computing on 3 GPUs"]


MADE_UP = """
import json, sys
from featurecache.cli.console.quick_keras import start_keras_quickly
start_keras_quickly()  # as in commands
import keras, numpy as np
import featurecache
from featurecache.backbones import engines

used, to_numpy = set(), keras.ops.convert_to_numpy

def recording(output):
    used.update(map(str, output.devices()))
    return to_numpy(output)

keras.ops.convert_to_numpy = recording
generator, layers = np.random.default_rng(0), keras.layers
model = keras.Sequential([
    keras.Input((32, 32, 3)), layers.Conv2D(16, 3, activation="relu", kernel_initializer="zeros"),
    layers.GlobalAveragePooling2D(name="pool"), layers.Dense(10, name="out", kernel_initializer="zeros"),
])
model.set_weights([generator.normal(size=array.shape) for array in model.get_weights()])
model.save(sys.argv[1] + "/small.keras")
pixels = generator.integers(0, 256, (33, 32, 32, 3), dtype=np.uint8)
images = featurecache.from_memory(pixels)
caches = []
for devices in (("cpu:0",), ("cpu:0", "cpu:1", "cpu:2", "cpu:3")):
    engines.find_devices = lambda asked: devices
    engines.IMAGES_PER_DEVICE = 8
    used.clear()
    cache = featurecache.extract(
        images, f"{sys.argv[1]}/{len(devices)}.h5", backbone=sys.argv[1] + "/small.keras", preprocess="unit",
        taps=["pool", "out"], batch_size=4, engine="keras", device="cpu",
    )
    caches.append(cache)
    print(json.dumps({"used": sorted(used), "devices": cache.provenance["engine"].get("devices")}))
print(json.dumps([a.tobytes() == b.tobytes() for a, b in (
    [cache.features(tap).X for cache in caches] for tap in ("pool", "out"))]))
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")
def test_four_devices_that_jax_makes_up_give_the_bytes_of_one(run_python, tmp_path):
    four = "--xla_force_host_platform_device_count=4"
    result = run_python(MADE_UP, tmp_path, KERAS_BACKEND="jax", XLA_FLAGS=four)
    assert result.returncode == 0, result.stderr
    one, group, same = map(json.loads, result.stdout.splitlines())
    assert one == {"used": ["cpu:0"], "devices": None}
    assert group == {"used": [f"cpu:{number}" for number in range(4)], "devices": "4"}
    assert same == [True, True]
