"""Heads that grow: with the rows at hand or kept, a grown head is the one that all rows at once would have given."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from heads import Code, HeadRows, TrainedHead, evaluate, growth, head_spec, make_head, select_rows, train
from heads.artifact import rows as stored_rows
from heads.errors import ArtifactError, MismatchError, ParameterError, TrainingError
from heads.families.affine import softmax
from heads.splits import Holdout
from heads.training import Training

N, D, K = 160, 6, 4
OLD = 3  # classes
FAMILIES = ("centroid", "knn", "lda", "ridge", "logreg", "naive_bayes", "svm", "sgd", "extra_trees", "majority")
PARAMS = {"extra_trees": {"n_estimators": 5}, "knn": {"standardize": True}, "ridge": {"alpha": "auto"}}


@pytest.fixture(scope="module")
def caches(blobs, make_features, make_cache):
    """A cache of three classes, one with rows of a fourth class and of the first, and one with all, in this order."""
    X, y = blobs(N, D, K, spread=2.0)
    new = (y == OLD) | (np.arange(N) >= N - 20)
    order = np.concatenate([np.flatnonzero(~new), np.flatnonzero(new)])

    def of(rows):
        return make_cache(
            make_features(X[rows], y[rows], splits="", contents=rows, paths=[f"{row}.jpg" for row in rows])
        )

    return of(order[: np.count_nonzero(~new)]), of(order[np.count_nonzero(~new) :]), of(order)


def stored(head, tmp_path, name="head"):
    return TrainedHead.load(head.save(tmp_path / name))


def assert_same(grown, whole, cache):
    """Assert that a grown head is the one that was trained on all rows at once."""
    features = cache.features()
    assert grown.classes == whole.classes
    for name in ("n_train", "n_valid", "class_counts", "rows_sha256", "holdout", "train_accuracy", "valid_accuracy"):
        assert getattr(grown.training, name) == pytest.approx(getattr(whole.training, name)), name
    if grown.target == "number":
        np.testing.assert_allclose(grown.predict_numbers(features.X), whole.predict_numbers(features.X), atol=1e-7)
    else:
        np.testing.assert_allclose(grown.predict_proba(features.X), whole.predict_proba(features.X), atol=1e-7)
    assert grown.thresholds == whole.thresholds


# From all rows


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_that_kept_its_rows_grows_as_if_trained_at_once(name, caches, tmp_path):
    old, new, both = caches
    first = stored(train(old, name, params=PARAMS.get(name), keep_rows=True), tmp_path)
    grown = train(new, start=first)
    assert_same(grown, train(both, name, params=PARAMS.get(name)), both)
    growth = grown.training.growth
    assert growth.new_classes == ("dog",)
    assert growth.n_known == growth.n_kept == first.training.n_train
    assert growth.n_known + growth.n_new == grown.training.n_train
    assert grown.training.continues == first.identity
    again = stored(grown, tmp_path, "again")
    assert again.training == grown.training
    assert again.training_rows().X.shape == (len(both), D)
    assert_same(train(new, start=again), grown, both)  # no row counts twice


@pytest.mark.parametrize("name", ["centroid", "ridge"])
def test_a_head_without_rows_grows_with_its_cache(name, caches, tmp_path):
    old, new, both = caches
    first = stored(train(old, name), tmp_path)
    assert first.training_rows().X is None
    grown = train(both, start=first)
    assert_same(grown, train(both, name), both)
    assert (grown.training.growth.n_kept, grown.training.growth.n_known) == (0, first.training.n_train)
    with pytest.raises(
        TrainingError,
        match=rf"{first.training.n_train} of the .* nor kept in the head, and {name} learns from all rows: join the "
        r"caches \(featurecache merge .*--keep-rows",
    ):
        train(new, start=first)


def test_knn_has_its_rows_in_any_case(caches, tmp_path):
    old, new, both = caches
    params = {"metric": "euclidean", "n_neighbors": 5}
    first = stored(train(old, "knn", params=params, holdout=0), tmp_path)
    assert first.training_rows().X is None
    grown = train(new, start=first)
    features = both.features()
    oracle = KNeighborsClassifier(5).fit(features.X, features.y)
    np.testing.assert_allclose(grown.predict_proba(features.X), oracle.predict_proba(features.X), atol=1e-12)
    assert grown.training_rows().X is None
    with pytest.raises(TrainingError, match="knn learns from all rows"):  # its valid rows are known, but not kept
        train(new, start=replace(first, model=make_head("knn").fit(features.X[:9], features.y[:9]).model_))


def test_knn_of_several_labels_has_its_rows_as_well(caches, make_cache, tmp_path):
    old, new, both = (tagged(each, make_cache) for each in caches)
    first = stored(train(old, "knn", target="labels", holdout=0), tmp_path)
    assert first.training_rows().X is None
    grown, whole = train(new, start=first), train(both, "knn", target="labels", holdout=0)
    features = both.features()
    np.testing.assert_allclose(grown.predict_proba(features.X), whole.predict_proba(features.X), atol=1e-7)
    assert grown.training.growth.n_kept == len(old.paths)


def tagged(cache, make_cache):
    """Return a cache whose rows have the label b, and every other one, by its first feature, a as well."""
    features = cache.features()
    return make_cache(replace(features, y=(features.X[:, 0] > 0).astype(int), classes=("b", "a|b")))


def test_a_label_that_all_training_rows_have_is_said(caches, make_cache):
    trained = train(tagged(caches[0], make_cache), "ridge", target="labels")
    said = [each.message for each in trained.training.warnings if each.code == Code.CLASS_NOT_TRAINED]
    assert said == ["every training row has the label b: its probability will always be 1"]


def test_valid_rows_that_are_lost_are_said(caches, make_cache):
    old, _, _ = caches
    head = train(old, "ridge")
    rows = head.training_rows()
    features = old.features()
    left = np.isin(features.sha256, rows.contents(valid=False))
    grown = train(make_cache(features.take(np.flatnonzero(left))), start=head)
    said = [each.message for each in grown.training.warnings if each.code == Code.OTHER_ROWS]
    n = head.training.n_valid
    assert any(message.startswith(f"{n} of the {n} valid rows of the head to continue are not in") for message in said)


def test_kept_rows_are_joined_only_if_there_is_room(caches, monkeypatch):
    old, new, _ = caches
    head = train(old, "ridge", keep_rows=True)
    monkeypatch.setattr(growth, "free_memory", lambda: 100)
    with pytest.raises(TrainingError, match=r"joined in memory: they take .*, and 100 bytes are free; join"):
        train(new, start=head)


def test_the_probabilities_are_those_of_scikit_learn_on_all_rows(caches):
    old, new, both = caches
    X, y = both.features().X.astype(np.float64), both.features().y

    def grown(name, **params):
        params = {"standardize": False} | params
        return train(new, start=train(old, name, params=params, holdout=0, keep_rows=True))

    nearest = grown("centroid", class_weight="balanced").predict_proba(X).argmax(axis=1)
    np.testing.assert_array_equal(nearest, NearestCentroid().fit(X, y).predict(X))
    for solver in ("lsqr", "eigen"):
        oracle = LinearDiscriminantAnalysis(solver=solver).fit(X, y)
        np.testing.assert_allclose(grown("lda", shrinkage=0).predict_proba(X), oracle.predict_proba(X), atol=1e-9)
    coef, expected = grown("ridge", alpha=3).model.coef, RidgeClassifier(alpha=3).fit(X, y).coef_
    lengths = [np.linalg.norm(weights, axis=1, keepdims=True) for weights in (coef, expected)]
    np.testing.assert_allclose(coef / lengths[0], expected / lengths[1], atol=1e-9)


@pytest.mark.parametrize("target", ["labels", "number"])
def test_labels_and_numbers_grow_as_well(target, caches, make_features, make_cache):
    old, new, both = caches

    def of(cache, extra=""):
        features = cache.features()
        texts = [("a|b" if row % 3 else "b") + extra * (row % 2) for row in range(len(features))]
        if target == "number":
            texts = [repr(float(row)) for row in features.X[:, 0]]
        classes = tuple(sorted(set(texts)))
        return replace(features, y=np.array([classes.index(text) for text in texts]), classes=classes)

    first, second = of(old), of(new, "|c")
    names = tuple(dict.fromkeys((*first.classes, *second.classes)))
    y = [names.index(each.classes[index]) for each in (first, second) for index in each.y]
    whole = make_cache(replace(both.features(), y=np.array(y), classes=names))
    head = train(make_cache(first), "ridge", target=target, keep_rows=True)
    assert head.params["alpha"] == ("auto" if target == "number" else 1.0)
    grown = train(make_cache(second), start=head)
    assert_same(grown, train(whole, "ridge", target=target), whole)
    assert grown.training.growth.new_classes == (("c",) if target == "labels" else ())
    if target == "number":
        assert grown.number_range.high == whole.features().X[:, 0].max()
    dense = train(make_cache(first), "mlp", target=target, params={"epochs": 1, "hidden": "4"})
    with pytest.raises(ParameterError, match=r"mlp of several labels, or of a number, cannot be continued"):
        train(make_cache(second), start=dense)
    with pytest.raises(ParameterError, match=r"target: the head to continue has '.*', got 'class'"):
        train(make_cache(second), start=head, target="class")


def test_new_classes_follow_those_of_the_head(caches, make_cache):
    old, new, both = caches
    features = new.features()
    renamed = replace(features, classes=("ant", "bee", "cow", "aardvark"))
    head = train(old, "lda", keep_rows=True)
    grown = train(make_cache(renamed), start=head)
    assert grown.classes == ("ant", "bee", "cow", "aardvark")
    whole = train(both, "lda")
    np.testing.assert_allclose(
        grown.predict_proba(both.features().X), whole.predict_proba(both.features().X), atol=1e-9
    )


def test_a_cache_of_new_classes_alone(caches, make_cache):
    old, _, both = caches
    features = both.features()
    alone = features.take(features.y == OLD)
    alone = make_cache(replace(alone, y=np.zeros(len(alone), np.int64), classes=("dog",)))
    head = train(old, "centroid", keep_rows=True)
    grown = train(alone, start=head)
    assert grown.classes == ("ant", "bee", "cow", "dog")
    assert grown.training.growth.n_kept == head.training.n_train
    assert grown.training.n_valid >= head.training.n_valid
    with pytest.raises(MismatchError, match="recipe"):
        train(make_cache(replace(alone.features(), recipe=replace(features.recipe, filter="nearest"))), start=head)


def test_changed_labels_are_said_and_replace_the_old_ones(caches, make_cache):
    old, _, _ = caches
    features = old.features()
    y = features.y.copy()
    y[[0, 1]] = 2 - y[[0, 1]] // 2  # other labels
    changed = make_cache(replace(features, y=y))
    head = train(old, "ridge", holdout=0, keep_rows=True)
    grown = train(changed, start=head)
    assert_same(grown, train(changed, "ridge", holdout=0), changed)
    count = int(np.count_nonzero(y != features.y))
    (notice,) = (each for each in grown.training.warnings if each.code == Code.RELABELLED_ROWS)
    assert notice.message.startswith(f"{count} row")
    assert features.paths[0] in notice.message
    assert (grown.training.growth.n_relabelled, grown.training.growth.n_new) == (count, 0)
    assert grown.training.growth.grew
    assert not train(old, start=head).training.growth.grew


def test_calibration_is_that_of_all_rows(caches):
    old, new, both = caches
    for method in ("temperature", "isotonic"):
        head = train(old, "logreg", keep_rows=True, calibrate=method)
        assert_same(train(new, start=head), train(both, "logreg", calibrate=method), both)
    head = train(old, "centroid", holdout=0, keep_rows=True, calibrate="temperature")
    grown = train(new, start=head)
    assert grown.calibration.folds == 5
    assert_same(grown, train(both, "centroid", holdout=0, calibrate="temperature"), both)


def test_a_row_that_is_valid_now_trains_no_more(caches, make_cache):
    old, _, _ = caches
    features = old.features()
    splits = np.where(np.arange(len(features)) % 4, "train", "valid").astype(object)
    head = train(old, "centroid", holdout=0, keep_rows=True)
    divided = make_cache(replace(features, splits=splits))
    assert_same(train(divided, start=head), train(divided, "centroid", holdout=0), divided)


@pytest.mark.parametrize("lost", ["split", "label"])
def test_a_kept_row_that_is_a_test_row_now_or_has_lost_its_label_trains_no_more(lost, caches, make_cache):
    features = caches[0].features()
    head = train(caches[0], "centroid", holdout=0, keep_rows=True)
    out = np.arange(len(features)) % 4 == 0
    splits = np.where(out & (lost == "split"), "test", "train").astype(object)
    order = np.argsort(splits == "test", kind="stable")
    y = np.where(out & (lost == "label"), -1, features.y)
    divided = make_cache(replace(features, y=y, splits=splits).take(order))
    assert_same(train(divided, start=head), train(divided, "centroid", holdout=0), divided)


def test_rows_of_weight_0_teach_no_class(caches):
    features = caches[0].features()
    head = train(caches[0], "softmax", params={"epochs": 1})
    weights = np.where(features.y == 1, 0.0, 1.0)
    weighted = replace(features, weights=weights)
    trained = Training.asked("softmax", params={"epochs": 1}, calibrate="temperature").on(
        weighted, made_by=caches[0].made_by
    )
    assert trained.trained_classes == (0, 2)
    assert trained.training.class_counts[1] == 0
    assert Code.CLASS_NOT_TRAINED in {each.code for each in trained.training.warnings}
    with pytest.raises(MismatchError, match="trained on bee, which no training row has"):
        Training.asked("softmax", start=head).on(weighted, made_by=caches[0].made_by)


def test_parameters_may_change_where_all_rows_are_learned(caches):
    old, new, both = caches
    grown = train(new, start=train(old, "ridge", keep_rows=True), params={"alpha": 100.0})
    assert_same(grown, train(both, "ridge", params={"alpha": 100.0}), both)


# Dense heads


@pytest.mark.parametrize(("name", "params"), [("softmax", {}), ("mlp", {"hidden": "5,4"})])
def test_a_new_output_leaves_the_others_as_they_are(name, params, blobs):
    X, y = blobs(60, D, 3)
    head = make_head(name, epochs=2, **params)
    model = head.fit(X, y).model_
    wide = head.widened(model, [0, None, 1, 2])
    scores = np.log(wide.predict_proba(X))
    np.testing.assert_allclose(softmax(scores[:, [0, 2, 3]]), model.predict_proba(X), atol=1e-12)
    assert wide.predict_proba(X).shape == (60, 4)


def test_a_dense_head_takes_a_class_from_its_weights(caches):
    old, new, both = caches
    quick = {"epochs": 30, "lr": 0.05}
    head = train(old, "softmax", params=quick, keep_rows=True)
    grown = train(new, start=head, params={"epochs": 5})
    assert grown.classes == ("ant", "bee", "cow", "dog")
    assert len(grown.training.epochs) == 35
    whole = train(both, "softmax", params={"epochs": 40, "lr": 0.05})
    assert grown.training.n_train == whole.training.n_train
    assert grown.training.train_accuracy > whole.training.train_accuracy - 0.05
    assert grown.training.class_counts == whole.training.class_counts
    assert Code.OTHER_ROWS not in {each.code for each in grown.training.warnings}


def test_a_dense_head_without_its_rows(caches, make_cache):
    old, new, _ = caches
    head = train(old, "softmax", params={"epochs": 2})
    grown = train(new, start=head)  # it has some rows of every class
    n, n_valid = head.training.n_train, head.training.n_valid
    lost, lost_valid = (each.message for each in grown.training.warnings if each.code == Code.OTHER_ROWS)
    assert lost.startswith(f"{n} of the {n} rows that trained the head are not in the cache")
    assert lost_valid.startswith(f"{n_valid} of the {n_valid} valid rows of the head to continue are not in the cache")
    features = new.features()
    alone = make_cache(features.take(features.y >= 2))
    with pytest.raises(MismatchError, match=r"trained on ant, bee, which no training row has: .*--keep-rows"):
        train(alone, start=head)


def test_valid_rows_that_trained_a_dense_head_are_said(caches, make_cache):
    features = caches[0].features()
    head = train(caches[0], "softmax", params={"epochs": 1}, holdout=0)
    splits = np.where(np.arange(len(features)) % 4, "train", "valid").astype(object)
    warnings = train(make_cache(replace(features, splits=splits)), start=head).training.warnings
    (notice,) = (each for each in warnings if each.code == Code.OTHER_ROWS)
    count = int(np.count_nonzero(splits == "valid"))
    assert notice.message.startswith(f"{count} of the {count} valid rows trained the head")
    twice = make_cache(features.take(np.array([*range(len(features)), 0])))
    split = twice.features()
    split = make_cache(replace(split, splits=np.array([*["train"] * len(features), "valid"], dtype=object)))
    warnings = train(split, start=train(split, "softmax", params={"epochs": 1})).training.warnings
    assert {Code.SAME_CONTENT} == {each.code for each in warnings} & {Code.SAME_CONTENT, Code.OTHER_ROWS}


def test_layers_of_a_function_of_ones_own_take_no_class():
    with pytest.raises(TrainingError, match="no new class can join the layers of logreg"):
        make_head("logreg").widened(None, [0, None])


# The file of rows


def test_rows_come_back(caches, tmp_path):
    features = caches[0].features()
    grouped = replace(
        features,
        groups=np.array([f"a\nü{row % 7}" for row in range(len(features))], dtype=object),
        weights=np.linspace(0, 1, len(features)),
    )
    train_rows, valid_rows = grouped.take(slice(0, 60)), grouped.take(slice(60, None))
    rows = HeadRows.of(train_rows, valid_rows, keep=True)
    read = HeadRows.decode(rows.encode(), target="class", classes=K, width=D)
    for name in HeadRows.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(read, name), getattr(rows, name))
    assert read.trained == set(features.sha256[:60])
    few = HeadRows.of(train_rows, valid_rows, keep=False)
    assert (few.X, few.weights, few.groups) == (None, None, None)
    assert len(few.encode()) < len(features) * 41 + 1000


def test_a_damaged_file_of_rows(caches, tmp_path):
    head = train(caches[0], "centroid", keep_rows=True)
    folder = head.save(tmp_path / "head")
    path, data = folder / "rows.safetensors", (folder / "rows.safetensors").read_bytes()
    assert evaluate(TrainedHead.load(folder), select_rows(caches[0], head, "train"), cache=caches[0]).warnings
    for bad in (data[:-1], b"", data[:-40] + b"\1" * 40):
        path.write_bytes(bad)
        with pytest.raises(ArtifactError, match=r"rows\.safetensors cannot be read: .*remove it"):
            TrainedHead.load(folder).training_rows()
    other = train(caches[1], "centroid").save(tmp_path / "other")
    path.write_bytes((other / "rows.safetensors").read_bytes())
    with pytest.raises(ArtifactError, match=r"it belongs to another head|labels that the head does not have"):
        train(caches[0], start=TrainedHead.load(folder))
    path.unlink()
    without = TrainedHead.load(folder)
    assert without.training_rows() is None
    assert train(caches[0], start=without).training.growth is None  # the digest of all rows is that of its rows
    with pytest.raises(TrainingError, match=r"no list of the rows that trained it .*centroid learns from all rows"):
        train(caches[2], start=without)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"y": np.full(3, 9)}, "labels that the head does not have"),
        ({"y": np.full(3, -1)}, "labels that the head does not have"),
        ({"y": np.zeros(3, np.int32)}, "y has dtype int32"),
        ({"X": np.full((3, D), np.nan, np.float32)}, "not finite"),
        ({"X": np.zeros((3, D + 1), np.float32)}, "X has dtype float32 and shape"),
        ({"valid": np.zeros((3, 1), bool)}, "valid has dtype bool and shape"),
        ({"groups": np.array(["a", "b"], dtype=object)}, "groups are not 3 texts"),
    ],
)
def test_forged_rows_are_refused(change, said):
    rows = HeadRows(np.array(["ab" * 32] * 3, dtype=object), np.zeros(3, np.int64), np.zeros(3, bool))
    with pytest.raises(ArtifactError, match=said):
        HeadRows.decode(replace(rows, **change).encode(), target="class", classes=3, width=D)


def test_rows_that_are_too_many_are_not_kept(caches, monkeypatch):
    monkeypatch.setattr("heads.training.MAX_ROWS_BYTES", 1000)
    with pytest.raises(TrainingError, match=r"keep_rows: .* rows take .* and a head keeps 1.0 kB; leave it out"):
        train(caches[0], "centroid", keep_rows=True)
    monkeypatch.setattr(stored_rows, "MAX_ROWS_BYTES", 1000)
    with pytest.raises(ArtifactError, match=r"rows\.safetensors would have"):
        train(caches[0], "centroid").training_rows().encode()


def test_rows_that_trained_the_head_are_known_in_any_cache(caches, make_cache):
    old, new, both = caches
    grown = train(new, start=train(old, "centroid", keep_rows=True))
    features = both.features()
    part = make_cache(features.take(np.arange(0, len(features), 3)))
    evaluation = evaluate(grown, select_rows(part, grown, "all"), cache=part)
    trained = [content in grown.training_rows().trained for content in part.features().sha256]
    (notice,) = (each for each in evaluation.warnings if each.code == Code.TRAINING_ROWS)
    assert notice.message.startswith(f"{sum(trained)} of {len(trained)} rows trained the head")
    assert Code.ROWS_BY_HOLDOUT not in {each.code for each in evaluation.warnings}
    assert head_spec("centroid").fixed == ()
    assert grown.training.holdout == Holdout(0.2, 0)


def test_a_class_that_had_no_rows_is_new(caches):
    features = caches[2].features()
    few = features.take(features.y != 1)
    start = Training.asked("centroid", holdout=0, keep_rows=True).on(few, made_by=caches[2].made_by)
    assert start.trained_classes == (0, 2, 3)
    grown = train(caches[2], start=start)
    assert grown.training.growth.new_classes == ("bee",)
    assert_same(grown, train(caches[2], "centroid", holdout=0), caches[2])
    dense = Training.asked("softmax", params={"epochs": 1}, holdout=0).on(few, made_by=caches[2].made_by)
    assert train(caches[2], start=dense).trained_classes == (0, 1, 2, 3)
