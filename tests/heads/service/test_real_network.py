"""The promises that only a real network can keep or break: MobileNetV2 in Keras behind ``featurecache serve``."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

import featurecache
import heads
from featurecache.backbones.catalog import find_network
from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.backbones.weights import resolve_weights
from scripts.bench.load import Order, ask
from tests.heads.networks import TENSORFLOW_AND_NUMPY
from tests.quiet import in_a_quiet_moment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings(TENSORFLOW_AND_NUMPY)]

PROGRAM = Path(sys.executable).with_name("featurecache")


def jpeg(seed):
    """Return the bytes of a photograph-like image that no other seed gives."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (2 ** (2 + seed % 5),) * 2 + (3,), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def tell(text):
    """Show a figure where pytest runs with -s."""
    sys.stdout.write(f"{text}\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A cache of 48 images by the started network, and two heads on it."""
    folder = tmp_path_factory.mktemp("real")
    for number in range(48):
        path = folder / "images" / "train" / "abcdefghijkl"[number % 12] / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    row = find_network("mobilenet_v2")
    network = KerasBackbone(row, resolve_weights("random:0", row))
    cache = featurecache.extract(folder / "images", folder / "c.h5", backbone=network)
    (folder / "heads").mkdir()
    for name in ("logreg", "centroid"):
        heads.train(cache, name, tap="avg_pool", holdout=0).save(folder / "heads" / name)
    noise = np.random.default_rng(5).integers(0, 256, (32, 224, 224, 3), dtype=np.uint8)
    full = network.forward(noise)
    network.prepare_small_batches()
    return SimpleNamespace(folder=folder, cache=cache, network=network, heads=folder / "heads", noise=noise, full=full)


def _start(heads_folder, *options):
    """Start the installed command; return the process, a client, and its port."""
    arguments = [PROGRAM, "serve", heads_folder, "--port", "0", "--weights", "random:0", *options]
    environment = os.environ | {"KERAS_HOME": str(heads_folder)}
    process = subprocess.Popen([*map(str, arguments)], stdout=subprocess.PIPE, text=True, env=environment)
    page, names = process.stdout.readline(), process.stdout.readline()
    assert page.startswith("page: http://127.0.0.1:"), page
    assert names.startswith("heads: "), names
    client = httpx.Client(base_url=page.removeprefix("page: ").strip(), timeout=60)
    while client.get("/v2/health/ready").status_code != 200:
        time.sleep(0.1)
    return SimpleNamespace(process=process, client=client, port=client.base_url.port)


def _end(running):
    running.client.close()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0
    running.process.stdout.close()


@pytest.fixture(scope="module")
def running(trained):
    """The service, as the installed command starts it."""
    started = _start(trained.heads, "--engine", "keras", "--cache", trained.folder / "c.h5", "--queue-images", "512")
    yield started
    _end(started)


@pytest.fixture(scope="module")
def load(running, tmp_path_factory):
    """Return a function that asks for images from another process, and returns what it measured."""
    folder = tmp_path_factory.mktemp("load")
    for number in range(16):
        (folder / f"{number:02}.jpg").write_bytes(jpeg(500 + number))

    def measured(seconds, clients, first=None):
        found = ask(Order(running.port, "/predict", str(folder), seconds, clients=clients, first=first))
        tell(found)
        assert (found["answered"], found["refused"]) == (found["asked"], 0)
        return found

    return measured


def test_a_service_whose_network_still_starts_says_where_it_is_and_ends_at_once(trained):
    arguments = [PROGRAM, "serve", trained.heads, "--port", "0", "--weights", "random:0", "--json", "--log-json"]
    environment = os.environ | {"KERAS_HOME": str(trained.heads)}
    with subprocess.Popen([*map(str, arguments)], stdout=subprocess.PIPE, text=True, env=environment) as process:
        found = json.loads(process.stdout.readline())
        assert httpx.get(f"{found['address']}v2/health/ready").json()["faults"] == ["the network is starting"]
        process.terminate()
        assert process.wait(15) == 0
        assert json.loads(process.stdout.readline())["status"] == 503
    assert found["heads"] == ["centroid", "logreg"]


def predicted(trained, contents, folder, **options):
    """Return what `heads.predict` says of images: a dictionary of probabilities for each."""
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"{number:02}.jpg")
        paths[-1].write_bytes(content)
    table = heads.predict(heads.TrainedHead.load(trained.heads / "logreg"), paths, **options).table
    return [dict(zip(table.classes, row, strict=True)) for row in table.probabilities.tolist()]


