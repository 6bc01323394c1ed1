"""Benchmarks run, with sizes that say nothing about speed, and report what they are asked for."""

import io
import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from featurecache.backbones import engines, keras_runtime
from featurecache.backbones.fake import FakeBackbone
from heads.service.uploads import images_of
from scripts.bench import __main__ as command
from scripts.bench import bytes_, extract_, gpu_, listing_, load, networks_, scaling_, serve_, sweep_
from scripts.bench.chart import chart
from scripts.bench.images import write_photographs
from tests.heads.networks import TENSORFLOW_AND_NUMPY

TIMES = {
    "ours end to end": [1.0, 1.0, 4.0],
    "ours forward": [0.9, 0.95, 4.0],
    "ours on keras end to end": [2.0, 2.0, 2.0],
    "ours on keras forward": [1.0, 1.5, 1.9],
    "keras documentation": [6.0, 5.0, 24.0],
    "pytorch forward": [2.7, 1.9, 9.0],
    "onnxruntime forward": [1.8, 3.0, 8.0],
}


def test_without_a_name_every_benchmark_is_listed(capsys):
    assert command.main([]) == 2
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert names == list(command.BENCHMARKS)
    assert {"extract", "scaling", "gpu"} <= set(names)


def test_photographs_are_all_different_and_decode(tmp_path):
    write_photographs(tmp_path, 5, distinct=2)
    contents = [path.read_bytes() for path in sorted(tmp_path.rglob("*.jpg"))]
    assert len(set(contents)) == 5
    pixels = [np.asarray(Image.open(io.BytesIO(data))) for data in contents]
    assert {each.shape for each in pixels} == {(375, 500, 3)}
    assert len({each.tobytes() for each in pixels}) == 2
    assert pixels[0].std() > 20


def test_ratios_are_medians_of_the_rounds():
    found = extract_.ratios(TIMES)
    assert found["ours_over_keras_documentation"] == 6.0  # of 6, 5 and 6
    assert found["forward_over_best_of_pytorch_and_onnxruntime"] == 2.0  # of 2, 2 and 2: the better one of each round
    assert found["end_to_end_over_best_forward_of_the_two"] == 1.9  # of 1.8, 1.9 and 2
    assert found["end_to_end_over_forward"] == 0.95
    assert found["end_to_end_over_forward_on_keras"] == 0.75


def test_ratios_say_which_packages_are_missing():
    found = extract_.ratios(
        {name: each for name, each in TIMES.items() if "pytorch" not in name and "onnx" not in name}
    )
    assert found["forward_over_best_of_pytorch_and_onnxruntime"] == "not installed: pip install 'featurecache[bench]'"


class StandIn:
    """A worker without a network: one image takes it 0.01 s."""

    def __init__(self, kind, folder, network, wrong=""):
        self.version, self.start_up = f"{kind} 1.0", 0.5
        self.features = {"fc2": np.eye(3) + (0.01 if kind == wrong else 0.0)}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def seconds(self, way):
        wall = {"end_to_end": 0.04, "two_passes": 0.08}.get(way, 0.02)
        return wall, 2 * wall


def test_a_missing_peer_is_named_and_the_others_are_compared(monkeypatch):
    monkeypatch.setattr(extract_, "find_spec", lambda name: None if name in {"torch", "onnx"} else name)
    monkeypatch.setattr(extract_, "Worker", StandIn)
    found = extract_.run(images=4, rounds=1)
    rows = {row["contestant"]: row for row in found["contestants"]}
    assert list(rows) == list(extract_.CONTESTANTS)
    missing = {name for name, row in rows.items() if row["library"].startswith("not installed: pip install")}
    assert missing == {"pytorch forward", "onnxruntime forward"}
    assert rows["ours end to end"]["images_per_second"] == 100
    assert rows["ours end to end"]["processor_s_an_image"] == 0.02
    assert found["ours_over_keras_documentation"] == 2


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_another_network_is_compared_with_its_keras_engine(has_bfloat16, monkeypatch, capsys):
    monkeypatch.setattr(engines, "processor_class", lambda: "x86_64 amx_bf16" if has_bfloat16 else "x86_64")
    monkeypatch.setattr(extract_, "Worker", lambda *of: StandIn(*of, wrong="ours_bfloat16"))
    monkeypatch.setattr(
        StandIn, "seconds", lambda self, way: (0.1, 0.3) if self.version.startswith("ours_keras") else (0.05, 0.1)
    )
    found = extract_.run(images=4, rounds=2, backbone="mobilenet_v2")
    names = [row["contestant"] for row in found["contestants"]]
    assert names == [name for name in extract_.CONTESTANTS if name.startswith("ours")]
    assert found["network"].startswith("mobilenet_v2 with random weights, taps avg_pool and predictions")
    assert (found["end_to_end_over_keras"], found["end_to_end_over_keras_in_processor_time"]) == (2, 3)
    assert (found["forward_over_keras"], found["bar_end_to_end_over_keras"]) == (2, 1.25)
    in_bfloat16 = found["contestants"][names.index("ours in bfloat16 forward")]
    if has_bfloat16:
        assert in_bfloat16["images_per_second"] == 80
        assert found["end_to_end_in_bfloat16_over_keras_in_processor_time"] == 3
        assert found["bar_end_to_end_in_bfloat16_over_keras"] == 2
    else:
        assert "has no instructions for" in in_bfloat16["library"]
        assert not [name for name in found if "in_bfloat16" in name]
    assert "round 2 of 2: ours forward" in capsys.readouterr().err.splitlines()


