"""The rows of the catalogue: complete, made into heads, and read from the command line."""

import json
from importlib.metadata import version

import pytest

from featurecache.errors import UnknownNameError
from heads.catalog import HEADS, head_spec, make_head, model_class, parse_parameters
from heads.errors import ParameterError


@pytest.mark.parametrize("name", HEADS)
def test_every_row_of_the_catalogue_is_complete(name):
    spec = HEADS[name]
    assert spec.name == name
    assert spec.summary.endswith(".")
    assert all(parameter.help.endswith(".") for parameter in spec.parameters)
    assert len({parameter.name for parameter in spec.parameters}) == len(spec.parameters)
    head = make_head(name)
    assert {p.name: getattr(head, p.name) for p in spec.parameters} == {p.name: p.default for p in spec.parameters}
    assert model_class(name).__name__
    shown = json.loads(json.dumps(spec.to_dict()))
    assert {each: value["default"] for each, value in shown["params"].items()} == spec.values({})


@pytest.mark.parametrize("name", HEADS)
def test_what_a_sweep_tries_are_values_of_parameters(name):
    spec = HEADS[name]
    for each, values in spec.grid.items():
        checked = [spec.parameter(each).check(value) for value in values]
        assert checked == list(values)
        assert len(set(values)) == len(values)
    assert all(spec.parameter(each) for each in spec.shared)


@pytest.mark.parametrize("name", HEADS)
def test_the_libraries_of_a_head_are_installed_distributions(name):
    assert all(version(library) for library in HEADS[name].libraries)


def test_an_unknown_head_suggests_a_close_name():
    with pytest.raises(UnknownNameError, match="unknown head 'softmaks'; did you mean 'softmax'"):
        make_head("softmaks")
    with pytest.raises(UnknownNameError) as caught:
        head_spec("?")
    assert f"known: {', '.join(sorted(HEADS))}" in str(caught.value)


def test_bad_parameters_are_refused_before_a_head_is_made():
    with pytest.raises(ParameterError) as caught:
        make_head("logreg", c=1, max_iter=0)
    assert "head 'logreg': unknown parameter 'c'" in str(caught.value)
    assert "parameters: C, max_iter, tol, class_weight, standardize" in str(caught.value)
    assert "max_iter is 0, expected a whole number of at least 1" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(ParameterError, match="the seed is"):
        make_head("softmax", seed=seed)


def test_parameters_of_the_command_line():
    texts = ["standardize=false", "optimizer=rmsprop", "lr=0.1", "epochs=3", "batch_size=64"]
    expected = {"standardize": False, "optimizer": "rmsprop", "lr": 0.1, "epochs": 3, "batch_size": 64}
    assert parse_parameters(HEADS["softmax"], texts) == expected


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["lr"], "lr has no value, expected lr=VALUE with a number above 0"),
        (["lr=0.1", "lr=0.2"], "lr is given twice"),
        (["epoch=1"], "unknown parameter 'epoch'; did you mean 'epochs'"),
        (["=1"], "unknown parameter ''"),
        (["lr=x", "epochs=0"], "lr is 'x'.*; epochs is 0"),
    ],
)
def test_parameters_that_cannot_be_read(texts, said):
    with pytest.raises(ParameterError, match=said):
        parse_parameters(HEADS["softmax"], texts)


def test_heads_without_random_choices_take_no_seed():
    random = [name for name in HEADS if hasattr(make_head(name, seed=3), "seed")]
    assert random == ["softmax", "mlp", "sgd", "extra_trees", "hist_gradient_boosting"]
