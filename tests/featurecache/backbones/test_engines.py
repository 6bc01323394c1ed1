"""Which engine is chosen, and what is said where the one that was asked for cannot do it."""

import sys

import numpy as np
import pytest

from featurecache import extract, named_backbone
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


def chosen(asked="auto", name="vgg16", *, device="auto", precision="float32", **found):
    return choose_engine(asked, find_network(name), device=device, precision=precision, **found)


@pytest.mark.usefixtures("devices")
def test_without_a_gpu_the_vgg_networks_run_on_numba_and_all_others_on_openvino():
    found = {name: chosen(name=name) for name in NETWORKS}
    assert found == {name: "numba" if name in {"vgg16", "vgg19"} else "openvino" for name in NETWORKS}


@pytest.mark.parametrize("name", ["nvidia0", "nvidiactl", "kfd", "dxg"])
def test_where_there_may_be_a_gpu_it_is_for_keras_to_find_out(devices, name):
    (devices / name).touch()
    assert chosen() == chosen(device="gpu") == "keras"
    assert chosen(before="numba") == chosen(name="resnet50", before="openvino") == "keras"
    assert chosen(device="cpu") == chosen("numba") == "numba"
    assert chosen(name="resnet50", device="cpu", before="openvino") == chosen("openvino") == "openvino"


@pytest.mark.usefixtures("devices", "with_bfloat16")
def test_mixed_precision_runs_on_openvino_where_the_processor_has_bfloat16():
    found = {chosen("openvino", precision="mixed"), *(chosen(name=name, precision="mixed") for name in NETWORKS)}
    assert found == {"openvino"}
    assert chosen(precision="mixed", before="keras") == "keras"


@pytest.mark.parametrize("asked", ["auto", "keras"])
@pytest.mark.usefixtures("devices", "without_bfloat16")
def test_new_features_are_not_computed_in_mixed_precision_where_it_is_slower(devices, asked):
    for device in ("auto", "cpu"):
        with pytest.raises(EngineError, match=r"^the engine keras computes .* slower .*, or compute on a GPU$"):
            chosen(asked, precision="mixed", device=device, is_new=True)
    # features that are there, a head's for example, are continued
    assert chosen(asked, precision="mixed") == "keras"
    assert chosen(asked, precision="mixed", device="gpu", is_new=True) == "keras"
    (devices / "nvidia0").touch()
    assert chosen(asked, precision="mixed", is_new=True) == "keras"


@pytest.mark.usefixtures("devices", "with_bfloat16")
def test_mixed_precision_on_keras_is_refused_with_the_engine_that_has_bfloat16():
    with pytest.raises(EngineError, match=r"or compute with --engine openvino, or on a GPU$"):
        chosen("keras", precision="mixed", is_new=True)


@pytest.mark.usefixtures("without_bfloat16")
def test_tf32_is_for_gpus_and_a_cpu_continues_it_in_float32(devices):
    for asked in ("auto", "keras", "openvino", "numba"):
        with pytest.raises(EngineError, match=r"^tf32 is a precision of GPUs, .*; leave out --precision tf32$"):
            chosen(asked, precision="tf32", is_new=True)
    assert chosen(precision="tf32") == "numba"
    assert chosen(name="resnet50", precision="tf32") == "openvino"
    (devices / "nvidia0").touch()
    assert chosen(precision="tf32", is_new=True) == "keras"
    for asked in ("openvino", "numba"):  # which run on a CPU everywhere
        with pytest.raises(EngineError, match="tf32 is a precision of GPUs"):
            chosen(asked, precision="tf32", is_new=True)


@pytest.mark.slow
def test_new_features_in_tf32_are_refused_where_keras_finds_no_gpu_behind_a_driver(devices, monkeypatch):
    (devices / "nvidia0").touch()
    monkeypatch.setattr(keras_runtime, "_has_gpu", lambda _: False)
    source = source_of("mobilenet", "random:0", precision="tf32", is_new=True)
    with pytest.raises(EngineError, match=r"^tf32 is a precision of GPUs, .*; leave out --precision tf32$"):
        source.start(2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["numba", "openvino", "keras"])
