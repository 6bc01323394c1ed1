"""The Open Inference Protocol: what is read, what is refused and what is written."""

import base64
import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heads.service.errors import RequestError
from heads.service.protocol import answer, json_object, parse

MOST = 8
FEATURES = {"name": "features", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6.5]}


def body(**changes):
    return json.dumps({"inputs": [FEATURES]} | changes).encode()


def binary(tensor, raw, **changes):
    text = json.dumps({"inputs": [tensor]} | changes).encode()
    return text + raw, str(len(text))


def elements(*contents):
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6.5], [[1, 2, 3], [4, 5, 6.5]]])
def test_features_are_read_flat_or_nested(data):
    request = parse(body(inputs=[FEATURES | {"data": data}], id="42"), None, MOST)
    np.testing.assert_array_equal(request.features, np.array([[1, 2, 3], [4, 5, 6.5]], np.float32))
    assert request.features.dtype == np.float32
    assert request.id == "42"
    assert request.images is None
    assert request.outputs == {"probabilities": False, "class": False}


def test_features_and_images_are_read_as_bytes_behind_the_json():
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    tensor = {"name": "features", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}}
    np.testing.assert_array_equal(parse(*binary(tensor, values.tobytes()), MOST).features, values)
    raw = elements(b"one", b"", b"three")
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3, 1], "parameters": {"binary_data_size": len(raw)}}
    assert parse(*binary(tensor, raw), MOST).images == [b"one", b"", b"three"]


def test_images_in_json_are_base64():
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": [base64.b64encode(b"\xff\x00").decode(), ""]}
    assert parse(body(inputs=[tensor]), None, MOST).images == [b"\xff\x00", b""]


RAW = {"name": "features", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}
IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["YQ=="]}


