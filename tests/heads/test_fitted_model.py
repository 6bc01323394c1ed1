"""Stored arrays are checked before a model is made of them."""

import numpy as np
import pytest

from heads.errors import ArtifactError
from heads.fitted_model import checked_arrays


def test_stored_arrays_are_of_exactly_these_names_types_and_shapes():
    arrays = {"coef": np.zeros((2, 3)), "rows": np.zeros((4, 3), np.float32)}
    shapes = {"coef": (2, 3), "rows": (4, 3)}
    assert checked_arrays(arrays, shapes, {"rows": np.float32}) == arrays
    with pytest.raises(
        ArtifactError, match=r"rows has dtype float32 and shape \(4, 3\), expected float64 and \(4, 3\)"
    ):
        checked_arrays(arrays, shapes)
    with pytest.raises(ArtifactError, match=r"coef has .* expected float32 and \(2, 3\); rows has .* \(4, 2\)"):
        checked_arrays(arrays, {"coef": (2, 3), "rows": (4, 2)}, {"coef": np.float32, "rows": np.float32})
    with pytest.raises(ArtifactError, match="the arrays are coef, rows; expected coef, more, rows"):
        checked_arrays(arrays, shapes | {"more": (1,)})
