"""The images in a body: one image, or the files of a form; anything else is refused with the reason."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heads.service.errors import RequestError
from heads.service.uploads import images_of
from heads.service.waiting_room import LARGEST


def form(files, **fields):
    headers = {"Content-Type": "multipart/form-data; boundary=one-for-all-processes"} if files else None
    request = httpx.Request("POST", "http://x", files=files, data=fields, headers=headers)
    return request.read(), request.headers["content-type"]


@pytest.mark.parametrize(
    "kind", ["", "image/jpeg", "image/anything", "application/octet-stream", "application/x-www-form-urlencoded"]
)
def test_a_body_is_one_image(kind):
    [image] = images_of(b"\x00bytes", kind)
    assert (image.data, image.name) == (b"\x00bytes", None)


def test_a_form_has_many_images_and_their_names():
    contents = [b"one", b"", b"\r\n--x\r\n" * 50, bytes(range(256)) * 300]
    files = [("image", (f"{number} é.png", content, "image/png")) for number, content in enumerate(contents)]
    images = images_of(*form(files, note="not an image"))
    assert [image.data for image in images] == contents
    assert [image.name for image in images] == [f"{number} é.png" for number in range(4)]


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_files_of_a_form_keep_their_bytes(contents):
    images = images_of(*form([("f", (f"{number}", content)) for number, content in enumerate(contents)]))
    assert [image.data for image in images] == contents


BODY, KIND = form([("f", ("a.png", b"content"))])


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"x", "application/json", 415, "the content type is 'application/json'; send the bytes of an image"),
        (b"x", "text/html\x1b", 415, "the content type is"),
        (b"", "image/png", 400, "the body is empty"),
        (b"", "", 400, "the body is empty"),
        (BODY, "multipart/form-data", 400, "names no boundary"),
        (BODY[:-30], KIND, 400, "ends before its last part does"),
        (b"", KIND, 400, "ends before its last part does"),
        (b"nonsense", KIND, 400, "the form cannot be read"),
        (b"x", "multipart/mixed", 415, "content type"),
        (b"x", f"multipart/form-data; boundary={'x' * 300}", 400, "the form cannot be read"),
        (*form([("f", (None, b"no name"))]), 400, "the form has no file"),
        (*form([("f", (str(n), b"x")) for n in range(LARGEST + 1)]), 413, f"more than {LARGEST} files"),
    ],
)
def test_what_is_no_image_is_refused(body, kind, status, message):
    with pytest.raises(RequestError, match=message) as refusal:
        images_of(body, kind)
    assert refusal.value.status == status
    assert str(refusal.value).isprintable()


@given(st.binary(max_size=300), st.sampled_from([KIND, "multipart/form-data; boundary=x", "multipart/form-data"]))
def test_any_form_is_read_or_refused(body, kind):
    status = 400
    try:
        images_of(body, kind)
    except RequestError as e:
        status = e.status
    assert status == 400