def test_sizes_are_passed_to_the_benchmarks_that_have_them(monkeypatch, capsys):
    monkeypatch.setattr(
        extract_, "run", lambda images=1, rounds=1, backbone="": {"of": f"{backbone} {images} {rounds}"}
    )
    assert command.main(["extract", "--backbone", "resnet50", "--images", "8", "--rounds", "2"]) == 0
    assert "resnet50 8 2" in capsys.readouterr().out
    assert command.main(["listing", "--rounds", "2"]) == 2
    assert capsys.readouterr().err == "--rounds is not for listing\n"


def test_a_peer_that_computes_something_else_ends_the_benchmark(monkeypatch):
    monkeypatch.setattr(extract_, "find_spec", lambda name: name)
    monkeypatch.setattr(extract_, "Worker", lambda *of: StandIn(*of, wrong="pytorch"))
    with pytest.raises(RuntimeError, match=r"pytorch 1\.0 computes something else"):
        extract_.run(images=4, rounds=1)


def test_rows_are_printed_as_a_table_of_their_own(capsys):
    command.show_measured({"images": 4, "contestants": [{"who": "a", "rate": 1.5, "library": "x"}, {"who": "b"}]})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["images", "4"]
    assert lines[3:] == [["contestants"], ["who", "rate", "library"], ["a", "1.5", "x"], ["b", "-", "-"]]


def test_scaling_measures_every_count():
    found = scaling_.run(counts=(3, 6), rounds=2)
    assert [row["images"] for row in found["counts"]] == [3, 6]
    assert all(0 < row["lowest"] <= row["ms_an_image"] <= row["highest"] for row in found["counts"])
    assert found["6_over_3"] > 0
    assert found["bar_6_over_3"] == 1.05


def test_listing_measures_the_files_that_it_makes():
    found = listing_.run(files=40, classes=4)
    assert found["files"] == 40
    assert found["seconds_3_000_000"] > 0
    assert (found["bar_seconds"], found["bar_MB"]) == (300, 1500)


@pytest.mark.slow
def test_the_bytes_of_a_row_do_not_depend_on_its_batch():
    found = bytes_.measure("tensorflow", "mobilenet", 4, sizes=(2,))["differences"]
    assert found.pop("batch 2") < 1e-5  # of two sizes, rows may be rounded otherwise
    assert found == dict.fromkeys(("again", "company", "place", "few images"), 0.0)


def test_a_row_that_depends_on_its_place_is_found(monkeypatch):
    class Backbone(FakeBackbone):
        def __init__(self):
            super().__init__(input_size=(224, 224))
            self.provenance = {"backend": "fake"}

        def forward(self, images):
            place = np.arange(len(images), dtype=np.float32)[:, None]
            return {tap: values + place for tap, values in super().forward(images).items()}

    monkeypatch.setattr(bytes_, "start_engine", lambda *_, **__: Backbone())
    found = bytes_.measure("tensorflow", "mobilenet_v2", 4, sizes=())["differences"]
    assert found["place"] > 0
    assert found["company"] == found["again"] == 0


@pytest.mark.slow
def test_the_bytes_are_compared_in_processes_of_their_own():
    (row,) = bytes_.run(engines=("jax",), networks=("mobilenet",), batch=4, sizes=())["rows"]
    assert {row[name] for name in ("again", "company", "place", "few images", "one processor")} == {"same"}
    assert row["version"].startswith("jax ")


def test_the_chart_shows_who_took_part():
    rows = [
        {"contestant": "ours forward", "images_per_second": 20.06},
        {"contestant": "keras documentation", "images_per_second": 4.0},
        {"contestant": "pytorch forward", "library": "not installed"},
    ]
    svg = chart({"machine": "a processor, 2 cores; Python 3.11", "contestants": rows})
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"ours forward", "keras documentation", "20.1", "4.0"} <= set(texts)
    assert "pytorch forward" not in texts
    assert svg.startswith("<svg")
    assert svg.index("fill='white'") < svg.index("<text")


