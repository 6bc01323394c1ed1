"""The heads that are served: found on disk, loaded whole or not at all, exchanged without a gap."""

import json
import shutil
from pathlib import Path

import pytest

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import UnknownNameError
from heads import TrainedHead, train
from heads.errors import ArtifactError, HeadError, MismatchError
from heads.service.models import HeadDirectories, ServedHead, add_version


@pytest.fixture
def folder(dataset, tmp_path):
    """A folder of heads to change."""
    return Path(shutil.copytree(dataset.heads, tmp_path / "heads"))


@pytest.fixture
def cache(dataset):
    return featurecache.FeatureCache.open(dataset.cache)


def test_directories_of_heads_and_folders_of_them_are_told_apart(folder, tmp_path):
    shutil.copytree(folder / "red", tmp_path / "third")
    (folder / "notes").mkdir()
    shutil.copytree(folder / "red", folder / ".hidden")
    found = HeadDirectories.of([folder, tmp_path / "third"])
    assert found.find() == {"third": tmp_path / "third", "blue": folder / "blue", "red": folder / "red"}
    shutil.copytree(folder / "red", folder / "new")
    assert "new" in found.find()


def test_a_directory_that_is_not_there_and_two_of_one_name_are_refused(folder, tmp_path):
    with pytest.raises(ArtifactError, match=r"there is no directory .*gone; name a head's directory"):
        HeadDirectories.of([tmp_path / "gone"])
    shutil.copytree(folder / "red", tmp_path / "other" / "red")
    with pytest.raises(ArtifactError, match="have one name, red; rename one of them"):
        HeadDirectories.of([folder / "red", tmp_path / "other" / "red"])


def test_a_version_is_the_digest_of_the_files(make_service, folder):
    served = make_service(folder).heads.get("red")
    assert served.version == json.loads((folder / "red" / "head.json").read_text())["sha256"]


def test_a_head_of_another_recipe_is_refused_with_the_field(dataset, make_service, tmp_path):
    other = featurecache.extract(
        dataset.images, tmp_path / "o.h5", backbone=FakeBackbone({"features": 16}), resize="crop"
    )
    train(other, "centroid", tap="features", holdout=0).save(tmp_path / "cropped")
    with pytest.raises(MismatchError, match=r"cropped: .*resize: the head has 'crop', the features 'squash'"):
        make_service(dataset.heads / "red", tmp_path / "cropped")
    with pytest.raises(MismatchError, match=r"o\.h5 was made with another recipe than the heads: resize"):
        make_service(dataset.heads / "red", cache=tmp_path / "o.h5")


def test_a_damaged_head_that_is_named_ends_the_start_and_one_in_a_folder_does_not(make_service, folder):
    (folder / "red" / "head.json").write_text("{}")
    with pytest.raises(ArtifactError, match="red cannot be loaded"):
        make_service(folder / "red")
    service = make_service(folder)
    assert set(service.heads.snapshot()) == {"blue"}
    assert any("the head red failed to load" in fault for fault in service.faults())
    service.heads.unload("red")
    assert not service.heads.failures()


def test_a_head_is_exchanged_and_a_broken_one_leaves_the_old_one_in_place(make_service, folder, cache):
    heads = make_service(folder).heads
    before, snapshot = heads.get("red"), heads.snapshot()
    shutil.rmtree(folder / "red")
    train(cache, "logreg", tap="features", holdout=0).save(folder / "red")
    after = heads.load("red")
    assert heads.get("red") is after
    assert after.version != before.version
    assert snapshot["red"] is before
    (folder / "red" / "head.safetensors").write_bytes(b"broken")
    with pytest.raises(ArtifactError, match=r"red cannot be loaded: head\.safetensors"):
        heads.load("red")
    assert heads.get("red") is after
    [state] = [state for state in heads.states() if state.name == "red"]
    assert state.version == after.version
    assert "cannot be loaded" in state.reason
    assert heads.failures() == {}  # a version is in place


