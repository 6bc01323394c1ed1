"""File names as people read them."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurecache.images.names import encode_name, shown_name, shown_names


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda name: "\0" not in name))
def test_a_name_in_utf8_is_shown_as_it_is(name):
    assert shown_name(encode_name(name.encode("utf-8"))) == name


@pytest.mark.parametrize("name", ["a%20x.jpg", "%25", "%2525.jpg", "100%.jpg", "Käse%C3%A4.jpg", "50%off/%41.jpg"])
def test_a_percent_sign_is_shown_once(name):
    assert shown_name(encode_name(os.fsencode(name))) == name


@pytest.mark.parametrize(
    ("name", "shown"), [(b"\xff.jpg", "%FF.jpg"), (b"caf\xe9 100%41.jpg", "caf%E9 100%2541.jpg"), (b"%\xff", "%%FF")]
)
def test_a_name_of_other_bytes_keeps_its_escapes(name, shown):
    assert shown_name(encode_name(name)) == shown


def test_text_that_is_no_encoded_name_is_shown_as_it_is():
    assert [shown_name(text) for text in ("a%20b", "a%00b", "%2525%20")] == ["a%20b", "a%00b", "%2525%20"]


@given(st.sets(st.lists(st.sampled_from([b"%", b"2", b"5", b"E", b"9", b"\xe9", b"\xc3\xa9"])).map(b"".join)))
def test_different_names_are_shown_differently(names):
    encoded = [encode_name(name) for name in sorted(names)]
    assert len(set(shown_names(encoded))) == len(names)


def test_no_name_is_shown_as_another_one_is_stored():
    names = [encode_name(name) for name in (b"a%20b", b"a%2520b")]
    assert shown_names(names) == names
    assert [shown_names([name]) for name in names] == [["a%20b"], ["a%2520b"]]


def test_names_that_would_look_alike_keep_their_escapes():
    names = [encode_name(name) for name in (b"caf\xe9.jpg", b"caf%E9.jpg", b"a%20b.jpg")]
    assert shown_names(names) == names == ["caf%E9.jpg", "caf%25E9.jpg", "a%2520b.jpg"]
    assert shown_names(names[1:]) == ["caf%E9.jpg", "a%20b.jpg"]
