"""The set of contents, compared with a dictionary."""

from hypothesis import given
from hypothesis import strategies as st

from featurecache.run import content_set
from featurecache.run.content_set import ContentSet

# digests that begin alike seek the same slot, and those that end with zeros are whole, too
digests = st.builds(lambda first, rest: f"{first:04x}{rest:060x}", st.integers(0, 3), st.integers(0, 2**240 - 1))
few = st.sampled_from(
    [f"{number:064x}" for number in range(16)] + [f"{number:x}".ljust(64, "0") for number in range(16)]
)


@given(contents=st.lists(digests | few, max_size=60), others=st.lists(digests | few, max_size=10))
def test_contents_have_the_numbers_of_their_first_addition(contents, others):
    expected = {}
    with_few_slots, content_set._FIRST_SLOTS = content_set._FIRST_SLOTS, 2
    found = ContentSet()
    content_set._FIRST_SLOTS = with_few_slots
    for content in contents:
        assert found.add(content) == (content not in expected)
        expected.setdefault(content, len(expected))
        assert len(found) == len(expected)
    assert list(found) == list(expected)
    for content in [*contents, *others, ""]:
        assert found.number(content) == expected.get(content)
        assert (content in found) == (content in expected)
    found.clear()
    assert [content for content in contents if content in found] == list(found) == []


def test_a_set_grows_and_keeps_its_memory_small():
    contents = [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:048x}" for number in range(4_097)]
    found, slots = ContentSet(), []
    for content in contents:
        found.add(content)
        slots.append(len(found._slots))
    assert [found.number(content) for content in contents] == list(range(4_097))
    assert slots[-2:] == [2**13, 2**14]  # never more than half of them are in use
