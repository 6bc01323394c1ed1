"""A cache knows its recipe: missing options come from the cache or the unfinished run."""

import json
import shutil
import sys
from dataclasses import replace

import pillow_heif
import pytest
from PIL import Image

import featurecache
from featurecache import extract
from featurecache.backbones import engines
from featurecache.backbones.catalog import find_network
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import EngineError, RecipeError, UnknownNameError, WeightsError
from featurecache.planning import why
from featurecache.verification import verify

HDF5 = b"\x89HDF\r\n\x1a\n"  # how a weight file begins


class StandIn(FakeBackbone):
    """The fake backbone with the identity of a network in the catalogue; it can stop after a given number of images."""

    stop_after = None
    seen = 0

    def __init__(self, spec):
        super().__init__(spec.taps, input_size=spec.input_size)
        self.spec = spec

    def forward(self, images):
        if StandIn.stop_after is not None and StandIn.seen >= StandIn.stop_after:
            raise KeyboardInterrupt
        StandIn.seen += len(images)
        return super().forward(images)


@pytest.fixture(autouse=True)
def _networks_without_a_framework(monkeypatch):
    """Run the catalogue's networks by NumPy, also in mixed precision."""

    def start_engine(engine, network_spec, weights, *, taps, precision, **_):
        return StandIn(network_spec.spec(weights.identity, taps, precision))

    monkeypatch.setattr(featurecache.named_backbone, "start_engine", start_engine)
    monkeypatch.setattr(engines, "processor_class", lambda: "x86_64 amx_bf16")
    monkeypatch.setattr(StandIn, "seen", 0)
    monkeypatch.setattr(StandIn, "stop_after", None)


@pytest.fixture
def weights(tmp_path):
    """Return a weight file; only its bytes matter."""
    path = tmp_path / "some.weights.h5"
    path.write_bytes(HDF5 + b"weights")
    return path


OPTIONS = {
    "backbone": "mobilenet_v2",
    "taps": ["avg_pool"],
    "precision": "mixed",
    "dtype": "float16",
    "resize": "crop",
    "filter": "nearest",
}


def add_image(photos):
    shutil.copy(photos / "train" / "cats" / "0.png", photos / "train" / "cats" / "copy.png")
    path = photos / "train" / "cats" / "copy.png"
    path.write_bytes(path.read_bytes() + b"\0")  # other content, the same pixels


def add_further_image(photos):
    path = photos / "train" / "cats" / "further.png"
    path.write_bytes((photos / "train" / "cats" / "0.png").read_bytes() + b"\0\0")


def test_a_cache_is_brought_up_to_date_without_options(photos, tmp_path, weights):
    path = tmp_path / "c.h5"
    first = extract(photos, path, weights=str(weights), **OPTIONS)
    add_image(photos)
    plan = why(photos, path)
    assert (plan.refused, plan.to_dict()["reuse"], plan.to_dict()["compute"]) == ([], 20, 1)
    StandIn.seen = 0
    again = extract(photos, path)
    assert (len(again), StandIn.seen) == (21, 1)
    assert again.recipe == first.recipe
    assert again.provenance["weights_source"] == str(weights)


def test_an_unfinished_run_is_finished_without_options(photos, tmp_path, weights):
    path = tmp_path / "c.h5"
    StandIn.stop_after = 8
    with pytest.raises(KeyboardInterrupt):
        extract(photos, path, weights=str(weights), batch_size=4, **OPTIONS)
    StandIn.stop_after = None
    assert why(photos, path).to_dict()["reuse"] == 8
    StandIn.seen = 0
    cache = extract(photos, path)
    assert (len(cache), StandIn.seen) == (20, 12)
    assert (cache.recipe.backbone, cache.recipe.dtype) == ("mobilenet_v2", "float16")
    assert cache.provenance["weights_source"] == str(weights)


@pytest.mark.parametrize(("device", "expected"), [("cpu", "keras"), ("gpu", "openvino")])
def test_auto_continues_with_the_engine_that_computed_the_rows_on_a_cpu(
    photos, tmp_path, monkeypatch, device, expected
):
    started = []

    def start_engine(engine, network_spec, weights, *, taps, precision, **_):
        started.append(engine)
        network = StandIn(network_spec.spec(weights.identity, taps, precision))
        network.provenance = {"engine": engine, "device": device}
        return network

    monkeypatch.setattr(featurecache.named_backbone, "start_engine", start_engine)
    monkeypatch.setattr(engines, "may_have_gpu", lambda: False)
    monkeypatch.setattr(engines, "find_spec", lambda _: True)
    path, network = tmp_path / "c.h5", {"backbone": "mobilenet_v2", "weights": "random:0"}
    StandIn.stop_after = 8
    with pytest.raises(KeyboardInterrupt):
        extract(photos, path, batch_size=4, engine="keras", **network)
    StandIn.stop_after = None
    extract(photos, path)
    add_image(photos)
    extract(photos, path)
    assert verify(path, recompute=30).recomputed
    assert started == ["keras", expected, expected, expected]


