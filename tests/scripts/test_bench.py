"""Benchmarks run, with sizes that say nothing about speed, and report what they are asked for."""

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from featurecache.backbones.catalog import application
from scripts.bench import __main__ as command
from scripts.bench import extract_, gpu_, scaling_
from scripts.bench.chart import chart
from scripts.bench.images import write_photographs

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

    def __init__(self, kind, folder, wrong=""):
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


def test_a_peer_that_computes_something_else_ends_the_benchmark(monkeypatch):
    monkeypatch.setattr(extract_, "find_spec", lambda name: name)
    monkeypatch.setattr(extract_, "Worker", lambda kind, folder: StandIn(kind, folder, wrong="pytorch"))
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


def test_the_operations_of_vgg16_are_those_of_its_paper():
    assert gpu_.operations(application("vgg16")) == pytest.approx(2 * 15.47e9, rel=1e-3)  # multiplications, 224 x 224


def test_a_gpu_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(gpu_, "find_device", lambda asked: "cpu")
    assert gpu_.run()["gpu"].startswith("none: ")


def test_the_gpu_benchmark_measures_both_precisions_on_any_device(tmp_path):
    write_photographs(tmp_path / "images", 3)
    rows = gpu_.measured(application("mobilenet_v2"), "cpu", (2,), 4, tmp_path)
    assert [(row["precision"], row["batch_size"]) for row in rows] == [("float32", 2), ("mixed", 2)]
    assert all(row["forward_images_per_second"] > 0 and row["end_to_end_images_per_second"] > 0 for row in rows)
    assert not list(tmp_path.glob("*.h5"))
    assert gpu_.matrix_rate("bfloat16", side=64, products=2) > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_extract_compares_everybody_that_is_installed():
    code = "import json; from scripts.bench.extract_ import run; print(json.dumps(run(images=4, rounds=1)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["contestants"]
    measured = [row for row in rows if "images_per_second" in row]
    assert len(measured) >= 6
    assert all(row["differs_from_ours"] < 1e-3 for row in measured)
    assert all(row in measured or "pip install" in row["library"] for row in rows)
