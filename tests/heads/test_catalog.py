"""Declared parameters: their defaults, types and ranges, from Python and from the command line."""

import json

import numpy as np
import pytest

from featurecache.errors import UnknownNameError
from heads.catalog import HEADS, Parameter, head_spec, make_head, parse_parameters, predictor_class
from heads.errors import ParameterError

EPOCHS = Parameter("epochs", "int", 3, "Passes.", low=1, high=100)
RATE = Parameter("lr", "float", 0.1, "Step.", above=0)
SCALE = Parameter("standardize", "bool", default=True, help="Scale.")
OPTIMIZER = Parameter("optimizer", "choice", "sgd", "Rule.", choices=("sgd", "adam"))


@pytest.mark.parametrize(
    ("parameter", "text", "value"),
    [
        (EPOCHS, "5", 5),
        (RATE, "0.1", 0.1),
        (RATE, "1e-3", 0.001),
        (RATE, "2", 2.0),
        (SCALE, "false", False),
        (SCALE, "True", True),
        (SCALE, "no", False),
        (SCALE, "1", True),
        (OPTIMIZER, "adam", "adam"),
    ],
)
def test_texts_become_values(parameter, text, value):
    parsed = parameter.parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("parameter", "text", "said"),
    [
        (EPOCHS, "0", "epochs is 0, expected a whole number of at least 1 and of at most 100"),
        (EPOCHS, "101", "epochs is 101"),
        (EPOCHS, "2.5", "epochs is '2.5', expected a whole number"),
        (EPOCHS, "", "epochs is ''"),
        (EPOCHS, "9" * 5000, "epochs is"),
        (RATE, "0", "lr is 0.0, expected a number above 0"),
        (RATE, "nan", "lr is nan"),
        (RATE, "inf", "lr is inf"),
        (RATE, "fast", "lr is 'fast', expected a number above 0"),
        (SCALE, "maybe", "standardize is 'maybe', expected true or false"),
        (OPTIMIZER, "lbfgs", "optimizer is 'lbfgs', expected one of sgd, adam"),
    ],
)
def test_texts_that_stand_for_nothing_are_refused(parameter, text, said):
    with pytest.raises(ParameterError, match=said):
        parameter.parse(text)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [(EPOCHS, True), (EPOCHS, 2.0), (EPOCHS, "2"), (RATE, "0.1"), (RATE, None), (SCALE, 1), (OPTIMIZER, 3)],
)
def test_python_values_of_another_type_are_refused(parameter, value):
    with pytest.raises(ParameterError, match="expected"):
        parameter.check(value)


def test_numpy_numbers_are_numbers():
    assert EPOCHS.check(np.int64(5)) == 5
    assert type(EPOCHS.check(np.int64(5))) is int
    assert RATE.check(np.float32(0.5)) == 0.5
    assert RATE.check(3) == 3.0
    assert type(RATE.check(3)) is float


def test_a_default_outside_its_own_range_cannot_be_declared():
    with pytest.raises(ParameterError, match="epochs is 0"):
        Parameter("epochs", "int", 0, "Passes.", low=1)


@pytest.mark.parametrize("name", HEADS)
def test_every_row_of_the_catalogue_is_complete(name):
    spec = HEADS[name]
    assert spec.name == name
    assert spec.summary.endswith(".")
    assert all(parameter.help.endswith(".") for parameter in spec.parameters)
    assert len({parameter.name for parameter in spec.parameters}) == len(spec.parameters)
    head = make_head(name)
    assert {p.name: getattr(head, p.name) for p in spec.parameters} == {p.name: p.default for p in spec.parameters}
    assert predictor_class(name).__name__
    shown = json.loads(json.dumps(spec.to_dict()))
    assert {each: value["default"] for each, value in shown["params"].items()} == spec.values({})


def test_an_unknown_head_suggests_a_close_name():
    with pytest.raises(UnknownNameError, match="unknown head 'softmaks'; did you mean 'softmax'"):
        make_head("softmaks")
    with pytest.raises(UnknownNameError, match="known: logreg, softmax"):
        head_spec("?")


def test_all_faults_are_said_at_once_and_what_there_is_is_listed():
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
