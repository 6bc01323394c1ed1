"""The lesson's Keras example: its numbers, beside the same steps one by one, on two Keras backends."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from featurecache.cli.lesson import linear_model
from featurecache.cli.lesson.lesson_writer import LessonWriter

pytestmark = pytest.mark.slow

RUN = """
import json, sys
from pathlib import Path
from featurecache.cli.lesson.lesson_writer import LessonWriter
from featurecache.cli.lesson.linear_model import run
found = run(LessonWriter(Path(sys.argv[1]), silent=True), None)
print(json.dumps(found | {"tensorflow": "tensorflow" in sys.modules}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return linear_model.run(LessonWriter(tmp_path_factory.mktemp("linear"), silent=True), None)


def one_by_one(seed, epochs):
    """Return losses before and after the epochs, and the weights, by steps of one row of one draw."""
    x, y, start = linear_model._draw(seed)
    w1, w2, b = start[0, 0], start[1, 0], 0.0
    losses = [np.mean((x @ [w1, w2] + b - y) ** 2)]
    for _ in range(epochs):
        for (x1, x2), target in zip(x, y, strict=True):
            residual = w1 * x1 + w2 * x2 + b - target
            w1, w2, b = w1 - 0.2 * residual * x1, w2 - 0.2 * residual * x2, b - 0.2 * residual
        losses.append(np.mean((x @ [w1, w2] + b - y) ** 2))
    return losses, [w1, w2, b]


def test_the_model_finds_the_weights_of_the_data(found):
    assert found["loss_before"] == pytest.approx(8.6, abs=0.1)
    assert found["loss_after"] < 1e-3
    assert found["weights"] == pytest.approx([2, 3, 1], abs=0.05)
    assert len(found["epoch_losses"]) == 5
    assert sorted(found["epoch_losses"], reverse=True) == found["epoch_losses"]


def test_rows_are_thirty_and_made_with_these_weights():
    x, y, start = linear_model._draw(linear_model.SEED)
    assert x.shape == (30, 2)
    assert 0 <= x.min() < 0.1
    assert 0.9 < x.max() < 1
    solved, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(30)]), y, rcond=None)
    assert solved == pytest.approx([2, 3, 1], abs=1e-12)
    assert np.abs(start).max() <= np.sqrt(2)


def test_keras_takes_the_steps_that_are_written_here(found):
    losses, weights = one_by_one(found["seed"], 5)
    assert found["weights"] == pytest.approx(weights, abs=1e-5)
    assert found["loss_before"] == pytest.approx(losses[0], rel=1e-5)
    assert found["loss_after"] == pytest.approx(losses[-1], rel=1e-2)
    assert found["numpy_difference"] < 1e-5


def test_what_it_says_of_other_draws_is_so(found):
    courses = [one_by_one(seed, 15)[0] for seed in range(1000)]
    assert found["others_median"] == pytest.approx(np.median(courses, axis=0))
    assert found["others_low"] == np.mean([course[5] < 0.001 for course in courses])
    assert found["others_behind"] == sum(course[5] > found["loss_after"] for course in courses)
    assert found["others_median"][5] > 0.005
    assert found["others_median"][15] < 1e-4
    x, _, _ = linear_model._draw(found["seed"])
    smallest = np.linalg.svd(np.column_stack([x, np.ones(30)]), compute_uv=False)[-1]
    assert found["curvature"] == pytest.approx(2 * smallest**2 / 30)
    assert found["away"] < found["others_away"] / 2


def test_the_code_that_is_shown_is_the_code_that_runs(found, tmp_path, capsys):
    writer = LessonWriter(tmp_path)
    assert linear_model.run(writer, None) == found
    assert [path.name for path in writer.pictures] == ["linear-model-loss.png"]
    printed = capsys.readouterr().out
    for line in (
        "keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])",
        'model.compile(optimizer=keras.optimizers.SGD(learning_rate=RATE), loss="mse")',
        "model.fit(x, y, batch_size=1, epochs=5, shuffle=False, verbose=0)",
    ):
        assert line in printed
    code = printed[printed.index("    def _train") : printed.index("what it does")]
    for code_part, _ in linear_model._CODE_NOTES:
        assert code_part in code
    assert f"from {found['loss_before']:.2f} to {found['loss_after']:.6f}" in printed


def test_what_it_says_stays_true_when_a_learner_changes_seed_and_rate(found, tmp_path, capsys, monkeypatch):
    assert "ends below 1,000 of them: we searched for it." in said(tmp_path / "a", capsys)[1]
    monkeypatch.setattr(linear_model, "SEED", 1)
    monkeypatch.setattr(linear_model, "RATE", 0.3)
    results, text = said(tmp_path / "b", capsys)
    assert "each 0.3 * 2 * residual" in text
    assert "we searched for it" not in text
    assert results["loss_after"] < found["loss_after"]
    assert results["numpy_difference"] < 1e-5
    monkeypatch.setattr(linear_model, "RATE", 0.6)
    results, text = said(tmp_path / "c", capsys)
    assert results["loss_after"] > results["loss_before"]
    assert "The loss rises from" in text
    assert "The loss falls" not in text


def said(folder, capsys):
    """Give the lesson; return what it found and what it said, whatever the lines."""
    results = linear_model.run(LessonWriter(folder), None)
    return results, " ".join(capsys.readouterr().out.split())


@pytest.mark.skipif(find_spec("jax") is None, reason="there is no second backend")
def test_it_gives_the_same_numbers_on_another_backend(found, tmp_path):
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    assert theirs["tensorflow"] is False
    assert theirs["weights"] == pytest.approx(found["weights"], abs=1e-5)
    assert theirs["epoch_losses"] == pytest.approx(found["epoch_losses"], rel=1e-3)
    assert theirs["loss_before"] == pytest.approx(found["loss_before"], rel=1e-5)