def test_a_cpu_computes_tf32_as_float32_and_says_so(engine, photographs):
    found, said = {}, []
    for precision in ("float32", "tf32"):
        source = source_of(
            "vgg16",
            "random:0",
            taps=["block1_pool"],
            engine=engine,
            device="cpu",
            precision=precision,
            notify=said.append,
        )
        backbone = source.start(2, 2)
        assert backbone.spec.precision == precision
        found[precision] = backbone.forward(photographs(2))["block1_pool"]
    np.testing.assert_array_equal(found["tf32"], found["float32"])
    assert said.count("computing in float32, since tf32 is a precision of GPUs") == 1


@pytest.mark.usefixtures("devices")
def test_a_gpu_is_for_keras():
    assert chosen(device="gpu") == chosen(name="resnet50", device="gpu") == "keras"


def start_line(name, **options):
    """Return what is said when a network starts that nothing computes."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named_backbone, "start_engine", lambda *_, **__: None)
        source_of(name, "random:0", notify=said.append, **options).start(1, 1)
    (line,) = said
    return line


@pytest.mark.usefixtures("devices", "without_numba")
def test_where_numba_is_not_installed_keras_runs_vgg_and_says_why():
    assert chosen() == chosen(device="cpu") == "keras"
    assert start_line("vgg16") == (
        "starting vgg16 with random:0 weights on keras (numba is not installed, which is faster: pip install numba)"
    )
    assert start_line("vgg16", engine="keras").endswith("on keras")


@pytest.mark.usefixtures("devices", "without_openvino")
def test_where_openvino_is_not_installed_keras_runs_the_others_and_says_why(devices):
    assert {chosen(name=name) for name in set(NETWORKS) - {"vgg16", "vgg19"}} == {"keras"}
    assert start_line("resnet50") == (
        "starting resnet50 with random:0 weights on keras (openvino is not installed, which is faster: pip install "
        "openvino)"
    )
    for options in ({"engine": "keras"}, {"before": "keras"}, {"device": "gpu"}):
        assert start_line("resnet50", **options).endswith("on keras"), options
    (devices / "nvidia0").touch()
    assert start_line("resnet50").endswith("on keras")


@pytest.mark.usefixtures("devices", "without_bfloat16")
def test_the_engine_of_the_rows_that_are_there_continues_if_it_can():
    assert {chosen(name=name, before="keras") for name in NETWORKS} == {"keras"}
    assert {chosen(name=name, before="openvino") for name in NETWORKS} == {"openvino"}
    assert chosen("openvino", before="keras") == "openvino"
    assert chosen(name="resnet50", before="numba") == chosen(name="resnet50", before="auto") == "openvino"
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
        ("openvino", {"precision": "mixed"}, "in bfloat16, .* slower than float32; leave out .*, or compute on a GPU"),
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


@pytest.mark.usefixtures("devices", "network_that_openvino_cannot_convert")
def test_auto_runs_on_keras_what_openvino_cannot_convert():
    said = []
    source = source_of("mobilenet", "random:0", notify=said.append)
    assert source.engine == "openvino"
    assert source.start(1, 1).provenance["engine"] == "keras"
    assert said == [
        "starting mobilenet with random:0 weights on openvino",
        "OpenVINO cannot convert mobilenet (it is odd); using the engine keras instead",
    ]


@pytest.mark.usefixtures("network_that_openvino_cannot_convert")
def test_a_network_that_openvino_cannot_convert_is_an_error_if_openvino_was_asked_for(weights_of):
    options = {"taps": ("avg_pool",), "batch_size": 1, "precision": "float32", "device": "cpu"}
    with pytest.raises(EngineError, match=r"^OpenVINO cannot convert mobilenet \(it is odd\); use --engine keras$"):
        start_engine("openvino", *weights_of("mobilenet"), **options, asked="openvino")


def test_an_unknown_engine_comes_with_the_close_match():
    with pytest.raises(UnknownNameError, match="unknown engine 'nubma'; did you mean 'numba'"):
        chosen("nubma")
