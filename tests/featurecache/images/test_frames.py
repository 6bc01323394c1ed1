"""Further frames of animations and pages of TIFF files are images of their own, where that is asked for."""

import csv
import hashlib
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from featurecache import FolderSource, extract, from_memory, merge, read_manifest
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError, UnknownNameError
from featurecache.images import frames
from featurecache.images.archives import ArchiveSource
from featurecache.images.decode import DecodeRules, decode, frame_count, shrink
from featurecache.images.failures import Failure, Ignored
from featurecache.images.frames import read_image, stat_image
from featurecache.images.names import split_frame
from featurecache.planning import why
from featurecache.verification import verify
from heads.report.thumbnails import Originals

SIDE = 24
RULES = DecodeRules((SIDE, SIDE))
MB = 1 << 20


def pages(count, seed=0, colours=256):
    """Noise in grey, so that a palette of GIF holds it."""
    noise = np.random.default_rng(seed).integers(0, colours, (count, SIDE, SIDE, 1), np.uint8)
    return noise.repeat(3, axis=3)


def saved(pixels, kind, **options):
    file = io.BytesIO()
    first, *others = (Image.fromarray(page) for page in pixels)
    first.save(file, kind, **options, **({"save_all": True, "append_images": others} if others else {}))
    return file.getvalue()


def pixels_of(source, path):
    content = read_image(source, path, max_bytes=MB)
    return content if isinstance(content, Failure) else decode(content.data, RULES, frame=content.frame)


@pytest.fixture
def scans(tmp_path):
    """Two classes: a TIFF file of three pages, an animation of two frames, and two files of one picture."""
    root = tmp_path / "scans"
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
    (root / "a" / "scan.tif").write_bytes(saved(pages(3), "TIFF"))
    (root / "a" / "one.png").write_bytes(saved(pages(1, 1), "PNG"))
    (root / "b" / "film.webp").write_bytes(saved(pages(2, 2), "WEBP", lossless=True))
    (root / "b" / "one.jpg").write_bytes(saved(pages(1, 3), "JPEG"))
    return root


ROWS = ["a/one.png", "a/scan.tif", "a/scan.tif#2", "a/scan.tif#3", "b/film.webp", "b/film.webp#2", "b/one.jpg"]


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("GIF", {}, 0),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 8),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
    ],
)
def test_a_frame_has_its_own_pixels(kind, options, tolerance, tmp_path):
    expected = pages(4)
    data = saved(expected, kind, **options)
    (tmp_path / "x.y").write_bytes(data)
    source = FolderSource(tmp_path)

    assert frame_count(data, 100) == 4
    assert frame_count(data, 3) == 3
    for number, page in enumerate(expected, 1):
        found = pixels_of(source, "x.y" if number == 1 else f"x.y#{number}")
        assert np.abs(found - page.astype(float)).max() <= tolerance
    assert pixels_of(source, "x.y#5") == Failure("not_found", "the file has no frame 5")


def test_transparency_of_a_later_frame_is_blended_with_white(tmp_path):
    colours = [Image.new("RGBA", (SIDE, SIDE), (9, 9, 9, alpha)) for alpha in (255, 128, 0)]
    colours[0].save(tmp_path / "x.png", save_all=True, append_images=colours[1:])

    found = [pixels_of(FolderSource(tmp_path), path)[0, 0, 0] for path in ("x.png", "x.png#2", "x.png#3")]

    assert found == [9, 132, 255]


@pytest.mark.parametrize("path", ["x.tif#0", "x.tif#1", "x.tif#02", "x.tif#", "#2", "x.tif#2a", "x.tif#-2"])
def test_other_endings_are_names(path):
    assert split_frame(path) == (path, 1)


def test_the_content_of_a_frame_is_that_of_its_file_and_its_number(scans):
    source = FolderSource(scans)
    content = read_image(source, "a/scan.tif#2", max_bytes=MB)
    whole = hashlib.sha256((scans / "a" / "scan.tif").read_bytes()).hexdigest()

    assert content.sha256 == hashlib.sha256(f"{whole}#2".encode()).hexdigest()
    assert (content.size, content.mtime_ns) == (stat_image(source, "a/scan.tif#2").size, content.mtime_ns)
    assert read_image(source, "a/scan.tif", max_bytes=MB).sha256 == whole


