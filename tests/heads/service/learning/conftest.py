"""A service with coloured images, their cache and heads, on a backbone that claims to know ImageNet."""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import featurecache
import heads
from featurecache.backbones.fake import FakeBackbone

COLOURS = {"blue": (50, 80, 200), "green": (60, 160, 70), "red": (200, 60, 50)}


class SeeingBackbone(FakeBackbone):
    """A fake backbone that claims to be trained on ImageNet, so that its own classes are shown."""

    def __init__(self):
        super().__init__({"features": 16, "predictions": 1000})
        self.spec = replace(self.spec, weights="sha256:" + "ab12" * 16)

    def forward(self, images):
        features = super().forward(images)
        powers = np.exp(2 * (features["predictions"] - features["predictions"].max(axis=1, keepdims=True)))
        return features | {"predictions": powers / powers.sum(axis=1, keepdims=True)}


def draw(colour, seed):
    """Return an image of a colour, with a disc on it."""
    random = np.random.default_rng([seed, *colour])
    image = Image.new("RGB", (96, 72), tuple(int(value) for value in np.array(colour) + random.integers(-35, 35, 3)))
    x, y = random.integers(5, 50, 2)
    ImageDraw.Draw(image).ellipse((x, y, x + 25, y + 20), fill=(240, 240, 235))
    return image


@dataclass(frozen=True)
class Place:
    """A folder with images, their cache ``c.h5``, and heads."""

    folder: Path

    @property
    def cache(self):
        return featurecache.FeatureCache.open(self.folder / "c.h5")

    def image(self, name):
        return self.folder / "images" / name


@pytest.fixture(scope="session")
def prepared(made_once):
    def fill(folder):
        for split, count in (("train", 8), ("valid", 4)):
            for name, colour in COLOURS.items():
                (folder / "images" / split / name).mkdir(parents=True)
                for number in range(count):
                    seed = number + 100 * (split == "valid")
                    draw(colour, seed).save(folder / "images" / split / name / f"{number}.png")
        cache = featurecache.extract(folder / "images", folder / "c.h5", backbone=SeeingBackbone())
        (folder / "heads").mkdir()
        (folder / "none").mkdir()
        for name, family in (("colours", "logreg"), ("nearest", "centroid")):
            heads.train(cache, family, tap="features").save(folder / "heads" / name)
        for name, colour in (("new-red", COLOURS["red"]), ("new-blue", COLOURS["blue"])):
            draw(colour, 999).save(folder / f"{name}.png")
        (folder / "words.png").write_text("these are words")

    return made_once("learning", fill)


@pytest.fixture
def place(prepared, tmp_path):
    """A copy that a test may change; the cache finds its images where they were first."""
    shutil.copytree(prepared, tmp_path / "place", ignore=shutil.ignore_patterns("images"))
    (tmp_path / "place" / "images").symlink_to(prepared / "images")
    return Place(tmp_path / "place")


@pytest.fixture
def seeing():
    """What a backbone is that claims to be trained on ImageNet."""
    return SeeingBackbone().spec


@pytest.fixture
def serve(run_server):
    """Start a service; its arguments are directories of heads and the options of `run_server`."""
    return lambda *directories, **options: run_server(*directories, **{"backbone": SeeingBackbone()} | options)


@pytest.fixture
def service(serve, place):
    """A service with two heads and the cache."""
    return serve(place.folder / "heads", cache=place.folder / "c.h5")


@pytest.fixture
def finished():
    """Wait for the end of a training, and return it."""

    def wait(service, job):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            found = service.client.get(f"jobs/{job['job']}").json()
            if found["state"] not in {"waiting", "running"}:
                return found
            time.sleep(0.02)
        raise AssertionError(found)

    return wait
