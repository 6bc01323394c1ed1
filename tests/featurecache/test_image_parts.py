"""Parts of one list of images: each by itself, and all of them merged, which is the cache of all images."""

import hashlib
import shutil

import h5py
import numpy as np
import pytest
from PIL import Image

from featurecache import FeatureCache, extract, find_network, read_manifest, resolve_weights, why
from featurecache.backbones.fake import FakeBackbone
from featurecache.backbones.keras_engine import KerasBackbone
from featurecache.errors import ManifestError, NoImagesError, OptionError
from featurecache.merging import merge
from featurecache.options import ImagePart
from featurecache.verification import verify


def written(path):
    """Return the bytes of everything in a cache that does not say how it was made."""
    with h5py.File(path) as file:
        found = {"classes": file["classes"][()].tolist()}
        for group in ("features", "images", "failures", "checksums"):
            for name, dataset in file[group].items():
                values = dataset[()]
                found[f"{group}/{name}"] = values.tolist() if values.dtype == object else values.tobytes()
    return found


def ledger_of(images, cache_path, **options):
    found = []
    extract(images, cache_path, progress=lambda progress: found.append(progress.to_dict()), **options)
    return found[-1]


def make_parts(images, folder, of, **options):
    """Extract all parts, each to a cache of its own; return the paths and the ledgers."""
    folder.mkdir()
    paths = [folder / f"{number}.h5" for number in range(1, of + 1)]
    return paths, [ledger_of(images, path, part=f"{n}/{of}", **options) for n, path in enumerate(paths, 1)]


@pytest.fixture
def odd_photos(photos):
    """Return `photos` with duplicates in other splits, broken files, a file that cannot be read, and a rare class."""
    shutil.copy(photos / "train" / "cats" / "0.png", photos / "valid" / "dogs" / "copy.png")
    for split in ("train", "valid"):
        (photos / split / "dogs" / "broken.png").write_bytes(b"not an image" + split.encode())
    (photos / "train" / "cats" / "broken too.png").write_bytes(b"not an imagevalid")
    (photos / "valid" / "cats" / "0-gone.png").symlink_to("nowhere.png")
    (photos / "train" / "rare").mkdir()
    Image.new("RGB", (20, 20), "red").save(photos / "train" / "rare" / "0.png")
    return photos


@pytest.fixture
def whole(odd_photos, tmp_path):
    """Return the cache of a single run over `odd_photos`."""
    return extract(odd_photos, tmp_path / "whole.h5", backbone=FakeBackbone())


@pytest.mark.parametrize("of", [1, 2, 5, pytest.param(60, marks=pytest.mark.slow)])
def test_merged_parts_are_the_single_run_byte_for_byte(odd_photos, whole, tmp_path, of):
    paths, ledgers = make_parts(odd_photos, tmp_path / "parts", of, backbone=FakeBackbone())
    assert sum(ledger["forwarded"] for ledger in ledgers) == len(set(whole.features("features").sha256))
    assert sum(ledger["rows"] for ledger in ledgers) == len(whole)
    assert all(ledger["images"] == ledger["rows"] + ledger["failures"] for ledger in ledgers)
    order = np.random.default_rng(of).permutation(of)
    for number, ordered in enumerate((paths, [paths[place] for place in order])):
        merged = merge(tmp_path / f"merged-{number}.h5", ordered)
        assert written(merged.path) == written(whole.path)
        assert verify(merged.path).ok
    assert list(whole.failures) == sorted(whole.failures)
    assert len(whole.failures) == 4


def test_every_part_is_a_cache_of_its_own_with_all_classes(odd_photos, whole, tmp_path):
    paths, _ = make_parts(odd_photos, tmp_path / "parts", 4, backbone=FakeBackbone())
    manifest = read_manifest(odd_photos)
    for number, path in enumerate(paths, 1):
        cache = FeatureCache.open(path)
        assert cache.classes == whole.classes == ("cats", "dogs", "rare")
        assert all(ImagePart(number, 4).holds(sha256) for sha256 in cache.features("features").sha256)
        assert cache.made_by.part == f"{number}/4"
        assert cache.made_by.manifest["images"] == len(manifest)
        assert "valid/cats/0-gone.png" in cache.failures  # no part knows the content of a file that cannot be read
        assert verify(path).ok
    assert whole.made_by.part is None
    assert whole.made_by.manifest is None


def test_a_merged_cache_is_of_all_images_and_is_brought_up_to_date_as_one(odd_photos, tmp_path, make_backbone):
    paths, _ = make_parts(odd_photos, tmp_path / "parts", 2, backbone=FakeBackbone())
    merged = merge(tmp_path / "merged.h5", paths)
    assert merged.made_by.part is None
    Image.new("RGB", (20, 20), "blue").save(odd_photos / "train" / "cats" / "new.png")
    backbone = make_backbone()
    cache = extract(odd_photos, merged.path, backbone=backbone)
    assert (backbone.seen, len(cache)) == (1, len(merged) + 1)