def test_a_file_of_this_name_comes_first(tmp_path):
    (tmp_path / "scan.tif").write_bytes(saved(pages(3), "TIFF"))
    (tmp_path / "scan.tif#2").write_bytes(saved(pages(1, 9), "PNG"))
    source = FolderSource(tmp_path)

    assert np.array_equal(pixels_of(source, "scan.tif#2"), pages(1, 9)[0])
    assert stat_image(source, "scan.tif#2") == source.stat("scan.tif#2")
    assert np.array_equal(pixels_of(source, "scan.tif#3"), pages(3)[2])


@pytest.mark.parametrize("path", ["b/one.jpg#2", "a/one.png#2", "a/none.tif#2"])
def test_what_is_not_there_is_a_failure(scans, path):
    failure = pixels_of(FolderSource(scans), path)

    assert failure.code == "not_found"
    assert not failure.is_permanent


def test_each_page_is_a_row_that_knows_its_file(scans):
    manifest = read_manifest(scans, frames="all")

    assert [entry.path for entry in manifest.entries] == ROWS
    assert [manifest.classes[entry.label] for entry in manifest.entries] == ["a"] * 4 + ["b"] * 3
    assert manifest.columns["file"] == ("a/one.png", *["a/scan.tif"] * 3, *["b/film.webp"] * 2, "b/one.jpg")
    assert "3 further frames" in manifest.summary()
    assert [entry.path for entry in read_manifest(scans).entries] == [row for row in ROWS if "#" not in row]
    with pytest.raises(UnknownNameError, match="choice of frames"):
        read_manifest(scans, frames="some")


def test_an_archive_and_images_in_memory_have_frames(scans, tmp_path):
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for path in sorted(scans.rglob("*.*")):
            archive.write(path, path.relative_to(scans))

    assert [entry.path for entry in read_manifest(tmp_path / "scans.zip", frames="all").entries] == ROWS
    source = ArchiveSource(tmp_path / "scans.zip")
    assert np.array_equal(pixels_of(source, "a/scan.tif#3"), pages(3)[2])
    memory = from_memory([(scans / "a" / "scan.tif").read_bytes()], paths=["scan.tif"]).source
    assert np.array_equal(pixels_of(memory, "scan.tif#3"), pages(3)[2])


def test_a_table_names_pages_and_repeats_its_columns(scans, tmp_path):
    table = tmp_path / "table.csv"
    rows = [("path", "label", "site"), ("a/scan.tif", "x", "north"), ("a/scan.tif#2", "y", "south")]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)

    manifest = read_manifest(table, root=scans, frames="all")

    assert [entry.path for entry in manifest.entries] == ["a/scan.tif", "a/scan.tif#2", "a/scan.tif#3"]
    assert [manifest.classes[entry.label] for entry in manifest.entries] == ["x", "y", "x"]
    assert manifest.columns == {"site": ("north", "south", "north"), "file": ("a/scan.tif",) * 3}
    table.write_text(table.read_text().replace("site", "File"))
    with pytest.raises(ManifestError, match="column 'File' has the name of the one that frames='all' adds"):
        read_manifest(table, root=scans, frames="all")


def test_a_list_names_pages_also_of_files_with_blanks(scans):
    (scans / "a" / "scan.tif").rename(scans / "a" / "my scan.tif")
    (scans / "list.txt").write_text("a/my scan.tif#2\na/my scan.tif#3 north\n")

    manifest = read_manifest(scans / "list.txt")

    assert [(entry.path, entry.label) for entry in manifest.entries] == [
        ("a/my scan.tif#2", -1),
        ("a/my scan.tif#3", 0),
    ]


