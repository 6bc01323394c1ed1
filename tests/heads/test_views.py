"""Heads learn from augmented views of images, and are judged on images alone."""

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

import heads
from featurecache import extract, read_manifest
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError
from heads.finetuning.finetune import sides
from heads.splits import ALL, Holdout, kept_together, labelled_images, roles, rows_of_role, training_rows

FOLDS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of 2 x 15 images, dark and light, in no split."""
    folder = tmp_path_factory.mktemp("views")
    rng = np.random.default_rng(3)
    for number in range(30):
        pixels = rng.integers(0, 150, (24, 24, 3)) + 100 * (number % 2)
        path = folder / ("dark", "light")[number % 2] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def viewed(folder, tmp_path_factory):
    """Return its cache, with three views of each image."""
    return extract(folder, tmp_path_factory.mktemp("cache") / "v.h5", views="3:crop,color", backbone=FakeBackbone())


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    """Return its cache without views."""
    return extract(folder, tmp_path_factory.mktemp("cache") / "p.h5", backbone=FakeBackbone())


def test_no_view_is_on_the_other_side_of_a_holdout(viewed, plain):
    rule = Holdout(0.3, seed=1)
    train, valid = training_rows(viewed.features("features"), rule)
    images, held_out = training_rows(plain.features("features"), rule)
    assert valid.paths.tolist() == held_out.paths.tolist()
    assert len(train) == 4 * len(images) < 120
    assert set(train.sha256) == set(images.sha256)
    assert not set(train.sha256) & set(valid.sha256)


def test_views_have_the_role_train_or_none(viewed):
    images = labelled_images(viewed, "features")
    assert set(roles(images, Holdout(0.3, seed=1))[images.is_view]) == {"train", ""}
    assert len(np.unique(kept_together(images))) == 30


@pytest.mark.parametrize("name", ["ridge", "svm"])
def test_probabilities_are_fitted_to_images_left_out_with_their_views(viewed, name):
    rows = viewed.features("features")
    together = np.unique(rows.sha256.astype(str), return_inverse=True)[1]
    head = heads.train(viewed, name, tap="features", holdout=0)
    fitted = heads.make_head(name).fit(rows.X, rows.y, together=together)
    apart = heads.make_head(name).fit(rows.X, rows.y)
    np.testing.assert_array_equal(head.predict_proba(rows.X), fitted.predict_proba(rows.X))
    assert (head.predict_proba(rows.X) != apart.predict_proba(rows.X)).any()


def test_a_head_learns_from_all_and_is_judged_on_images(viewed, tmp_path):
    head = heads.train(viewed, "logreg", tap="features", params={"standardize": False}, holdout=0.3, seed=1)
    train, valid = training_rows(viewed.features("features"), Holdout(0.3, seed=1))
    assert (head.training.n_train, head.training.n_valid) == (len(train), len(valid))
    own = LogisticRegression(C=head.params["C"], max_iter=10_000, tol=1e-10).fit(train.X, train.y)
    assert head.training.valid_accuracy == own.score(valid.X, valid.y)
    assert "unused_rows" not in {notice.code for notice in head.training.warnings}
    assert "uneven_holdout" not in {notice.code for notice in head.training.warnings}
    for split, count in (("valid", len(valid)), ("train", len(train) // 4), (ALL, 30)):
        rows = heads.select_rows(viewed, head, split)
        assert len(rows) == count
        assert not rows.is_view.any()
    head.save(tmp_path / "head")
    evaluated = heads.evaluate(
        heads.TrainedHead.load(tmp_path / "head"), heads.select_rows(viewed, head, "train"), cache=viewed
    )
    assert [notice.code for notice in evaluated.warnings if notice.code == "training_rows"]


def test_every_row_of_a_split_is_an_image(viewed):
    rows = rows_of_role(viewed.features("features"), "", None)
    assert len(rows) == 30


def test_folds_train_on_all_and_judge_images(viewed, tmp_path):
    found = heads.sweep(viewed, tmp_path / "s", heads=["centroid"], taps=["features"], folds=FOLDS, jobs=1)
    assert {entry.n_valid for entry in found.leaderboard} == {30}
    assert max(entry.n_train for entry in found.leaderboard) >= 4 * 30 * (FOLDS - 1) // FOLDS


def test_calibration_by_folds_takes_images(viewed):
    head = heads.train(viewed, "logreg", tap="features", holdout=0, calibrate="temperature")
    assert head.calibration.n_rows == 30
    evaluated = heads.evaluate(head, heads.select_rows(viewed, head, ALL), cache=viewed)
    assert "calibration_rows" in {notice.code for notice in evaluated.warnings}


def test_features_that_are_given_are_judged_without_views(viewed):
    head = heads.train(viewed, "logreg", tap="features", holdout=0)
    assert len(heads.evaluate(head, viewed.features("features"), cache=viewed).table) == 30


def test_rows_that_a_head_kept_are_still_views(viewed, folder, tmp_path):
    first = heads.train(viewed, "logreg", tap="features", holdout=0, keep_rows=True)
    first.save(tmp_path / "first")
    for number in range(4):
        pixels = np.random.default_rng(100 + number).integers(0, 150, (24, 24, 3)) + 100 * (number % 2)
        path = tmp_path / "more" / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    more = extract(tmp_path / "more", tmp_path / "m.h5", views="1:crop", backbone=FakeBackbone())
    start = heads.TrainedHead.load(tmp_path / "first")
    grown = heads.train(more, start=start, tap="features", holdout=0, calibrate="temperature")
    assert grown.training.n_train == 120 + 8
    assert grown.calibration.n_rows == 30 + 4


def test_fine_tuning_takes_no_views(viewed, folder, tmp_path):
    head = heads.train(viewed, "softmax", tap="features", params={"epochs": 1})
    with pytest.raises(ManifestError, match=r"has views .* which fine-tuning does not take"):
        sides(read_manifest(folder).with_views("1:flip"), head, max_bytes=10**6)


def test_audits_curves_and_searches_see_images_alone(viewed, plain):
    audits = [heads.audit(cache, tap="features", head="centroid", near=0.99999) for cache in (viewed, plain)]
    assert audits[0].table.paths.tolist() == audits[1].table.paths.tolist()
    assert np.array_equal(audits[0].table.probabilities, audits[1].table.probabilities)
    curves = [heads.learning_curve(cache, "centroid", tap="features", repeats=2) for cache in (viewed, plain)]
    assert curves[0].points == curves[1].points
    path = "dark/00.png"
    found = [heads.similar(cache, rows=[path], k=50, tap="features").found[0].images for cache in (viewed, plain)]
    assert [image.path for image in found[0]] == [image.path for image in found[1]]
    assert len(found[0]) == 29
