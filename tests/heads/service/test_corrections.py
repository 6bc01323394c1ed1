"""The table of corrections: kept whole by many writers, read by `featurecache train`, never part of the cache."""

import hashlib
import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

import featurecache
import heads
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError
from heads.errors import ParameterError
from heads.service.corrections import Corrections, UnknownImageError


def picture(red, form="PNG"):
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (red, 90, 40)).save(out, form)
    return out.getvalue()


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=["train/", ""])
def cache(request, tmp_path):
    """A cache with a train split, and one without splits; two of its images have the same content."""
    for number in range(8):
        name = "same" if number in {6, 7} else str(number)
        path = tmp_path / "images" / request.param / ("cats", "dogs")[number % 2] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(30 * min(number, 6)))
    return featurecache.extract(tmp_path / "images", tmp_path / "c.h5", backbone=FakeBackbone())


@pytest.fixture
def corrections(cache):
    return Corrections(cache)


@pytest.fixture
def prefix(cache):
    return "train/" if "train" in cache.splits else ""


def test_every_row_of_a_content_is_corrected(corrections, prefix):
    assert corrections.labels() == {}
    assert corrections.correct(digest(picture(180)), "ant") == 2
    assert corrections.labels() == {f"{prefix}cats/same.png": "ant", f"{prefix}dogs/same.png": "ant"}
    assert {item.sha256 for item in corrections.all()} == {digest(picture(180))}


def test_the_latest_label_holds_and_one_is_taken_back(corrections):
    one, other = digest(picture(0)), digest(picture(30))
    corrections.correct(one, "ant")
    corrections.correct(other, " bee ")
    corrections.correct(one, "cow")
    assert [item.label for item in corrections.all()] == ["cow", "bee"]
    assert corrections.correct(one, None) == 1
    assert [item.label for item in corrections.all()] == ["bee"]


@pytest.mark.parametrize(
    ("form", "extension"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("GIF", ".gif"), ("TIFF", ".tiff")]
)
def test_an_image_that_the_cache_lacks_is_stored(corrections, prefix, form, extension):
    data = picture(255, form)
    path = f"{prefix}{digest(data)}{extension}"
    assert corrections.correct(digest(data), "ant", data) == 1
    assert corrections.correct(digest(data), "bee") == 1
    assert corrections.labels() == {path: "bee"}
    assert (corrections.folder / path).read_bytes() == corrections.stored(path) == data
    assert corrections.stored_content(digest(data)) == data
    assert [(item.sha256, item.label) for item in corrections.all()] == [(digest(data), "bee")]


def test_extract_and_merge_give_stored_images_the_same_paths(cache, corrections, tmp_path):
    """The whole way without the service: what was corrected trains a head on the command line's rows."""
    for red, label in ((250, "ant"), (251, "ant"), (0, "dogs")):
        corrections.correct(digest(picture(red)), label, picture(red))
    featurecache.extract(corrections.folder, tmp_path / "more.h5", backbone=FakeBackbone())
    merged = featurecache.merge(tmp_path / "all.h5", [cache.path, tmp_path / "more.h5"])
    head = heads.train(
        merged, "centroid", tap="features", holdout=0, labels=featurecache.read_labels(corrections.table)
    )

    assert dict(zip(head.classes, head.training.class_counts, strict=True)) == {"ant": 2, "cats": 3, "dogs": 5}
    assert "unmatched_labels" not in [warning.code for warning in head.training.warnings]


def test_an_unknown_image_without_bytes_is_refused(corrections):
    for sha256 in ("0" * 64, "../../etc/passwd", "", "*"):
        with pytest.raises(UnknownImageError):
            corrections.correct(sha256, "ant")
    assert not corrections.table.exists()
    assert not corrections.folder.exists()


@pytest.mark.parametrize("label", ["", "  ", "a\nb", "\x1b[31mred", "x" * 201, "a\u202eb"])
def test_a_label_that_is_no_name_is_refused(corrections, label):
    with pytest.raises(ParameterError, match="label is") as caught:
        corrections.correct(digest(picture(0)), label)
    assert str(caught.value).isprintable()
    assert not corrections.table.exists()


@pytest.mark.parametrize("label", ['a "b", c', "=1+1", "猫", "a;b", "<b>"])
def test_any_name_survives(corrections, label):
    corrections.correct(digest(picture(0)), label)
    assert list(corrections.labels().values()) == [label]


def test_what_a_person_has_written_stays(corrections, prefix):
    corrections.table.write_text(
        f"note,Path,label\nlooked twice,{prefix}cats/0.png,ant\nnot in the cache,gone/1.png,bee\n", "utf-8"
    )
    assert corrections.correct(digest(picture(0)), "cow") == 2
    assert corrections.correct(digest(picture(30)), "dog") == 3
    assert corrections.table.read_text().splitlines() == [
        "note,Path,label",
        f"looked twice,{prefix}cats/0.png,cow",
        "not in the cache,gone/1.png,bee",
        f",{prefix}dogs/1.png,dog",
    ]


@pytest.mark.parametrize(
    ("text", "words"), [("path\nx\n", "0 columns 'label'"), ("sha256,label\n", "0 columns 'path'")]
)
def test_a_table_that_cannot_be_read_is_not_replaced(text, words, corrections):
    corrections.table.write_text(text)
    with pytest.raises(ManifestError, match=words):
        corrections.correct(digest(picture(0)), "ant")
    assert corrections.table.read_text() == text


def test_a_stored_image_that_was_changed_is_not_used(corrections, prefix):
    data = picture(255)
    corrections.correct(digest(data), "ant", data)
    [(path, *_)] = corrections.all()
    (corrections.folder / path).write_bytes(picture(254))
    assert corrections.stored(path) is None
    assert corrections.stored("../c.h5") is None


WRITER = """
import sys
from featurecache import FeatureCache
from heads.service.corrections import Corrections
corrections = Corrections(FeatureCache.open(sys.argv[1]))
for sha256 in sys.argv[3:]:
    corrections.correct(sha256, sys.argv[2])
"""


def test_processes_and_threads_lose_nothing_to_each_other(cache, corrections):
    rows = cache.features("features")
    parts = [rows.sha256[start::3].tolist() for start in range(3)]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, cache.path, f"writer-{number}", *part])
        for number, part in enumerate(parts[:2])
    ]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda sha256: corrections.correct(sha256, "writer-2"), parts[2] * 5))
    assert [writer.wait() for writer in writers] == [0, 0]

    of_content = {sha256: f"writer-{number}" for number, part in enumerate(parts) for sha256 in part}
    kept = corrections.labels()
    assert kept.keys() == set(rows.paths)
    for path, sha256 in zip(rows.paths, rows.sha256, strict=True):
        if rows.sha256.tolist().count(sha256) == 1:
            assert kept[path] == of_content[sha256]


def test_the_cache_does_not_change(cache, corrections):
    before = cache.path.read_bytes()
    corrections.correct(digest(picture(0)), "ant")
    assert cache.path.read_bytes() == before
    assert json.loads(cache.index.provenance)