def test_a_cache_takes_further_frames_with_a_pass_for_them_alone(scans, tmp_path):
    path = tmp_path / "c.h5"
    extract(scans, path, backbone=FakeBackbone())
    assert why(scans, path, backbone=FakeBackbone(), frames="all").to_dict()["compute"] == 3

    cache = extract(scans, path, backbone=FakeBackbone(), frames="all")

    assert cache.provenance["run"]["forwarded"] == 3
    features = cache.features("features")
    assert list(features.paths) == ROWS
    backbone = FakeBackbone()
    for name, page in zip(ROWS[1:4], pages(3), strict=True):
        size = backbone.spec.input_size
        pixels = np.asarray(Image.fromarray(page).resize(size[::-1], Image.Resampling.BILINEAR))
        expected = backbone.forward(pixels[None])["features"][0]
        np.testing.assert_array_equal(features.X[ROWS.index(name)], expected)
    assert cache.column("file").tolist() == ["a/one.png", *["a/scan.tif"] * 3, *["b/film.webp"] * 2, "b/one.jpg"]
    assert why(scans, path, backbone=FakeBackbone(), frames="all").reasons["unchanged"] == ROWS
    verified = verify(path, recompute=7, backbone=FakeBackbone())
    assert (verified.problems, verified.recomputed, verified.skipped) == ((), 7, 0)
    assert Originals.from_cache(cache).thumbnail("a/scan.tif#3").jpeg


def test_unchanged_files_are_read_to_count_frames_alone(scans, tmp_path, monkeypatch):
    path, read, reads = tmp_path / "c.h5", FolderSource.read, []
    extract(scans, path, backbone=FakeBackbone(), frames="all")
    monkeypatch.setattr(
        FolderSource, "read", lambda self, name, **options: reads.append(name) or read(self, name, **options)
    )

    extract(scans, path, backbone=FakeBackbone(), frames="all")

    assert sorted(reads) == ["a/one.png", "a/scan.tif", "b/film.webp"]


def test_frames_that_leave_a_cache_are_said(scans, tmp_path):
    path, said = tmp_path / "c.h5", []
    extract(scans, path, backbone=FakeBackbone(), frames="all")
    (scans / "b" / "film.webp").unlink()
    extract(scans, path, backbone=FakeBackbone(), frames="all", notify=said.append)
    assert not any("loses" in line for line in said)

    assert len(extract(scans, path, backbone=FakeBackbone(), frames="first", notify=said.append)) == 3

    assert "warning: the cache loses 2 rows of further frames; frames='all' (--frames all) keeps them" in said


def test_frames_stay_while_their_file_is_out_of_reach(scans, tmp_path, monkeypatch):
    path, stat, read = tmp_path / "c.h5", FolderSource.stat, FolderSource.read
    extract(scans, path, backbone=FakeBackbone(), frames="all")
    before = path.read_bytes()
    fault = Failure("unreadable", "the disk or network reports a read error")

    def is_lost(name):
        return name.startswith("a/scan.tif")

    monkeypatch.setattr(FolderSource, "stat", lambda self, name: None if is_lost(name) else stat(self, name))
    monkeypatch.setattr(
        FolderSource, "read", lambda self, name, **options: fault if is_lost(name) else read(self, name, **options)
    )
    cache = extract(scans, path, backbone=FakeBackbone(), frames="all")

    assert list(cache.paths) == ROWS
    assert (cache.failures, path.read_bytes()) == ({}, before)


def test_a_cache_knows_its_frames(scans, tmp_path, make_backbone):
    path = tmp_path / "c.h5"
    extract(scans, path, backbone=FakeBackbone(), frames="all")
    before = path.read_bytes()
    again = make_backbone()

    cache = extract(scans, path, backbone=again)

    assert (list(cache.paths), again.seen) == (ROWS, 0)
    assert path.read_bytes() == before
    assert why(scans, path, backbone=FakeBackbone()).to_dict()["reasons"] == {"unchanged": len(ROWS)}
    assert cache.made_by.frames == "all"
    first = extract(scans, path, backbone=FakeBackbone(), frames="first")
    assert list(first.paths) == [row for row in ROWS if "#" not in row]
    assert first.made_by.frames is None
    assert len(extract(scans, path, backbone=FakeBackbone())) == len(first)


def test_an_interrupted_run_and_a_merged_cache_know_their_frames(scans, tmp_path, make_backbone):
    path = tmp_path / "c.h5"
    with pytest.raises(KeyboardInterrupt):
        extract(scans, path, frames="all", backbone=make_backbone(stop_after=4), batch_size=2)
    assert list(extract(scans, path, backbone=FakeBackbone(), batch_size=2).paths) == ROWS
    parts = [tmp_path / f"{number}.h5" for number in (1, 2)]
    for number, place in enumerate(parts, 1):
        extract(scans, place, part=f"{number}/2", backbone=FakeBackbone(), frames="all")
    merged = merge(tmp_path / "m.h5", parts)
    assert list(extract(scans, merged.path, backbone=FakeBackbone()).paths) == ROWS


