import io
from pathlib import Path

import pillow_heif
import pytest
from PIL import Image

from featurecache.images.formats import EXTENSIONS, FORMATS, format_of, what_else


def box(brand: bytes, *compatible: bytes) -> bytes:
    """The first box of a file of the MP4 family."""
    body = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return (4 + len(body)).to_bytes(4) + body + bytes(64)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_known_by_what_pillow_writes(name):
    file, image = io.BytesIO(), Image.new("RGB", (8, 8))
    if name == "HEIF":
        pillow_heif.from_pillow(image).save(file)
    else:
        image.save(file, name)
        assert {Image.registered_extensions().get(extension) for extension in FORMATS[name].extensions} == {name}

    assert format_of(file.getvalue()) == name


def test_every_extension_belongs_to_one_format():
    assert len(set(EXTENSIONS)) == len(EXTENSIONS) == sum(len(known.extensions) for known in FORMATS.values())
    assert {".ppm", ".pgm", ".pbm", ".pnm", ".avif"} <= {*EXTENSIONS}


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"MM\0*", "TIFF"),
        (b"II+\0", "TIFF"),
        (box(b"avis"), "AVIF"),
        (box(b"mif1", b"mif1", b"avif"), "AVIF"),
        (box(b"mif1", b"mif1", b"heic"), "HEIF"),
        (box(b"mif1", b"heic"), "HEIF"),
        (box(b"heic"), "HEIF"),
        (box(b"hevx"), "HEIF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
        (b"\xff\x4f\xff\x51", "JPEG2000"),
        (b"P6\n", "PPM"),
        (b"P6#", "PPM"),
        (b"P60 pages", None),
        (b"BM6\x10\0\0\0\0", "BMP"),
        (b"BMW and others", None),
        (b"\x89PNG\n\x1a\n", None),
    ],
)
def test_signatures(data, name):
    assert format_of(data) == name


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (box(b"isom", b"mp41"), "a video"),
        (box(b"qt  "), "a video"),
        (box(b"crx "), "a camera's raw file"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL, an image format that is not read"),
        (b"\xff\x0a\x00\x90", "JPEG XL"),
        (b"8BPS\0\1", "a Photoshop file"),
        (bytes(128) + b"DICM\2\0", "DICOM"),
        (b"\0\0\1\0\1\0\x10\x10", "an icon"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?>\n<!-- drawn --><svg/>", "SVG"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF or PostScript file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PDF or PostScript file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 132735\n",
            "a Git LFS pointer, not the image; run: git lfs pull",
        ),
        (b"/annex/objects/SHA256E-s1048576--d3b0.jpg\n", "a git-annex pointer"),
        (b"../../.git/annex/objects/zX/4q/SHA256E-s1--d3.jpg", "a git-annex pointer"),
        (b"<!DOCTYPE html><title>404</title>", "an HTML page, not an image"),
        (b"\xef\xbb\xbf\r\n<HTML lang='en'>", "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
        (b'{"error": "quota exceeded"}', "JSON"),
        (b'[{"code": 403}]', "JSON"),
        ((Path(__file__).parents[2] / "data" / "cache-v1.h5").read_bytes(), "a cache of features, not an image"),
        (b"data:image/jpeg;base64,/9j/4AAQ", "Base64 text of an image"),
        (b"/9j/4AAQSkZJRgABAQAAAQABAAD", "Base64 text of an image"),
        (b"PK\3\4\x14\0", "an archive"),
        (b"\x1f\x8b\x08\0", "an archive"),
        (b"\x93NUMPY\1\0v\0{'descr'", "an array of NumPy or HDF5"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "a file of macOS (AppleDouble)"),
        (b"\xef\xbf\xbdPNG\r\n\x1a\n", "bytes that were saved as text"),
        ("\ufffd\ufffd\ufffd\ufffd\0\x10JFIF".encode(), "bytes that were saved as text"),
        (b"\x89PNG\n\x1a\n\0\0\0\rIHDR", "a PNG file whose line ends were changed"),
        (b"\x89PNG\r\r\n\x1a\r\n\0\0\0\rIHDR", "a PNG file whose line ends were changed"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI0 \0\2", "a PNG file in Apple's own form"),
        (bytes(70_000), "70,000 zero bytes"),
        (b"404: Not Found", "a text that begins with '404: Not Found', not an image"),
        ("Gr\u00f6\u00dfe\nund Form".encode(), "a text that begins with 'Gr\u00f6\u00dfe und Form'"),
        ("Fehler 500".encode("utf-16"), "a text that begins with 'Fehler 500'"),
        (
            b"\x9a\x01\x02\x03",
            "not a JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM, AVIF, HEIF or JPEG2000 image; the file begins with",
        ),
    ],
)
def test_other_files_are_named(data, words):
    assert format_of(data) is None
    assert what_else(data).startswith(words)
    assert what_else(data).isprintable()
    assert len(what_else(data)) < 130


def test_a_long_text_is_quoted_in_part():
    assert what_else(b"word " * 1000) == (
        "a text that begins with 'word word word word word word word word ', not an image; "
        "put the image itself in its place"
    )