def test_operations_are_those_that_are_published():
    assert gpu_.operations("vgg16") == pytest.approx(2 * 15.47e9, rel=1e-3)  # multiplications, 224 x 224
    assert gpu_.operations("vit_b16") == pytest.approx(2 * 17.56e9, rel=1e-3)


def test_a_gpu_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(gpu_, "find_device", lambda asked: "cpu")
    assert gpu_.run()["gpu"].startswith("none: ")


@pytest.fixture
def small_gpu_benchmark(tmp_path, monkeypatch):
    """Make the benchmark of GPUs one that a CPU can run; return its folder."""
    vit = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
    sizes = {"resnet50": (2,), "vit_b16": (1, 2)}
    for name, value in {"BATCH_SIZES": sizes, "VIT": vit, "BYTES_BATCH": 2, "BYTES_SIZES": (1,)}.items():
        monkeypatch.setattr(gpu_, name, value)
    monkeypatch.setattr(gpu_, "_FORWARD_IMAGES", 4)
    write_photographs(tmp_path / "images", 3)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings(TENSORFLOW_AND_NUMPY)
@pytest.mark.parametrize("name", ["resnet50", "vit_b16"])
def test_the_gpu_benchmark_measures_bytes_and_precisions_on_any_device(name, small_gpu_benchmark):
    rates = dict(zip(gpu_.PRECISIONS.values(), (1.0, 2.0, 4.0), strict=True))
    found = gpu_.of_network(name, "cpu", rates, small_gpu_benchmark)
    assert {"again", "company", "place", "batch 1"} <= found.keys()
    assert found["again"] == "same"
    rows = found["runs"]
    settings = [(precision, size) for precision in ("float32", "tf32", "mixed") for size in gpu_.BATCH_SIZES[name]]
    assert [(row["precision"], row["batch_size"]) for row in rows] == settings
    for row in rows:
        rate = rates[gpu_.PRECISIONS[row["precision"]]]
        expected = row["forward_images_per_second"] * gpu_.operations(name) / 1e12 / rate
        assert row["share_of_matrix_rate"] == pytest.approx(expected, abs=0.001)
    for precision in gpu_.PRECISIONS:  # whole runs with the best batch size alone
        some = [row for row in rows if row["precision"] == precision]
        best = max(some, key=lambda row: row["forward_images_per_second"])
        assert [row for row in some if "end_to_end_over_forward" in row] == [best]
        assert best["end_to_end_images_per_second"] > 0
    assert not list(small_gpu_benchmark.glob("*.h5"))


