"""Presets of KerasHub: their features against a computation in NumPy, and what is refused, in one line."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.special import erf

import heads
from featurecache import extract, find_network, verify, why
from featurecache.backbones import engines, keras_runtime, model_file, preset
from featurecache.backbones.catalog import OWN_MODEL
from featurecache.backbones.weights import resolve_weights
from featurecache.errors import EngineError, OptionError, UnknownNameError, WeightsError
from featurecache.named_backbone import source_of
from heads.errors import HeadError

SIDE, PATCH, WIDTH, HEADS, LAYERS, INNER = 16, 8, 12, 3, 2, 20
TOWER = {
    "patch_size": PATCH,
    "hidden_dim": WIDTH,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "image_shape": (SIDE, SIDE, 3),
}
TEXTS = {
    "vocabulary_size": 9,
    "embedding_dim": 8,
    "hidden_dim": 8,
    "num_layers": 1,
    "num_heads": 2,
    "intermediate_dim": 9,
    "max_sequence_length": 5,
}


def network(name):
    """Return a small network of KerasHub."""
    import keras_hub

    models = keras_hub.models
    if name == "vit":
        return models.ViTBackbone(mlp_dim=INNER, **TOWER)
    if name == "clip":
        towers = models.CLIPVisionEncoder(intermediate_dim=INNER, **TOWER), models.CLIPTextEncoder(**TEXTS)
        return models.CLIPBackbone(*towers, projection_dim=7)
    if name == "siglip":
        text = models.SigLIPTextEncoder(projection_dim=WIDTH, **TEXTS)
        return models.SigLIPBackbone(models.SigLIPVisionEncoder(intermediate_dim=INNER, **TOWER), text)
    options = {"num_register_tokens": 2, "use_swiglu_ffn": True} if name == "registers" else {}
    return models.DINOV2Backbone(
        intermediate_dim=INNER,
        layer_scale_init_value=0.7,
        position_embedding_shape=(SIDE, SIDE, 3),
        **TOWER,
        **options,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a function from the name of a network to a preset with random weights, and its arrays by path."""
    folder, arrays = tmp_path_factory.mktemp("presets"), {}

    def make(name):
        if name in arrays:
            return folder / name, arrays[name]
        import keras_hub

        generator, made = np.random.default_rng(3), network(name)
        for variable in made.variables:
            if "position_ids" in variable.path:
                variable.assign(np.arange(variable.shape[1])[None])
            elif "interpolated" not in variable.path:
                spread = 0.1 if "gamma" in variable.path or "kernel" not in variable.path else 0.4
                values = spread * generator.standard_normal(variable.shape) + ("gamma" in variable.path)
                variable.assign(values.astype(np.float32))
        made.save_to_preset(str(folder / name))
        kind = {"vit": "ViT", "clip": "CLIP", "siglip": "SigLIP"}.get(name, "DINOV2")
        getattr(keras_hub.layers, f"{kind}ImageConverter")(
            image_size=(SIDE, SIDE),
            scale=(0.017, 0.018, 0.019),
            offset=(-2.1, -2.0, -1.8),
            interpolation="bicubic",
            crop_to_aspect_ratio=name != "siglip",
        ).save_to_preset(str(folder / name))
        tower = [made.vision_encoder] if hasattr(made, "vision_encoder") else [made]
        tower += [made.vision_projection] if name == "clip" else []
        arrays[name] = {variable.path: variable.numpy() for part in tower for variable in part.variables}
        return folder / name, arrays[name]

    return make


@pytest.fixture(scope="module")
def images(tmp_path_factory, photographs):
    folder, pixels = tmp_path_factory.mktemp("images"), photographs(5, (SIDE, SIDE))
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{number}.png")
    return folder, pixels


