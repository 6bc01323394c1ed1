"""The lesson ``epochs``: three learning rates, and the largest lowered half-way."""

import hashlib
import re
import shlex

import numpy as np
import pytest

import featurecache
from featurecache import FeatureCache
from featurecache.backbones.fake import FakeBackbone
from featurecache.cli.lesson import epochs
from heads import Holdout, TrainingError, train
from heads.splits import DEFAULT_HOLDOUT

pytestmark = pytest.mark.slow

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
def test_the_settled_one_wins_on_photographs(teach_on_photographs):
    results, text = teach_on_photographs("epochs")
    check_that_the_settled_one_wins(results)
    assert results["final"][LOWERED]["accuracy"] > 0.98
    assert results["best_with_other_seeds"].count(LOWERED) == 4
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


def test_other_draws_are_run_and_counted(taught, digits):
    results, text, _ = taught
    best = results["best_with_other_seeds"]
    assert len(best) == 5
    assert f"In {best.count(LOWERED)} of 5 other draws the lowered rate ends with the lowest loss of the four," in text
    cache = FeatureCache.open(digits)
    for seed, name in ((2, best[1]), (5, best[4])):
        ends = {rate: losses_of(cache, seed, rate, 8)[0] for rate in (0.0001, 0.001, 0.08)}
        begun = losses_of(cache, seed, 0.08, 4)[1]
        ends[LOWERED] = losses_of(cache, seed, 0.001, 4, start=begun)[0]
        assert name == str(min(ends, key=ends.get))


def losses_of(cache, seed, rate, epochs, start=None):
    """Return the last loss of a head trained like this, and the head."""
    params = {"lr": rate, "epochs": epochs, "optimizer": "sgd", "batch_size": 8, "l2": 0.5}
    head = train(cache, "softmax", tap="avg_pool", params=params, seed=seed, start=start)
    return head.training.epochs[-1].valid_loss, head


def end(loss, accuracy=0.9, lowest=0.9, highest=0.9):
    return {"loss": loss, "accuracy": accuracy, "lowest": lowest, "highest": highest}


@pytest.mark.parametrize(
    ("say", "small", "middle", "large", "lowered", "words"),
    [
        (epochs._about_small, end(0.2), end(0.3), end(0.4), end(0.1), "and here that is enough"),
        (epochs._about_small, end(0.4), end(0.3), end(0.4), end(0.1), "0.0001 is too small: the loss falls, but"),
        (epochs._about_large, end(1), end(1), end(1, lowest=0.8), end(1), "0.08 is too large: from epoch 5 on"),
        (epochs._about_large, end(1), end(1), end(1), end(1), "even such steps settle"),
        (epochs._about_lowered, end(0.4), end(0.3), end(0.4), end(0.1), "the lowest loss of the four; 0.001 from"),
        (epochs._about_lowered, end(0.4), end(0.1), end(0.4), end(0.3), "better than staying at 0.08 (0.4000)"),
        (
            epochs._about_lowered,
            end(0.4),
            end(0.1),
            end(0.2),
            end(0.3),
            "staying at 0.08 gave 0.2000: by chance its last epoch was better",
        ),
    ],
)
def test_what_it_says_follows_from_what_it_found(say, small, middle, large, lowered, words):
    assert words in say({"0.0001": small, "0.001": middle, "0.08": large, LOWERED: lowered})


@pytest.mark.parametrize(
    ("best", "words"),
    [
        (
            [LOWERED] * 5,
            "In 5 of 5 other draws the lowered rate ends with the lowest loss of the four, so the result does not",
        ),
        (
            [LOWERED, "0.08"],
            "In 1 of 2 other draws the lowered rate ends with the lowest loss of the four, so this is no rule",
        ),
        (
            ["0.08"] * 3,
            "In 0 of 3 other draws the lowered rate ends with the lowest loss of the four, so the result holds for",
        ),
    ],
)
def test_what_it_says_of_other_draws(best, words):
    assert words in epochs._about_others(best)


def test_on_features_that_any_rate_learns_it_says_so(teach, fake_cache):
    results, text, _ = teach("epochs", fake_cache)
    assert results["tap"] == "features"
    assert "even such steps settle" in text
    assert "nan" not in text.lower()


def test_a_cache_with_no_images_left_to_judge_by(teach, tmp_path, write_images):
    for name in ("red", "blue"):
        write_images(tmp_path / "photos" / "train" / name, 6, seed=len(name))
    for path in list((tmp_path / "photos").glob("*/*/*.png")):
        if Holdout(DEFAULT_HOLDOUT, seed=0).holds_out(hashlib.sha256(path.read_bytes()).hexdigest()):
            path.unlink()
    featurecache.extract(tmp_path / "photos", tmp_path / "c.h5", backbone=FakeBackbone())
    with pytest.raises(TrainingError, match="no rows left to evaluate a head on; give a cache with a valid split"):
        teach("epochs", tmp_path / "c.h5")