def test_a_part_goes_on_where_it_was_interrupted_and_reads_no_file_of_another_part_again(
    odd_photos, whole, tmp_path, make_backbone, monkeypatch
):
    path, first = tmp_path / "part.h5", make_backbone(stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        extract(odd_photos, path, part="1/2", backbone=first, batch_size=2, workers=1)
    read = []
    source = type(read_manifest(odd_photos).source)
    reading = source.read
    monkeypatch.setattr(
        source, "read", lambda self, path, **options: (read.append(path), reading(self, path, **options))[1]
    )
    backbone = make_backbone()
    cache = extract(odd_photos, path, backbone=backbone, batch_size=2)  # it is known of which part the run is
    monkeypatch.undo()
    assert cache.made_by.part == "1/2"
    assert backbone.seen == len(set(cache.features("features").sha256)) - first.seen
    assert len(read) < len(read_manifest(odd_photos))
    other = extract(odd_photos, tmp_path / "other.h5", part="2/2", backbone=FakeBackbone())
    assert written(merge(tmp_path / "merged.h5", [path, other.path]).path) == written(whole.path)


def test_a_part_stays_a_part_when_images_are_added_or_renamed(photos, tmp_path, make_backbone):
    paths, _ = make_parts(photos, tmp_path / "parts", 3, backbone=FakeBackbone())
    Image.new("RGB", (20, 20), "blue").save(photos / "train" / "cats" / "new.png")
    (photos / "train" / "dogs" / "0.png").rename(photos / "train" / "dogs" / "moved.png")
    backbone = make_backbone()
    for path in paths:
        extract(photos, path, backbone=backbone)
    assert backbone.seen == 1
    whole = extract(photos, tmp_path / "whole.h5", backbone=FakeBackbone())
    assert written(merge(tmp_path / "merged.h5", paths).path) == written(whole.path)


@pytest.mark.parametrize("asked", ["2/3", "1/2", "1/1"])
@pytest.mark.parametrize("finished", [True, False])
def test_another_part_is_refused_where_it_would_lose_rows(photos, tmp_path, make_backbone, asked, finished):
    path = tmp_path / "part.h5"
    if finished:
        extract(photos, path, part="1/3", backbone=FakeBackbone())
    else:
        with pytest.raises(KeyboardInterrupt):
            extract(photos, path, part="1/3", backbone=make_backbone(stop_after=2), batch_size=2)
    place = path if finished else tmp_path / "part.h5.work"
    for use_case in (extract, why):
        with pytest.raises(OptionError, match=f"^{place} is of part 1/3 of the images, wanted part {asked}; choose"):
            use_case(photos, path, part=asked, backbone=FakeBackbone())
    replaced = extract(photos, path, part=asked, backbone=FakeBackbone(), replace=True)
    assert replaced.made_by.part == asked


def test_a_cache_of_all_images_is_not_made_a_part(photos, whole):
    with pytest.raises(OptionError, match=r"is of all of the images, wanted part 1/2"):
        extract(photos, whole.path, part="1/2", backbone=FakeBackbone())


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "4", "1/0", "a/b", "1/4/2", "-1/4", "1 / 4", "", "01/4", "\uff11/4", 3, "1/9999999"]
)
def test_a_text_that_names_no_part_is_refused(photos, tmp_path, text):
    for use_case in (extract, why):
        with pytest.raises(OptionError, match=r"expected two whole numbers with a slash, from 1/N to N/N, as 2/4$"):
            use_case(photos, tmp_path / "c.h5", part=text, backbone=FakeBackbone())
    assert list(tmp_path.iterdir()) == [photos]


def test_a_part_without_images_says_so_and_can_be_merged(tmp_path, make_backbone):
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (20, 20), "red").save(images / "one.png")
    said, paths = [], []
    for number in (1, 2, 3):
        paths.append(tmp_path / f"{number}.h5")
        extract(images, paths[-1], part=f"{number}/3", backbone=make_backbone(), notify=said.append)
    empty = [path for path in paths if not len(FeatureCache.open(path))]
    assert len(empty) == 2
    assert sum("has none of the 1 images; merge joins it with the other parts" in line for line in said) == 2
    for path in empty:
        cache = FeatureCache.open(path)
        assert cache.features("features").X.shape == (0, 16)
        assert verify(path, recompute=2, backbone=FakeBackbone()).ok
    assert len(merge(tmp_path / "merged.h5", paths)) == 1
    with pytest.raises(ManifestError, match="are missing"):
        merge(tmp_path / "again.h5", empty)


def test_parts_that_only_failed_cannot_be_merged(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "broken.png").write_bytes(b"not an image")
    paths, ledgers = make_parts(images, tmp_path / "parts", 2, backbone=FakeBackbone())
    assert sorted(ledger["failures"] for ledger in ledgers) == [0, 1]
    with pytest.raises(NoImagesError, match="none of the 2 caches has a row"):
        merge(tmp_path / "merged.h5", paths)


