"""The lesson ``epochs``: three learning rates, and the largest lowered half-way."""

import hashlib
import re
import shlex

import numpy as np
import pytest

import featurecache
from featurecache.backbones.fake import FakeBackbone
from heads import Holdout, TrainingError
from heads.training import DEFAULT_HOLDOUT

LOWERED = "0.08, then 0.001"


@pytest.fixture(scope="module")
def taught(teach, digits):
    return teach("epochs", digits)


def check_that_the_settled_one_wins(results):
    final, losses = results["final"], results["losses"]
    assert results["best"] == results["lowered"] == LOWERED
    assert final[LOWERED]["loss"] < 0.9 * min(final[rate]["loss"] for rate in ("0.0001", "0.001", "0.08"))
    assert final[LOWERED]["accuracy"] >= final["0.08"]["accuracy"]
    # the small one falls in every epoch and has not arrived, the large one goes up and down, the lowered one settles
    assert (np.diff(losses["0.0001"]) < 0).all()
    assert final["0.0001"]["loss"] > 1.2 * final["0.001"]["loss"]
    assert (np.diff(losses["0.08"]) > 0).any()
    late = np.array(losses[LOWERED][4:])
    assert np.ptp(late) < np.ptp(losses["0.08"][4:])


def test_the_settled_one_wins(taught):
    results, text, pictures = taught
    check_that_the_settled_one_wins(results)
    assert "the lowest loss of the four" in text
    assert list(pictures) == ["epochs-learning-rates"]


@pytest.mark.real_data
def test_the_settled_one_wins_on_photographs(teach, photographs):
    results, text, _ = teach("epochs", photographs)
    check_that_the_settled_one_wins(results)
    assert results["final"][LOWERED]["accuracy"] > 0.98
    assert "the lowest loss of the four" in text


def test_there_are_eight_epochs_of_each_and_the_lowered_one_begins_as_the_large_one(taught):
    results = taught[0]
    assert results["epochs"] == 8
    assert [len(losses) for losses in results["losses"].values()] == [8] * 4
    assert results["losses"][LOWERED][:4] == results["losses"]["0.08"][:4]
    assert results["losses"][LOWERED][4:] != results["losses"]["0.08"][4:]
    assert results["tap"] == "avg_pool"


def test_the_commands_that_it_names_give_what_it_says(taught, invoke, digits, tmp_path, monkeypatch):
    results, text, _ = taught
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"featurecache (train \S+ (?:fast|settled) .*?) (?=featurecache|\()", text)
    losses = []
    for command in (first.replace("\\ ", ""), second):
        trained = invoke(*shlex.split(command), "--json").json
        losses.append([epoch["valid_loss"] for epoch in trained["epochs"]])
    assert losses[1] == results["losses"][LOWERED]
    assert losses[0] == results["losses"][LOWERED][:4]


def test_on_features_that_any_rate_learns_it_says_so(teach, fake_cache):
    results, text, _ = teach("epochs", fake_cache)
    assert results["tap"] == "features"
    assert "even such steps settle" in text or "the steps overshoot" in text
    assert "nan" not in text.lower()


def test_a_cache_without_labels(teach, tmp_path, write_images):
    write_images(tmp_path / "photos", 4)
    featurecache.extract(tmp_path / "photos", tmp_path / "c.h5", backbone=FakeBackbone())
    with pytest.raises(TrainingError, match="the cache has no labelled rows; extract from folders named by class"):
        teach("epochs", tmp_path / "c.h5")


def test_a_cache_of_one_class(teach, tmp_path, write_images):
    write_images(tmp_path / "photos" / "train" / "red", 4)
    featurecache.extract(tmp_path / "photos", tmp_path / "c.h5", backbone=FakeBackbone())
    with pytest.raises(TrainingError, match="training rows are of the class 'red'; a head needs rows of at least two"):
        teach("epochs", tmp_path / "c.h5")


def test_a_cache_with_no_images_left_to_judge_by(teach, tmp_path, write_images):
    for name in ("red", "blue"):
        write_images(tmp_path / "photos" / "train" / name, 6, seed=len(name))
    for path in list((tmp_path / "photos").glob("*/*/*.png")):
        if Holdout(DEFAULT_HOLDOUT, seed=0).holds_out(hashlib.sha256(path.read_bytes()).hexdigest()):
            path.unlink()
    featurecache.extract(tmp_path / "photos", tmp_path / "c.h5", backbone=FakeBackbone())
    with pytest.raises(TrainingError, match="no images left to judge by; give a cache with a valid split"):
        teach("epochs", tmp_path / "c.h5")
