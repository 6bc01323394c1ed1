"""``featurecache demo``, the whole way in a process of its own, with no weights to be had."""

import re

import pytest

from featurecache.cli.commands.demo import TEST_IMAGES, TRAIN_IMAGES, write_digits
from tests.cli.conftest import said

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def done(folder, command):
    return command("demo", cwd=folder, timeout=800)


def test_it_ends_well_and_says_loudly_that_weights_are_random(done):
    assert done.code == 0, done.err
    lines = said(done.err)
    notes = [line for line in lines if line.startswith("notice: ")]
    assert "the ImageNet weights of vgg16 are not available" in notes[0]
    assert "using random:0" in notes[1]
    found, started = lines[len(notes) :]
    assert found.startswith("found 240 images: 10 classes (0, 1, 2, ")
    assert re.fullmatch("starting vgg16 with random:0 weights on (keras|numba)", started)


def test_it_prints_a_table_of_accuracies(done):
    assert done.out.startswith("240 digits, VGG16 with random:0 weights; accuracy on 80 test images:\n\n")
    number = r"([01]\.\d{4})"
    rows = re.findall(rf"^(\w+) +(\w+) +{number} +{number} to {number} +\d+\.\d +(\S+)$", done.out, re.MULTILINE)
    assert [(head, tap) for head, tap, *_ in rows] == [
        ("softmax", "fc2"),
        ("logreg", "fc2"),
        ("softmax", "predictions"),
        ("logreg", "predictions"),
    ]
    accuracy = {(head, tap): float(value) for head, tap, value, *_ in rows}
    assert accuracy["logreg", "fc2"] >= 0.9
    assert min(accuracy.values()) > 0.5
    assert all(float(low) <= float(value) <= float(high) for _, _, value, low, high, _ in rows)
    assert re.search(r"^writing the images took \d+\.\d s, extracting \d+\.\d s$", done.out, re.MULTILINE)


def test_files_lie_where_it_says(done, folder, invoke):
    made = folder / "featurecache-demo"
    assert "the images are in featurecache-demo/digits, their features in featurecache-demo/digits.h5" in done.out
    assert sorted(path.name for path in made.iterdir()) == [
        "digits",
        "digits.h5",
        "logreg-fc2",
        "logreg-predictions",
        "softmax-fc2",
        "softmax-predictions",
    ]
    assert len(list((made / "digits" / "train").rglob("*.png"))) == TRAIN_IMAGES
    assert len(list((made / "digits" / "test").rglob("*.png"))) == TEST_IMAGES
    info = invoke("info", made / "digits.h5", "--json").json
    assert info["taps"] == {"fc2": 4096, "predictions": 1000}
    assert info["splits"] == {"train": TRAIN_IMAGES, "test": TEST_IMAGES}


def test_the_command_that_it_proposes_works(done, folder, command):
    proposed = done.out.splitlines()[-1].removeprefix("now try: featurecache ")
    evaluated = command(*proposed.split(), "--json", cwd=folder)
    assert evaluated.json["n"] == TEST_IMAGES
    assert f" {evaluated.json['accuracy']['value']:.4f} " in done.out


def test_it_does_not_write_into_a_folder_that_exists(done, folder, command, contents):
    assert done.code == 0
    before = contents(folder)
    again = command("demo", cwd=folder)
    assert again.code == 1
    assert again.error == "featurecache-demo exists already; remove it, or choose another folder with --out"
    assert len(again.err.splitlines()) == 1
    assert contents(folder) == before


def test_digits_are_the_same_every_time(tmp_path, contents):
    write_digits(tmp_path / "a")
    write_digits(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
