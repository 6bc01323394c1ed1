"""One declared parameter: its types and ranges, from Python and from the command line."""

import numpy as np
import pytest

from heads.errors import ParameterError
from heads.parameters import HeadSpec, Parameter

EPOCHS = Parameter("epochs", "int", 3, "Passes.", low=1, high=100)
RATE = Parameter("lr", "float", 0.1, "Step.", above=0)
SCALE = Parameter("standardize", "bool", default=True, help="Scale.")
OPTIMIZER = Parameter("optimizer", "choice", "sgd", "Rule.", choices=("sgd", "adam"))
DROPOUT = Parameter("dropout", "float", 0.0, "Part.", low=0, below=1)
SHRINKAGE = Parameter("shrinkage", "float", "auto", "How far.", low=0, high=1, choices=("auto",))
HIDDEN = Parameter("hidden", "sizes", "256", "Units.")
SPEC = HeadSpec("toy", "A toy.", (EPOCHS, RATE, SHRINKAGE))


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
        (DROPOUT, "0", 0.0),
        (DROPOUT, "0.999", 0.999),
        (SHRINKAGE, "auto", "auto"),
        (SHRINKAGE, "1", 1.0),
        (HIDDEN, "256", "256"),
        (HIDDEN, "256,64", "256,64"),
        (HIDDEN, " 256, 064 ", "256,64"),
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
        (DROPOUT, "1", "dropout is 1.0, expected a number of at least 0 and below 1"),
        (DROPOUT, "-0.1", "dropout is -0.1"),
        (SHRINKAGE, "1.1", "shrinkage is 1.1, expected auto or a number of at least 0 and of at most 1"),
        (SHRINKAGE, "some", "shrinkage is 'some', expected auto or a number"),
        (HIDDEN, "", "hidden is '', expected whole numbers of at least 1, separated by commas"),
        (HIDDEN, "256,", "hidden is '256,'"),
        (HIDDEN, "0", "hidden is '0'"),
        (HIDDEN, "2.5", "hidden is '2.5'"),
        (HIDDEN, "-1", "hidden is '-1'"),
        (HIDDEN, "٣", "hidden is '٣'"),
    ],
)
def test_texts_that_stand_for_nothing_are_refused(parameter, text, said):
    with pytest.raises(ParameterError, match=said):
        parameter.parse(text)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (EPOCHS, True),
        (EPOCHS, 2.0),
        (EPOCHS, "2"),
        (RATE, "0.1"),
        (RATE, None),
        (SCALE, 1),
        (OPTIMIZER, 3),
        (SHRINKAGE, "0.5"),
        (SHRINKAGE, True),
        (HIDDEN, 2.5),
        (HIDDEN, True),
        (HIDDEN, None),
        (HIDDEN, []),
    ],
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


@pytest.mark.parametrize("value", [(256, 64), [256, 64], "256,64", (np.int64(256), 64)])
def test_sizes_are_one_text_however_they_are_given(value):
    assert HIDDEN.check(value) == "256,64"
    assert HIDDEN.check(256) == "256"


@pytest.mark.parametrize("parameter", [EPOCHS, RATE, SCALE, OPTIMIZER, DROPOUT, SHRINKAGE, HIDDEN])
def test_a_default_is_a_value_and_its_text_means_the_same(parameter):
    assert parameter.check(parameter.default) == parameter.default
    assert parameter.parse(str(parameter.default)) == parameter.default
    shown = parameter.to_dict()
    assert (shown["default"], shown["type"], shown["help"]) == (parameter.default, parameter.kind, parameter.help)


# All parameters of a head


def test_values_are_those_given_and_the_defaults_of_the_others():
    assert SPEC.values({"lr": 1, "shrinkage": 0.5}) == {"epochs": 3, "lr": 1.0, "shrinkage": 0.5}


def test_all_faults_are_said_at_once():
    with pytest.raises(ParameterError) as caught:
        SPEC.values({"lr": -1, "epoch": 2, "shrinkage": "much"})
    assert "head 'toy': lr is -1, expected a number above 0; unknown parameter 'epoch'" in str(caught.value)
    assert "did you mean 'epochs'? (parameters: epochs, lr, shrinkage)" in str(caught.value)
    assert "shrinkage is 'much'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_head_without_parameters_says_so():
    with pytest.raises(ParameterError, match="unknown parameter 'lr': toy has none"):
        HeadSpec("toy", "A toy.", ()).parameter("lr")
