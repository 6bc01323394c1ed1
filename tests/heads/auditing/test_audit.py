"""The audit: on made features with planted faults, on bad input, and on real photographs."""

import json
import shutil

import numpy as np
import pytest

from featurecache import FeatureCache, extract
from heads.auditing import audit
from heads.errors import ParameterError, TrainingError


@pytest.fixture(scope="module")
def flipped():
    return list(range(0, 300, 25))


@pytest.fixture(scope="module")
def faulty(make_cache, make_features, flipped):
    """300 rows of three classes in two splits, twelve of them with a wrong label; one copy, and one near-duplicate."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    X = rng.normal(size=(3, 40))[y] * 3 + rng.normal(size=(300, 40))
    y[flipped] = (y[flipped] + 1) % 3
    X[299], X[298] = X[1], X[2] + rng.normal(size=40) * 0.05
    y[299], y[298] = (y[1] + 1) % 3, y[2]
    contents = [*range(299), 1]
    splits = ["train"] * 200 + ["test"] * 100
    return make_cache(make_features(X.astype(np.float32), y, splits=splits, contents=contents))


@pytest.fixture(scope="module")
def found(faulty):
    return audit(faulty, near=0.95)


def test_flipped_labels_are_ranked_first(found, flipped):
    assert set(flipped) <= {each.row for each in found.label_errors[:13]}
    assert 299 in {each.row for each in found.label_errors}


def test_duplicates_across_splits_are_found(found):
    assert [(pair.a[:5], pair.b[:5], pair.kind, pair.conflict, pair.crosses) for pair in found.duplicates] == [
        ("00001", "00299", "exact", True, True),
        ("00002", "00298", "near", False, True),
    ]


def test_near_duplicates_do_not_vouch_for_each_other(make_cache, make_features):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 60))
    y = np.arange(200) % 2
    X[:, 0] += 4 * y
    X[190:] = X[:10] + rng.normal(size=(10, 60)) * 0.02
    y[190:] = y[:10] = 1 - y[:10]  # wrong, twice each
    cache = make_cache(make_features(X.astype(np.float32), y))
    wrong = {*range(10), *range(190, 200)}
    apart = audit(cache, head="knn", params={"n_neighbors": 1}, near=1.0)
    together = audit(cache, head="knn", params={"n_neighbors": 1}, near=0.95)
    assert len({each.row for each in apart.label_errors} & wrong) <= 6
    assert len({each.row for each in together.label_errors} & wrong) >= 11


def test_the_table_holds_every_labelled_row_of_all_splits(found, faulty):
    features = faulty.features()
    assert found.table.paths.tolist() == features.paths.tolist()
    assert set(found.table.splits) == {"train", "test"}
    np.testing.assert_allclose(found.table.probabilities.sum(axis=1), 1)
    right = np.mean(found.table.probabilities.argmax(axis=1) == features.y)
    assert found.accuracy.value == pytest.approx(right)
    assert found.accuracy.low < right < found.accuracy.high


def test_the_same_seed_gives_the_same_audit(found, faulty):
    assert audit(faulty, near=0.95).to_dict() == found.to_dict()
    assert audit(faulty, near=0.95, seed=1).to_dict() != found.to_dict()


def test_to_dict_is_ready_for_json_and_keeps_what_is_promised(found):
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert {"path", "given", "suggested", "score"} <= set(read["label_errors"][0])
    assert {"a", "b", "kind", "similarity", "conflict"} <= set(read["duplicates"][0])
    assert (read["n"], read["head"], read["tap"]) == (300, "softmax", "fc2")


def test_it_shows_itself_in_a_notebook(found):
    shown = found._repr_html_()
    assert found.label_errors[0].path in shown
    assert "<script" not in shown


def test_progress_is_told_of_both_parts(faulty):
    said = []
    audit(faulty, near=0.95, progress=lambda *what: said.append(what))
    assert said[0] == (1, 1, "comparing images")
    assert said[1:] == [(done, 5, "checking labels") for done in range(6)]


def test_rows_without_a_label_are_only_compared(make_cache, make_features, blobs):
    X, y = blobs(60, 30, 2, spread=3.0)
    y[50:] = -1
    found = audit(make_cache(make_features(X, y, contents=[*range(59), 0])), near=0.99)
    assert len(found.table) == 50
    assert [(pair.a, pair.b, pair.class_b) for pair in found.duplicates] == [("00000.jpg", "00059.jpg", None)]
    assert tuple(map(str, found.warnings)) == ("10 rows without a label: only compared with the others",)


@pytest.mark.parametrize(
    ("label", "said"), [(-1, "no row is labelled"), (0, "all labelled rows are of the class 'ant'")]
)
def test_without_two_classes_only_duplicates_are_found(label, said, make_cache, make_features, blobs):
    X, _ = blobs(20, 30, 2, spread=9.0)
    found = audit(make_cache(make_features(X, [label] * 20, contents=[*range(19), 3])))
    assert found.label_errors == ()
    assert found.accuracy is None
    assert found.to_dict()["accuracy"] is None
    assert len(found.duplicates) == 1
    assert tuple(map(str, found.warnings)) == (f"{said}: labels cannot be checked, only duplicates were searched for",)
    assert "ant" not in found._repr_html_() or label == 0


def test_a_class_with_one_image_is_left_out_and_said(make_cache, make_features, blobs):
    X, y = blobs(41, 30, 2, spread=9.0)
    y[40] = 2
    found = audit(make_cache(make_features(X, y)))
    assert len(found.table) == 40
    assert found.table.classes == ("ant", "bee", "cow")
    assert found.warnings[0].message.startswith("1 labelled rows of the class cow were not checked")


def test_a_class_with_fewer_images_than_folds_is_judged(make_cache, make_features, blobs):
    X, y = blobs(42, 30, 2, spread=9.0)
    y[40:] = 2
    assert len(audit(make_cache(make_features(X, y))).table) == 42


def test_a_bound_that_is_too_low_is_said_and_folds_do_not_break(make_cache, make_features, blobs):
    X, y = blobs(60, 30, 3, spread=0.01)
    found = audit(make_cache(make_features(X, y)), head="logreg")
    assert found.warnings[0].message.startswith("60 of 60 rows are near-duplicates of another: near=0.9 is too low")
    assert len(found.table) == 60
    assert found.accuracy.value == 1


def test_a_head_that_knows_nothing_is_said_to(make_cache, make_features, blobs):
    found = audit(make_cache(make_features(*blobs(61, 30, 2, spread=5.0))), head="majority")
    assert found.warnings[0].message.startswith("majority agrees with ")
    assert "the majority baseline with 50.8 %" in found.warnings[0].message


def test_what_a_head_warns_of_is_kept_without_advice_that_was_followed(faulty):
    found = audit(faulty, head="logreg", params={"max_iter": 1}, near=0.95)
    assert len(found.warnings) == 1
    assert found.warnings[0].message.startswith("logreg did not converge (max_iter=1): raise max_iter")
    assert found.params["standardize"] is True


def test_features_that_are_not_finite_are_refused_with_the_image(make_cache, make_features, blobs):
    X, y = blobs(20, 5, 2)
    X[7, 3] = np.nan
    with pytest.raises(TrainingError, match=r"^00007\.jpg: row 7 holds features that are not finite"):
        audit(make_cache(make_features(X, y)))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"folds": 1}, "folds is 1"), ({"near": 0}, "near is 0"), ({"params": {"lr": -1}}, "lr"), ({"seed": -1}, "seed")],
)
def test_options_that_cannot_be_are_refused(options, said, faulty):
    with pytest.raises(ParameterError, match=said):
        audit(faulty, **options)


def test_nothing_is_imported_before_it_is_used(fresh_python):
    assert fresh_python("import sys, heads.auditing; print('sklearn' in sys.modules)") == "False"


@pytest.fixture(scope="module")
def planted(shared_data, mobilenet_weights, all_cats_and_dogs, tmp_path_factory):
    """1,000 photographs with 15 wrong labels, 5 copies in the valid split and 5 that were saved again there."""
    from PIL import Image

    root = tmp_path_factory.mktemp("planted")
    paths = sorted((shared_data / "catsdogs" / "train").rglob("*.jpg"))
    rng = np.random.default_rng(0)
    wrong, copied, saved = np.split(rng.permutation(1000)[:25], [15, 20])
    table, names = ["path,label,split"], {}
    for number, path in enumerate(paths):
        label, other = (("cats", "dogs"), ("dogs", "cats"))[path.parent.name == "dogs"]
        names[number] = path.name
        shutil.copy(path, root / path.name)
        table.append(f"{path.name},{other if number in wrong else label},train")
        if number in copied:
            shutil.copy(path, root / f"copy-{path.name}")
            table.append(f"copy-{path.name},{label},valid")
        if number in saved:
            Image.open(path).convert("RGB").save(root / f"saved-{path.name}", quality=75)
            table.append(f"saved-{path.name},{label},valid")
    (root / "images.csv").write_text("\n".join(table))
    shutil.copy(all_cats_and_dogs / "catsdogs.h5", root / "planted.h5")  # the features of all but those saved again
    extract(root / "images.csv", root / "planted.h5", backbone="mobilenet_v2", weights=str(mobilenet_weights))
    return root / "planted.h5", *({names[number] for number in some} for some in (wrong, copied, saved))


@pytest.mark.slow
@pytest.mark.real_data
def test_planted_faults_among_real_photographs_are_found(planted):
    path, wrong, copied, saved = planted
    found = audit(FeatureCache.open(path), tap="avg_pool")
    assert len(wrong & {each.path for each in found.label_errors[:25]}) >= 12
    exact, near = ([pair for pair in found.duplicates if pair.kind == kind] for kind in ("exact", "near"))
    assert {frozenset((pair.a, pair.b)) for pair in exact} == {frozenset((name, f"copy-{name}")) for name in copied}
    assert {frozenset((name, f"saved-{name}")) for name in saved} <= {frozenset((pair.a, pair.b)) for pair in near}
    assert len(near) <= 8  # some of the photographs are near-duplicates of each other
    assert sum(pair.crosses for pair in found.duplicates) == 10
    assert found.table.imagenet_top3 is not None
