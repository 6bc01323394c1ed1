"""Images for runs with workers, the cache that a plain run makes of them, and a pool in place of Ray's."""

import sys
from pathlib import Path

import pytest

import featurecache.extraction
from featurecache import extract
from featurecache.backbones.fake import FakeBackbone

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "durability"))

from pools import ThreadPool
from runs import contents, make_images

BATCH = 8


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """Return a folder of 120 images, some of them twice and some broken, and its plain cache."""
    folder = tmp_path_factory.mktemp("plain")
    images = make_images(folder / "images", range(120))
    return extract(images, folder / "plain.h5", backbone=FakeBackbone(), batch_size=BATCH), images


@pytest.fixture
def extract_with(monkeypatch, plain, tmp_path):
    """Return a function that extracts the images with a pool, and compares the cache with the plain one."""

    def run(pool, cache_path=tmp_path / "cache.h5", *, images=plain[1], same=True, **options):
        monkeypatch.setattr(featurecache.extraction, "RayPool", lambda *_, **__: pool)
        options = {"backbone": FakeBackbone(), "batch_size": BATCH, "cluster": "local"} | options
        cache = extract(images, cache_path, **options)
        if same:
            assert contents(cache_path) == contents(plain[0].path)
            assert cache.problems() == []
        left = {path.name for path in cache_path.parent.iterdir()}
        assert left == {cache_path.name, *(["cache.parts"] if cache.parts else [])}
        assert pool.closed.is_set() or not options["cluster"]
        return cache

    return run


@pytest.fixture
def threads():
    """Return the class of pools of threads."""
    return ThreadPool
