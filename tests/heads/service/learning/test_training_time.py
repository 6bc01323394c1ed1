"""How soon a new version answers: a training of 1,000 rows of 4,096 features."""

import time

import numpy as np
import pytest
from PIL import Image

import featurecache
import heads
from featurecache.backbones.fake import FakeBackbone

IMAGES, WIDTH, SECONDS, TRIES = 1_000, 4096, 2.0, 3


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    random = np.random.default_rng(0)
    kinds = random.integers(0, 80, (10, 8, 8, 3))
    for number in range(IMAGES):
        path = folder / "images" / "train" / str(number % 10) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((kinds[number % 10] + random.integers(0, 176, (8, 8, 3))).astype(np.uint8)).save(path)
    cache = featurecache.extract(folder / "images", folder / "c.h5", backbone=FakeBackbone({"wide": WIDTH}))
    (folder / "heads").mkdir()
    heads.train(cache, "centroid").save(folder / "heads" / "digits")
    return folder


@pytest.mark.slow
def test_the_new_version_of_a_head_answers_within_two_seconds(run_server, wide):
    """The fastest of some tries counts: other tests run at the same time."""
    server = run_server(wide / "heads", cache=wide / "c.h5", backbone=FakeBackbone({"wide": WIDTH}))
    data = next(wide.glob("images/train/3/*.png")).read_bytes()
    seconds = []
    for _ in range(TRIES):
        began = time.perf_counter()
        job = server.client.post("/heads/digits/train", json={"family": "softmax"}).json()["job"]
        version = None
        while version is None or version != server.client.get(f"/jobs/{job}").json()["version"]:
            [result] = server.client.post("/predict", content=data).json()["results"]
            version = result["heads"]["digits"]["version"]
        seconds.append(time.perf_counter() - began)
        assert result["heads"]["digits"]["class"] == "3"
    assert min(seconds) <= SECONDS, seconds
