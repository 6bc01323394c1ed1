"""What a closed store refuses, and when it unlocks its work directory."""

import threading

import pytest

import featurecache.run.commit_records
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import OutputError
from featurecache.format.file_records import FileRecord
from featurecache.images.decode import DecodeRules
from featurecache.named_backbone import recipe_of
from featurecache.provenance import Environment
from featurecache.run.store import Store

COMMIT = ([], [FileRecord("a.png", 1, 2, "0" * 64)], Environment(runner="test"))


def open_store(folder):
    spec = FakeBackbone().spec
    return Store.beside(folder / "x.h5", recipe_of(spec, DecodeRules(spec.input_size), "float32"))


def test_a_closed_store_refuses_a_commit_and_writes_nothing(tmp_path):
    store = open_store(tmp_path)
    store.close()
    with pytest.raises(OutputError, match="is closed"):
        store.commit(*COMMIT)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_closed_during_a_commit_unlocks_at_the_end_of_the_commit(tmp_path, monkeypatch):
    committing, going, publish = threading.Event(), threading.Event(), featurecache.run.commit_records.publish_once

    def hold(path, data):
        if path.parent.name == "commits":
            committing.set()
            assert going.wait(60)
        publish(path, data)

    monkeypatch.setattr(featurecache.run.commit_records, "publish_once", hold)
    store = open_store(tmp_path)
    thread = threading.Thread(target=store.commit, args=COMMIT)
    thread.start()
    assert committing.wait(60)
    store.close()
    second = open_store(tmp_path)
    with pytest.raises(OutputError, match="another run is at work"):
        second.lock()
    going.set()
    thread.join()
    second.lock()
    assert len(list((store.directory / "commits").iterdir())) == 1
    second.close()
