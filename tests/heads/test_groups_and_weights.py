"""Rows in groups and with weights: no use case separates groups, and heads are trained with the weights."""

import importlib
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

import featurecache
import heads
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import OptionError, UnknownNameError
from featurecache.images.table import LabelsTable
from heads.curves.curve import drawn_order
from heads.errors import MismatchError, ParameterError, TrainingError
from heads.evaluation.intervals import group_numbers, wilson
from heads.notices import Code
from heads.search.grid import candidates_of
from heads.search.validation_plan import ValidationPlan, identity, parts_of, validation_groups
from heads.splits import TRAIN, VALID, Holdout, folds_of, kept_together, labelled_images, roles
from heads.training import Training

N, CLASSES = 120, ("blue", "red")
PATIENT = "patient"


def extracted(folder, splits):
    """Extract noisy images of two colours; image 7 has the bytes of image 6, and 9 those of 8."""
    random = np.random.default_rng(0)
    lines = ["path,label,split"]
    for number in range(N):
        same = number in {7, 9}
        noise = random.integers(0, 160, (8, 8, 3)) if not same else noise  # noqa: F821
        label = number % 4 // 2
        noise[..., 0] += 40 * label * (not same)
        Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number:03}.png")
        lines.append(f"{number:03}.png,{CLASSES[label]},{splits[number]}")
    (folder / "images.csv").write_text("\n".join(lines))
    return featurecache.extract(folder / "images.csv", folder / "images.h5", root=folder, backbone=FakeBackbone())


def with_column(cache, texts, name=PATIENT):
    """Return a cache with a further column."""
    labels = [cache.classes[label] if label >= 0 else None for label in cache.index.images["label"]]
    return cache.with_labels(LabelsTable(dict(zip(cache.paths, labels, strict=True)), {name: texts}))


