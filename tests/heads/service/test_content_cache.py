"""Features of images that were seen: found by their bytes, wherever they are, and never more than allowed."""

import hashlib
import sqlite3
import time
from dataclasses import replace

import numpy as np
import pytest

import featurecache
from featurecache.errors import OptionError
from heads.service.content_cache import CachedRows, ContentCache, MemoryCache, size_of
from heads.service.feature_file import SqliteFeatures
from tests.quiet import in_a_quiet_moment


def digest(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def rows_of(number, recipe):
    generator = np.random.default_rng(number)
    return {
        tap: generator.standard_normal(width).astype(recipe.stored_dtype(tap)) for tap, width in recipe.taps.items()
    }


@pytest.fixture(scope="module")
def cache(dataset):
    return featurecache.FeatureCache.open(dataset.cache)


@pytest.fixture
def recipe(cache):
    return cache.recipe


def test_memory_is_bounded_and_the_least_recently_used_go_first(recipe):
    size = size_of(rows_of(0, recipe))
    memory = MemoryCache(3 * size)
    for number in range(3):
        memory.put(digest(number), rows_of(number, recipe))
    assert memory.get(digest(0)) is not None  # used again
    for number in (3, 3, 4):
        memory.put(digest(number), rows_of(number, recipe))
    assert [number for number in range(5) if memory.get(digest(number)) is not None] == [0, 3, 4]
    assert memory.bytes == 3 * size
    assert len(memory) == 3


def test_without_memory_nothing_is_kept(recipe):
    memory = MemoryCache(0)
    memory.put(digest(0), rows_of(0, recipe))
    assert memory.get(digest(0)) is None
    assert memory.bytes == 0


def test_rows_of_a_cache_are_found_by_the_bytes_of_their_images(cache, dataset):
    cached = CachedRows(cache, cache.taps)
    features = cache.features("features")
    for row, path in enumerate(features.paths):
        sha256 = hashlib.sha256((dataset.images / path).read_bytes()).hexdigest()
        assert cached.row_of(sha256) == row
        np.testing.assert_array_equal(cached.get(sha256)["features"], features.X[row])
    for unknown in (digest(0), "0" * 64, "f" * 64):
        assert cached.get(unknown) is None


def test_a_cache_without_a_served_tap_knows_no_features(cache):
    assert CachedRows(cache, {**cache.taps, "other": 3}).get(cache.features("features").sha256[0]) is None


def test_damaged_rows_of_a_cache_are_not_used(cache, tmp_path):
    path = tmp_path / "c.h5"
    data = bytearray(cache.path.read_bytes())
    first = cache.features("features").X[0].tobytes()
    data[data.index(first)] ^= 1
    path.write_bytes(data)
    cached = CachedRows(featurecache.FeatureCache.open(path), cache.taps)
    assert cached.get(cache.features("features").sha256[0]) is None


def test_a_file_keeps_features_over_a_restart(recipe, tmp_path):
    path = tmp_path / "seen.db"
    first = SqliteFeatures(path, recipe, 10**6)
    for number in range(500):
        first.put(digest(number), rows_of(number, recipe))
    first.close()
    second = SqliteFeatures(path, recipe, 10**6)
    for number in range(500):
        found, expected = second.get(digest(number)), rows_of(number, recipe)
        assert {tap: values.tobytes() for tap, values in found.items()} == {
            tap: values.tobytes() for tap, values in expected.items()
        }
    assert second.get(digest(500)) is None
    second.close()


def test_a_file_is_bounded_and_the_oldest_go_first(recipe, tmp_path):
    path, bound = tmp_path / "seen.db", 200_000
    seen = SqliteFeatures(path, recipe, bound)
    for number in range(5000):
        while seen._queue.qsize() > 900:
            pass
        seen.put(digest(number), rows_of(number, recipe))
    seen.close()
    assert path.stat().st_size < 2 * bound
    seen = SqliteFeatures(path, recipe, bound)
    known = [number for number in range(5000) if seen.get(digest(number)) is not None]
    seen.close()
    assert known == list(range(5000 - len(known), 5000))
    assert len(known) > 200


def test_features_of_another_recipe_are_not_found(cache, recipe, tmp_path):
    path = tmp_path / "seen.db"
    first = SqliteFeatures(path, recipe, 10**6)
    first.put(digest(0), rows_of(0, recipe))
    first.close()
    other = SqliteFeatures(path, replace(recipe, weights="random:9"), 10**6)
    assert other.get(digest(0)) is None
    other.close()


def test_a_damaged_row_of_a_file_is_not_used(recipe, tmp_path):
    path = tmp_path / "seen.db"
    seen = SqliteFeatures(path, recipe, 10**6)
    seen.put(digest(0), rows_of(0, recipe))
    seen.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE features SET features = zeroblob(length(features))")
    connection.close()
    seen = SqliteFeatures(path, recipe, 10**6)
    assert seen.get(digest(0)) is None
    seen.close()


def test_images_that_never_repeat_hardly_pay_for_the_cache(cache, recipe, tmp_path):
    """Asking and keeping take less than 2 % of a pass of 10 ms, faster than MobileNetV2 on two cores."""
    seen = SqliteFeatures(tmp_path / "seen.db", recipe, 10**8)
    content = ContentCache(MemoryCache(10**8), CachedRows(cache, recipe.taps), seen)
    features = [rows_of(number, recipe) for number in range(50)]
    digests = iter([digest(number) for number in range(2000)])

    def measure():
        contents = [next(digests) for _ in features]
        began = time.perf_counter()
        for sha256, rows in zip(contents, features, strict=True):
            assert content.get(sha256) is None
            content.put(sha256, rows)
        spent = (time.perf_counter() - began) / len(features)
        time.sleep(0.02)
        return spent

    in_a_quiet_moment(measure, lambda spent: spent < 0.02 * 0.010, rounds=40)
    content.close()


@pytest.mark.parametrize("content", [b"not a database at all, but some text of more than a hundred bytes" * 4, None])
def test_a_file_of_something_else_is_refused_and_not_changed(content, recipe, tmp_path):
    path = tmp_path / "other.db"
    if content is None:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE mine (x)")
        connection.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(OptionError, match=r"other\.db cannot be used to keep features: .*; name another file"):
        SqliteFeatures(path, recipe, 10**6)
    assert path.read_bytes() == before


def test_a_file_that_fails_later_is_left_alone_with_one_message(recipe, tmp_path, wait_for):
    path, said = tmp_path / "seen.db", []
    seen = SqliteFeatures(path, recipe, 10**6, notify=said.append)
    seen.put(digest(0), rows_of(0, recipe))
    wait_for(lambda: seen.get(digest(0)) is not None)
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE features")
    connection.commit()
    connection.close()
    assert seen.get(digest(0)) is None
    seen.put(digest(1), rows_of(1, recipe))
    assert seen.get(digest(1)) is None
    seen.close()
    assert len(said) == 1
    assert "is not used any more" in said[0]


def test_the_places_are_asked_in_order_and_say_where_features_were(cache, recipe, tmp_path):
    sha256 = cache.features("features").sha256[3]
    seen = SqliteFeatures(tmp_path / "seen.db", recipe, 10**6)
    content = ContentCache(MemoryCache(10**6), CachedRows(cache, recipe.taps), seen)
    assert content.get(sha256)[1] == "cache"
    content.put(digest(0), rows_of(0, recipe))
    assert content.get(digest(0))[1] == "memory"
    content.close()
    again = ContentCache(MemoryCache(10**6), None, SqliteFeatures(tmp_path / "seen.db", recipe, 10**6))
    assert [again.get(digest(0))[1] for _ in range(2)] == ["file", "memory"]
    assert again.get(digest(1)) is None
    again.close()
