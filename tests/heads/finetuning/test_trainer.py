"""Training on image files: Keras's own numbers for the same batches, bad images aside, and an end where it diverges."""

import numpy as np
import pytest
from PIL import Image

from featurecache.backbones.keras_runtime import load_keras
from featurecache.errors import NoImagesError
from featurecache.images.decode import DecodeRules
from featurecache.images.manifest import read_manifest
from heads.errors import TrainingError
from heads.finetuning.trainer import OPTIMIZERS, Trainer
from tests.heads import networks

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(networks.TENSORFLOW_AND_NUMPY)]

SETTINGS = {"lr": 0.01, "batch_size": 4, "optimizer": "adam"}
RULES = DecodeRules((12, 16))
BAD = "train/ant/06.png"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """22 images of three classes, of which one is none; 7 of them are valid."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split, count in (("train", 15), ("valid", 7)):
        for number in range(count):
            folder = root / split / networks.CLASSES[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 200, (12, 16, 3)) + 27 * (number % 3)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")
    (root / BAD).write_bytes(b"no image")
    return read_manifest(root)


@pytest.fixture
def entries(manifest):
    return [[entry for entry in manifest.entries if entry.split == split] for split in ("train", "valid")]


@pytest.fixture
def model():
    """A small model with random weights, always the same, that reads pixels."""
    keras = load_keras()
    images = keras.Input((12, 16, 3), dtype="uint8")
    outputs = keras.layers.Rescaling(1 / 255)(images)
    generator = np.random.default_rng(1)
    for layer in (
        keras.layers.Conv2D(4, 3, activation="relu", name="convolution"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, name="scores"),
        keras.layers.Softmax(name="probabilities"),
    ):
        outputs = layer(outputs)
        layer.set_weights([generator.normal(size=each.shape) for each in layer.get_weights()])
    return keras.Model(images, outputs)


def arrays(manifest, entries):
    usable = [entry for entry in entries if entry.path != BAD]
    pixels = [np.asarray(Image.open(manifest.source.locate(entry.path))) for entry in usable]
    return np.stack(pixels), np.array([entry.label for entry in usable])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_step_and_every_number_is_that_of_keras_fit(manifest, entries, model, optimizer):
    keras = load_keras()
    train, valid = entries
    oracle = keras.models.clone_model(model)
    oracle.set_weights(model.get_weights())
    make = getattr(keras.optimizers, OPTIMIZERS[optimizer])
    oracle.compile(make(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    X, y = arrays(manifest, train)
    start = [oracle.evaluate(*arrays(manifest, side), verbose=0) for side in entries]

    trainer = Trainer(model, manifest, RULES, SETTINGS | {"optimizer": optimizer}, workers=2)
    epochs = trainer.train(train, valid, epochs=2, seed=5)
    assert [epoch.epoch for epoch in epochs] == [0, 1, 2]
    found = [epochs[0].loss, epochs[0].accuracy, epochs[0].valid_loss, epochs[0].valid_accuracy]
    np.testing.assert_allclose(found, np.ravel(start), rtol=1e-5)
    for epoch in epochs[1:]:
        order = np.random.default_rng([5, epoch.epoch]).permutation(14)
        said = oracle.fit(
            X[order], y[order], batch_size=4, shuffle=False, verbose=0, validation_data=arrays(manifest, valid)
        )
        found = [epoch.loss, epoch.accuracy, epoch.valid_loss, epoch.valid_accuracy]
        expected = [said.history[name][0] for name in ("loss", "accuracy", "val_loss", "val_accuracy")]
        np.testing.assert_allclose(found, expected, rtol=2e-4)
    for ours, theirs in zip(model.get_weights(), oracle.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(manifest, entries, model):
    before, found = model.get_weights(), []
    for seed in (0, 0, 1):
        model.set_weights(before)
        Trainer(model, manifest, RULES, SETTINGS, workers=2).train(*entries, epochs=2, seed=seed)
        found.append(np.concatenate([each.ravel() for each in model.get_weights()]))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_layers_that_are_frozen_keep_their_weights(manifest, entries, model):
    model.get_layer("convolution").trainable = False
    before = [layer.get_weights() for layer in (model.get_layer("convolution"), model.get_layer("scores"))]
    Trainer(model, manifest, RULES, SETTINGS, workers=2).train(*entries, epochs=1, seed=0)
    after = [layer.get_weights() for layer in (model.get_layer("convolution"), model.get_layer("scores"))]
    for ours, theirs in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(before[1][0], after[1][0])


def test_images_that_cannot_be_used_are_listed_and_left_out(manifest, entries, model):
    trainer = Trainer(model, manifest, RULES, SETTINGS, workers=2)
    trainer.train(*entries, epochs=1, seed=0)
    assert list(trainer.failures) == [BAD]
    bad = [entry for entry in entries[0] if entry.path == BAD]
    with pytest.raises(
        NoImagesError, match=r"none of the 1 training images can be used \(a text .*\); the first is train/ant/06\.png"
    ):
        Trainer(model, manifest, RULES, SETTINGS, workers=2).train(bad, [], epochs=1, seed=0)


def test_without_valid_images_there_is_nothing_to_report_of_them(manifest, entries, model):
    epochs = Trainer(model, manifest, RULES, SETTINGS, workers=2).train(entries[0], [], epochs=1, seed=0)
    assert {(epoch.valid_loss, epoch.valid_accuracy) for epoch in epochs} == {(None, None)}


def test_epochs_are_told_as_soon_as_they_are_over(manifest, entries, model):
    told = []
    trainer = Trainer(model, manifest, RULES, SETTINGS, workers=2)
    epochs = trainer.train(*entries, epochs=2, seed=0, on_epoch=told.append)
    assert told == epochs


def test_progress_counts_the_usable_images_of_all_epochs(manifest, entries, model):
    told = []
    trainer = Trainer(model, manifest, RULES, SETTINGS, workers=2)
    trainer.train(*entries, epochs=2, seed=0, progress=lambda done, total: told.append((done, total)))
    usable = sum(map(len, entries)) - len(trainer.failures)
    assert told[-1] == (3 * usable, 3 * usable)
    assert told == sorted(told)
    assert told[0][0] == SETTINGS["batch_size"]


@pytest.mark.parametrize("lr", [1e4, 1e38])
def test_a_training_that_diverges_says_what_to_do(manifest, entries, model, lr):
    trainer = Trainer(model, manifest, RULES, SETTINGS | {"lr": lr, "optimizer": "sgd"}, workers=2)
    with pytest.raises(TrainingError, match=r"diverged in epoch 1 with lr=1(0000|e\+38): .*choose a lower -p lr"):
        trainer.train(*entries, epochs=3, seed=0)


def test_training_leaves_global_random_states_alone(manifest, entries, model):
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the state that must not change
    Trainer(model, manifest, RULES, SETTINGS, workers=2).train(*entries, epochs=1, seed=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
