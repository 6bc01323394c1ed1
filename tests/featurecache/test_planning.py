import shutil

import pytest
from PIL import Image

from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError
from featurecache.planning import why


def test_a_plan_is_what_the_run_then_does(photos, tmp_path, make_backbone):
    path = tmp_path / "c.h5"
    (photos / "train" / "cats" / "broken.jpg").write_bytes(b"not an image")
    extract(photos, path, backbone=FakeBackbone())
    before = path.read_bytes()
    (photos / "train" / "cats" / "0.png").rename(photos / "valid" / "dogs" / "moved.png")
    (photos / "train" / "cats" / "1.png").touch()
    (photos / "train" / "cats" / "2.png").unlink()
    Image.new("RGB", (20, 20), "red").save(photos / "train" / "dogs" / "3.png")
    Image.new("RGB", (20, 20), "blue").save(photos / "train" / "dogs" / "new.png")
    shutil.copy(photos / "train" / "dogs" / "new.png", photos / "train" / "dogs" / "twin.png")
    (photos / "train" / "dogs" / "gone.png").symlink_to("nowhere")
    plan = why(photos, path, backbone=FakeBackbone())
    assert plan.reasons == {
        "moved": ["valid/dogs/moved.png"],
        "touched": ["train/cats/1.png"],
        "changed": ["train/dogs/3.png"],
        "new": ["train/dogs/new.png"],
        "duplicate": ["train/dogs/twin.png"],
        "failed before": ["train/cats/broken.jpg"],
        "unreadable": ["train/dogs/gone.png"],
        "unchanged": plan.reasons["unchanged"],
    }
    assert plan.gone == ["train/cats/0.png", "train/cats/2.png"]
    assert plan.to_dict() | {"reasons": None} == {
        "reuse": 19,
        "compute": 2,
        "failures": 2,
        "gone": 2,
        "refused": None,
        "reasons": None,
        "columns": {},
        "warnings": [],
    }
    assert path.read_bytes() == before
    assert not (tmp_path / "c.h5.work").exists()
    backbone = make_backbone()
    cache = extract(photos, path, backbone=backbone)
    assert backbone.seen == 2
    assert len(cache) == 21
    assert len(cache.failures) == 2


def test_without_a_cache_everything_is_computed(photos, tmp_path):
    plan = why(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    assert (plan.to_dict()["compute"], plan.to_dict()["reuse"]) == (20, 0)


def test_an_unfinished_run_counts(photos, tmp_path, make_backbone):
    with pytest.raises(KeyboardInterrupt):
        extract(photos, tmp_path / "c.h5", backbone=make_backbone(stop_after=8), batch_size=4)
    plan = why(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    assert plan.to_dict()["reuse"] == 8
    refused = why(photos, tmp_path / "c.h5", backbone=FakeBackbone(seed=1)).to_dict()["refused"]
    assert refused == {"field": "weights", "cache": "random:0", "wanted": "random:1"}


def test_another_recipe_is_refused_field_by_field(photos, tmp_path):
    extract(photos, tmp_path / "c.h5", backbone=FakeBackbone())
    plan = why(photos, tmp_path / "c.h5", backbone=FakeBackbone({"features": 8}), resize="crop")
    assert [difference.field for difference in plan.refused] == ["resize", "taps"]
    assert plan.to_dict()["refused"] == {"field": "resize", "cache": "squash", "wanted": "crop"}
    assert plan.to_dict()["compute"] == 20


def test_bad_input_is_refused_as_extract_would(tmp_path):
    with pytest.raises(ManifestError):
        why(tmp_path / "nothing", tmp_path / "c.h5", backbone=FakeBackbone())
