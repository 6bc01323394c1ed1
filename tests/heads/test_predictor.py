"""A predictor: one network, several heads, any kind of image, any number of threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import OptionError, UnknownNameError
from featurecache.images.failures import Failure
from heads import Predictor, predict, train
from heads.errors import HeadError, MismatchError


class Watched(FakeBackbone):
    """The fake backbone, which records its passes and refuses two at once."""

    def __init__(self, **options):
        super().__init__(**options)
        self.passes = []
        self._busy = threading.Lock()

    def forward(self, images):
        assert self._busy.acquire(blocking=False), "two passes at once"
        try:
            self.passes.append(len(images))
            time.sleep(0.001)  # so that a second pass would begin meanwhile
            return super().forward(images)
        finally:
            self._busy.release()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 12 images of another size than the network's."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(12):
        path = root / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = generator.integers(0, 200, (50, 40, 3)) + 50 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def files(photos):
    return sorted(photos.glob("*/*.png"))


@pytest.fixture(scope="module")
def cache(photos, tmp_path_factory):
    return featurecache.extract(photos, tmp_path_factory.mktemp("cache") / "c.h5", backbone=FakeBackbone())


@pytest.fixture(scope="module")
def heads(cache):
    return {
        "first": train(cache, "logreg", tap="features", holdout=0),
        "second": train(cache, "centroid", tap="predictions", holdout=0),
    }


def rows_of(results, head):
    return np.stack([result.probabilities[head] for result in results])


@pytest.mark.parametrize("batch_size", [1, 5, 12, 32])
def test_heads_of_several_taps_share_each_pass(heads, cache, files, batch_size):
    network = Watched()
    with Predictor(heads, backbone=network, batch_size=batch_size) as predictor:
        results = predictor.predict(files)
    assert network.passes == [batch_size] * (12 // batch_size) + [12 % batch_size] * (12 % batch_size > 0)
    for name, head in heads.items():
        features = cache.features(head.tap)
        expected = head.predict_proba(features.X[np.argsort(features.paths.astype(str))])
        np.testing.assert_allclose(rows_of(results, name), expected, atol=1e-12)


def test_files_get_the_same_bits_from_predict_together_and_alone(heads, files):
    with Predictor(heads, backbone=FakeBackbone()) as predictor:
        together = predictor.predict(files)
        alone = [predictor.predict([file])[0] for file in files]
    for name, head in heads.items():
        np.testing.assert_array_equal(rows_of(together, name), rows_of(alone, name))
        table = predict(head, files, backbone=FakeBackbone()).table
        np.testing.assert_array_equal(rows_of(together, name), table.probabilities)


def test_paths_contents_and_pixels_are_images_and_failures_stay_in_their_places(heads, files, tmp_path):
    pixels = np.asarray(Image.open(files[0]))
    images = [
        files[0],
        tmp_path / "gone.png",
        str(files[0]),
        files[0].read_bytes(),
        b"no image",
        pixels,
        pixels[..., 0],
        pixels.astype(np.float32),
        pixels[:, :0],
    ]
    with Predictor(heads, backbone=FakeBackbone(), batch_size=2) as predictor:
        results = predictor.predict(images)
        assert predictor.predict([]) == []
    codes = [result.code if isinstance(result, Failure) else "" for result in results]
    assert codes == ["", "not_found", "", "", "not_an_image", "", "unsupported", "unsupported", "unsupported"]
    assert results[6].reason == "an array of uint8 and shape (50, 40); expected uint8 (height, width, 3)"
    rows = rows_of([results[number] for number in (0, 2, 3, 5)], "first")
    np.testing.assert_allclose(rows, rows[:1].repeat(4, axis=0), rtol=0, atol=1e-12)


def test_one_image_is_a_list_of_one(heads, files):
    pixels = np.asarray(Image.open(files[0]))
    with Predictor(heads, backbone=FakeBackbone()) as predictor:
        expected = predictor.predict([files[0]])[0].to_dict()
        for image in (files[0], str(files[0]), files[0].read_bytes(), pixels, pixels[np.newaxis]):
            assert [result.to_dict() for result in predictor.predict(image)] == [expected]


def test_a_word_is_no_batch_size(heads):
    with pytest.raises(OptionError, match=r"batch_size is 'auto'; expected a whole number from 1 to 4,096$"):
        Predictor(heads, backbone=FakeBackbone(), batch_size="auto")


def test_threads_get_their_own_rows_from_one_network(heads, files):
    network = Watched()
    started = []
    with Predictor(heads, backbone=network, batch_size=3) as predictor:
        expected = {file: predictor.predict([file])[0].probabilities["first"] for file in files}
        start = predictor._source.start
        predictor._source = replace(predictor._source, start=lambda *sizes: started.append(1) or start(*sizes))
        predictor._network = None

        def ask(seed):
            chosen = np.random.default_rng(seed).permutation(np.array(files, dtype=object))[: seed % 7 + 1]
            return chosen, predictor.predict([*chosen, b"no image"])

        with ThreadPoolExecutor(8) as pool:
            for chosen, (*results, failed) in pool.map(ask, range(64)):
                np.testing.assert_allclose(
                    rows_of(results, "first"), [expected[file] for file in chosen], rtol=0, atol=1e-12
                )
                assert failed.code == "not_an_image"
    assert started == [1]


def test_heads_of_another_recipe_are_refused_with_the_field(heads, cache, photos, tmp_path):
    other = featurecache.extract(photos, tmp_path / "o.h5", backbone=FakeBackbone(), resize="crop")
    cropped = train(other, "majority", tap="features", holdout=0)
    with pytest.raises(MismatchError, match=r"resize: first has 'squash', cropped 'crop'; start a predictor for each"):
        Predictor({**heads, "cropped": cropped}, backbone=FakeBackbone())
    with pytest.raises(MismatchError, match="weights: the head has 'random:0', the features 'random:1'"):
        Predictor(heads, backbone=FakeBackbone(seed=1))


def test_the_network_starts_once_with_the_first_image_or_when_told(heads, files):
    network, started = Watched(), []
    with Predictor(heads, backbone=network) as predictor:
        start = predictor._source.start
        predictor._source = replace(predictor._source, start=lambda *sizes: started.append(sizes) or start(*sizes))
        predictor.predict([b"no image"])
        assert started == []
        predictor.start()
        predictor.predict(files)
        predictor.predict(files)
    assert len(started) == 1
    for call in (predictor.start, lambda: predictor.predict(files), lambda: predictor.predict([])):
        with pytest.raises(HeadError, match="the predictor is closed; make a new one"):
            call()


def test_heads_are_named_by_their_directories(heads, tmp_path, files):
    for folder, head in (("x/cats", "first"), ("y/cats", "second")):
        (tmp_path / folder).parent.mkdir()
        heads[head].save(tmp_path / folder)
    with Predictor.load([tmp_path / "x/cats", tmp_path / "y/cats"], backbone=FakeBackbone()) as predictor:
        assert {name: head.name for name, head in predictor.heads.items()} == {"cats": "logreg", "cats-2": "centroid"}
        (result,) = predictor.predict(files[:1])
    assert set(result.to_dict()) == {"cats", "cats-2"}
    assert list(result.to_dict(top=1)["cats"]) == [result.best("cats")]
    with pytest.raises(HeadError, match="there are the heads cats, cats-2; name one of them"):
        result.best()
    with pytest.raises(UnknownNameError, match=r"unknown head 'x/cats'; did you mean 'cats'\? \(known: cats, cats-2\)"):
        result.best("x/cats")
    with Predictor.load(tmp_path / "x/cats", backbone=FakeBackbone()) as predictor:
        assert predictor.predict(files[:1])[0].best() == result.best("cats")


def test_a_predictor_needs_a_head():
    with pytest.raises(HeadError, match="no head to predict with"):
        Predictor([], backbone=FakeBackbone())
