"""`docs/format.md` against the code, and against a file."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from featurecache import FeatureCache, extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import CacheFormatError, OptionError
from featurecache.format import checks, header, layout
from featurecache.recipe import Recipe
from featurecache.run.commit_records import MEMBER_NAMES, CommitRecord

DOCUMENT = (Path(__file__).parents[3] / "docs" / "format.md").read_text("utf-8")
TYPES = {"UTF-8 string": checks.TEXT, "int32": "<i4", "int64": "<i8", "bytes5": "S5", "bytes64": "S64"}


def table(heading):
    """Return the rows of the first table after a heading, cell by cell."""
    text = DOCUMENT[DOCUMENT.index(heading) :]
    rows = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]


OBJECTS = {row[0]: row[1:] for row in table("## Objects")}


def test_columns_are_those_of_the_code():
    for group, columns in (("images", layout.IMAGE_COLUMNS), ("failures", layout.FAILURE_COLUMNS)):
        documented = {name.rsplit("/", 1)[1]: TYPES[row[0]] for name, row in OBJECTS.items() if f"/{group}/" in name}
        assert {name: np.dtype(kind) for name, kind in documented.items()} == columns


def test_a_file_holds_what_the_document_says(cache):
    lengths = {"k": 2, "n": 20, "m": 0, "ceil(n / 1024)": 1}
    with h5py.File(cache.path) as file:
        found = {}
        file.visititems(lambda name, item: found.update({f"/{name}": item}) if isinstance(item, h5py.Dataset) else None)
        documented = {
            name.replace("<tap>", tap): row for name, row in OBJECTS.items() for tap in ("features", "predictions")
        }
        assert set(found) == set(documented)
        for name, (kind, shape, _) in documented.items():
            expected = shape[1:-1].replace("width", str(cache.taps.get(name.rsplit("/", 1)[1])))
            dimensions = [lengths.get(part.strip(), part) for part in expected.split(",") if part]
            assert found[name].shape == tuple(int(d) for d in dimensions), name
            assert found[name].dtype == (np.float32 if "float" in kind else np.dtype(TYPES[kind])), name
        attributes = {row[0]: row[1] for row in table("MUST have exactly these attributes")}
        assert set(file.attrs) == set(attributes)
        assert file.attrs["format"] == attributes["format"] == header.CACHE_FORMAT
        assert str(file.attrs["format_version"]) == attributes["format_version"] == str(header.FORMAT_VERSION)


def test_an_index_holds_what_the_document_says(photos, tmp_path):
    cache = extract(photos, tmp_path / "parts.h5", backbone=FakeBackbone(), part_rows=9)
    lengths = {"n": 20, "p": 3}
    of_index = {row[0]: row[1:] for row in table("## A cache in parts")}
    with h5py.File(cache.path) as file:
        found = {}
        file.visititems(lambda name, item: found.update({f"/{name}": item}) if isinstance(item, h5py.Dataset) else None)
        shared = {name for name in OBJECTS if not name.startswith(("/features", "/checksums"))}
        documented = {name.replace("<tap>", tap): row for name, row in of_index.items() for tap in cache.taps}
        assert set(found) == shared | set(documented)
        for name, (kind, shape, _) in documented.items():
            assert found[name].shape == (lengths[shape[1:-1]],), name
            assert found[name].dtype == np.dtype(TYPES[kind]), name
        assert file.attrs["format_version"] == header.PARTS_VERSION == 2
    cache.path.write_bytes(cache.path.read_bytes().replace(b'"format_version": 2', b'"format_version": 9', 1))
    with pytest.raises(CacheFormatError, match=r"expected 'featurecache' 1 to 3; a newer version of featurecache made"):
        FeatureCache.open(cache.path)


@pytest.mark.parametrize("options", [{}, {"part_rows": 9}])
def test_further_columns_are_stored_as_the_document_says(photos, tmp_path, options):
    lines = [f"{path.relative_to(photos)},{number % 4}" for number, path in enumerate(sorted(photos.rglob("*.png")))]
    (tmp_path / "t.csv").write_text("\n".join(["path,age", *lines]))
    cache = extract(tmp_path / "t.csv", tmp_path / "c.h5", root=photos, backbone=FakeBackbone(), **options)
    with h5py.File(cache.path) as file:
        assert file.attrs["format_version"] == header.COLUMNS_VERSION == 3
        documented = {row[0].replace("<column>", "age"): row[1:] for row in table("## Further columns, version 3")}
        assert set(documented) == {
            f"/columns/{column}/{name}" for column in file["columns"] for name in file["columns/age"]
        }
        for name, (kind, shape, _) in documented.items():
            assert file[name].shape == ({"t": 4, "n": 20}[shape[1:-1]],), name
            assert file[name].dtype == np.dtype(TYPES[kind]), name


def test_numbers_of_the_document_are_those_of_the_code():
    assert f"{layout.BLOCK_ROWS:,} rows" in DOCUMENT
    assert f"user block of {header.HEADER_BYTES:,} bytes" in DOCUMENT
    assert f"multiple of {layout.ALIGNMENT:,} bytes" in DOCUMENT


def test_commit_records_are_those_of_the_code():
    documented = [name for row in table("A commit record is JSON") for name in re.findall(r"\w+", row[0])]
    fields = [MEMBER_NAMES.get(name, name) for name in CommitRecord.__dataclass_fields__]
    assert documented == [*fields, "record_sha256"]


def test_recipe_fields_are_those_of_the_code():
    assert [row[0] for row in table("## The recipe")] == list(Recipe.__dataclass_fields__)


def test_more_taps_than_the_header_can_hold_are_refused():
    def encoded(taps):
        spans = [[16_384 + number, 1] for number in range(2 * taps)]
        return header.encode_header({"sha256": "0" * 64, "size": 1, "spans": spans})

    most = next(taps for taps in range(400, 1000) if len(encoded(taps).rstrip(b"\0")) > header.HEADER_BYTES - 24)
    assert len(encoded(most)) == header.HEADER_BYTES
    with pytest.raises(OptionError, match=f"the places of {most + 1} taps do not fit"):
        encoded(most + 1)


def test_a_header_may_be_full():
    rest = len(header.encode_header({"spans": [], "sha256": ""}).rstrip(b"\0"))
    full = {"spans": [], "sha256": "0" * (header.HEADER_BYTES - rest)}
    assert len(header.encode_header(full)) == header.HEADER_BYTES
    with pytest.raises(OptionError, match="do not fit"):
        header.encode_header(full | {"sha256": full["sha256"] + "0"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "featurestore"}, "its format is 'featurestore' 1, expected 'featurecache' 1 to 3$"),
        ({"format_version": 9}, "its format is 'featurecache' 9, .* a newer version of featurecache made it, use that"),
        ({"format": "featurestore", "format_version": 9}, "its format is 'featurestore' 9, expected .* to 3$"),
    ],
)
def test_a_header_of_another_format_is_named(change, message, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(header.encode_header({"spans": [], "sha256": "", "size": 0} | change))
    with path.open("rb") as stream, pytest.raises(CacheFormatError, match=message):
        header.read_header(stream)
