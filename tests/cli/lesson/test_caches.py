"""Caches that no head can be trained on: lessons that train some say so, before anything else."""

import pytest

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.cli.lesson.catalog import LESSONS, load_lesson
from featurecache.cli.lesson.lesson_writer import LessonWriter
from heads import TrainingError


@pytest.mark.parametrize("name", [name for name, lesson in LESSONS.items() if lesson.needs_cache])
@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("photos", "the cache has no labelled rows; extract from folders named by class"),
        ("photos/train/red", "training rows are of the class 'red'; a head needs rows of at least two"),
    ],
    ids=["no labels", "one class"],
)
def test_a_cache_without_classes_to_tell_apart(name, folder, words, tmp_path, write_images, capsys):
    write_images(tmp_path / folder, 4)
    featurecache.extract(tmp_path / "photos", tmp_path / "c.h5", backbone=FakeBackbone())
    with pytest.raises(TrainingError, match=words):
        load_lesson(name)(LessonWriter(tmp_path / "out"), tmp_path / "c.h5")
    assert capsys.readouterr().out == ""