def test_a_missing_part_and_a_part_of_another_list_are_refused(photos, tmp_path):
    paths, _ = make_parts(photos, tmp_path / "parts", 3, backbone=FakeBackbone())
    with pytest.raises(
        ManifestError, match=r"1\.h5 is part 1/3 of a list of images, and 2/3 of the same list are missing"
    ):
        merge(tmp_path / "merged.h5", [paths[0], paths[2]])
    Image.new("RGB", (20, 20), "blue").save(photos / "train" / "cats" / "new.png")
    extract(photos, paths[1], backbone=FakeBackbone())
    with pytest.raises(
        ManifestError, match=r"1\.h5 is part 1/3 .* 2/3 of the same list are missing; extract all parts"
    ):
        merge(tmp_path / "merged.h5", paths)


@pytest.mark.parametrize("head", ["path,label,split", "path,label,split,place"])
@pytest.mark.parametrize(
    ("line", "place", "word"),
    [(3, 0, "valid/dogs/0.png"), (3, 1, "cats"), (2, 1, ""), (3, 2, "valid"), (3, 3, "there")],
)
def test_parts_of_lists_that_differ_in_one_word_are_of_two_lists(photos, tmp_path, head, line, place, word):
    lines = [f"train/{kind}/{n}.png,{kind},train,here" for n in range(2) for kind in ("cats", "dogs")]
    other = lines.copy()
    words = lines[line].split(",")
    words[place] = word
    other[line] = ",".join(words)
    paths = []
    for number, table in ((1, lines), (2, other)):
        columns = len(head.split(","))
        (tmp_path / "list.csv").write_text("\n".join([head, *(",".join(line.split(",")[:columns]) for line in table)]))
        paths.append(tmp_path / f"{number}.h5")
        extract(tmp_path / "list.csv", paths[-1], root=photos, part=f"{number}/2", backbone=FakeBackbone())
    if place < columns:
        with pytest.raises(ManifestError, match=r"[12]/2 of the same list are missing"):
            merge(tmp_path / "merged.h5", paths)
    else:
        assert len(merge(tmp_path / "merged.h5", paths)) == len(lines)


def test_an_image_that_another_machine_could_not_read_is_a_row(photos, tmp_path):
    path, paths = photos / "train" / "cats" / "0.png", []
    data = path.read_bytes()
    for number in (1, 2, 3):
        is_here = ImagePart(number, 3).holds(hashlib.sha256(data).hexdigest())
        path.unlink(missing_ok=True)
        if is_here:
            path.write_bytes(data)
        else:
            path.symlink_to("nowhere.png")
        paths.append(tmp_path / f"{number}.h5")
        extract(photos, paths[-1], part=f"{number}/3", backbone=FakeBackbone())
    merged = merge(tmp_path / "merged.h5", paths)
    assert (len(merged), merged.failures) == (20, {})


def test_why_leaves_other_parts_out_of_the_count(odd_photos, tmp_path):
    plans = [why(odd_photos, tmp_path / "c.h5", part=f"{number}/2", backbone=FakeBackbone()) for number in (1, 2)]
    everything = why(odd_photos, tmp_path / "c.h5", backbone=FakeBackbone())
    new = [plan.to_dict()["reasons"]["new"] for plan in plans]
    assert sum(new) == everything.to_dict()["reasons"]["new"]
    elsewhere = [plan.to_dict()["reasons"]["elsewhere"] for plan in plans]
    assert sum(elsewhere) == sum(map(len, everything.reasons.values())) - 1  # the one that nobody can read
    assert plans[0].to_dict()["compute"] == new[0]


@pytest.mark.slow
def test_merged_parts_of_a_real_network_are_the_single_run_byte_for_byte(odd_photos, tmp_path):
    spec = find_network("mobilenet_v2")
    network = KerasBackbone(spec, resolve_weights("random:0", spec), batch_size=8)
    whole = extract(odd_photos, tmp_path / "whole.h5", backbone=network)
    for of in (2, 5):
        paths, _ = make_parts(odd_photos, tmp_path / f"parts-{of}", of, backbone=network)
        assert written(merge(tmp_path / f"merged-{of}.h5", paths[::-1]).path) == written(whole.path)


@pytest.mark.slow
def test_parts_of_the_images_can_be_caches_in_parts(odd_photos, whole, tmp_path):
    paths, _ = make_parts(odd_photos, tmp_path / "parts", 30, backbone=FakeBackbone(), part_rows=2)
    merged = merge(tmp_path / "merged.h5", paths, parts=True)
    assert (len(merged), merged.classes, merged.failures) == (len(whole), whole.classes, whole.failures)
    one_file = merge(tmp_path / "one.h5", [merged.path])
    assert written(one_file.path) == written(whole.path)
    Image.new("RGB", (20, 20), "blue").save(odd_photos / "train" / "cats" / "new.png")
    for path in paths:
        extract(odd_photos, path, backbone=FakeBackbone())
    assert len(merge(tmp_path / "new.h5", paths, parts=True)) == len(whole) + 1
