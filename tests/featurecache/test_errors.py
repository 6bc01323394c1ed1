"""Errors travel from one process to another."""

import copy

from featurecache.errors import UnknownNameError


def test_an_unknown_name_is_the_same_error_when_it_is_made_again():
    error = UnknownNameError("tap", "fc3", {"fc2", "fc1"})
    again = copy.copy(error)
    assert (type(again), str(again)) == (UnknownNameError, str(error))