@pytest.mark.slow
@pytest.mark.filterwarnings(TENSORFLOW_AND_NUMPY)
def test_the_gpu_benchmark_names_what_there_was_no_time_for(small_gpu_benchmark, monkeypatch):
    times = iter([0, 0, 2, 2, 2])
    monkeypatch.setattr(gpu_.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(gpu_, "measure", lambda *_, **__: {"differences": {"again": 0.0}})
    found = gpu_.of_network("vit_b16", "cpu", dict.fromkeys(gpu_.PRECISIONS.values(), 1.0), small_gpu_benchmark, 1)
    assert found["left_out"] == "from float32 in batches of 2 on: no time"
    assert len(found["runs"]) == 1


def test_the_gpu_benchmark_names_a_network_whose_library_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(keras_runtime, "find_spec", lambda _: None)
    found = gpu_.of_network("vit_b16", "cpu", {}, tmp_path)
    assert found["left_out"].startswith("the network ViT-B/16 needs KerasHub, which is not installed; pip install ")


@pytest.mark.slow
def test_the_speed_of_a_network_is_measured_with_the_engine_of_auto():
    networks = networks_.run(("mobilenet",))["networks"]
    assert [(row["network"], row["engine"]) for row in networks] == [("mobilenet", "openvino")]
    assert networks[0]["float32"] > 0
    assert ("mixed" in networks[0]) == engines._has_bfloat16()


@pytest.mark.slow
def test_matrix_rates_are_measured_in_every_precision():
    for dtype in ("float32", "tf32", "float16", "bfloat16"):
        assert gpu_.matrix_rate(dtype, side=64, count=2) > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_extract_compares_everybody_that_is_installed():
    code = "import json; from scripts.bench.extract_ import run; print(json.dumps(run(images=4, rounds=1)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["contestants"]
    measured = [row for row in rows if "images_per_second" in row]
    assert len(measured) >= 6
    half = [row for row in rows if "bfloat16" in row["contestant"]]  # not on every processor
    assert len(half) == 2
    assert all(row["differs_from_ours"] < (0.1 if row in half else 1e-3) for row in measured)
    assert all(row in measured or row in half or "pip install" in row["library"] for row in rows)


class Answering(BaseHTTPRequestHandler):
    """Answers most requests, and refuses each fourth."""

    protocol_version = "HTTP/1.1"
    bodies: ClassVar[list] = []
    lock: ClassVar = threading.Lock()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            self.bodies.append((self.headers["Content-Type"], body))
            number = len(self.bodies)
        self.send_response(429 if number % 4 == 0 else 200)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def answering():
    Answering.bodies.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_address[1]
        server.shutdown()


def test_the_client_asks_for_images_that_nobody_has_seen_and_counts_what_it_gets(answering, tmp_path):
    write_photographs(tmp_path, 3)
    measured = load.ask(load.Order(answering, "/predict", str(tmp_path), 0.5, clients=4, first=10, warm_seconds=0.1))
    bodies = [body for kind, body in Answering.bodies if kind == "image/jpeg"]
    assert measured["asked"] == len(bodies) == len(set(bodies)) == len(Answering.bodies)
    assert measured["answered"] + measured["refused"] == len(bodies)
    assert measured["refused"] == len(bodies) // 4
    assert measured["failed"] == 0
    assert 0 < measured["rate"] <= len(bodies) / 0.3
    assert 0 < measured["p50_ms"] <= measured["p99_ms"]
    assert 0 < measured["client_share"] <= 1.1
    assert np.asarray(Image.open(io.BytesIO(bodies[-1]))).shape == (375, 500, 3)


def test_the_client_asks_at_a_rate_whatever_the_answers(answering, tmp_path):
    write_photographs(tmp_path, 3)
    measured = load.ask(load.Order(answering, "/predict", str(tmp_path), 1.0, rate=60, body="form"))
    assert 30 <= measured["asked"] <= 90
    assert measured["asked"] == measured["answered"] + measured["refused"]
    kind, body = Answering.bodies[0]
    [image] = images_of(body, kind)
    assert image.name == "image.jpg"
    assert image.data in [path.read_bytes() for path in tmp_path.rglob("*.jpg")]


def test_a_service_is_compared_with_the_faster_one_by_hand():
    rates = [{"images": kind, "clients": 32, "answers_per_s": rate} for kind, rate in (("unseen", 60), ("seen", 900))]
    others = [{"service": f"fastapi by hand, {way}", "answers_per_s": n} for way, n in (("async", 10), ("threads", 20))]
    found = serve_.over_by_hand("vgg16", rates, [*others, {"service": "other", "version": "not installed"}])
    assert (found["vgg16_unseen_over_by_hand"], found["vgg16_seen_over_by_hand"]) == (3, 45)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_serve_measures_the_real_service_beside_one_by_hand(monkeypatch):
    monkeypatch.setattr(serve_, "_PASSES", 0.5)  # too short at first: it asks for longer
    monkeypatch.setattr(serve_, "EXTRACTED", 64)
    rivals = ("fastapi by hand, async", "litserve")
    plan = replace(serve_.QUICK, rivals=rivals, clients=(32,), seconds=0.1, overload_seconds=2.0)
    found = serve_.run(plan)
    assert [(row["images"], row["clients"]) for row in found["rates"]] == [("unseen", 32), ("seen", 32)]
    assert all(row["answers_per_s"] > 0 and row["p50_ms"] <= row["p99_ms"] for row in found["rates"])
    half, tenfold, after = found["overload"]
    assert [row["load"] for row in (half, tenfold, after)] == ["half", "tenfold", "half, afterwards"]
    assert tenfold["asked_per_s"] == pytest.approx(20 * half["asked_per_s"], abs=2)  # both are rounded
    assert all(row["failed"] == 0 and row["answers_per_s"] > 0 for row in (half, tenfold, after))
    assert found["mobilenet_v2_unseen_over_by_hand"] > 0  # beside other tests it may be any
    by_hand, other = found["other_services"]
    assert by_hand["answers_per_s"] > 0
    assert "answers_per_s" in other or "pip install litserve" in other["version"]


def test_given_features_are_swept_alone(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    y = np.arange(60) % 3
    np.savez(tmp_path / "rows.npz", X=generator.standard_normal((60, 8)) + 4 * np.eye(8)[y], y=y)
    plain = sweep_.sweep
    monkeypatch.setattr(sweep_, "JOBS", 1)
    monkeypatch.setattr(sweep_, "sweep", lambda *given, **how: plain(*given, heads=["centroid", "ridge"], **how))
    found = sweep_.run(features=str(tmp_path / "rows.npz"))
    assert found["many_classes"] == {"rows": 60, "width": 8, "classes": 3}
    assert found["many_classes_processor_s"] > 0
    assert found["many_classes_best"][0] in {"centroid", "ridge"}
    assert {"centroid", "ridge"} <= set(found["many_classes_heads_s"])