def test_answers_have_the_bits_of_predict_alone_and_among_many(trained, running, tmp_path):
    contents = [jpeg(1000 + number) for number in range(64)]
    right = predicted(trained, contents, tmp_path, backbone=trained.network)

    def ask(content):
        return running.client.post("/predict", content=content).json()["results"][0]

    alone = [ask(content) for content in contents[:3]]
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(ask, contents[3:]))
    answers = [*alone, *together]
    assert {answer["found"] for answer in answers} == {"network"}
    assert [answer["heads"]["logreg"]["probabilities"] for answer in answers] == right
    again = [ask(content) for content in contents]
    assert {answer["found"] for answer in again} == {"memory"}
    assert [answer["heads"]["logreg"]["probabilities"] for answer in again] == right


def test_the_engine_that_is_chosen_has_the_bits_of_predict(trained, tmp_path):
    contents = [jpeg(1100 + number) for number in range(8)]
    service = _start(trained.heads)
    right = predicted(trained, contents, tmp_path, weights="random:0")
    answers = [service.client.post("/predict", content=content).json()["results"][0] for content in contents]
    _end(service)
    assert [answer["heads"]["logreg"]["probabilities"] for answer in answers] == right


def test_an_image_of_the_cache_is_not_passed_again(trained, running):
    path = trained.folder / "images" / "train" / "a" / "00.jpg"
    result = running.client.post("/features?tap=avg_pool", content=path.read_bytes()).json()["results"][0]
    assert (result["found"], result["pass"]) == ("cache", False)
    assert np.array_equal(np.array(result["features"]["avg_pool"], np.float32), trained.cache.features("avg_pool").X[0])


def test_small_batches_have_the_bits_of_full_ones(trained):
    assert trained.network.batch_sizes[-1] == 32
    assert len(trained.network.batch_sizes) > 1
    for size in (1, 2, 3, 5, 8, 13, 16, 31):
        for tap, values in trained.network.forward(trained.noise[:size]).items():
            assert values.tobytes() == trained.full[tap][:size].tobytes(), (size, tap)