class ByHand:
    """A vision transformer in NumPy, float64, from arrays by the end of their paths."""

    def __init__(self, arrays):
        self.arrays = {path: array.astype(np.float64) for path, array in arrays.items()}

    def __call__(self, *parts):
        found = [array for path, array in self.arrays.items() if all(f"/{part}/" in f"/{path}/" for part in parts)]
        assert len(found) == 1, (parts, list(self.arrays))
        return found[0]

    def dense(self, x, *where, bias=True):
        return x @ self(*where, "kernel") + (self(*where, "bias") if bias else 0)

    def norm(self, x, epsilon, *where):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
        return x * self(*where, "gamma") + self(*where, "beta")

    def attention(self, queries, x, *where):
        q, k, v = (
            np.einsum("ntd,dhk->nhtk", given, self(*where, part, "kernel")) + self(*where, part, "bias")[:, None]
            for part, given in (("query", queries), ("key", x), ("value", x))
        )
        scores = np.exp(q @ k.swapaxes(2, 3) / np.sqrt(WIDTH // HEADS))
        mixed = scores / scores.sum(-1, keepdims=True) @ v
        return np.einsum("nhtk,hkd->ntd", mixed, self(*where, "attention_output", "kernel")) + self(
            *where, "attention_output", "bias"
        )

    def patches(self, pixels, *where, bias=True):
        count = SIDE // PATCH
        cut = pixels.reshape(-1, count, PATCH, count, PATCH, 3).swapaxes(2, 3).reshape(len(pixels), count**2, -1)
        kernel = self(*where, "kernel").reshape(-1, WIDTH)
        return cut @ kernel + (self(*where, "bias") if bias else 0)


def with_class(token, tokens):
    return np.concatenate([np.broadcast_to(token.reshape(1, 1, WIDTH), (len(tokens), 1, WIDTH)), tokens], axis=1)


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def gelu_of_tanh(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def vit(by, x):
    x = with_class(by("class_token"), by.patches(x, "patch_embedding")) + by("position_embedding", "embeddings")
    for layer in (f"transformer_block_{number + 1}" for number in range(LAYERS)):
        y = by.norm(x, 1e-6, layer, "ln_1")
        x = x + by.attention(y, y, layer, "mha")
        y = gelu(by.dense(by.norm(x, 1e-6, layer, "ln_2"), layer, "dense_1"))
        x = x + by.dense(y, layer, "dense_2")
    x = by.norm(x, 1e-6, "vit_encoder", "ln")
    return {"cls": x[:, 0], "patches": x[:, 1:].mean(1)}


def dinov2(by, x, registers=0):
    x = with_class(by("cls_token"), by.patches(x, "projection")) + by("position_embeddings")
    if registers:
        tokens = np.broadcast_to(by("register_tokens"), (len(x), registers, WIDTH))
        x = np.concatenate([x[:, :1], tokens, x[:, 1:]], axis=1)
    for layer in (f"layers_{number}" for number in range(LAYERS)):
        y = by.norm(x, 1e-6, layer, "norm1")
        x = x + by.attention(y, y, layer, "attention") * by(layer, "layer_scale1", "lambda1")
        y = by.norm(x, 1e-6, layer, "norm2")
        if registers:
            gate, value = np.split(by.dense(y, layer, "weights_in"), 2, axis=-1)
            y = by.dense(gate / (1 + np.exp(-gate)) * value, layer, "weights_out")
        else:
            y = by.dense(gelu(by.dense(y, layer, "fc1")), layer, "fc2")
        x = x + y * by(layer, "layer_scale2", "lambda1")
    x = by.norm(x, 1e-6, "layernorm")
    return {"cls": x[:, 0], "patches": x[:, 1 + registers :].mean(1)}


def clip(by, x):
    tokens = with_class(by("class_embedding"), by.patches(x, "patch_embedding", bias=False))
    x = by.norm(tokens + by("position_embedding", "embeddings"), 1e-5, "pre_layer_norm")
    for layer in (f"encoder_block_{number}" for number in range(LAYERS)):
        y = by.norm(x, 1e-5, layer, "layer_norm_1")
        x = x + by.attention(y, y, layer, "attention")
        y = by.dense(by.norm(x, 1e-5, layer, "layer_norm_2"), layer, "dense_1")
        x = x + by.dense(y / (1 + np.exp(-1.702 * y)), layer, "dense_2")
    x = by.norm(x, 1e-5, "layer_norm")
    return {"cls": x[:, 0], "patches": x[:, 1:].mean(1), "embedding": x[:, 0] @ by("vision_projection", "kernel")}


def siglip(by, x):
    x = by.patches(x, "patch_embedding") + by("position_embedding", "embeddings")
    for layer in (f"encoder_block_{number}" for number in range(LAYERS)):
        y = by.norm(x, 1e-6, layer, "layer_norm1")
        x = x + by.attention(y, y, layer, "self_attn")
        y = gelu_of_tanh(by.dense(by.norm(x, 1e-6, layer, "layer_norm2"), layer, "fc1"))
        x = x + by.dense(y, layer, "fc2")
    x = by.norm(x, 1e-6, "post_layer_norm")
    (probe,) = (array for array in by.arrays.values() if array.shape == (1, 1, WIDTH))  # KerasHub gives it no name
    probe = np.broadcast_to(probe, (len(x), 1, WIDTH))
    pooled = by.attention(probe, x, "head", "attention")
    y = gelu_of_tanh(by.dense(by.norm(pooled, 1e-6, "head", "layernorm"), "head", "fc1"))
    return {"patches": x.mean(1), "embedding": (pooled + by.dense(y, "head", "fc2"))[:, 0]}


COMPUTED = {"vit": vit, "dinov2": dinov2, "registers": lambda by, x: dinov2(by, x, 2), "clip": clip, "siglip": siglip}


def require_close(found, expected):
    assert set(found) == set(expected)
    for tap, values in expected.items():
        assert np.abs(np.asarray(found[tap]) - values).max() < 1e-4 * np.abs(values).max(), tap


@pytest.mark.parametrize(
    "name", ["registers", *(pytest.param(name, marks=pytest.mark.slow) for name in COMPUTED if name != "registers")]
)
def test_taps_are_those_of_a_computation_in_numpy(name, made, images):
    import keras

    (folder, arrays), (_, pixels) = made(name), images
    model = preset.tapped_preset(folder, None)
    expected = COMPUTED[name](ByHand(arrays), pixels * np.array([0.017, 0.018, 0.019]) + np.array([-2.1, -2.0, -1.8]))
    require_close(keras.Model(model.images, model.taps)(pixels.astype(np.float32), training=False), expected)
    assert model.parameters == sum(array.size for array in arrays.values())


@pytest.mark.slow
def test_a_cache_has_the_features_of_a_preset_and_follows_it(made, images, tmp_path, monkeypatch):
    import keras_hub

    (made_folder, arrays), (photos, pixels) = made("clip"), images
    folder, moved = tmp_path / "clip", tmp_path / "moved"
    shutil.copytree(made_folder, folder)
    cache = extract(photos, tmp_path / "c.h5", backbone=str(folder), taps=["cls", "patches", "embedding"], device="cpu")
    recipe = cache.recipe
    assert (recipe.backbone, recipe.preprocessing, recipe.input_size) == (OWN_MODEL, "inside", (SIDE, SIDE))
    assert (recipe.resize, recipe.filter) == ("crop", "bicubic")
    converted = np.asarray(keras_hub.layers.ImageConverter.from_preset(str(folder))(pixels))
    require_close({tap: cache.features(tap).X[:] for tap in cache.taps}, clip(ByHand(arrays), converted))
    before = cache.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(preset, "loaded", lambda *_: pytest.fail("the recipe knows the network"))
        extract(photos, cache.path)
        assert set(why(photos, cache.path, backbone=f"keras:{folder}").reasons) == {"unchanged"}
        folder.rename(moved)
        extract(photos, cache.path, backbone=str(moved))
    assert cache.path.read_bytes() == before
    with pytest.raises(WeightsError, match=r"the model file .*clip cannot be read: no such file"):
        extract(photos, cache.path)
    assert verify(cache.path, weights=str(moved), recompute=2).max_relative_error < 1e-5

    place = tmp_path / "photos"
    for number, split in enumerate(["train"] * 4 + ["valid"]):
        (place / split / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / f"{number}.png", place / split / "ab"[number % 2])
    labelled = extract(place, tmp_path / "l.h5", backbone=str(moved), device="cpu")
    assert set(labelled.taps) == {"embedding"}
    head = heads.train(labelled, "softmax")
    assert len(heads.predict(head, photos).table.paths) == 5
    with pytest.raises(HeadError, match="which has layers of KerasHub"):
        heads.export(head, tmp_path / "model.keras")
    with pytest.raises(HeadError, match="which has layers of KerasHub"):
        heads.finetune(head, place, tmp_path / "model.keras", unfreeze="head")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["keras", "openvino"])
def test_half_precision_is_close_to_the_computation_in_numpy(engine, made, images):
    (folder, arrays), (_, pixels) = made("clip"), images
    expected = clip(ByHand(arrays), pixels * np.array([0.017, 0.018, 0.019]) + np.array([-2.1, -2.0, -1.8]))
    row = replace(find_network(str(folder)), preprocessing="inside")
    options = {"taps": [*expected], "engine": engine, "device": "cpu", "precision": "mixed"}
    if engine == "openvino" and not engines._has_bfloat16():
        with pytest.raises(EngineError, match="bfloat16, which this processor has no instructions for"):
            source_of(row, str(folder), **options)
        return
    found = source_of(row, str(folder), **options).start(4, 5).forward(pixels)
    for tap, values in expected.items():
        assert found[tap].dtype == np.float32
        assert 1e-5 < np.linalg.norm(found[tap] - values) / np.linalg.norm(values) < 0.03, tap


HALF_ON_JAX = """
import sys
from dataclasses import replace
from featurecache.named_backbone import find_network, source_of
row = replace(find_network(sys.argv[1]), preprocessing="inside")
source_of(row, sys.argv[1], engine="keras", device="cpu", precision="mixed").start(2, 2)
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jax") is None, reason="jax is not installed")
def test_what_jax_cannot_compute_is_said_in_one_line(made, run_python):
    result = run_python(HALF_ON_JAX, made("vit")[0], KERAS_BACKEND="jax")
    message = result.stderr.splitlines()[-1]
    assert message.startswith(
        "featurecache.errors.EngineError: JAX cannot compute the network in mixed precision here ("
    )
    assert message.endswith("; set KERAS_BACKEND=tensorflow")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("vit", {"input_size": "24"}, OptionError, "--input-size is 24x24, but .* takes images of 16x16 pixels"),
        ("vit", {"preprocess": "unit"}, OptionError, "has an image converter, which prepares pixels; leave out --pre"),
        ("vit", {"taps": ["embedding"]}, UnknownNameError, r"unknown tap of vit 'embedding' \(known: cls, patches\)"),
        ("vit", {"precision": "mixed", "engine": "keras"}, EngineError, "is slower than float32 on a CPU; leave out"),
        ("dinov2", {"input_size": "16x24"}, WeightsError, "cannot load the preset .*height and width"),
    ],
)
def test_what_a_preset_cannot_do_is_refused_in_one_line(name, options, error, message, made, images, tmp_path):
    with pytest.raises(error, match=message) as caught:
        extract(images[0], tmp_path / "c.h5", backbone=str(made(name)[0]), device="cpu", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c.h5").exists()


@pytest.mark.slow
def test_weights_of_another_network_and_pixels_without_converter_are_refused(made, images, tmp_path):
    folder = shutil.copytree(made("vit")[0], tmp_path / "vit")
    (folder / "image_converter.json").unlink()
    with pytest.raises(
        OptionError, match="vit has no image converter; give the way of its training: --preprocess unit"
    ):
        extract(images[0], tmp_path / "c.h5", backbone=str(folder))
    with pytest.raises(
        OptionError, match="has no layer Rescaling or Normalization at its beginning, and no image conv"
    ):
        model_file.read_network(folder, preprocessing="inside")
    network = model_file.read_network(folder, preprocessing="tf")
    assert (network.preprocessing, network.resize, network.filter) == ("tf", "squash", "bilinear")
    shutil.copy(made("dinov2")[0] / "model.weights.h5", folder)
    with pytest.raises(WeightsError, match=r"KerasHub \S+ cannot load the preset .*vit: "):
        model_file.read_network(folder, preprocessing="tf")
    config = (folder / "config.json").read_text().replace('"hidden_dim": 12', '"hidden_dim": 12000000')
    (folder / "config.json").write_text(config)
    with pytest.raises(WeightsError, match=r"describes \S+ weights, which its \S+ bytes cannot hold"):
        model_file.read_network(folder, preprocessing="tf")


@pytest.mark.slow
def test_commands_show_a_preset(made, invoke):
    (folder, arrays), parameters = made("clip"), 4_881
    assert sum(array.size for array in arrays.values()) == parameters
    shown = invoke("backbones", str(folder), "--json")[str(folder)]
    assert shown["taps"] == {"cls": WIDTH, "patches": WIDTH, "embedding": 7}
    assert (shown["preprocessing"], shown["parameters"], shown["stages"]) == ("inside", parameters, [])
    layers = invoke("summary", str(folder), "--json")["layers"]
    assert [layer["tap"] for layer in layers if layer["tap"]] == ["cls", "patches", "embedding"]
    assert sum(layer["parameters"] for layer in layers) == parameters


@pytest.mark.slow
def test_dinov2_takes_images_of_any_size(made):
    model = preset.tapped_preset(made("dinov2")[0], (3 * PATCH, 3 * PATCH))
    assert model.images.shape[1:] == (3 * PATCH, 3 * PATCH, 3)
    assert {tap: output.shape[1] for tap, output in model.taps.items()} == {"cls": WIDTH, "patches": WIDTH}


@pytest.fixture
def described(tmp_path):
    """Return the folder of a preset whose weights no network has: what is refused before KerasHub starts."""
    folder = tmp_path / "preset"
    folder.mkdir()
    for name, written in FILES.items():
        (folder / name).write_text(json.dumps(written))
    with h5py.File(folder / "model.weights.h5", "w") as file:
        file["vars/0"] = np.zeros(3, np.float32)
    return folder


FILES = {
    "config.json": {
        "module": "keras_hub.src.models.vit.vit_backbone",
        "class_name": "ViTBackbone",
        "config": TOWER | {"mlp_dim": INNER},
        "registered_name": "keras_hub>ViTBackbone",
    },
    "image_converter.json": {"class_name": "ViTImageConverter", "config": {"scale": 0.5, "interpolation": "bilinear"}},
    "metadata.json": {},
}


def changed(name, **settings):
    """Return a change of a JSON file of a preset: of what it holds, or of its ``config`` where that has the name."""

    def change(folder):
        found = json.loads((folder / name).read_text())
        inner = found["config"] if name == "image_converter.json" else found
        inner |= settings
        (folder / name).write_text(json.dumps(found))

    return change


def written(name, text):
    return lambda folder: (folder / name).write_text(text)


def sharded(folder):
    (folder / "model.weights.h5").rename(folder / "model.weights.json")


def linked(folder):
    with h5py.File(folder / "model.weights.h5", "w") as file:
        file["vars/0"] = h5py.ExternalLink("/etc/passwd", "/")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "the model file .*preset cannot be read: no such file or directory"),
        (
            lambda folder: (folder / "config.json").unlink(),
            "preset is no preset of KerasHub: it has no config.json; pass",
        ),
        (written("config.json", "{"), "config.json is not JSON"),
        (written("config.json", "[" * 100_000), "config.json is not JSON"),
        (written("config.json", "[]"), "config.json is a list, expected an object"),
        (written("config.json", '{"model_type": "dinov2"}'), "config.json names no class of KerasHub"),
        (
            changed("config.json", class_name="BertBackbone"),
            "has the network BertBackbone, expected one of ViTBackbone",
        ),
        (changed("config.json", config=[]), "has the network ViTBackbone, expected"),
        (changed("config.json", registered_name="mine>ViTBackbone"), "has the class mine>ViTBackbone, which is not of"),
        (changed("config.json", module="mine"), "has the class .*ViTBackbone, which is not of Keras"),
        (changed("config.json", config={"a": {"class_name": "Lambda", "config": {}}}), "layer Lambda, which runs code"),
        (changed("image_converter.json", pad_to_aspect_ratio=True), "it pads images, expected one that crops or squ"),
        (changed("image_converter.json", interpolation="lanczos5"), "it resizes by lanczos5, expected bilinear, nea"),
        (changed("image_converter.json", variance=[1, 1, 1]), "it has variance, as in old presets"),
        (changed("image_converter.json", scale=[1, 2]), "image_converter.json of the preset .* is damaged"),
        (changed("image_converter.json", offset=float("nan")), "image_converter.json of the preset .* is damaged"),
        (written("image_converter.json", "{}"), "image_converter.json of the preset .* is damaged"),
        (lambda folder: (folder / "model.weights.h5").unlink(), "it has no model.weights.h5; copy it again"),
        (sharded, "its weights lie in several files"),
        (written("model.weights.h5", "hello"), "model.weights.h5 are damaged or incomplete"),
        (linked, "model.weights.h5"),
    ],
)
def test_a_folder_that_is_no_preset_is_refused_in_one_line(spoil, message, described):
    spoil(described)
    with pytest.raises(WeightsError, match=message) as caught:
        model_file.read_network(described)
    assert "\n" not in str(caught.value)


def test_a_preset_without_keras_hub_says_what_to_install(described, monkeypatch):
    monkeypatch.setattr(keras_runtime, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"needs KerasHub, which is not installed; pip install 'featurecache\[hub\]'"):
        model_file.read_network(described)


def test_the_files_that_determine_features_are_the_identity(described, tmp_path):
    network = replace(find_network("vgg16"), constructor="")

    def identity(folder):
        return resolve_weights(str(folder), network, rehash=True).identity

    found = identity(described)
    changed("metadata.json", keras_hub_version="9")(described)
    moved = described.rename(tmp_path / "other")
    assert identity(moved) == found
    for name in ("config.json", "image_converter.json", "model.weights.h5"):
        content = (moved / name).read_bytes()
        (moved / name).write_bytes(content + b"\n")
        assert identity(moved) != found, name
        (moved / name).write_bytes(content)
    assert identity(moved) == found
    (moved / "image_converter.json").unlink()
    assert identity(moved) != found