def test_a_head_whose_directory_disappears_is_still_served(make_service, folder):
    heads = make_service(folder).heads
    before = heads.get("red")
    shutil.rmtree(folder / "red")
    with pytest.raises(ArtifactError, match="directory of the head red is gone; the version in place is still served"):
        heads.load("red")
    assert heads.get("red") is before


def test_heads_come_and_go(make_service, folder, tmp_path):
    heads = make_service(folder).heads
    shutil.copytree(folder / "red", folder / "new")
    assert [state.name for state in heads.states()] == ["blue", "new", "red"]
    assert heads.load("new").head.name == "centroid"
    heads.unload("new")
    with pytest.raises(UnknownNameError, match="unknown head 'new'"):
        heads.get("new")
    for name in ("other", "../heads/red", "red/", "", "."):
        with pytest.raises(UnknownNameError):
            heads.load(name)
        with pytest.raises(UnknownNameError):
            heads.unload(name)


def test_a_head_on_a_tap_that_is_not_served_is_refused(dataset, make_service, tmp_path):
    cache = featurecache.extract(dataset.images, tmp_path / "c.h5", backbone=FakeBackbone({"more": 8}))
    head = train(cache, "centroid", tap="more", holdout=0)
    with pytest.raises(MismatchError, match="tap: the head x was trained on 'more', served are features, predictions"):
        make_service().heads.put(ServedHead("x", head.identity, head))


def test_a_head_of_another_target_is_refused(dataset, make_service):
    cache = featurecache.FeatureCache.open(dataset.cache)
    head = train(cache, "ridge", tap="features", holdout=0, target="labels")
    with pytest.raises(MismatchError, match="the service needs a head of the target 'class', this one has 'labels'"):
        make_service().heads.put(ServedHead("x", head.identity, head))


def test_there_must_be_something_to_serve(make_service, dataset, tmp_path):
    with pytest.raises(HeadError, match=rf"neither a head nor a cache to serve: no head in {tmp_path}; give"):
        make_service(tmp_path)
    service = make_service(tmp_path, cache=dataset.cache)
    assert service.faults()[0] == "no head is served"
    assert service.recipe == featurecache.FeatureCache.open(dataset.cache).recipe


def test_heads_that_were_trained_beside_the_cache_are_served_again(make_service, dataset, tmp_path):
    cache = tmp_path / "c.h5"
    shutil.copy(dataset.cache, cache)
    (tmp_path / "c.h5.heads").mkdir()
    TrainedHead.load(dataset.heads / "red").save(tmp_path / "c.h5.heads" / "mine")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert set(make_service(empty, cache=cache).heads.snapshot()) == {"mine"}


@pytest.mark.parametrize("text", ["{", "[]", '{"red": "red-2"}', '{"red": ["../red"]}', '{"red": [1]}'])
def test_a_damaged_list_of_versions_is_refused(make_service, folder, text):
    service = make_service(folder)
    (folder / "versions.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"versions\.json .*; repair or remove it"):
        make_service(folder)
    with pytest.raises(ArtifactError, match=r"versions\.json"):
        service.heads.load("red")


def test_a_version_that_was_trained_is_the_head_until_it_is_removed(folder, tmp_path):
    for name in ("red-2", "red-3"):
        shutil.copytree(folder / "red", folder / name)
        add_version(folder, "red", name)
    found = HeadDirectories.of([folder])
    assert found.find() == {"blue": folder / "blue", "red": folder / "red-3"}
    assert HeadDirectories.of([folder / "blue", folder / "red"], [folder]).find()["red"] == folder / "red-3"
    shutil.copytree(folder / "blue", tmp_path / "first" / "red")
    assert HeadDirectories.of([tmp_path / "first", folder]).find()["red"] == tmp_path / "first" / "red"
    shutil.rmtree(folder / "red-3")
    assert found.find()["red"] == folder / "red-2"
    shutil.rmtree(folder / "red-2")
    assert found.find() == {"blue": folder / "blue", "red": folder / "red"}
