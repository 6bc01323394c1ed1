import hashlib
import io
import os

import numpy as np
import pytest
from PIL import Image

from featurecache import extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import OptionError
from featurecache.images.decode import shrink
from featurecache.images.sources import FolderSource
from heads.report.thumbnails import Originals, Thumbnail


def picture(width: int, height: int, **options: object) -> bytes:
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * x / width, 255 * y / height, 0 * x], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def originals(tmp_path):
    """Put a file into a folder under its name, and return what knows it."""

    def make(name: str | bytes, data: bytes, *, path: str | None = None) -> Originals:
        file = tmp_path / os.fsdecode(name)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
        return Originals(FolderSource(tmp_path), {path or os.fsdecode(name): sha256(data)})

    return make


def opened(thumbnail: Thumbnail) -> Image.Image:
    assert thumbnail.jpeg is not None, thumbnail.missing
    image = Image.open(io.BytesIO(thumbnail.jpeg))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (thumbnail.width, thumbnail.height))
    return image


def test_a_thumbnail_is_the_whole_image_at_its_aspect_ratio(originals):
    data = picture(640, 480)
    thumbnail = originals("cats/a.jpg", data).thumbnail("cats/a.jpg", 64)

    assert (thumbnail.width, thumbnail.height, thumbnail.missing) == (64, 48, "")
    expected = np.asarray(Image.open(io.BytesIO(data)).resize((64, 48), Image.Resampling.BOX), dtype=float)
    assert np.abs(np.asarray(opened(thumbnail), dtype=float) - expected).mean() < 4


def test_a_small_image_is_not_enlarged(originals):
    thumbnail = originals("a.jpg", picture(20, 10)).thumbnail("a.jpg")

    assert opened(thumbnail).size == (20, 10)


def test_the_same_file_gives_the_same_bytes_without_metadata(originals):
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    found = originals("a.jpg", picture(640, 480, exif=exif, comment=b"a comment"))

    assert found.thumbnail("a.jpg") == found.thumbnail("a.jpg")
    image = opened(found.thumbnail("a.jpg"))
    assert not image.getexif()
    assert b"a maker" not in found.thumbnail("a.jpg").jpeg
    assert b"a comment" not in found.thumbnail("a.jpg").jpeg


@pytest.mark.parametrize("side", [128, 256])
def test_even_noise_stays_below_20_kb(originals, side):
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(noise, "PNG")
    thumbnail = originals("a.png", noise.getvalue()).thumbnail("a.png", side)

    assert opened(thumbnail).size == (side, side)
    assert len(thumbnail.jpeg) <= 20_000


def test_quality_is_no_lower_than_need_be(originals):
    data = picture(256, 256)
    expected = io.BytesIO()
    Image.fromarray(np.asarray(shrink(data, 256))).save(expected, "JPEG", quality=80, optimize=True)

    assert originals("a.jpg", data).thumbnail("a.jpg").jpeg == expected.getvalue()


def test_a_name_of_any_bytes_is_found(originals):
    found = originals(b"caf\xe9 100%41.jpg", picture(8, 8), path="caf%E9 100%2541.jpg")

    assert opened(found.thumbnail("caf%E9 100%2541.jpg")).size == (8, 8)


def missing(thumbnail: Thumbnail) -> str:
    assert (thumbnail.jpeg, thumbnail.width, thumbnail.height) == (None, 0, 0)
    return thumbnail.missing


def test_a_file_that_has_changed_is_not_shown(originals, tmp_path):
    found = originals("a.jpg", picture(8, 8))
    (tmp_path / "a.jpg").write_bytes(picture(9, 9))

    assert missing(found.thumbnail("a.jpg")) == "the file has changed since it was looked at"


def test_a_file_that_is_gone_says_how_to_find_it(originals, tmp_path):
    found = originals("a.jpg", picture(8, 8))
    reason = "the file is not there"
    (tmp_path / "a.jpg").unlink()

    assert missing(found.thumbnail("a.jpg")) == reason
    assert missing(Originals(FolderSource(tmp_path / "nowhere"), found.sha256).thumbnail("a.jpg")) == reason
    assert "not known" in missing(Originals(None, found.sha256).thumbnail("a.jpg"))


def test_an_image_that_the_cache_does_not_know_is_not_shown(originals):
    assert "knows no image" in missing(originals("a.jpg", picture(8, 8)).thumbnail("b.jpg"))


@pytest.mark.parametrize("path", ["../a.jpg", "b/../../a.jpg", "%2E%2E/a.jpg", "/{root}/a.jpg", "%2F{root}/a.jpg"])
def test_a_path_that_leads_out_of_the_folder_is_not_followed(path, tmp_path):
    data = picture(8, 8)
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "images" / "b").mkdir(parents=True)
    path = path.replace("/{root}", str(tmp_path)).replace("{root}", str(tmp_path)[1:])

    found = Originals(FolderSource(tmp_path / "images"), {path: sha256(data)})
    assert missing(found.thumbnail(path)) == "its path leads out of the folder of the images"


def test_files_that_cannot_be_used_say_why(originals, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    whole = picture(64, 64)

    assert missing(originals("a.jpg", b"no image").thumbnail("a.jpg")).startswith("a text that begins with 'no image'")
    assert missing(originals("a.jpg", whole[:-99]).thumbnail("a.jpg")).startswith("a broken JPEG file")
    assert missing(originals("empty", b"").thumbnail("empty")) == "an empty file (0 bytes)"
    strange = Originals(FolderSource(tmp_path), dict.fromkeys(["folder", "pipe", "dangling", "nul\0", "x" * 300], ""))
    assert missing(strange.thumbnail("folder")) == "a directory, not a regular file"
    assert missing(strange.thumbnail("pipe")) == "a named pipe, not a regular file"
    assert missing(strange.thumbnail("dangling")) == "a symbolic link to nothing"
    assert missing(strange.thumbnail("nul\0"))
    assert missing(strange.thumbnail("x" * 300))


def test_a_side_must_be_a_number_of_pixels(originals):
    with pytest.raises(OptionError, match="side is 0; expected a whole number above 0"):
        originals("a.jpg", picture(8, 8)).thumbnail("a.jpg", 0)


def test_a_cache_knows_where_its_images_lay(make_cache, make_features, blobs, tmp_path):
    wide, narrow = (make_features(*blobs(3, d, 2), tap=f"tap{d}") for d in (9, 4))
    cache = make_cache(wide, narrow, images=str(tmp_path))

    found = Originals.from_cache(cache)
    assert found.source == FolderSource(tmp_path)
    assert found.sha256 == dict(zip(wide.paths, wide.sha256, strict=True))
    assert Originals.from_cache(cache, tmp_path / "moved").source == FolderSource(tmp_path / "moved")
    assert Originals.from_cache(cache, str(tmp_path / "moved")).source == FolderSource(tmp_path / "moved")
    assert Originals.from_cache(make_cache(wide)).source is None


def test_a_view_is_shown_as_the_network_saw_it(tmp_path):
    sides = np.zeros((8, 8, 3), np.uint8)
    sides[:, :4] = 255
    Image.fromarray(sides).save(tmp_path / "a.png")
    cache = extract(tmp_path, tmp_path / "c.h5", backbone=FakeBackbone(), views="1:flip")
    originals = Originals.from_cache(cache)

    image, view = (np.asarray(opened(originals.thumbnail(path))) for path in ("a.png", "a.png#1:flip"))

    assert image[4, 1].min() > 150 + int(image[4, 6].max())
    assert view[4, 6].min() > 150 + int(view[4, 1].max())