def test_fifty_heads_cost_one_pass_and_hardly_more_than_one_head(trained, running, tmp_path):
    folder = trained.heads
    head = heads.TrainedHead.load(folder / "logreg")
    for number in range(50):
        head.save(folder / f"many{number:02}")
        assert running.client.post(f"/v2/repository/models/many{number:02}/load").status_code == 200
    fresh = iter(range(2000, 3000))
    fifty = "/predict?" + "&".join(f"head=many{number:02}" for number in range(50))

    def passes():
        text = running.client.get("/metrics").text
        return float(text.split("\nfeaturecache_passes_total ")[1].split("\n")[0])

    def seconds(route, count):
        content = jpeg(next(fresh))
        began = time.perf_counter()
        result = running.client.post(route, content=content).json()["results"][0]
        measured = time.perf_counter() - began
        assert result["pass"]
        assert len(result["heads"]) == count
        return measured

    def measure():
        before = passes()
        pairs = [(seconds("/predict?head=logreg", 1), seconds(fifty, 50)) for _ in range(15)]
        assert passes() - before == 30
        return np.min(pairs, axis=0)

    in_a_quiet_moment(measure, lambda least: least[1] < 1.25 * least[0])
    for number in range(50):
        running.client.post(f"/v2/repository/models/many{number:02}/unload")


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_tritonclient_is_served(trained, running, binary):
    client = triton.InferenceServerClient(f"127.0.0.1:{running.port}")
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("logreg")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        metadata = client.get_model_metadata("logreg")
        head = heads.TrainedHead.load(trained.heads / "logreg")
        assert metadata["versions"] == [head.identity]
        assert client.is_model_ready("logreg", head.identity)
        names = {item["name"] for item in client.get_model_repository_index()}
        assert {"logreg", "centroid"} <= names
        client.unload_model("centroid")
        assert not client.is_model_ready("centroid")
        client.load_model("centroid")
        assert client.is_model_ready("centroid")

        features = np.ascontiguousarray(trained.cache.features("avg_pool").X[:5])
        wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "class")]
        given = triton.InferInput("features", features.shape, "FP32")
        given.set_data_from_numpy(features, binary_data=binary)
        result = client.infer("logreg", [given], outputs=wanted, request_id="seven")
        expected = np.concatenate([head.predict_proba(features[row : row + 1]) for row in range(5)])
        np.testing.assert_array_equal(result.as_numpy("probabilities"), expected)
        labels = [label.decode() if binary else label for label in result.as_numpy("class").tolist()]
        assert labels == [head.classes[index] for index in expected.argmax(axis=1)]
        assert result.get_response()["id"] == "seven"
        assert result.get_response()["model_version"] == head.identity

        images = np.array([jpeg(0), jpeg(12)], dtype=object)
        if binary:
            given = triton.InferInput("image", [2], "BYTES")
            given.set_data_from_numpy(images, binary_data=True)
            result = client.infer("logreg", [given], outputs=wanted[:1], model_version=head.identity)
            assert result.as_numpy("probabilities").shape == (2, 12)
            assert result.as_numpy("class") is None
        wrong = triton.InferInput("features", [1, 3], "FP32")
        wrong.set_data_from_numpy(np.zeros((1, 3), np.float32), binary_data=binary)
        with pytest.raises(InferenceServerException, match="features have 3 columns, the head takes 1280"):
            client.infer("logreg", [wrong])
        with pytest.raises(InferenceServerException, match="unknown head 'nothing'"):
            client.infer("nothing", [given])
    finally:
        client.close()


def _extract_rate(trained, count):
    """Return the images per second of the network alone, as `featurecache.extract` uses it."""
    images = np.random.default_rng(0).integers(0, 256, (32, 224, 224, 3), dtype=np.uint8)
    trained.network.forward(images)
    began = time.perf_counter()
    for _ in range(count):
        trained.network.forward(images)
    return 32 * count / (time.perf_counter() - began)


def test_32_clients_get_nearly_the_rate_of_the_network(trained, load):
    rounds = itertools.count(1)

    def measure():
        before = _extract_rate(trained, 5)
        asked = load(4.0, clients=32, first=1_000_000 + 10_000 * next(rounds))["rate"]
        return asked, before, _extract_rate(trained, 5)

    in_a_quiet_moment(measure, lambda rates: rates[0] > 0.6 * min(rates[1:]))


def test_seen_images_are_answered_fast(running, load):
    """What a quiet machine does is in the docs."""
    for number in range(16):
        running.client.post("/predict", content=jpeg(500 + number))
    in_a_quiet_moment(lambda: load(4.0, clients=16), lambda found: found["rate"] > 250 and found["p99_ms"] < 250)


def test_an_idle_service_waits_at_most_five_milliseconds_for_company(trained, running):
    """The answer to a lone image takes hardly longer than decoding, a pass and HTTP."""
    images = np.zeros((1, 224, 224, 3), np.uint8)
    fresh = iter(range(7000, 8000))

    def measure():
        alone, asked = [], []
        for _ in range(15):
            began = time.perf_counter()
            trained.network.forward(images)
            alone.append(time.perf_counter() - began)
            content = jpeg(next(fresh))
            began = time.perf_counter()
            assert running.client.post("/predict?head=logreg", content=content).json()["results"][0]["pass"]
            asked.append(time.perf_counter() - began)
        return min(alone), min(asked)

    in_a_quiet_moment(measure, lambda least: least[1] < least[0] + 0.05)
