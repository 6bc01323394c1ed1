"""Which engine is chosen, and what is said where the one that was asked for cannot do it."""

import sys

import pytest

from featurecache import extract
from featurecache.backbones import engines, keras_runtime, network
from featurecache.backbones.catalog import NETWORKS, find_network
from featurecache.backbones.engines import choose_engine, start_engine
from featurecache.errors import EngineError, UnknownNameError
from featurecache.named_backbone import source_of


@pytest.fixture
def devices(tmp_path, monkeypatch):
    """Return a folder that stands for /dev, without a GPU."""
    folder = tmp_path / "dev"
    folder.mkdir()
    (folder / "null").touch()
    monkeypatch.setattr(keras_runtime, "_DEVICES", folder)
    return folder


@pytest.fixture
def without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)


def chosen(asked="auto", name="vgg16", *, device="auto", precision="float32"):
    return choose_engine(asked, find_network(name), device=device, precision=precision)


@pytest.mark.usefixtures("devices")
def test_without_a_gpu_the_vgg_networks_run_on_numba_and_all_others_on_keras():
    found = {name: chosen(name=name) for name in NETWORKS}
    assert found == {name: "numba" if name in {"vgg16", "vgg19"} else "keras" for name in NETWORKS}


@pytest.mark.parametrize("name", ["nvidia0", "nvidiactl", "kfd", "dxg"])
def test_where_there_may_be_a_gpu_it_is_for_keras_to_find_out(devices, name):
    (devices / name).touch()
    assert chosen() == chosen(device="gpu") == "keras"
    assert chosen(device="cpu") == chosen("numba") == "numba"


@pytest.mark.usefixtures("devices")
def test_what_numba_cannot_do_runs_on_keras():
    assert chosen(device="gpu") == chosen(precision="mixed") == "keras"


@pytest.mark.usefixtures("devices", "without_numba")
def test_where_numba_is_not_installed_everything_runs_on_keras():
    assert chosen() == chosen(device="cpu") == "keras"


@pytest.mark.usefixtures("devices")
def test_keras_runs_everything_that_it_is_asked_to():
    assert {chosen("keras", name) for name in NETWORKS} == {"keras"}
    assert chosen("keras", device="gpu", precision="mixed") == "keras"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet50"}, "the engine numba does not know resnet50, only vgg16 and vgg19; use --engine keras"),
        ({"precision": "mixed"}, "computes in float32, not in mixed precision; use --engine keras"),
        ({"device": "gpu"}, "runs on the CPU; use --engine keras for a GPU"),
    ],
)
def test_asking_numba_for_what_it_cannot_do_is_an_error_with_a_remedy(options, message):
    with pytest.raises(EngineError, match=message):
        chosen("numba", **options)


@pytest.mark.usefixtures("without_numba")
def test_asking_for_numba_where_it_is_not_installed_names_the_remedy(tmp_path, photographs):
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.fromarray(photographs(1)[0]).save(tmp_path / "images" / "0.png")
    with pytest.raises(
        EngineError, match=r"^the engine numba is not installed; pip install numba, or use --engine keras"
    ):
        extract(tmp_path / "images", tmp_path / "x.h5", weights="random:0", engine="numba")
    assert not (tmp_path / "x.h5.work").exists()


@pytest.fixture
def numba_that_fails(without_numba, monkeypatch):
    """Make numba an installed package that cannot be imported, as on a platform that it does not support."""
    for module in ("numba_engine", "winograd"):
        monkeypatch.delitem(sys.modules, f"featurecache.backbones.{module}", raising=False)
        monkeypatch.delattr(f"featurecache.backbones.{module}", raising=False)
    monkeypatch.setattr(engines, "find_spec", lambda _: True)


@pytest.mark.usefixtures("numba_that_fails")
def test_numba_that_cannot_be_loaded_is_an_error_with_a_remedy(weights_of):
    with pytest.raises(
        EngineError, match=r"numba cannot be loaded \(.*\); pip install -U numba, or use --engine keras"
    ):
        start_engine("numba", *weights_of("vgg16"), taps=("fc2",), batch_size=1, precision="float32", device="cpu")


@pytest.mark.usefixtures("devices", "numba_that_fails")
def test_auto_runs_on_keras_where_numba_cannot_be_loaded(monkeypatch):
    import keras

    # without its dense layers, which are 9 tenths of its weights
    part = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
    monkeypatch.setattr(network, "build", lambda *_, **__: part)
    said = []
    source = source_of("vgg16", "random:0", taps=["block1_pool"], notify=said.append)
    assert source.engine == "numba"
    assert source.start(1, 1).provenance["engine"] == "keras"
    assert any("numba cannot be loaded" in line and "keras" in line for line in said)


def test_an_unknown_engine_comes_with_the_close_match():
    with pytest.raises(UnknownNameError, match="unknown engine 'nubma'; did you mean 'numba'"):
        chosen("nubma")
