import dataclasses
import hashlib
import json

import pytest

from featurecache.errors import CacheFormatError
from featurecache.recipe import Recipe

RECIPE = Recipe(
    decode_version=1,
    resize="squash",
    filter="bilinear",
    backbone="vgg16",
    weights="random:0",
    input_size=(224, 224),
    preprocessing="caffe",
    taps={"fc2": 4096, "predictions": 1000},
    precision="float32",
    dtype="float32",
)
OTHERS = {
    "decode_version": 2,
    "resize": "crop",
    "filter": "nearest",
    "backbone": "vgg19",
    "weights": "random:1",
    "input_size": (112, 224),
    "preprocessing": "tf",
    "taps": {"fc2": 4096},
    "precision": "mixed",
    "dtype": "float16",
}


def test_canonical_json_is_what_the_format_document_says():
    assert RECIPE.to_json() == (
        '{"backbone":"vgg16","decode_version":1,"dtype":"float32","filter":"bilinear","input_size":[224,224],'
        '"precision":"float32","preprocessing":"caffe","resize":"squash","taps":{"fc2":4096,"predictions":1000},'
        '"weights":"random:0"}'
    )
    assert RECIPE.fingerprint == hashlib.sha256(RECIPE.to_json().encode()).hexdigest()


def test_json_round_trip():
    assert Recipe.from_json(RECIPE.to_json()) == RECIPE
    assert Recipe.from_json(json.dumps(json.loads(RECIPE.to_json()), indent=3)).fingerprint == RECIPE.fingerprint


def test_every_field_is_part_of_the_identity_and_named_when_it_differs():
    assert set(OTHERS) == {field.name for field in dataclasses.fields(Recipe)}
    for name, value in OTHERS.items():
        other = dataclasses.replace(RECIPE, **{name: value})
        assert other.fingerprint != RECIPE.fingerprint
        assert [difference.field for difference in RECIPE.differences(other)] == [name]
    assert RECIPE.differences(RECIPE) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("taps", {}),
        ("taps", {"fc2": 0}),
        ("taps", {"fc2": True}),
        ("taps", ["fc2"]),
        ("input_size", [224]),
        ("input_size", [224, -1]),
        ("input_size", 224),
        ("dtype", "float64"),
        ("backbone", 3),
        ("decode_version", "1"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(field, value):
    text = json.dumps(json.loads(RECIPE.to_json()) | {field: value})
    with pytest.raises(CacheFormatError, match="recipe"):
        Recipe.from_json(text)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "{", '{"extra": 1}', "[" * 100_000])
def test_what_is_no_recipe_is_refused(text):
    with pytest.raises(CacheFormatError, match="cannot be read"):
        Recipe.from_json(text)
