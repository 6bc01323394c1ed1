"""A stored head: the same probabilities, the refusal of features it was not made for, and of files it did not write."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from featurecache.errors import OutputError
from heads.artifact import TrainedHead, files, require_free, trained
from heads.catalog import HEADS
from heads.errors import ArtifactError, HeadError, MismatchError
from heads.notices import Code, Notice
from heads.training import train
from tests.heads.forging import rewrite


@pytest.fixture(scope="module")
def head(make_features, make_cache, blobs):
    X, y = blobs(60, 5, 3)
    return train(make_cache(make_features(X, y, splits=""), weights_source="imagenet"), "logreg")


@pytest.fixture
def stored(head, tmp_path):
    return head.save(tmp_path / "head")


# Storing


def test_all_that_is_known_of_a_head_comes_back(head, stored):
    loaded = TrainedHead.load(stored)
    for name in ("name", "params", "tap", "classes", "trained_classes", "recipe", "weights_source", "training"):
        assert getattr(loaded, name) == getattr(head, name)
    assert sorted(each.name for each in stored.iterdir()) == ["head.json", "head.safetensors", "rows.safetensors"]
    for name, array in head.model.arrays.items():
        np.testing.assert_array_equal(loaded.model.arrays[name], array)


def test_the_files_are_readable_with_their_own_libraries(stored):
    description = json.loads((stored / "head.json").read_text(encoding="ascii"))
    assert (description["format"], description["format_version"]) == ("featurecache-head", 1)
    arrays = load((stored / "head.safetensors").read_bytes())
    assert {name: (str(array.dtype), array.shape) for name, array in arrays.items()} == {
        "coef": ("float64", (3, 5)),
        "intercept": ("float64", (3,)),
        "mean": ("float64", (5,)),
        "scale": ("float64", (5,)),
    }


def test_arrays_in_column_order_are_stored_right(head, tmp_path, blobs):
    X, _ = blobs(60, 5, 3)
    arrays = {name: np.asfortranarray(array) for name, array in head.model.arrays.items()}
    scrambling = replaced(head, model=type(head.model)(**arrays))
    assert not scrambling.model.coef.flags.c_contiguous
    loaded = TrainedHead.load(scrambling.save(tmp_path / "head"))
    np.testing.assert_allclose(loaded.predict_proba(X), head.predict_proba(X), rtol=0, atol=1e-12)


def replaced(head, **changes):
    fields = {name: getattr(head, name) for name in head.__dataclass_fields__}
    return TrainedHead(**(fields | changes))


def test_what_does_not_read_back_is_not_stored(head, tmp_path, monkeypatch):
    monkeypatch.setattr(files.np, "ascontiguousarray", lambda array: array + 1e-9)
    with pytest.raises(ArtifactError, match="do not read back"):
        head.save(tmp_path / "head")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["directory", "empty directory", "file", "dangling link"])
def test_what_exists_is_never_overwritten(kind, head, tmp_path):
    path = tmp_path / "head"
    if kind == "file":
        path.write_text("precious")
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.mkdir()
        if kind == "directory":
            (path / "notes.txt").write_text("precious")
    for refuse in (head.save, require_free):
        with pytest.raises(OutputError, match="exists already; remove it or choose another directory"):
            refuse(path)
    assert [each.name for each in tmp_path.iterdir()] == ["head"]


def test_a_head_that_appears_meanwhile_is_not_overwritten(head, stored, monkeypatch):
    monkeypatch.setattr(trained, "require_free", lambda _: None)
    before = (stored / "head.json").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        head.save(stored)
    assert (stored / "head.json").read_bytes() == before


def test_a_folder_that_is_not_there_is_named(head, tmp_path):
    with pytest.raises(OutputError, match=r"the folder .*nowhere does not exist"):
        head.save(tmp_path / "nowhere" / "head")


# What a head may be used on


def test_its_own_features_pass(head, make_features, blobs):
    X, y = blobs(60, 5, 3)
    head.check(make_features(X, y))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": "random:1"}, "weights: the head has 'random:0', the features 'random:1'"),
        ({"backbone": "vgg19"}, "backbone: the head has 'vgg16', the features 'vgg19'"),
        ({"resize": "crop", "filter": "nearest"}, "resize: .*'squash'.*'crop'; filter: .*'bilinear'.*'nearest'"),
        ({"dtype": "float16"}, "dtype: "),
        ({"tap": "fc1"}, "tap: the head was trained on 'fc2', these features are of 'fc1'"),
        ({"classes": ("ant", "bee", "dog")}, r"classes: the head knows 3 \(ant, bee, cow\), .* 3 \(ant, bee, dog\)"),
        ({"classes": ("bee", "ant", "cow")}, "classes: "),
        ({"taps": {"fc2": 6}}, r"taps: the head has 'fc2 \(5\)', the features 'fc2 \(6\)'"),
    ],
)
def test_features_of_another_making_are_refused_by_field(change, said, head, make_features, blobs):
    X, y = blobs(60, 5, 3)
    with pytest.raises(MismatchError, match=said) as caught:
        head.check(make_features(X, y, **change))
    assert "train a new head" in str(caught.value)


def test_other_taps_beside_its_own_do_not_matter(head, make_features, blobs):
    X, y = blobs(60, 5, 3)
    head.check(make_features(X, y, taps={"fc2": 5, "predictions": 1000}))


def test_heads_of_format_version_1_stay_readable(blobs):
    """Its files were stored once and are not made anew: what it said then, it must always say."""
    head = TrainedHead.load(Path(__file__).parents[1] / "data" / "head-v1")
    expected = [
        [0.976016987435, 0.003868681798, 0.020114330768],
        [0.287469588121, 0.420158231073, 0.292372180806],
        [0.08366534158, 0.01718137502, 0.8991532834],
    ]
    np.testing.assert_allclose(head.predict_proba(blobs(60, 5, 3)[0][:3]), expected, atol=1e-9)
    assert (head.name, head.classes, head.tap, head.training.kept_epoch) == ("mlp", ("ant", "bee", "cow"), "fc2", 3)


def test_warnings_that_are_texts_stay_readable(stored):
    """Version 1 stored a warning as a text at first; the head keeps the identity that others refer to."""
    training = json.loads((stored / "head.json").read_bytes())["training"]
    rewrite(stored, training=training | {"warnings": ["a text", {"code": "few_neighbors", "message": "few"}]})
    head = TrainedHead.load(stored)
    assert head.training.warnings == (Notice(Code.UNKNOWN, "a text"), Notice(Code.FEW_NEIGHBORS, "few"))
    assert head.identity == json.loads((stored / "head.json").read_bytes())["sha256"]
    assert head.to_dict()["warnings"] == [
        {"code": "", "message": "a text"},
        {"code": "few_neighbors", "message": "few"},
    ]


# Files that it did not write

FILES = ("head.json", "head.safetensors")
EPOCH = {"epoch": 1, "loss": 0.5, "accuracy": 0.5, "valid_loss": None, "valid_accuracy": None}


def refused(directory):
    with pytest.raises(ArtifactError) as caught:
        TrainedHead.load(directory)
    message = str(caught.value)
    assert message.startswith(f"the head {directory} cannot be loaded: head.")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(name, stored):
    (stored / name).unlink()
    assert f"{name} is missing" in refused(stored)


def test_no_directory(tmp_path):
    with pytest.raises(ArtifactError, match=r"^there is no head .*nothing; make it with: featurecache train CACHE\.h5"):
        TrainedHead.load(tmp_path / "nothing")


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_or_a_directory_in_place_of_a_file(name, stored):
    (stored / name).unlink()
    os.mkfifo(stored / name)
    assert f"{name} is not a regular file" in refused(stored)
    (stored / name).unlink()
    (stored / name).mkdir()
    assert f"{name} is not a regular file" in refused(stored)


@pytest.mark.parametrize(("name", "limit"), [("head.json", 16 * 2**20), ("head.safetensors", 2**30)])
def test_a_huge_file_is_refused_unread(name, limit, stored):
    os.truncate(stored / name, limit + 1)  # sparse: it takes no room
    assert f"{name} has {limit + 1} bytes, expected at most {limit}" in refused(stored)


@pytest.mark.parametrize("name", FILES)
def test_truncated_at_every_length(name, stored):
    data = (stored / name).read_bytes()
    for length in range(0, len(data) - 1, 7):
        (stored / name).write_bytes(data[:length])
        refused(stored)


@settings(deadline=None, max_examples=300)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), which=st.sampled_from(FILES))
def test_a_flipped_bit_is_noticed_or_changes_nothing(head, tmp_path_factory, position, bit, which):
    directory = tmp_path_factory.getbasetemp() / "flipped"
    if not directory.exists():
        head.save(directory)
    path = directory / which
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[int(position * len(data))] ^= 1 << bit
    try:
        path.write_bytes(flipped)
        loaded = TrainedHead.load(directory)
    except ArtifactError:
        pass
    else:
        assert which == "head.json"
        assert (loaded.classes, loaded.training, loaded.recipe) == (head.classes, head.training, head.recipe)
    finally:
        path.write_bytes(data)


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_never_do_anything_else(head, tmp_path_factory, data):
    directory = tmp_path_factory.getbasetemp() / "arbitrary"
    if not directory.exists():
        head.save(directory)
    (directory / "head.json").write_bytes(data)
    refused(directory)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "not JSON"),
        ('{"format": "featurecache-head", "format": "featurecache-head"}', "a name occurs twice"),
        ('{"format": NaN}', "NaN is not a finite number"),
        ('{"format": 1e999}', "1e999 is not a finite number"),
        ('{"format": ' + "9" * 5000 + "}", "not JSON"),
        ("\udc80", "not JSON"),
        ("[]", "does not describe a head"),
        ("{}", "does not describe a head"),
        ('{"format": "featurecache"}', "does not describe a head"),
        ('{"format": "featurecache-head", "format_version": 2}', "has format_version 2, this program reads 1"),
        ('{"format": "featurecache-head"}', "has format_version None"),
    ],
)
def test_descriptions_of_something_else(text, said, stored):
    (stored / "head.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert said in refused(stored)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"more": 1}, "has ['more'] in addition"),
        ({"format_version": True}, "format_version is bool, expected int"),
        ({"format_version": 1.0}, "format_version is float, expected int"),
        ({"head": "pickle"}, "unknown head 'pickle'"),
        ({"head": "softmax"}, "unknown parameter 'C'"),
        ({"head": ["logreg"]}, "head is list, expected str"),
        ({"params": {"C": -1.0}}, "C is -1.0, expected a number above 0"),
        ({"params": {}}, "params do not name every parameter"),
        ({"tap": "fc1"}, "width is not that of the tap"),
        ({"width": 6}, "width is not that of the tap"),
        ({"width": 2**62}, "width is not that of the tap"),
        ({"classes": ["ant", "ant", "bee"]}, "classes are not two or more different names"),
        ({"classes": ["ant"]}, "classes are not two or more different names"),
        ({"classes": ["ant", "bee", 3]}, "classes[2] is int, expected str"),
        ({"classes": ["\ud800", "bee", "cow"]}, "a text in it is not valid Unicode"),
        ({"trained_classes": [0, 1, 3]}, "trained_classes"),
        ({"trained_classes": [-1, 0, 1]}, "trained_classes"),
        ({"trained_classes": [2, 1, 0]}, "trained_classes"),
        ({"trained_classes": [0, 0, 1]}, "trained_classes"),
        ({"trained_classes": [True, False]}, "trained_classes[0] is bool"),
        ({"trained_classes": [0, 1]}, "coef has dtype float64 and shape (3, 5), expected float64 and (2, 5)"),
        ({"recipe": {}}, "the recipe cannot be read"),
        ({"fingerprint": "0" * 64}, "fingerprint is not that of the recipe"),
        ({"training": {}}, "training lacks"),
        ({"tensors_sha256": "0" * 64}, "head.safetensors is damaged, or belongs to another head"),
    ],
)
def test_descriptions_that_contradict_themselves(changes, said, stored):
    rewrite(stored, **changes)
    assert said in refused(stored)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"holdout": {"fraction": 2.0, "seed": 0}}, "holdout is 2.0"),
        ({"holdout": {"fraction": 0.5}}, "training.holdout lacks ['seed']"),
        ({"class_counts": [1, 2]}, "class_counts"),
        ({"class_counts": [-1, 50, 1]}, "class_counts"),
        ({"epochs": [{"epoch": 1}]}, "training.epochs[0] lacks"),
        ({"versions": {"numpy": 2}}, "versions are not texts"),
        ({"warnings": [None]}, "training.warnings[0] is NoneType, expected dict"),
        ({"warnings": [{"code": "not_converged"}]}, "training.warnings[0] lacks ['message']"),
        ({"warnings": [{"code": 1, "message": "no"}]}, "training.warnings[0].code is int, expected str"),
        ({"warnings": [{"code": "", "message": "no"}]}, "a warning has an empty code"),
        ({"valid_accuracy": "high"}, "training.valid_accuracy is str, expected float"),
        ({"n_train": 40.0}, "training.n_train is float, expected int"),
        ({"kept_epoch": 1}, "kept_epoch is not one of them"),
        ({"epochs": [EPOCH, EPOCH], "kept_epoch": 2}, "epochs are not numbered from 1,"),
        ({"epochs": [EPOCH], "kept_epoch": None}, "kept_epoch is not one of them"),
        ({"continues": 7}, "training.continues is int, expected str"),
    ],
)
def test_training_records_that_cannot_be(change, said, stored):
    training = json.loads((stored / "head.json").read_bytes())["training"]
    rewrite(stored, training=training | change)
    assert said in refused(stored)


def test_an_edited_description_is_noticed(stored):
    text = (stored / "head.json").read_text()
    (stored / "head.json").write_text(text.replace('"bee"', '"wasp"'))
    assert "was changed after it was written" in refused(stored)


def header_of(shape, dtype="F64", size=None, name="coef"):
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, 8 * int(np.prod(shape)) if size is None else size]}
    header = json.dumps({name: entry}).encode()
    return struct.pack("<Q", len(header)) + header


@pytest.mark.parametrize(
    "tensors",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        header_of([2**40, 2**20]),
        header_of([2**40, 2**40], size=8) + bytes(8),
        header_of([3, 5], size=8) + bytes(8),
        header_of([3, 5]) + bytes(120) + b"appended",
        header_of([3, 5], dtype="BF16", size=30) + bytes(30),
        header_of([3, 5], dtype="OBJECT") + bytes(120),
        header_of([-3, -5]) + bytes(120),
        header_of([3, 5], name="../coef") + bytes(120),
        header_of([3, 5]) + bytes(120),
    ],
)
def test_tensor_files_that_lie(tensors, stored):
    rewrite(stored, tensors=tensors)
    assert "head.safetensors" in refused(stored)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"coef": np.zeros((3, 5), np.float32)}, "coef has dtype float32"),
        ({"coef": np.zeros((5, 3))}, "shape (5, 3), expected float64 and (3, 5)"),
        ({"coef": np.full((3, 5), np.nan)}, "coef holds values that are not finite"),
        ({"intercept": np.full(3, np.inf)}, "intercept holds values that are not finite"),
        ({"scale": np.zeros(5)}, "scale holds values that are not above 0"),
        ({"scale": np.full(5, 1e-320), "coef": np.full((3, 5), 1e10)}, "not finite"),
        ({"code": np.zeros(1)}, "expected coef, intercept, mean, scale"),
    ],
)
def test_tensors_that_no_training_makes(change, said, stored):
    tensors = save(load((stored / "head.safetensors").read_bytes()) | change)
    rewrite(stored, tensors=tensors)
    assert said in refused(stored)


def test_missing_tensors(stored):
    rewrite(stored, tensors=save({"coef": np.zeros((3, 5))}))
    assert "the arrays are coef; expected coef, intercept, mean, scale" in refused(stored)


def test_every_refusal_is_a_head_error():
    assert issubclass(ArtifactError, HeadError)
    assert issubclass(ArtifactError, ValueError)


# Arrays of every kind of head


@pytest.fixture(scope="module", params=list(HEADS))
def of_any_kind(request, make_features, make_cache, blobs):
    """A small trained head of every kind."""
    X, y = blobs(60, 5, 3)
    taps = HEADS[request.param].taps
    features = make_features(np.abs(X), y, splits="", tap=taps[0] if taps else "fc2")
    params = {"softmax": {"epochs": 1}, "mlp": {"epochs": 1}, "extra_trees": {"n_estimators": 5}}.get(request.param)
    return train(make_cache(features, weights_source="imagenet"), request.param, params=params)


def poisoned(array, value):
    array = array.copy()
    array.flat[-1] = value
    return array


ATTACKS = {
    "nan": lambda array: poisoned(array, np.nan),
    "infinite": lambda array: poisoned(array, np.inf),
    "another shape": lambda array: array[:-1],
    "another number of axes": lambda array: array[np.newaxis],
    "another type": lambda array: array.astype(np.float16),
    "whole numbers": lambda array: array.astype(np.int8),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_array_must_be_as_it_was_written(attack, of_any_kind, tmp_path):
    stored = of_any_kind.save(tmp_path / "head")
    arrays = of_any_kind.model.arrays
    for name, array in arrays.items():
        if attack in {"nan", "infinite"} and array.dtype.kind != "f":
            continue
        changed = {each: np.ascontiguousarray(value) for each, value in arrays.items()}
        rewrite(stored, tensors=save(changed | {name: np.ascontiguousarray(ATTACKS[attack](array))}))
        said = refused(stored)
        assert name in said or "rows" in said  # which and how many rows are known by the targets


def test_no_array_may_be_missing_and_none_may_come_besides(of_any_kind, tmp_path):
    stored = of_any_kind.save(tmp_path / "head")
    arrays = {name: np.ascontiguousarray(array) for name, array in of_any_kind.model.arrays.items()}
    for name in arrays:
        rewrite(stored, tensors=save({each: array for each, array in arrays.items() if each != name}))
        assert "expected" in refused(stored)
    rewrite(stored, tensors=save(arrays | {"code": np.zeros(1)}))
    assert "code" in refused(stored)


FORGED = {
    "knn": [("targets", 7), ("targets", -1), ("votes", -1.0), ("scale", 0.0)],
    "naive_bayes": [("variances", 0.0), ("variances", -1.0)],
    "imagenet_map": [("groups", 0.5), ("groups", -1.0)],
    "mlp": [("scale", 0.0)],
    "extra_trees": [("children", 0), ("feature", 5), ("leaf_class", 3), ("leaf_value", -1.0)],
    "hist_gradient_boosting": [("children", 0), ("feature", 5), ("leaf_class", 3)],
    "svm": [("scale", 0.0), ("scale", 1e-320)],
}


def test_values_that_no_training_gives_are_refused(of_any_kind, tmp_path):
    stored = of_any_kind.save(tmp_path / "head")
    arrays = {name: np.ascontiguousarray(array) for name, array in of_any_kind.model.arrays.items()}
    for name, value in FORGED.get(of_any_kind.name, []):
        rewrite(stored, tensors=save(arrays | {name: poisoned(arrays[name], value)}))
        refused(stored)


@pytest.mark.parametrize("hidden", ["1," * 10**5 + "1", "9" * 5000, "", "256,", "8,8", "-1", "1e9"])
def test_layers_that_are_not_those_stored_are_refused(hidden, make_features, make_cache, blobs, tmp_path):
    X, y = blobs(60, 5, 3)
    stored = train(make_cache(make_features(X, y, splits="")), "mlp", params={"epochs": 1}).save(tmp_path / "head")
    params = json.loads((stored / "head.json").read_bytes())["params"]
    rewrite(stored, params=params | {"hidden": hidden})
    refused(stored)


def test_a_head_too_large_to_be_read_again_is_not_written(of_any_kind, tmp_path, monkeypatch):
    monkeypatch.setitem(files._LIMITS, "head.safetensors", 100)
    with pytest.raises(
        ArtifactError, match=r"head.safetensors would have .*, but 100 bytes are allowed; train on fewer"
    ):
        of_any_kind.save(tmp_path / "head")
    assert not (tmp_path / "head").exists()
