"""Which engine is chosen, and what is said where the one that was asked for cannot do it."""

import sys

import pytest

from featurecache import extract
from featurecache.backbones import engines, keras_runtime, network, openvino_engine
from featurecache.backbones.catalog import NETWORKS, find_network
from featurecache.backbones.engines import choose_engine, start_engine
from featurecache.backbones.protocol import EngineFault
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


@pytest.fixture
def without_openvino(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)


@pytest.fixture(params=["amx_bf16", "avx512_bf16"])
def with_bfloat16(request, monkeypatch):
    monkeypatch.setattr(engines, "processor_class", lambda: f"x86_64 avx2 {request.param}")


@pytest.fixture
def without_bfloat16(monkeypatch):
    monkeypatch.setattr(engines, "processor_class", lambda: "x86_64 avx2 avx512f")


def chosen(asked="auto", name="vgg16", *, device="auto", precision="float32", before=""):
    return choose_engine(asked, find_network(name), device=device, precision=precision, before=before)


@pytest.mark.usefixtures("devices")
def test_without_a_gpu_the_vgg_networks_run_on_numba_and_all_others_on_keras():
    found = {name: chosen(name=name) for name in NETWORKS}
    assert found == {name: "numba" if name in {"vgg16", "vgg19"} else "keras" for name in NETWORKS}


@pytest.mark.parametrize("name", ["nvidia0", "nvidiactl", "kfd", "dxg"])
def test_where_there_may_be_a_gpu_it_is_for_keras_to_find_out(devices, name):
    (devices / name).touch()
    assert chosen() == chosen(device="gpu") == "keras"
    assert chosen(before="numba") == chosen(name="resnet50", before="openvino") == "keras"
    assert chosen(device="cpu") == chosen("numba") == "numba"
    assert chosen(name="resnet50", device="cpu", before="openvino") == chosen("openvino") == "openvino"


@pytest.mark.usefixtures("devices", "with_bfloat16")
def test_mixed_precision_runs_on_openvino_where_the_processor_has_bfloat16():
    assert chosen("openvino", precision="mixed") == chosen(precision="mixed", before="openvino") == "openvino"
    assert chosen(precision="mixed") == "keras"


@pytest.mark.usefixtures("devices")
def test_what_numba_cannot_do_runs_on_keras():
    assert chosen(device="gpu") == chosen(precision="mixed") == "keras"


@pytest.mark.usefixtures("devices", "without_numba")
def test_where_numba_is_not_installed_everything_runs_on_keras():
    assert chosen() == chosen(device="cpu") == "keras"


@pytest.mark.usefixtures("devices", "without_bfloat16")
def test_the_engine_of_the_rows_that_are_there_continues_if_it_can():
    assert {chosen(name=name, before="keras") for name in NETWORKS} == {"keras"}
    assert {chosen(name=name, before="openvino") for name in NETWORKS} == {"openvino"}
    assert chosen("openvino", before="keras") == "openvino"
    assert chosen(name="resnet50", before="numba") == chosen(name="resnet50", before="auto") == "keras"
    assert chosen(precision="mixed", before="openvino") == "keras"


@pytest.mark.usefixtures("devices", "without_openvino")
def test_keras_continues_where_openvino_is_no_longer_installed():
    assert chosen(name="resnet50", before="openvino") == "keras"


@pytest.mark.usefixtures("devices")
def test_keras_runs_everything_that_it_is_asked_to():
    assert {chosen("keras", name) for name in NETWORKS} == {"keras"}
    assert chosen("keras", device="gpu", precision="mixed") == "keras"


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("numba", {"name": "resnet50"}, "does not know resnet50, only vgg16 and vgg19; use --engine keras"),
        ("numba", {"precision": "mixed"}, "computes in float32, not in mixed precision; use --engine keras"),
        ("numba", {"device": "gpu"}, "runs on the CPU; use --engine keras for a GPU"),
        ("openvino", {"device": "gpu"}, "runs on the CPU; use --engine keras for a GPU"),
        ("openvino", {"precision": "mixed"}, "in bfloat16, .* slower than float32; leave out --precision mixed, or"),
    ],
)
@pytest.mark.usefixtures("without_bfloat16")
def test_asking_an_engine_for_what_it_cannot_do_is_an_error_with_a_remedy(engine, options, message):
    with pytest.raises(EngineError, match=f"^the engine {engine} .*{message}"):
        chosen(engine, **options)


@pytest.mark.usefixtures("without_openvino")
def test_asking_for_openvino_where_it_is_not_installed_names_the_remedy():
    with pytest.raises(
        EngineError, match=r"^the engine openvino is not installed; pip install openvino, or use --engi"
    ):
        chosen("openvino")


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
        EngineError, match=r"^numba cannot be loaded \(.*\); pip install -U numba, or use --engine keras"
    ):
        start_engine("numba", *weights_of("vgg16"), taps=("fc2",), batch_size=1, precision="float32", device="cpu")


@pytest.fixture
def network_that_openvino_cannot_convert(monkeypatch):
    def converted(network_spec, *_):
        raise EngineFault(f"OpenVINO cannot convert {network_spec.name} (it is odd)")

    monkeypatch.setattr(openvino_engine, "converted_network", converted)


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
    started, instead = said
    assert started == "starting vgg16 with random:0 weights on numba"
    assert instead.startswith("numba cannot be loaded (")
    assert instead.endswith("); using the engine keras instead")


@pytest.mark.usefixtures("network_that_openvino_cannot_convert")
def test_a_network_that_openvino_cannot_convert_is_an_error_if_openvino_was_asked_for(weights_of):
    options = {"taps": ("avg_pool",), "batch_size": 1, "precision": "float32", "device": "cpu"}
    with pytest.raises(EngineError, match=r"^OpenVINO cannot convert mobilenet \(it is odd\); use --engine keras$"):
        start_engine("openvino", *weights_of("mobilenet"), **options, asked="openvino")


def test_an_unknown_engine_comes_with_the_close_match():
    with pytest.raises(UnknownNameError, match="unknown engine 'nubma'; did you mean 'numba'"):
        chosen("nubma")