def test_a_commit_record_is_read_once_at_the_start(photos, tmp_path, make_backbone, monkeypatch):
    path, read = tmp_path / "c.h5", []
    with pytest.raises(KeyboardInterrupt):
        extract(photos, path, backbone=make_backbone(stop_after=9), batch_size=3)
    before = {record.name for record in (tmp_path / "c.h5.work" / "commits").iterdir()}
    read_record = featurecache.run.store.read_record
    monkeypatch.setattr(
        featurecache.run.store, "read_record", lambda path: (read.append(path.name), read_record(path))[1]
    )
    backbone = make_backbone()
    extract(photos, path, backbone=backbone, batch_size=3)
    assert backbone.seen == 20 - 9
    assert {name: read.count(name) for name in before} == dict.fromkeys(before, 1)


def test_random_weights_are_known_by_their_seed(photos, tmp_path):
    path = tmp_path / "c.h5"
    StandIn.stop_after = 8
    with pytest.raises(KeyboardInterrupt):
        extract(photos, path, backbone="resnet50", weights="random:7", batch_size=4)
    for record in (tmp_path / "c.h5.work" / "commits").iterdir():
        assert json.loads(record.read_bytes())["circumstances"]["weights_source"] == "random:7"
    StandIn.stop_after = None
    assert extract(photos, path).recipe.weights == "random:7"
    assert extract(photos, path).recipe.backbone == "resnet50"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"backbone": "vgg16"}, "backbone is 'mobilenet_v2', wanted 'vgg16'"),
        ({"weights": "random:1"}, "weights is 'sha256:.*', wanted 'random:1'"),
        ({"taps": ["logits"]}, "taps is {'avg_pool': 1280}, wanted {'logits': 1000}"),
        ({"precision": "float32"}, "precision is 'mixed', wanted 'float32'"),
        ({"dtype": "float32"}, "dtype is 'float16', wanted 'float32'"),
        ({"resize": "squash"}, "resize is 'crop', wanted 'squash'"),
        ({"filter": "lanczos"}, "filter is 'nearest', wanted 'lanczos'"),
    ],
)
def test_what_is_given_and_differs_is_refused(photos, tmp_path, weights, given, field):
    path = tmp_path / "c.h5"
    extract(photos, path, weights=str(weights), **OPTIONS)
    before = path.read_bytes()
    with pytest.raises(RecipeError, match=field + r".*--replace"):
        extract(photos, path, **given)
    assert next(iter(given)) in [difference.field for difference in why(photos, path, **given).refused]
    assert path.read_bytes() == before


def test_options_that_are_given_and_agree_are_taken(photos, tmp_path, weights):
    path = tmp_path / "c.h5"
    extract(photos, path, weights=str(weights), **OPTIONS)
    before = path.read_bytes()
    extract(photos, path, backbone="mobilenet_v2", taps=["avg_pool"], resize="crop")
    assert path.read_bytes() == before


def test_replace_begins_with_the_defaults(photos, tmp_path, weights):
    path = tmp_path / "c.h5"
    extract(photos, path, weights=str(weights), **OPTIONS)
    plan = why(photos, path, weights="random:0", replace=True)
    assert (plan.refused, plan.to_dict()["compute"]) == ([], 20)
    cache = extract(photos, path, weights="random:0", replace=True)
    assert (cache.recipe.backbone, cache.recipe.dtype, cache.recipe.resize) == ("vgg16", "float32", "squash")
    assert list(cache.taps) == ["fc2", "predictions"]


def test_why_leaves_an_unfinished_run_that_would_be_replaced(photos, tmp_path):
    path = tmp_path / "c.h5"
    StandIn.stop_after = 8
    with pytest.raises(KeyboardInterrupt):
        extract(photos, path, weights="random:0", backbone="resnet50", batch_size=4)
    before = sorted(path.with_name("c.h5.work").rglob("*"))
    assert why(photos, path, weights="random:1", replace=True).to_dict()["compute"] == 20
    assert sorted(path.with_name("c.h5.work").rglob("*")) == before


def test_weights_that_are_gone_or_differ_have_to_be_named(photos, tmp_path, weights):
    path = tmp_path / "c.h5"
    extract(photos, path, weights=str(weights), **OPTIONS)
    before = path.read_bytes()
    moved = weights.rename(tmp_path / "moved.weights.h5")
    for function in (extract, why):
        with pytest.raises(WeightsError, match=r"weights of .*c\.h5 cannot be read.*some\.weights\.h5.*--weights"):
            function(photos, path)
    extract(photos, path, weights=str(moved))
    weights.write_bytes(HDF5 + b"other weights")
    for function in (extract, why):
        with pytest.raises(WeightsError, match=r"are not the weights of .*c\.h5.*--weights"):
            function(photos, path)
    assert path.read_bytes() == before


