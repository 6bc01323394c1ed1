"""The image formats that are read, by extension and by first bytes, and the names of other kinds of files."""

import re
from dataclasses import dataclass
from typing import Final

_BEGINNING = 1024  # bytes that are looked at
_QUOTED = 40  # letters of a text that a reason quotes


@dataclass(frozen=True, slots=True)
class Format:
    """A format that is read: the extensions of its files in lower case, and the pattern of their first bytes."""

    extensions: tuple[str, ...]
    signature: re.Pattern[bytes]


# A signature also matches a file that was cut soon after its beginning. A text may begin with BM or P6. The first match
# counts: AVIF is a kind of HEIF.
FORMATS: Final = {
    "JPEG": Format((".jfif", ".jpe", ".jpeg", ".jpg"), re.compile(rb"\xff\xd8")),
    "PNG": Format((".png",), re.compile(rb"\x89PNG(?!\n|\r\r|.{8}CgBI)", re.DOTALL)),
    "WEBP": Format((".webp",), re.compile(rb"RIFF.{4}WEBP", re.DOTALL)),
    "BMP": Format((".bmp",), re.compile(rb"BM(?![ -~]{8})")),
    "GIF": Format((".gif",), re.compile(rb"GIF8[79]")),
    "TIFF": Format((".tif", ".tiff"), re.compile(rb"II[*+]\0|II\0\*|MM\0[*+]|MM\*\0")),
    "PPM": Format((".pbm", ".pgm", ".pnm", ".ppm"), re.compile(rb"P[1-6f][\s#]")),
    "AVIF": Format((".avif",), re.compile(rb".{4}ftyp(?:avi[fs]|(?:mif1|msf1|miaf).{4,60}?avi[fs])", re.DOTALL)),
    "HEIF": Format(
        (".heic", ".heif", ".hif"), re.compile(rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1|miaf)", re.DOTALL)
    ),
    "JPEG2000": Format((".j2c", ".j2k", ".jp2", ".jpx"), re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")),
}
"""The formats that are read, by name; `featurecache.images.decode` has their readers."""

EXTENSIONS: Final = tuple(sorted(extension for known in FORMATS.values() for extension in known.extensions))
"""The extensions of all formats, sorted."""

_CONVERT = "an image format that is not read; convert the image to JPEG or PNG"
_REPLACE = "not an image; put the image itself in its place"
_OTHERS: Final = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), f"{name}, {remedy}")
    for pattern, name, remedy in (
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL", _CONVERT),
        (rb"\x89PNG.{8}CgBI", "a PNG file in Apple's own form (CgBI)", _CONVERT),
        (
            rb"\x89PNG",
            "a PNG file whose line ends were changed",
            "which spoils it; copy the image again as binary data",
        ),
        (rb"8BPS", "a Photoshop file", _CONVERT),
        (rb"\0\0[\x01\x02]\0[^\0]\0", "an icon", _CONVERT),
        (rb".{4}ftypcrx|FUJIFILMCCD-RAW|IIRO|IIU\0|FOVb", "a camera's raw file", _CONVERT),
        (rb".{128}DICM", "DICOM", _CONVERT),
        (rb"v/1\x01", "OpenEXR", _CONVERT),
        (rb"#\?(?:RADIANCE|RGBE)", "Radiance HDR", _CONVERT),
        (rb"DDS ", "DDS", _CONVERT),
        (rb"qoif", "QOI", _CONVERT),
        (rb"SIMPLE  =", "FITS", _CONVERT),
        (rb"gimp xcf", "a GIMP file", _CONVERT),
        (rb"AT&TFORM", "DjVu", _CONVERT),
        (rb"P7\s", "Netpbm PAM", _CONVERT),
        (rb"(?:<\?xml.*?|<!--.*?)?<(?:!doctype )?svg", "SVG", _CONVERT),
        (rb"%PDF|%!PS|\xc5\xd0\xd3\xc6", "a PDF or PostScript file", _CONVERT),
        (rb"version https?://\S*(?:git-lfs|hawser)", "a Git LFS pointer", "not the image; run: git lfs pull"),
        (rb"\S*\.?annex[/\\]objects", "a git-annex pointer", "not the image; run: git annex get"),
        (rb"(?:<\?xml.*?)?(?:<!--.*?)?<(?:!doctype )?(?:html|head|body|script|meta|title)", "an HTML page", _REPLACE),
        (rb"<\?xml|<error>", "an XML document, as servers send for errors", _REPLACE),
        (rb'\{"format": "featurecache"', "a cache of features", "not an image; give the images themselves"),
        (rb"[\[{]\s*[\"\[{}\]]", "JSON, as servers send for errors", _REPLACE),
        (rb"data:image/|/9j/[\w+/]|iVBORw0KGgo|R0lGOD", "Base64 text of an image", "not its bytes; decode it"),
        (rb"PK[\x03\x05]|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|.{257}ustar", "an archive", "no image; unpack it"),
        (rb".{4}ftyp.{4}|.{4}(?:moov|mdat)|\x1a\x45\xdf\xa3|RIFF.{4}AVI |\0\0\x01\xba", "a video", _REPLACE),
        (rb"\x93NUMPY|\x89HDF", "an array of NumPy or HDF5", "not an image file; save it as PNG"),
        (rb"\0\x05\x16[\0\x07]", "a file of macOS (AppleDouble)", "not the image, but beside it; delete it"),
        (rb".{0,8}\xef\xbf\xbd", "bytes that were saved as text", "which spoils them; copy the image again"),
    )
)
"""Patterns of other files, and what the file is and what to do; the first match counts. Text begins after blanks."""


def format_of(data: bytes) -> str | None:
    """Return the name of the format that a file begins as; None if it is none of `FORMATS`."""
    return next((name for name, known in FORMATS.items() if known.signature.match(data)), None)


def what_else(data: bytes) -> str:
    """Return in one line what a file is, if it is none of `FORMATS`, and what to do."""
    beginning = data[:_BEGINNING]
    text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, reason in _OTHERS:
        if pattern.match(beginning) or pattern.match(text):
            return reason
    if not data.strip(b"\0"):
        return f"{len(data):,} zero bytes, as a broken copy leaves them; copy the image again"
    if (quoted := _text_of(beginning)) is not None:
        return f"a text that begins with {quoted[:_QUOTED]!r}, {_REPLACE}"
    *first, last = FORMATS
    return f"not a {', '.join(first)} or {last} image; the file begins with {data[:8]!r}"


def _text_of(beginning: bytes) -> str | None:
    """Return the beginning of a file on one line if it is a text, else None."""
    encoding = "utf-16" if beginning[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8"
    text = beginning.decode(encoding, errors="ignore")
    line = " ".join(text.split())
    return line if line and line.isprintable() and len(text.encode(encoding)) + 3 >= len(beginning) else None