@pytest.mark.parametrize(
    ("text", "length", "message"),
    [
        (b"{", None, "the body is not JSON"),
        (b"\xff\xfe", None, "the body is not JSON"),
        (b"[" * 100_000, None, "the body is not JSON: it is nested too deeply"),
        (b"[]", None, "not a JSON object"),
        (b"", None, "inputs are none; expected one, image or features"),
        (body(inputs=[]), None, "inputs are none"),
        (body(inputs=[FEATURES, IMAGE]), None, "inputs are 'features', 'image'; expected one"),
        (body(inputs=[FEATURES | {"name": "x\n"}]), None, r"inputs are 'x\\\\n'; expected one"),
        (body(inputs={"name": "features"}), None, "inputs is not a list of objects"),
        (body(inputs=[FEATURES | {"datatype": "FP64"}]), None, "the datatype of features is 'FP64', expected 'FP32'"),
        (body(inputs=[FEATURES | {"datatype": None}]), None, "the datatype of features is None"),
        (body(inputs=[FEATURES | {"shape": [3, 3]}]), None, "features has 6 elements, and its shape says 9"),
        (body(inputs=[FEATURES | {"shape": [10**9, 10**9]}]), None, "and its shape says 1000"),
        (body(inputs=[FEATURES | {"shape": [0, 10**20]}]), None, "or one over 2,147,483,647"),
        (body(inputs=[FEATURES | {"shape": [9] * 100_000}]), None, "more than 4 sides"),
        (body(inputs=[IMAGE | {"shape": [1], "data": [""] * 20}]), None, "image has 9 elements, and its shape says 1"),
        (body(inputs=[FEATURES | {"shape": [6]}]), None, r"features have the shape \[6\], expected \[n, d\]"),
        (body(inputs=[FEATURES | {"shape": [-2, -3]}]), None, "the shape of features is not a list of whole"),
        (body(inputs=[FEATURES | {"shape": [True, 6]}]), None, "the shape of features is not a list of whole"),
        (body(inputs=[FEATURES | {"shape": "2,3"}]), None, "the shape of features is not a list of whole"),
        (body(inputs=[FEATURES | {"data": [1, 2, 3, 4, 5, "6"]}]), None, "something that is not a number"),
        (body(inputs=[FEATURES | {"data": [1, 2, 3, 4, 5, True]}]), None, "something that is not a number"),
        (body(inputs=[FEATURES | {"data": [1, 2, 3, 4, 5, 10**400]}]), None, "a number that is too large"),
        (body(inputs=[FEATURES | {"data": [[[[[1]]]]]}]), None, "nested too deeply"),
        (body(inputs=[FEATURES | {"data": None}]), None, "neither a list as data nor a binary_data_size"),
        (body(inputs=[FEATURES | {"parameters": []}]), None, "parameters are not an object"),
        (body(inputs=[IMAGE | {"data": ["not base64!"]}]), None, "an image in JSON is not base64"),
        (body(inputs=[IMAGE | {"data": [7]}]), None, "an image in JSON is not base64"),
        (body(id=7), None, "id is not text"),
        (body(outputs=[{"name": "nothing"}]), None, "the output 'nothing' does not exist"),
        (body(outputs=[{"name": "class"}, {"name": "class"}]), None, "the output 'class' does not exist or is named"),
        (body(outputs=[{"name": "class", "parameters": {"classification": 3}}]), None, "classification is not"),
        (body(outputs=[{"name": "class", "parameters": {"binary_data": 1}}]), None, "binary_data is neither"),
        (body(parameters={"binary_data_output": "yes"}), None, "binary_data_output is neither"),
        (body() + b"1234", str(len(body())), "4 bytes follow the JSON, and no input has a binary_data_size"),
        (body(), "-1", "Inference-Header-Content-Length is '-1'"),
        (body(), "9" * 5000, "Inference-Header-Content-Length is '999"),
        (body(), "9" * 30, "Inference-Header-Content-Length is '999"),
        (body(), "ten", "Inference-Header-Content-Length is 'ten'"),
        (*binary(RAW, b"12"), "binary_data_size is 4, and 2 bytes follow"),
        (*binary(RAW, b"12345678"), "binary_data_size is 4, and 8 bytes follow"),
        (*binary(RAW | {"parameters": {"binary_data_size": -4}}, b""), "binary_data_size is -4"),
        (*binary(RAW | {"parameters": {"binary_data_size": 3}}, b"123"), "features have 3 bytes, which is no multiple"),
        (*binary(RAW | {"data": [1]}, b"1234"), "both data and a binary_data_size"),
        (
            *binary(IMAGE | {"data": None, "parameters": {"binary_data_size": 6}}, struct.pack("<I", 9) + b"ab"),
            "both data and",
        ),
        (
            *binary(
                {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}},
                struct.pack("<I", 2**32 - 1) + b"ab",
            ),
            "element 0 says that it has 4294967295 bytes, and 2 follow",
        ),
        (
            *binary({"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 2}}, b"ab"),
            "element 0 says",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_fault(text, length, message):
    with pytest.raises(RequestError, match=message) as refusal:
        parse(text, length, MOST)
    assert refusal.value.status == 400
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("text", "length"),
    [
        (body(inputs=[{"name": "image", "datatype": "BYTES", "shape": [MOST + 1], "data": [""]}]), None),
        binary(
            {"name": "image", "datatype": "BYTES", "shape": [3, 3], "parameters": {"binary_data_size": 36}},
            elements(*[b""] * 9),
        ),
    ],
)
def test_too_many_images_are_refused_whatever_they_are(text, length):
    with pytest.raises(RequestError, match="the request has 9 images, 8 are allowed") as refusal:
        parse(text, length, MOST)
    assert refusal.value.status == 413


@given(st.binary(max_size=200), st.none() | st.integers(0, 300).map(str))
def test_any_bytes_are_read_or_refused(text, length):
    with pytest.raises(RequestError):
        parse(text, length, MOST)


SCALAR = st.sampled_from([None, True, 0, 1, -1, 2, 3.5, 10**30, float("nan"), "", "FP32", "YQ==", "class"])
JSON = SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(st.sampled_from(["name", "parameters"]), SCALAR)
TENSOR = st.fixed_dictionaries(
    {"name": st.sampled_from(["image", "features"])},
    optional={"datatype": st.sampled_from(["FP32", "BYTES", 1]), "shape": JSON, "data": JSON, "parameters": JSON},
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.fixed_dictionaries(
        {"inputs": st.lists(TENSOR, max_size=2)}, optional={"outputs": st.lists(JSON, max_size=2), "parameters": JSON}
    )
)
def test_any_json_is_read_or_refused(request):
    status = 400
    try:
        parse(json.dumps(request).encode(), None, MOST)
    except RequestError as e:
        status = e.status
    assert status == 400


PROBABILITIES = np.array([[0.1, 0.9], [1 / 3, 2 / 3], [0.75, 0.25]])


def test_an_answer_in_json_has_the_bits_of_the_probabilities():
    request = parse(body(id="x"), None, MOST)
    text, length = answer(request, "h", "v", ("ant", "bée"), PROBABILITIES)
    assert length is None
    found = json.loads(text)
    assert (found["id"], found["model_name"], found["model_version"]) == ("x", "h", "v")
    first, second = found["outputs"]
    assert (first["datatype"], first["shape"]) == ("FP64", [3, 2])
    np.testing.assert_array_equal(np.array(first["data"]).reshape(3, 2), PROBABILITIES)
    assert second == {"name": "class", "datatype": "BYTES", "shape": [3], "data": ["bée", "bée", "ant"]}


def test_an_answer_has_the_wanted_outputs_as_raw_bytes_where_they_are_wanted():
    wanted = [{"name": "class", "parameters": {"binary_data": True}}, {"name": "probabilities"}]
    request = parse(body(outputs=wanted), None, MOST)
    text, length = answer(request, "h", "v", ("ant", "bée"), PROBABILITIES)
    found = json.loads(text[:length])
    assert "id" not in found
    assert [tensor["name"] for tensor in found["outputs"]] == ["class", "probabilities"]
    assert text[length:] == elements("bée".encode(), "bée".encode(), b"ant")
    assert found["outputs"][0]["parameters"] == {"binary_data_size": len(text) - length}
    request = parse(body(parameters={"binary_data_output": True}, outputs=[{"name": "probabilities"}]), None, MOST)
    text, length = answer(request, "h", "v", ("ant", "bée"), PROBABILITIES)
    assert text[length:] == PROBABILITIES.tobytes()


def test_an_empty_body_is_an_empty_object():
    assert json_object(b" \n") == {}
