"""Provenance and environments: members of any version survive reading and writing."""

import pytest

from featurecache.provenance import EARLIER_RUNS, Environment, Provenance

MEMBERS = {
    "created": "2026-01-02T03:04:05+00:00",
    "earlier": [{"rows": 3, "runner": "x"}],
    "engine": {"engine": "numpy", "device": "cpu"},
    "images": "/photos",
    "merged": [{"path": "a.h5", "provenance": {}}],
    "run": {"rows": 3},
    "runner": "2 decoding threads",
    "versions": {"python": "3.12"},
    "weights_source": "imagenet",
}


@pytest.mark.parametrize("cls", [Environment, Provenance])
@pytest.mark.parametrize(
    "members",
    [{}, MEMBERS, MEMBERS | {"host": ["a"], "rows": 8}, dict.fromkeys(MEMBERS), dict.fromkeys(MEMBERS, 5)],
)
def test_members_survive_a_round_trip(cls, members):
    assert cls.from_dict(members).to_dict() == members


def test_members_are_read_by_type():
    found = Provenance.from_dict(MEMBERS | {"runner": None, "host": "a"})
    assert (found.engine, found.images, found.runner) == (MEMBERS["engine"], "/photos", None)
    assert found.other == {"runner": None, "host": "a"}


def test_an_older_provenance_and_unfinished_environments_become_earlier_ones():
    now = Provenance(images="/photos")
    assert now.with_earlier(None, []) == {"images": "/photos", "earlier": []}
    before = {"run": {"rows": 2}, "earlier": [{"rows": 1}]}
    assert now.with_earlier(before, [{"rows": 4}])["earlier"] == [{"rows": 1}, {"run": {"rows": 2}}, {"rows": 4}]
    assert before["earlier"] == [{"rows": 1}]
    many = [{"rows": number} for number in range(EARLIER_RUNS)]
    assert now.with_earlier({"earlier": [{"rows": -1}]}, many)["earlier"] == many