def patients(cache, size=4):
    """Name a patient for each image: ``size`` images that follow one another have one."""
    return [f"p{int(path[:3]) // size:03}" for path in cache.paths]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A cache without splits."""
    return extracted(tmp_path_factory.mktemp("plain"), [""] * N)


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """A cache whose splits tear the patients 15 and 20, of 4 images each."""
    splits = ["train"] * 62 + ["valid"] * 20 + ["test"] * (N - 82)
    return extracted(tmp_path_factory.mktemp("divided"), splits)


@pytest.fixture(scope="module")
def grouped(plain):
    return with_column(plain, patients(plain)).with_groups(PATIENT)


@pytest.mark.parametrize("seed", range(5))
def test_rows_stay_together_as_connected_components_do(make_features, seed):
    random = np.random.default_rng(seed)
    n = 60
    contents, numbers = random.integers(0, 45, n), random.integers(0, 30, n)
    groups = np.array([f"g{number:02}" if number else "" for number in numbers], dtype=object)
    features = make_features(np.zeros((n, 2), np.float32), np.arange(n) % 2, contents=contents)
    keys = kept_together(replace(features, groups=groups))
    named = np.where(groups == "", 100 + contents, numbers)
    graph = coo_array((np.ones(n), (named, 200 + contents)), shape=(300, 300))
    expected = connected_components(graph, directed=False)[1][named]
    assert np.array_equal(keys[:, None] == keys, expected[:, None] == expected)
    assert kept_together(features) is features.sha256


def test_a_key_is_the_first_name_of_what_was_joined(make_features):
    features = make_features(np.zeros((4, 2), np.float32), [0, 1, 0, 1], contents=[1, 1, 2, 3])
    features = replace(features, groups=np.array(["c", "b", "b", "a"], dtype=object))
    assert kept_together(features).tolist() == ["b", "b", "b", "a"]


@pytest.mark.parametrize("seed", range(4))
def test_no_group_and_no_content_is_on_both_sides_of_a_holdout(plain, seed):
    cache = with_column(plain, patients(plain, 7)).with_groups(PATIENT)
    features = cache.features("features")
    assigned = roles(features, Holdout(0.3, seed))
    train, valid = assigned == TRAIN, assigned == VALID
    assert valid.any()
    assert train.sum() + valid.sum() == N
    assert not set(features.groups[train]) & set(features.groups[valid])
    assert not set(features.sha256[train]) & set(features.sha256[valid])


def test_rows_keep_their_groups(grouped):
    rows = grouped.features("features").take(np.array([5, 0, 119]))
    assert rows.groups.tolist() == ["p001", "p000", "p029"]
    assert pickle.loads(pickle.dumps(grouped)).groups.tolist() == grouped.groups.tolist()  # noqa: S301
    assert labelled_images(grouped, "features").groups.tolist() == grouped.groups.tolist()
    other = grouped.with_labels({grouped.paths[0]: "green"})
    assert other.group_column == PATIENT
    assert other.groups.tolist() == grouped.groups.tolist()


def test_blanks_around_a_name_do_not_matter(plain):
    texts = [f" {name} " if row % 2 else name for row, name in enumerate(patients(plain))]
    assert with_column(plain, texts).with_groups(PATIENT).groups.tolist() == patients(plain)


def test_columns_that_cannot_group_are_refused(plain):
    names = patients(plain)
    cache = with_column(plain, ["", " ", *names[2:]])
    with pytest.raises(OptionError, match=r"empty for 2 of 120 labelled rows, first for '000.png'; give each a group"):
        cache.with_groups(PATIENT)
    with pytest.raises(OptionError, match="all 120 labelled rows are in the group 'one' of the column"):
        with_column(plain, ["one"] * N).with_groups(PATIENT)
    with pytest.raises(UnknownNameError, match="unknown column 'patint'; did you mean 'patient'"):
        cache.with_groups("patint")
    unlabelled = cache.with_labels({"000.png": None, "001.png": None})
    assert unlabelled.with_groups(PATIENT).groups[0] == ""
    with pytest.raises(OptionError, match="empty for 1 of"):
        unlabelled.with_groups(PATIENT).with_labels({"000.png": "red"})


def test_a_head_records_its_groups_and_an_evaluation_repeats_its_holdout(grouped, plain, tmp_path):
    head = heads.train(grouped, "centroid", tap="features", holdout=0.4)
    head.save(tmp_path / "head")
    assert json.loads((tmp_path / "head" / "head.json").read_text())["training"]["groups"] == {
        "column": PATIENT,
        "n_train": head.training.groups.n_train,
        "n_valid": head.training.groups.n_valid,
    }
    loaded = heads.TrainedHead.load(tmp_path / "head")
    assert loaded.training.groups == head.training.groups
    assert loaded.training.groups.n_train + loaded.training.groups.n_valid == len(set(grouped.groups))
    for cache in (grouped, with_column(plain, patients(plain))):  # asked for groups, or not
        rows = heads.select_rows(cache, loaded, "valid")
        assert len(rows) == head.training.n_valid
        assert set(rows.groups) == set(grouped.groups) - set(heads.select_rows(cache, loaded, "train").groups)
        evaluation = heads.evaluate(loaded, rows, cache=cache)
        assert evaluation.accuracy.value == head.training.valid_accuracy
        assert evaluation.n_groups == head.training.groups.n_valid
        assert {score.method for score in evaluation.scores()} == {"", "bootstrap of groups"}
        assert not {Code.TRAINING_ROWS, Code.TORN_GROUPS, Code.NO_GROUPS} & {
            notice.code for notice in evaluation.warnings
        }
    with pytest.raises(MismatchError, match=r"holdout needs it: unknown column 'patient'.*--labels FILE\.csv"):
        heads.select_rows(plain, loaded, "valid")
    rows = heads.select_rows(plain, loaded, "all")
    assert Code.NO_GROUPS in {notice.code for notice in heads.evaluate(loaded, rows, cache=plain).warnings}


def test_groups_that_are_asked_for_do_not_change_the_holdout_of_a_head_without(grouped, plain):
    head = heads.train(plain, "centroid", tap="features", holdout=0.4)
    assert head.training.groups is None
    rows = heads.select_rows(grouped, head, "valid")
    assert rows.paths.tolist() == heads.select_rows(plain, head, "valid").paths.tolist()
    expected = dict(zip(grouped.paths, grouped.groups, strict=True))
    assert rows.groups.tolist() == [expected[path] for path in rows.paths]
    evaluation = heads.evaluate(head, rows, cache=grouped)
    torn = {expected[path] for path in rows.paths} & {expected[path] for path in set(grouped.paths) - set(rows.paths)}
    (notice,) = (notice for notice in evaluation.warnings if notice.code == Code.TORN_GROUPS)
    assert f"are of {len(torn)} groups with training rows" in notice.message


def test_a_cache_with_a_valid_split_needs_no_groups_of_the_head(grouped, divided):
    head = heads.train(grouped, "centroid", tap="features", holdout=0.4)
    rows = heads.select_rows(divided, head, "valid")
    assert rows.paths.tolist() == divided.features("features", "valid").paths.tolist()
    assert rows.groups is None


def test_only_rows_and_training_rows_in_groups_can_tear_them(grouped, plain):
    head = heads.train(plain, "centroid", tap="features", holdout=0.4)
    for ours, theirs, torn in ((grouped, grouped, True), (grouped, plain, False), (plain, grouped, False)):
        warnings = heads.evaluate(head, heads.select_rows(ours, head, "all"), cache=theirs).warnings
        assert (Code.TORN_GROUPS in {notice.code for notice in warnings}) == torn


def test_a_split_that_tears_groups_is_said(divided):
    cache = with_column(divided, patients(divided)).with_groups(PATIENT)
    head = heads.train(cache, "centroid", tap="features")
    (notice,) = (notice for notice in head.training.warnings if notice.code == Code.TORN_GROUPS)
    assert notice.message.startswith("2 of the 20 valid rows are of 1 group with training rows as well")
    evaluation = heads.evaluate(head, heads.select_rows(cache, head, "test"), cache=cache)
    assert Code.TORN_GROUPS not in {notice.code for notice in evaluation.warnings}
    for asked in (cache, with_column(divided, patients(divided))):  # asked for groups, or not
        evaluation = heads.evaluate(head, heads.select_rows(asked, head, "valid"), cache=asked)
        assert Code.TORN_GROUPS in {notice.code for notice in evaluation.warnings}
    pairs = with_column(divided, patients(divided, 3)).with_groups(PATIENT)
    curve = heads.learning_curve(pairs, "centroid", tap="features", repeats=1)
    assert Code.TORN_GROUPS in {notice.code for notice in curve.warnings}
    without = heads.train(divided, "centroid", tap="features").training.warnings
    assert Code.TORN_GROUPS not in {notice.code for notice in without}


def test_a_continued_head_keeps_its_groups(grouped, plain):
    head = heads.train(grouped, "softmax", tap="features", params={"epochs": 1}, holdout=0.4)
    named = with_column(plain, patients(plain))
    again = heads.train(named, start=head)
    assert again.training.groups == head.training.groups
    assert again.training.rows_sha256 == head.training.rows_sha256
    other = with_column(named, patients(plain, 3), "room").with_groups("room")
    with pytest.raises(ParameterError, match="was trained with groups of 'patient', got 'room'; leave it out"):
        heads.train(other, start=head)
    with pytest.raises(ParameterError, match="was trained with no groups, got 'patient'"):
        heads.train(grouped, start=heads.train(plain, "softmax", tap="features", params={"epochs": 1}))


def test_a_continued_head_keeps_its_weights(plain):
    trust = [f"{1 + number % 3}" for number in range(len(plain))]
    named = with_column(plain, trust, "trust")
    weighted = named.with_weights("trust")
    head = heads.train(weighted, "ridge", tap="features", keep_rows=True)
    again = heads.train(named, start=head)
    assert again.training.weight == "trust"
    np.testing.assert_allclose(again.model.coef, head.model.coef, atol=1e-12)
    with pytest.raises(UnknownNameError, match="trust"):
        heads.train(plain, start=head)
    with pytest.raises(ParameterError, match=r"weight: .* trained with no weights, got 'trust'; leave it out to weigh"):
        heads.train(weighted, start=heads.train(plain, "ridge", tap="features"))
    features, rows = weighted.features("features"), head.training_rows()
    expected = dict(zip(features.sha256, features.weights, strict=True))
    same = [each for each, content in enumerate(rows.sha256) if list(features.sha256).count(content) == 1]
    assert [rows.weights[each] for each in same] == [expected[rows.sha256[each]] for each in same]


def test_a_head_that_grows_keeps_groups_of_rows_that_it_kept(grouped, plain):
    head = heads.train(grouped, "centroid", tap="features", holdout=0.4, keep_rows=True, calibrate="temperature")
    features = grouped.features("features")
    half = features.take(np.arange(N // 2))  # with both rows of equal contents
    grown = Training.asked(None, start=head).on(half, made_by=grouped.made_by, group_column=PATIENT)
    assert grown.training.groups == head.training.groups
    assert grown.training.rows_sha256 == head.training.rows_sha256
    assert set(grown.training_rows().groups) == set(grouped.groups)


def test_no_held_out_group_is_said(plain):
    cache = with_column(plain, patients(plain, 30)).with_groups(PATIENT)
    seed = next(seed for seed in range(50) if not any(map(Holdout(0.2, seed).holds_out, set(cache.groups))))
    head = heads.train(cache, "centroid", tap="features", seed=seed)
    (notice,) = (notice for notice in head.training.warnings if notice.code == Code.NO_VALID_ROWS)
    assert "none of 4 groups is held out, take another seed" in notice.message


def test_folds_do_not_tear_groups(grouped, plain):
    validation = ValidationPlan(5, 0.2, 0)
    images = labelled_images(grouped, "features")
    parts = parts_of(images, validation)
    assert all(len(set(parts[images.groups == group])) == 1 for group in set(images.groups))
    assert len(set(parts)) == 5
    assert validation_groups(images, validation).tolist() == [
        group for part in range(5) for group in images.groups[parts == part]
    ]
    assert identity(images, validation) != identity(labelled_images(plain, "features"), validation)
    few = with_column(plain, patients(plain, 30)).with_groups(PATIENT)
    with pytest.raises(TrainingError, match="5 folds need as many groups of training images of each class"):
        parts_of(labelled_images(few, "features"), validation)


@pytest.mark.parametrize("folds", [0, 3])
def test_a_sweep_ranks_by_groups(grouped, tmp_path, folds):
    found = heads.sweep(grouped, tmp_path / "sweep", heads=["centroid"], folds=folds, taps=["features"], jobs=1)
    entry = next(entry for entry in found.leaderboard if entry.candidate.head == "centroid")
    assert found.best.training.groups.column == PATIENT
    assert entry.accuracy.value != 1
    assert "exact sign-flip test of groups on the same rows" in " ".join(map(str, found.notes))
    if folds:
        assert entry.accuracy != wilson(round(entry.accuracy.value * N), N)
    else:  # the head was trained on the same rows, and is evaluated as it was ranked
        assert entry.accuracy == heads.evaluate(found.best, heads.select_rows(grouped, found.best, "valid")).accuracy


def test_an_audit_keeps_groups_out_of_training(grouped, monkeypatch):
    seen = []

    def spy(y, groups, sha256, *, folds, seed):
        assigned = folds_of(y, groups, sha256, folds=folds, seed=seed)
        seen.append(assigned)
        return assigned

    monkeypatch.setattr(importlib.import_module("heads.auditing.audit"), "folds_of", spy)
    found = heads.audit(grouped, tap="features", head="centroid", near=1.0)
    (assigned,) = seen
    assert len(found.table) == N
    assert all(len(set(assigned[grouped.groups == group])) == 1 for group in set(grouped.groups))
    assert found.accuracy.value == np.mean(found.table.correct)
    with pytest.raises(ParameterError, match="folds is 40, and there are 30 groups of labelled rows"):
        heads.audit(grouped, tap="features", head="centroid", folds=40, near=1.0)


def test_an_audit_lists_duplicates_across_groups(plain):
    names = patients(plain)
    names[7] = names[40]
    cache = with_column(plain, names).with_groups(PATIENT)
    pairs = heads.audit(cache, tap="features", head="centroid", near=1.0).duplicates
    (torn,) = (pair for pair in pairs if pair.tears_groups)
    assert (torn.a, torn.b, torn.group_a, torn.group_b) == ("006.png", "007.png", "p001", "p010")
    report = heads.audit_report(heads.audit(cache, tap="features", head="centroid", near=1.0)).to_markdown()
    assert "in the groups p001 and p010" in report
    assert "or image of its group" in report


def test_a_curve_draws_whole_groups(grouped):
    rows = grouped.features("features")
    units = group_numbers(kept_together(rows))
    drawn = drawn_order(rows, 3, 1, units)
    assert sorted(drawn) == list(range(N))
    ends = np.flatnonzero(np.diff(units[drawn]))
    assert len(ends) + 1 == len(set(units))  # each group in one run
    assert set(rows.y[drawn[: ends[1] + 1]]) == {0, 1}
    curve = heads.learning_curve(grouped, "centroid", tap="features", repeats=3, holdout=0.3)
    assert curve.points[-1].n == curve.groups.n_train * 4
    assert [point.n for point in curve.points] == [4 * (curve.groups.n_train // 2), 4 * curve.groups.n_train]
    assert curve.to_dict()["groups"]["column"] == PATIENT
    assert "images of one patient were kept together" in heads.curve_report(curve).to_markdown()


def test_groups_of_one_row_are_drawn_as_rows(plain, make_features, blobs):
    features = make_features(*blobs(50, 3, 3))
    names = np.array([f"{row}" for row in range(50)], dtype=object)
    units = group_numbers(names)
    assert drawn_order(features, 0, 2, units).tolist() == drawn_order(features, 0, 2).tolist()


def test_too_few_groups_for_a_curve(plain):
    cache = with_column(plain, patients(plain, 10)).with_groups(PATIENT)
    with pytest.raises(TrainingError, match="training groups of 2 classes; a learning curve needs at least 20"):
        heads.learning_curve(cache, "centroid", tap="features")


def test_few_groups_are_said(plain):
    cache = with_column(plain, patients(plain, 10)).with_groups(PATIENT)
    head = heads.train(cache, "centroid", tap="features")
    evaluation = heads.evaluate(head, cache.features("features"), cache=cache)
    assert "the rows are of 12 groups: intervals of so few are rough" in " ".join(map(str, evaluation.warnings))
    report = heads.evaluation_report(evaluation, head=head).to_markdown()
    assert "bootstrap samples of 12 groups, whose images stay together" in report
    assert "images of one patient were kept together in training" in report


def test_a_comparison_takes_the_groups(grouped, plain):
    a, b = (heads.train(grouped, name, tap="features", holdout=0.4) for name in ("centroid", "majority"))
    evaluations = {head.name: heads.evaluate(head, heads.select_rows(grouped, head, "valid")) for head in (a, b)}
    comparison = heads.compare(evaluations)
    assert comparison.n_groups == a.training.groups.n_valid
    assert "sign-flip test of groups" in heads.comparison_report(comparison).to_markdown()
    table = evaluations["majority"].table
    other = heads.evaluate_table(replace(table, groups=None))
    with pytest.raises(MismatchError, match="different groups; evaluate both with the same --group"):
        heads.compare({"centroid": evaluations["centroid"], "majority": other})


def weighted_cache(cache, texts):
    return with_column(cache, texts, "trust").with_weights("trust")


@pytest.fixture(scope="module")
def weighted(divided):
    return weighted_cache(divided, [str(number % 4) for number in range(N)])


def test_a_cache_has_the_weights_of_a_column(weighted, divided):
    features = weighted.features("features", "train")
    assert features.weights.tolist() == [float(number % 4) for number in range(62)]
    assert features.take(np.array([3, 1])).weights.tolist() == [3, 1]
    assert pickle.loads(pickle.dumps(weighted)).weights.tolist() == weighted.weights.tolist()  # noqa: S301
    grouped = with_column(weighted, patients(divided)).with_groups(PATIENT)
    assert grouped.features("features").weights is not None
    assert divided.features("features").weights is None
    empty = divided.with_labels({"000.png": None})
    assert weighted_cache(empty, ["", *["1"] * (N - 1)]).weights[0] == 0


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["-1", "x", *["1"] * (N - 2)],
            "no finite number of at least 0 for 2 of 120 labelled rows, first '-1' for '000",
        ),
        (["1", "", *["1"] * (N - 2)], "for 1 of 120 labelled rows, first '' for '001.png'"),
        (["inf"] * N, "for 120 of 120 labelled rows, first 'inf'"),
        (["nan"] * N, "for 120 of 120 labelled rows, first 'nan'"),
        (["0"] * N, "all 120 labelled rows have the weight 0 in the column 'trust'"),
    ],
)
def test_columns_that_cannot_weigh_are_refused(divided, texts, message):
    with pytest.raises(OptionError, match=message):
        weighted_cache(divided, texts)


def test_a_column_of_weights_that_is_not_there(weighted):
    with pytest.raises(UnknownNameError, match="unknown column 'trsut'; did you mean 'trust'"):
        weighted.with_weights("trsut")


def test_training_takes_the_weights_and_says_so(weighted, tmp_path):
    head = heads.train(weighted, "logreg", tap="features")
    features = weighted.features("features", "train")
    expected = heads.make_head("logreg").fit(features.X, features.y, sample_weight=features.weights)
    np.testing.assert_array_equal(head.predict_proba(features.X), expected.predict_proba(features.X))
    head.save(tmp_path / "head")
    assert json.loads((tmp_path / "head" / "head.json").read_text())["training"]["weight"] == "trust"
    assert heads.TrainedHead.load(tmp_path / "head").training.weight == "trust"
    evaluation = heads.evaluate(head, heads.select_rows(weighted, head, "valid"), cache=weighted)
    assert evaluation.accuracy.value == head.training.valid_accuracy == evaluation.table.correct.mean()
    trained = heads.select_rows(weighted, head, "train")
    assert Code.TRAINING_ROWS in {notice.code for notice in heads.evaluate(head, trained, cache=weighted).warnings}


def test_heads_without_weights_are_refused_and_the_others_named(weighted, tmp_path):
    for call in (
        lambda: heads.train(weighted, "knn", tap="features"),
        lambda: heads.audit(weighted, head="knn", tap="features"),
        lambda: heads.learning_curve(weighted, "knn", tap="features"),
        lambda: heads.sweep(weighted, tmp_path / "sweep", heads=["knn"]),
    ):
        with pytest.raises(ParameterError, match=r"the head .knn. takes no weights of rows; these do: .*logreg"):
            call()


def test_a_sweep_takes_the_weights_and_leaves_out_heads_without(weighted, divided, tmp_path):
    candidates = candidates_of([], ["features"], {}, weighted=True)
    assert {"knn", "imagenet_map"} & {candidate.head for candidate in candidates} == set()
    for standardize in ("true", "false"):
        grids = {"lda": {"shrinkage": [0.5], "standardize": [standardize == "true"]}}
        found = heads.sweep(weighted, tmp_path / standardize, heads=["lda"], taps=["features"], grids=grids, jobs=1)
        (entry,) = (entry for entry in found.leaderboard if entry.candidate.head == "lda")
        params = {"shrinkage": 0.5, "standardize": standardize == "true"}
        head = heads.train(weighted, "lda", tap="features", params=params)
        valid = divided.features("features", "valid")
        loss = -np.log(head.predict_proba(valid.X)[np.arange(20), valid.y]).mean()
        assert entry.loss == pytest.approx(loss, rel=1e-4)
        unweighted = heads.train(divided, "lda", tap="features", params=params)
        other = -np.log(unweighted.predict_proba(valid.X)[np.arange(20), valid.y]).mean()
        assert entry.loss != pytest.approx(other, rel=1e-4)
    images = labelled_images(weighted, "features")
    plan = ValidationPlan(0, 0.2, 0)
    assert identity(images, plan) != identity(labelled_images(divided, "features"), plan)


def test_a_curve_and_an_audit_take_the_weights(weighted, divided):
    ours, plain = (heads.learning_curve(cache, "lda", tap="features", repeats=1) for cache in (weighted, divided))
    head = heads.train(weighted, "lda", tap="features")
    assert ours.points[-1].accuracy.value == head.training.valid_accuracy
    assert ours.points[-1].n == plain.points[-1].n
    found, other = (heads.audit(cache, tap="features", head="lda", near=1.0) for cache in (weighted, divided))
    assert not np.allclose(found.table.probabilities, other.table.probabilities)
    ones = weighted_cache(divided, ["1"] * N)
    same = heads.audit(ones, tap="features", head="lda", near=1.0)
    np.testing.assert_allclose(same.table.probabilities, other.table.probabilities, rtol=0, atol=1e-9)
