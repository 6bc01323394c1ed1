"""Features made of numbers, and a cache that lives in memory."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from featurecache.feature_set import FeatureSet
from featurecache.provenance import Provenance
from featurecache.recipe import Recipe

CLASSES = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "koi", "lynx")


@dataclass
class MemoryCache:
    """What a `featurecache.cache.FeatureCache` offers to those who only read features."""

    sets: Mapping[str, FeatureSet]
    provenance: Mapping[str, object] = field(default_factory=dict)
    given_labels: Mapping[str, str | None] = field(default_factory=dict)
    group_column = weight_column = None
    groups = weights = None

    @property
    def made_by(self):
        return Provenance.from_dict(self.provenance)

    @property
    def taps(self):
        return {tap: features.X.shape[1] for tap, features in self.sets.items()}

    @property
    def recipe(self):
        return next(iter(self.sets.values())).recipe

    @property
    def classes(self):
        return next(iter(self.sets.values())).classes

    def __len__(self):
        return len(next(iter(self.sets.values())))

    @property
    def paths(self):
        return next(iter(self.sets.values())).paths

    @property
    def is_view(self):
        return next(iter(self.sets.values())).is_view

    @property
    def contents(self):
        return next(iter(self.sets.values())).sha256

    @property
    def index(self):
        rows = next(iter(self.sets.values()))
        columns = {"label": rows.y, "path": rows.paths, "split": rows.splits, "sha256": rows.sha256}
        return SimpleNamespace(images=columns)

    def features(self, tap=None, split=None):
        features = self.sets[tap or next(iter(self.sets))]
        return features if split is None else features.take(features.splits == split)


def _recipe(taps, **changes):
    fields = {
        "decode_version": 1,
        "resize": "squash",
        "filter": "bilinear",
        "backbone": "vgg16",
        "weights": "random:0",
        "input_size": (224, 224),
        "preprocessing": "caffe",
        "taps": taps,
        "precision": "float32",
        "dtype": "float32",
    }
    return Recipe(**(fields | changes))


def _features(X, y, *, splits=None, classes=None, tap="fc2", paths=None, contents=None, taps=None, **recipe):
    n = len(y)
    y = np.asarray(y, dtype=np.int64)
    contents = range(n) if contents is None else contents
    splits = "train" if splits is None else splits
    return FeatureSet(
        X=np.asarray(X),
        y=y,
        paths=np.array([f"{row:05}.jpg" for row in range(n)] if paths is None else paths, dtype=object),
        splits=np.array([splits] * n if isinstance(splits, str) else splits, dtype=object),
        sha256=np.array([hashlib.sha256(str(each).encode()).hexdigest() for each in contents], dtype=object),
        classes=CLASSES[: y.max(initial=1) + 1] if classes is None else classes,
        split=None,
        tap=tap,
        recipe=_recipe({tap: X.shape[1]} if taps is None else taps, **recipe),
    )


def _blobs(n, d, k, *, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    centres = rng.normal(size=(k, d)) * 2
    return (centres[y] + rng.normal(size=(n, d)) * spread).astype(np.float32), y.astype(np.int64)


@pytest.fixture(scope="session")
def blobs() -> Callable[..., tuple]:
    """Rows in k clouds: features (n, d) float32 and labels (n,)."""
    return _blobs


@pytest.fixture(scope="session")
def make_features() -> Callable[..., FeatureSet]:
    """A feature set of given features and labels; everything else has a default."""
    return _features


@pytest.fixture(scope="session")
def make_cache() -> Callable[..., MemoryCache]:
    """A cache in memory, of one feature set for each tap."""

    def make(*sets, **provenance):
        return MemoryCache({features.tap: features for features in sets}, provenance)

    return make


@pytest.fixture(scope="session")
def blob_cache(make_cache, make_features) -> MemoryCache:
    """A cache of the 60 rows ``blobs(60, 5, 3)`` under the tap fc2, none of them in a split."""
    return make_cache(make_features(*_blobs(60, 5, 3), splits=""), weights_source="imagenet")


@pytest.fixture(scope="session")
def fresh_python() -> Callable[[str], str]:
    """Run code in a fresh interpreter; return what it prints."""

    def run(code, *arguments):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture(scope="module")
def one_blas_thread():
    """Let a module's small products run on one thread: several would mostly wait for each other."""
    with threadpool_limits(1, user_api="blas"):
        yield
