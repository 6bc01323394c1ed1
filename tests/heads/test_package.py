"""The public names, and what importing them costs."""

import json

import pytest

import heads


def test_importing_heads_loads_no_library(fresh_python):
    code = "import sys, heads, json; print(json.dumps(sorted(m.split('.')[0] for m in sys.modules)))"
    loaded = set(json.loads(fresh_python(code)))
    assert not loaded & {"tensorflow", "keras", "sklearn", "scipy", "numpy", "safetensors", "h5py"}


def test_listing_heads_and_reading_parameters_loads_no_library_that_learns(fresh_python):
    code = """
import sys, heads
for name, spec in heads.HEADS.items():
    heads.parse_parameters(spec, [f"{each.name}={each.default}" for each in spec.parameters])
    spec.to_dict(); heads.make_head(name)
print(sorted({"tensorflow", "keras", "sklearn", "scipy", "h5py"} & set(sys.modules)))
"""
    assert fresh_python(code) == "[]"


@pytest.mark.parametrize("name", heads.__all__)
def test_every_public_name_is_there(name):
    assert getattr(heads, name) is not None
    assert name in dir(heads)


def test_another_name_is_not():
    with pytest.raises(AttributeError, match="attribute nonsense"):
        _ = heads.nonsense
