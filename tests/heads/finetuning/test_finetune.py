"""Fine-tuning: which layers change, which images train, and what is refused before any work."""

import json
import shutil
import zipfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import NoImagesError, OptionError, OutputError, UnknownNameError
from featurecache.images.manifest import read_manifest
from heads import train
from heads.epochs import Epoch
from heads.errors import HeadError, MismatchError, ParameterError, TrainingError
from heads.exporting.keras_model import assemble, network_of
from heads.finetuning import finetune as module
from heads.finetuning.finetune import finetune, sides
from heads.splits import Holdout, training_rows
from tests.heads import networks

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(networks.TENSORFLOW_AND_NUMPY)]

NAME = "mobilenet_v2"


def write_images(root, splits, classes=networks.CLASSES[:2]):
    """Write ``splits`` (split to number) images of each class, no two alike; ``""`` is no split."""
    total = sum(splits.values()) * len(classes)
    made = iter(networks.pixels_of(total))
    for split, count in splits.items():
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                Image.fromarray(next(made)).resize((40, 32)).save(folder / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twelve images to train on, one of which is none, and four to judge by."""
    root = write_images(tmp_path_factory.mktemp("images"), {"train": 6, "valid": 2})
    (root / "train" / "bee" / "05.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def head(images, tmp_path_factory):
    """A head on the pooled features of a network with random weights."""
    path = tmp_path_factory.mktemp("cache") / "c.h5"
    cache = featurecache.extract(images, path, backbone=NAME, weights="random:0", batch_size=4)
    return train(cache, "softmax", tap="avg_pool", params={"epochs": 3})


@pytest.fixture(scope="module")
def tuned(head, images, tmp_path_factory):
    """A fine-tuning of the last block in two epochs: what it did, what was told, and the model as it loads."""
    import keras

    path, told = tmp_path_factory.mktemp("tuned") / "m.keras", []
    params = {"epochs": 2, "batch_size": 4, "lr": 1e-6}
    done = finetune(head, images, path, unfreeze="block16", params=params, on_epoch=told.append)
    return done, told, keras.saving.load_model(path)


def weights_by_layer(model):
    """Return the weights of every layer of a network and of those around it."""
    layers = [*model.get_layer(NAME).layers, *(layer for layer in model.layers if layer.name != NAME)]
    return {layer.name: layer.get_weights() for layer in layers if layer.get_weights()}


def changed_layers(model, before):
    after = weights_by_layer(model)
    assert before.keys() == after.keys()
    return [name for name in before if not all(map(np.array_equal, before[name], after[name]))]


@pytest.fixture(scope="module")
def assembled(head):
    """The network and the head as one model, as a fine-tuning begins; its weights are only to be read."""
    return assemble(head, *network_of(head))


@pytest.fixture(scope="module")
def before(assembled):
    """The weights with which a fine-tuning begins."""
    return weights_by_layer(assembled)


@pytest.mark.timeout(600)
def test_what_lies_below_the_stage_keeps_its_weights_bit_for_bit(tuned, before):
    done, _, model = tuned
    changed = ["block_16_expand", "block_16_depthwise", "block_16_project", "Conv_1", "scores"]
    assert changed_layers(model, before) == changed
    layers = weights_by_layer(model)
    assert done.trained_weights == sum(each.size for name in changed for each in layers[name])
    assert done.weights == model.count_params()


@pytest.fixture
def saved(monkeypatch):
    """Let fine-tunings keep their models in this list, as they are trained, instead of writing files."""
    models = []
    monkeypatch.setattr(module, "for_any_size", lambda model, _: model)
    monkeypatch.setattr(module, "save_model", lambda model, *_: models.append(model))
    return models


def test_the_limit_of_pixels_is_the_heads_or_the_given_one(head, images, tmp_path, saved):
    small, arguments = replace(head, max_pixels=40 * 32 - 1), {"unfreeze": "predictions", "params": {"epochs": 1}}
    with pytest.raises(NoImagesError, match="1,280 pixels are more than the limit of 1,279; --max-pixels raises it"):
        finetune(small, images, tmp_path / "m.keras", **arguments)
    assert len(finetune(small, images, tmp_path / "m.keras", max_pixels=40 * 32, **arguments).failures) == 1


def test_every_epoch_and_the_start_are_told(tuned, head):
    done, told, _ = tuned
    assert list(done.epochs) == told
    assert [epoch.epoch for epoch in told] == [0, 1, 2]
    assert told[0].valid_accuracy == head.training.valid_accuracy
    assert told[2].loss < told[1].loss


def test_bad_images_are_listed_and_the_others_counted(tuned):
    done, *_ = tuned
    assert list(done.failures) == ["train/bee/05.png"]
    assert (done.n_train, done.n_valid) == (11, 4)
    assert json.loads(json.dumps(done.to_dict()))["failures"][0]["path"] == "train/bee/05.png"


def test_the_model_says_how_it_was_trained(tuned, head):
    done, *_ = tuned
    said = json.loads(zipfile.ZipFile(done.path).read("featurecache.json"))
    assert said["head_sha256"] == head.identity
    assert said["fine_tuning"] == json.loads(json.dumps(done.record()))
    assert said["fine_tuning"]["params"] == {"lr": 1e-6, "epochs": 2, "batch_size": 4, "optimizer": "adam"}


def test_the_head_alone_can_be_trained_and_the_same_seed_gives_the_same(head, before, images, tmp_path, saved):
    for seed in (0, 0, 1):
        finetune(head, images, tmp_path / "m.keras", unfreeze="predictions", params={"batch_size": 4}, seed=seed)
    assert [changed_layers(model, before) for model in saved] == [["scores"]] * 3
    first, same, other = (model.get_layer("scores").get_weights()[0] for model in saved)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("stage", "tap", "lowest"), [("block5", "block5_pool", "block5_conv1"), ("fc", "fc1", "fc1")])
def test_stages_of_vgg16(tmp_path, monkeypatch, make_cache, make_features, stage, tap, lowest):
    images = write_images(tmp_path / "images", {"train": 3})
    cache = featurecache.extract(images, tmp_path / "c.h5", weights="random:0", taps=[tap], batch_size=6)
    head = networks.trained_on(cache, "logreg")
    found = []
    monkeypatch.setattr(module, "save_model", lambda model, *_: found.append(model))
    before = {}
    monkeypatch.setattr(module, "assemble", lambda *given: _remembered(assemble(*given), before))
    done = finetune(head, images, tmp_path / "m.keras", unfreeze=stage, params={"optimizer": "sgd", "lr": 1e-3})
    after = {layer.name: _digest(layer) for layer in found[0].get_layer("vgg16").layers}
    changed = [name for name in after if after[name] != before[name]]
    assert changed[0] == lowest
    assert all(name.startswith(stage) for name in changed)
    assert done.epochs[0].epoch == 0


def _remembered(model, digests):
    digests |= {layer.name: _digest(layer) for layer in model.get_layer("vgg16").layers}
    return model


def _digest(layer):
    return [zlib.crc32(np.ascontiguousarray(each)) for each in layer.get_weights()]  # half a gigabyte


@pytest.mark.real_data
@pytest.mark.timeout(600)
def test_photographs_through_a_pretrained_network(tmp_path, cats_and_dogs):
    import keras

    images = tmp_path / "images"
    for split, count in (("train", 10), ("valid", 5)):
        for name in ("cats", "dogs"):
            (images / split / name).mkdir(parents=True)
            for path in sorted((cats_and_dogs / "catsdogs" / split / name).iterdir())[:count]:
                (images / split / name / path.name).symlink_to(path.resolve())
    shutil.copy(cats_and_dogs / "catsdogs.h5", tmp_path / "c.h5")
    cache = featurecache.extract(images, tmp_path / "c.h5")  # all features are known
    head = train(cache, "softmax", tap="avg_pool", params={"epochs": 1})
    params = {"batch_size": 10, "lr": 1e-4}
    done = finetune(head, images, tmp_path / "m.keras", unfreeze="block16", params=params)
    model = keras.saving.load_model(done.path)
    assert changed_layers(model, weights_by_layer(assemble(head, *network_of(head))))[0] == "block_16_expand"
    assert (done.n_train, done.n_valid, done.failures) == (20, 10, {})
    start, end = done.epochs
    assert (start.accuracy, start.valid_accuracy) == (head.training.train_accuracy, head.training.valid_accuracy)
    pixels = np.stack(
        [
            np.asarray(Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
            for path in sorted((images / "train" / "cats").iterdir())
        ]
    )
    assert end.loss < start.loss
    assert model.predict(pixels, verbose=0)[:, 0].mean() > 0.5


# which images train


@pytest.mark.parametrize(
    "splits",
    [{"train": 8, "valid": 3, "test": 2}, {"train": 12, "test": 2}, {"": 12}, {"valid": 4, "train": 4}],
    ids=str,
)
@pytest.mark.parametrize("rule", [None, Holdout(0.4, 3)])
def test_sides_are_those_of_the_heads_training(tmp_path, splits, rule):
    images = write_images(tmp_path / "images", splits)
    (images / "train").mkdir(exist_ok=True)
    cache = featurecache.extract(images, tmp_path / "c.h5", backbone=FakeBackbone())
    head = train(cache, "logreg", tap="features")
    head = replace(head, training=replace(head.training, holdout=rule))
    expected = training_rows(cache.features("features"), rule)
    found = sides(read_manifest(images), head, max_bytes=10**6)
    assert [[entry.path for entry in side] for side in found] == [rows.paths.tolist() for rows in expected]
    assert found[0]
    assert bool(found[1]) == ("valid" in splits or rule is not None)  # else any image may have trained the head


def test_names_of_classes_in_another_unicode_form_are_the_heads(head, tmp_path):
    composed = replace(head, classes=("ant", "caf\u00e9"))
    images = write_images(tmp_path / "images", {"train": 2, "valid": 2}, classes=("ant", "cafe\u0301"))
    train_side, valid_side = sides(read_manifest(images), composed, max_bytes=10**6)
    assert [entry.label for entry in [*train_side, *valid_side]] == [0, 0, 1, 1, 0, 0, 1, 1]


def test_other_classes_are_refused(head, tmp_path):
    others = write_images(tmp_path / "images", {"train": 2}, classes=("ant", "wasp"))
    with pytest.raises(
        MismatchError, match=r"classes: the head knows 'ant', 'bee', the images have 'ant', 'wasp'; name"
    ):
        finetune(head, others, tmp_path / "m.keras", unfreeze="block16")


def test_a_class_that_the_head_never_saw_cannot_be_trained(head, tmp_path):
    images = write_images(tmp_path / "images", {"train": 2}, classes=networks.CLASSES)
    wider = replace(head, classes=networks.CLASSES, trained_classes=(0, 1))
    with pytest.raises(
        MismatchError, match=r"the head was not trained on the class 'cow', but there are training images"
    ):
        finetune(wider, images, tmp_path / "m.keras", unfreeze="block16")


def test_images_without_any_to_train_on_are_refused(head, tmp_path):
    images = write_images(tmp_path / "images", {"test": 2, "valid": 1})
    with pytest.raises(TrainingError, match=r"no training images: the labelled ones are 4 in test, 2 in valid"):
        finetune(head, images, tmp_path / "m.keras", unfreeze="block16")


# what is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"unfreeze": "block17"},
            UnknownNameError,
            r"stage of mobilenet_v2 up to avg_pool 'block17'; did you mean 'block16'",
        ),
        ({"params": {"lr": 0}}, ParameterError, "lr is 0, expected a number above 0"),
        (
            {"params": {"momentum": 1}},
            ParameterError,
            r"unknown parameter 'momentum' \(parameters: lr, epochs, batch_size",
        ),
        ({"weights": "random:1"}, MismatchError, "weights: the head has 'random:0', the features 'random:1'"),
        ({"path": "m.h5"}, OptionError, r"has the suffix '\.h5'; expected \.keras"),
        ({"path": "there.keras"}, OutputError, "exists already"),
        ({"device": "gpus"}, UnknownNameError, "unknown device 'gpus'"),
    ],
)
def test_what_is_refused(head, images, tmp_path, options, error, message):
    (tmp_path / "there.keras").write_text("precious")
    path = tmp_path / options.pop("path", "m.keras")
    with pytest.raises(error, match=message):
        finetune(head, images, path, **{"unfreeze": "block16"} | options)
    assert [each.name for each in tmp_path.iterdir()] == ["there.keras"]
    assert (tmp_path / "there.keras").read_text() == "precious"


def test_a_stage_above_the_heads_tap_is_refused(blobs, make_cache, make_features, images, tmp_path):
    rows = make_features(*blobs(12, 25088, 2), **networks.recipe_of("vgg16", "block5_pool", 25088))
    head = networks.trained_on(make_cache(rows, weights_source="random:0"), "majority")
    with pytest.raises(UnknownNameError, match=r"stage of vgg16 up to block5_pool 'fc' \(known: block5, predictions\)"):
        finetune(head, images, tmp_path / "m.keras", unfreeze="fc")


def test_a_head_without_layers_is_refused(blobs, make_cache, make_features, images, tmp_path):
    rows = make_features(*blobs(12, 1280, 2), **networks.recipe_of(NAME, "avg_pool", 1280))
    head = networks.trained_on(make_cache(rows, weights_source="/gone.weights.h5"), "knn")
    with pytest.raises(HeadError, match="the head knn does not consist of dense layers"):
        finetune(head, images, tmp_path / "m.keras", unfreeze="block16")


def test_a_training_that_diverges_leaves_nothing(head, tmp_path):
    images = write_images(tmp_path / "images", {"train": 2})
    with pytest.raises(TrainingError, match=r"diverged in epoch 1 with lr=1e\+20.*choose a lower -p lr"):
        finetune(head, images, tmp_path / "m.keras", unfreeze="block16", params={"lr": 1e20, "optimizer": "sgd"})
    assert list(tmp_path.iterdir()) == [images]


def test_images_of_which_none_can_be_used(head, assembled, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "assemble", lambda *_: assembled)
    images = write_images(tmp_path / "images", {"train": 1, "valid": 1})
    for path in images.glob("train/*/*"):
        path.write_bytes(b"no image")
    with pytest.raises(NoImagesError, match="none of the 2 training images can be used"):
        finetune(head, images, tmp_path / "m.keras", unfreeze="predictions")
    assert not (tmp_path / "m.keras").exists()


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (
            [0.5, 0.7],
            ["the valid loss rose from 0.5000 to 0.7000: the model was better before; choose a lower -p lr or"],
        ),
        ([0.5, 0.4], []),
        ([None, None], ["there are no valid images: the accuracy on new images is unknown"]),
    ],
)
def test_what_the_epochs_say_is_put_into_words(head, assembled, images, tmp_path, monkeypatch, saved, losses, said):
    epochs = [Epoch(number, 0.5, 0.5, loss, loss) for number, loss in enumerate(losses)]
    monkeypatch.setattr(module.Trainer, "train", lambda *_, **__: epochs)
    monkeypatch.setattr(module, "assemble", lambda *_: assembled)
    done = finetune(head, images, tmp_path / "m.keras", unfreeze="block16")
    assert len(done.warnings) == len(said)
    assert all(warning.message.startswith(words) for warning, words in zip(done.warnings, said, strict=True))