def test_a_page_has_views(scans):
    manifest = read_manifest(scans, frames="all").with_views("1:flip")
    path = "a/scan.tif#2#1:flip"
    assert path in [entry.path for entry in manifest.entries]

    content = read_image(manifest.source, path, max_bytes=MB)

    assert np.array_equal(decode(content.data, RULES, frame=content.frame, view=content.view), pages(3)[1][:, ::-1])
    assert stat_image(manifest.source, path) == stat_image(manifest.source, "a/scan.tif")
    assert content.sha256 != read_image(manifest.source, "a/scan.tif#2", max_bytes=MB).sha256


def test_a_cut_file_has_the_pages_that_are_whole(tmp_path):
    data = saved(pages(4), "TIFF")
    (tmp_path / "cut.tif").write_bytes(data[: int(len(data) * 0.6)])

    cache = extract(tmp_path, tmp_path / "c.h5", backbone=FakeBackbone(), frames="all")

    assert list(cache.features("features").paths) == ["cut.tif", "cut.tif#2"]
    assert list(cache.failures) == ["cut.tif#3", "cut.tif#4"]
    assert all(reason.startswith("a broken TIFF file: ") for reason in cache.failures.values())


def test_each_page_has_its_own_size_and_limit(tmp_path):
    first, second = Image.new("L", (9, 9)), Image.new("L", (90, 90))
    first.save(tmp_path / "x.tif", save_all=True, append_images=[second])
    content = read_image(FolderSource(tmp_path), "x.tif#2", max_bytes=MB)

    assert decode(content.data, DecodeRules((8, 8), max_pixels=8000), frame=content.frame).code == "too_many_pixels"
    assert shrink(content.data, 100, frame=content.frame).shape == (90, 90, 3)


def test_a_page_has_pixels_whatever_the_size_of_the_first(tmp_path):
    first, second = Image.new("L", (90, 90)), Image.new("L", (9, 9))
    first.save(tmp_path / "x.tif", save_all=True, append_images=[second])
    rules = DecodeRules((8, 8), max_pixels=8000)
    content = read_image(FolderSource(tmp_path), "x.tif#2", max_bytes=MB)

    assert decode(content.data, rules, frame=content.frame).shape == (8, 8, 3)
    assert decode(content.data, rules).code == "too_many_pixels"
    assert decode(saved(pages(2), "GIF"), DecodeRules((8, 8), max_pixels=9), frame=2).code == "too_many_pixels"


def test_samples_of_a_later_page_are_scaled_by_its_own_depth(tmp_path):
    first, second = Image.new("L", (SIDE, SIDE)), Image.fromarray(np.full((SIDE, SIDE), 3 << 8, np.uint16))
    first.save(tmp_path / "x.tif", save_all=True, append_images=[second])
    content = read_image(FolderSource(tmp_path), "x.tif#2", max_bytes=MB)
    dark = []

    assert (decode(content.data, RULES, frame=content.frame, on_dark=lambda: dark.append(1)) == 3).all()
    assert dark == [1]


def test_more_frames_than_the_limit_are_listed(scans, monkeypatch):
    monkeypatch.setattr(frames, "FRAME_LIMIT", 2)

    manifest = read_manifest(scans, frames="all")

    assert [entry.path for entry in manifest.entries if "#" in entry.path] == ["a/scan.tif#2", "b/film.webp#2"]
    assert manifest.ignored == (Ignored("a/scan.tif", "frames after the first 2"),)


def test_files_that_are_too_large_to_look_into_are_listed(scans, monkeypatch):
    monkeypatch.setattr(frames, "byte_limit", lambda _: 1000)

    manifest = read_manifest(scans, frames="all")

    assert Ignored("a/scan.tif", "further frames of a file above 1,000 bytes") in manifest.ignored
    assert not any("#" in entry.path for entry in manifest.entries)


def test_bytes_that_are_no_image_have_one_frame():
    for data in (b"", b"text", b"II*\0", b"GIF89a", saved(pages(1), "JPEG"), saved(pages(1), "TIFF")[:200]):
        assert frame_count(data, 10) == 1