def test_weights_of_an_unfinished_run_that_does_not_name_them(photos, tmp_path, weights, monkeypatch):
    path = tmp_path / "c.h5"
    StandIn.stop_after = 8
    with pytest.raises(KeyboardInterrupt):
        extract(photos, path, weights=str(weights), batch_size=4, **OPTIONS)
    monkeypatch.setattr(featurecache.preparation, "unfinished_records", lambda _: {})
    with pytest.raises(WeightsError, match=r"does not record the source of its weights; give it with --weights"):
        extract(photos, path)


def test_a_cache_of_a_backbone_of_the_users_own_needs_it_again(photos, tmp_path):
    path = tmp_path / "c.h5"
    extract(photos, path, backbone=FakeBackbone(), dtype="float16", resize="crop")
    for function in (extract, why):
        with pytest.raises(RecipeError, match=r"backbone 'fake', which is not in the catalogue: pass that Backbone"):
            function(photos, path)
        with pytest.raises(UnknownNameError, match="unknown backbone 'fake'"):
            function(photos, path, backbone="fake")
    assert extract(photos, path, backbone=FakeBackbone()).recipe.dtype == "float16"
    with pytest.raises(RecipeError, match="weights is 'random:0', wanted 'random:1'"):
        extract(photos, path, backbone=FakeBackbone(seed=1))


def test_why_counts_failures_that_are_tried_again(photos, tmp_path):
    path = tmp_path / "c.h5"
    (photos / "train" / "cats" / "broken.jpg").write_bytes(b"not an image")
    extract(photos, path, backbone=FakeBackbone())
    assert why(photos, path, backbone=FakeBackbone()).reasons["failed before"] == ["train/cats/broken.jpg"]
    plan = why(photos, path, backbone=FakeBackbone(), retry_failures=True)
    assert plan.reasons["retried"] == ["train/cats/broken.jpg"]
    assert (plan.to_dict()["compute"], plan.to_dict()["failures"]) == (1, 0)


def test_an_image_whose_package_was_missing_is_read_once_it_is_installed(photos, tmp_path, monkeypatch):
    path = tmp_path / "c.h5"
    pillow_heif.from_pillow(Image.new("RGB", (40, 30), "teal")).save(photos / "train" / "cats" / "phone.HEIC")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        cache = extract(photos, path, backbone=FakeBackbone())
        [(name, reason)] = cache.failures.items()
        assert name == "train/cats/phone.HEIC"
        assert reason.endswith("which needs pillow-heif: pip install 'featurecache[heic]'")

    cache = extract(photos, path, backbone=FakeBackbone())

    assert not cache.failures
    assert "train/cats/phone.HEIC" in cache.features("features").paths
    assert cache.provenance["run"]["forwarded"] == 1
    assert cache.made_by.versions["pillow-heif"] == pillow_heif.__version__
    assert why(photos, path, backbone=FakeBackbone()).to_dict()["compute"] == 0


def test_why_refuses_an_engine_as_extract_would(photos, tmp_path):
    for function in (extract, why):
        with pytest.raises(EngineError, match="numba does not know mobilenet"):
            function(photos, tmp_path / "c.h5", backbone="mobilenet", weights="random:0", engine="numba")


def test_imagenet_weights_of_an_unfinished_run_that_does_not_name_them_are_tried(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    file = tmp_path / "keras" / "models" / find_network("mobilenet_v2").weights_file
    file.parent.mkdir(parents=True)
    file.write_bytes(HDF5 + b"official")
    path = tmp_path / "c.h5"
    StandIn.stop_after = 8
    with pytest.raises(KeyboardInterrupt):
        extract(photos, path, batch_size=4, backbone="mobilenet_v2")
    StandIn.stop_after = None
    monkeypatch.setattr(featurecache.preparation, "unfinished_records", lambda _: {})
    assert len(extract(photos, path)) == 20


def test_weights_named_by_the_latest_commit_come_first(photos, tmp_path, weights):
    path = tmp_path / "c.h5"
    extract(photos, path, weights=str(weights), **OPTIONS)
    moved = weights.rename(tmp_path / "moved.weights.h5")
    add_image(photos)
    StandIn.seen, StandIn.stop_after = 0, 1
    add_further_image(photos)
    with pytest.raises(KeyboardInterrupt):
        extract(photos, path, weights=str(moved), batch_size=1)
    StandIn.stop_after = None
    assert extract(photos, path).provenance["weights_source"] == str(moved)


def test_a_backbone_of_the_users_own_may_have_any_precision(photos, tmp_path):
    backbone = FakeBackbone()
    backbone.spec = replace(backbone.spec, precision="bfloat16")
    for _ in range(2):
        assert len(extract(photos, tmp_path / "c.h5", backbone=backbone)) == 20
    assert why(photos, tmp_path / "c.h5", backbone=backbone).refused == []
