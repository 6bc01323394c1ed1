"""Further columns: from the table that is extracted, through runs, parts and merging, to the cache."""

import csv
import shutil

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurecache import FeatureCache, Manifest, extract, merge, read_manifest, verify, why
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import CacheFormatError, ManifestError, UnknownNameError
from featurecache.format import layout
from featurecache.images.manifest import ImageEntry
from featurecache.storage.publish import publishing
from tests.featurecache.test_cache import seal

FORMS = [{}, {"part_rows": 8}]


def names(photos):
    return [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.png"))]


def texts(paths):
    """Return two further columns, one with few different texts and an empty one, one with a text for each image."""
    return {
        "breed": [("tabby", "", "Größe, 3\n")[number % 3] for number, _ in enumerate(paths)],
        "owner/id": [f"  {path}\t" for path in paths],
    }


@pytest.fixture
def write(photos, tmp_path):
    """Return a function that writes a table of the images, in the reverse order, with further columns."""

    def written(columns, name="table.csv", paths=None, header=None):
        paths = paths or names(photos)
        rows = [(path, path.split("/")[1], path.split("/")[0]) for path in paths]
        rows = [(*row, *cells) for row, cells in zip(rows, zip(*columns.values(), strict=True), strict=True)]
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("path", "label", "split", *(header or columns)), *reversed(rows)])
        return tmp_path / name

    return written


@pytest.fixture
def table(write, photos):
    return write(texts(names(photos)))


def found(cache):
    """Return the further columns of a cache: paths to texts, by the name of the column."""
    return {name: dict(zip(cache.paths, cache.column(name), strict=True)) for name in cache.columns}


def expected(photos):
    paths = names(photos)
    return {name: dict(zip(paths, column, strict=True)) for name, column in texts(paths).items()}


@pytest.mark.parametrize("form", FORMS)
def test_h5py_reads_what_the_table_says(table, photos, tmp_path, form):
    cache = extract(table, tmp_path / "c.h5", root=photos, backbone=FakeBackbone(), **form)
    with h5py.File(cache.path) as file:
        assert file.attrs["format_version"] == 3
        paths = file["images/path"].asstr()[:]
        for name, group in (("breed", "breed"), ("owner/id", "owner%2Fid")):
            column = file[f"columns/{group}/values"].asstr()[:][file[f"columns/{group}/codes"][:]]
            assert dict(zip(paths, column, strict=True)) == expected(photos)[name]
        assert file["columns/breed/values"].asstr()[:].tolist() == ["", "Größe, 3\n", "tabby"]
    assert cache.columns == ("breed", "owner/id")
    assert found(cache) == expected(photos)
    assert cache.column("breed").dtype == object
    with pytest.raises(UnknownNameError, match="unknown column 'breeds'; did you mean 'breed'"):
        cache.column("breeds")
    assert verify(cache.path, recompute=5, backbone=FakeBackbone()).to_dict()["problems"] == []
    for part in cache.parts:
        assert FeatureCache.open(part).columns == ()


@pytest.mark.parametrize("form", FORMS)
def test_without_further_columns_nothing_is_different(write, photos, tmp_path, form):
    (tmp_path / "a").mkdir()
    folder = extract(photos, tmp_path / "a" / "c.h5", backbone=FakeBackbone(), **form)
    own = extract(
        write({"sha256": [""] * 20, "": [""] * 20}), tmp_path / "c.h5", root=photos, backbone=FakeBackbone(), **form
    )
    with h5py.File(folder.path) as ours, h5py.File(own.path) as theirs:
        assert ours.attrs["format_version"] == theirs.attrs["format_version"] == len(form) + 1
        assert sorted(ours) == sorted(theirs)
        assert "columns" not in ours


@pytest.mark.parametrize("form", FORMS)
def test_another_column_makes_another_cache_without_a_pass(table, write, photos, tmp_path, make_backbone, form):
    backbone = make_backbone()
    first = extract(photos, tmp_path / "c.h5", backbone=backbone, **form)
    parts = {part: part.stat().st_ino for part in first.parts}
    X = np.asarray(first.features("features").X)
    steps = [
        (table, ("breed", "owner/id"), {"breed": "new", "owner/id": "new"}),
        (write({"breed": ["cat"] * 20}, "other.csv"), ("breed",), {"breed": "changed", "owner/id": "gone"}),
        (write({"Breed": ["cat"] * 20}, "case.csv"), ("Breed",), {"Breed": "new", "breed": "gone"}),
        (photos, (), {"Breed": "gone"}),
    ]
    for images, columns, plan in steps:
        options = {"backbone": backbone} | ({} if images is photos else {"root": photos})
        assert why(images, first.path, **options).to_dict()["columns"] == plan
        before = first.path.stat().st_ino
        cache = extract(images, first.path, **options)
        assert cache.columns == columns
        assert cache.path.stat().st_ino != before
        again = extract(images, first.path, **options)
        assert again.path.stat().st_ino == cache.path.stat().st_ino
        assert why(images, first.path, **options).to_dict()["columns"] == {}
        np.testing.assert_array_equal(np.asarray(cache.features("features").X), X)
        assert {part: part.stat().st_ino for part in cache.parts} == parts
    assert backbone.seen == 20
    assert first.columns == ()


def test_new_and_failed_images_change_no_other_text(table, write, photos, tmp_path, make_backbone):
    backbone = make_backbone()
    extract(table, tmp_path / "c.h5", root=photos, backbone=backbone)
    shutil.copy(photos / "train/cats/0.png", photos / "train/cats/copy.png")
    (photos / "train/cats/1.png").write_bytes(b"no image")
    columns = texts(names(photos))
    options = {"root": photos, "backbone": backbone}
    again = write(columns, "again.csv")
    assert why(again, tmp_path / "c.h5", **options).columns == {"breed": "changed"}
    cache = extract(again, tmp_path / "c.h5", **options)
    rows = {
        name: {path: text for path, text in column.items() if path not in cache.failures}
        for name, column in expected(photos).items()
    }
    assert found(cache) == rows
    assert len(cache.failures) == 1
    assert backbone.seen == 20


def test_a_run_that_goes_on_takes_the_columns_of_its_table(table, write, photos, tmp_path, make_backbone):
    whole = extract(table, tmp_path / "whole.h5", root=photos, backbone=FakeBackbone(), batch_size=4)
    options = {"root": photos, "batch_size": 4}
    with pytest.raises(KeyboardInterrupt):
        extract(table, tmp_path / "c.h5", backbone=make_backbone(stop_after=8), **options)
    rest = make_backbone()
    resumed = extract(table, tmp_path / "c.h5", backbone=rest, **options)
    assert rest.seen == 12
    assert resumed.index.holds_same_as(whole.index)
    assert found(resumed) == expected(photos)

    with pytest.raises(KeyboardInterrupt):
        extract(table, tmp_path / "d.h5", backbone=make_backbone(stop_after=8), **options)
    other = extract(write({"age": ["7"] * 20}, "other.csv"), tmp_path / "d.h5", backbone=FakeBackbone(), **options)
    assert (other.columns, set(other.column("age"))) == (("age",), {"7"})


@pytest.mark.parametrize("in_parts", [False, True])
def test_parts_of_the_images_keep_them_and_merge_joins_them(table, write, photos, tmp_path, in_parts):
    paths = [tmp_path / f"{number}.h5" for number in (1, 2, 3)]
    for number, path in enumerate(paths, 1):
        extract(table, path, root=photos, backbone=FakeBackbone(), part=f"{number}/3")
    merged = merge(tmp_path / "all.h5", paths, parts=in_parts)
    assert found(merged) == expected(photos)
    assert verify(merged.path).ok
    whole = extract(table, tmp_path / "whole.h5", root=photos, backbone=FakeBackbone())
    assert merged.index.holds_same_as(whole.index)

    extract(write({"age": ["7"] * 20}, "other.csv"), paths[0], root=photos, backbone=FakeBackbone())
    with pytest.raises(ManifestError, match="of the same list are missing"):
        merge(tmp_path / "more.h5", paths)


def test_a_column_that_one_side_lacks_is_empty_there(write, photos, tmp_path):
    paths = names(photos)
    tables = {
        "a": write({"breed": ["x"] * 12, "age": ["1"] * 12}, "a.csv", paths[:12]),
        "b": write({"age": ["1"] * 10}, "b.csv", paths[10:]),
    }
    caches = [
        extract(table, tmp_path / f"{name}.h5", root=photos, backbone=FakeBackbone()).path
        for name, table in tables.items()
    ]
    said = []
    merged = merge(tmp_path / "all.h5", caches, notify=said.append)
    assert found(merged) == {
        "age": dict.fromkeys(merged.paths, "1"),
        "breed": {path: "x" if path in paths[:12] else "" for path in merged.paths},
    }
    assert said == [f"the column 'breed' is empty for 8 rows, since it is not in {caches[1]}"]
    assert found(merge(tmp_path / "other.h5", caches[::-1])) == found(merged)

    other = extract(write({"age": ["2"] * 10}, "b.csv", paths[10:]), caches[1], root=photos, backbone=FakeBackbone())
    with pytest.raises(ManifestError, match="2 paths with different texts of the column 'age' in different caches"):
        merge(tmp_path / "more.h5", [caches[0], other.path])


def test_a_lost_part_takes_its_rows_and_no_text_of_others(table, photos, tmp_path, make_backbone):
    cache = extract(table, tmp_path / "c.h5", root=photos, backbone=FakeBackbone(), part_rows=8)
    cache.parts[1].unlink()
    backbone = make_backbone()
    again = extract(table, cache.path, root=photos, backbone=backbone, part_rows=8, replace=True)
    assert backbone.seen == 8
    assert found(again) == expected(photos)
    again.parts[0].unlink()
    left = FeatureCache.open_sound_parts(again.path)
    assert found(left) == {
        name: {path: column[path] for path in left.paths} for name, column in expected(photos).items()
    }
    assert len(left) == 12


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
ANY_NAME = (ANY_TEXT | st.sampled_from([".", "..", "/", "%2F", "a/b", "%", "%25", "./a", "values"])).filter(bool)


@given(st.dictionaries(ANY_NAME, st.lists(ANY_TEXT, min_size=3, max_size=3), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_texts_under_any_names_are_kept(cache, tmp_path, columns):
    few = {name: column[:3] for name, column in cache.index.images.items()}
    arrays = {name: np.array(column, dtype=object) for name, column in columns.items()}
    index = layout.CacheIndex(cache.recipe, "{}", cache.classes, few, cache.index.failures, None, arrays)
    with publishing(tmp_path / "any.h5", replace=True, durable=False) as draft:
        layout.encode_cache(draft, index)
    with (tmp_path / "any.h5").open("rb") as stream:
        read, _ = layout.read_cache(stream)
    assert {name: column.tolist() for name, column in read.columns.items()} == columns
    assert [*read.columns] == sorted(columns)


@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_texts_of_a_table_are_read_as_they_stand(tmp_path, rows):
    table = tmp_path / "t.csv"
    with table.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(
            [("b", "path", "a"), *((one, f"{n}.png", other) for n, (one, other) in enumerate(rows))]
        )
    manifest = read_manifest(table)
    assert manifest.columns == {"b": tuple(one for one, _ in rows), "a": tuple(other for _, other in rows)}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"age": ("1",)}, "the column 'age' has 1 texts for 2 images"),
        ({"age": ("1", "a\0b")}, r"the column 'age' has 'a\\x00b', which is not text that a cache can store"),
        ({"age": ("1", "\udcff")}, r"the column 'age' has '\\udcff', which is not text"),
        ({"a\0": ("1", "2")}, "a further column cannot have the name"),
        ({"": ("1", "2")}, "a further column cannot have the name ''"),
        ({"Label": ("1", "2")}, "a further column cannot have the name 'Label'"),
    ],
)
def test_a_manifest_refuses_columns_that_cannot_be_kept(photos, columns, words):
    entries = tuple(ImageEntry(f"{number}.png", -1, "") for number in (0, 1))
    with pytest.raises(ManifestError, match=words):
        Manifest(read_manifest(photos).source, entries, (), columns=columns)


def test_a_manifest_takes_columns_in_python(photos, tmp_path):
    entries = tuple(ImageEntry(f"train/cats/{number}.png", -1, "") for number in (0, 1))
    manifest = Manifest(read_manifest(photos).source, entries, (), columns={"age": ("1", "")})
    assert extract(manifest, tmp_path / "c.h5", backbone=FakeBackbone()).column("age").tolist() == ["1", ""]
    assert hash(manifest) != hash(None)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (("age", "AGE"), "has 2 columns 'age'; expected one; rename the other"),
        (("label", "age"), "has 2 columns 'label'; expected one"),
    ],
)
def test_tables_with_doubtful_columns_are_one_line(write, photos, header, words):
    table = write(texts(names(photos)), header=header)
    with pytest.raises(ManifestError, match=words) as caught:
        read_manifest(table, root=photos)
    assert "\n" not in str(caught.value)


def test_columns_that_are_not_kept_are_named(write, photos):
    columns = {"sha256": [""] * 20, "": ["x"] * 20, " age ": ["1"] * 20}
    manifest = read_manifest(write(columns), root=photos)
    assert manifest.notes == ("further columns: age", "columns not read: sha256, (without a name)")
    assert [*manifest.columns] == ["age"]


# Damaged and forged files


def reach_beyond(file):
    file["columns/breed/codes"][0] = 3


def reach_below(file):
    file["columns/breed/codes"][0] = -1


def repeat_a_text(file):
    file["columns/breed/values"][1] = ""


def shorten(file):
    del file["columns/breed/codes"]
    file["columns/breed/codes"] = np.zeros(19, "<i4")


def widen(file):
    codes = file["columns/breed/codes"][:]
    del file["columns/breed/codes"]
    file["columns/breed/codes"] = codes.astype("<i8")


def compress(file):
    codes = file["columns/breed/codes"][:]
    del file["columns/breed/codes"]
    file.create_dataset("columns/breed/codes", data=codes, compression="gzip")


def rename(file):
    file.move("columns/breed", "columns/br%41ed")


def add(file):
    file["columns/breed/extra"] = [1]


def put_a_dataset(file):
    file["columns/extra"] = [1]


def link(file):
    file["columns/other"] = h5py.SoftLink("/columns/breed")


def name_in_latin_1(file):
    remove_all(file)
    file.create_group("columns/gr\xf6\xdfe".encode("latin-1"))


def shape_by_nothing(file):
    del file["columns/breed/codes"]
    file.create_dataset("columns/breed/codes", data=h5py.Empty("<i4"))


def remove_all(file):
    for name in [*file["columns"]]:
        del file["columns"][name]


def remove_the_group(file):
    del file["columns"]


def replace_the_group(file):
    del file["columns"]
    file.create_dataset("columns", (1 << 40,), "<i4", chunks=(1024,))


FORGERIES = {
    reach_beyond: "columns/breed/codes has a value that is no index of a text",
    reach_below: "columns/breed/codes has a value that is no index of a text",
    repeat_a_text: "columns/breed/values is not in ascending order",
    shorten: r"columns/breed/codes has the shape \(19,\)",
    widen: "columns/breed/codes is of type int64, expected int32",
    compress: "columns/breed/codes is not contiguous and uncompressed",
    rename: "columns/br%41ed is not the name of a column",
    add: r"/columns/breed holds \['codes', 'extra', 'values'\]",
    put_a_dataset: "a dataset is in the place of a group",
    link: "/columns/other is a soft or external link",
    name_in_latin_1: "/columns has a name that is not UTF-8",
    shape_by_nothing: "columns/breed/codes has no shape",
    remove_all: "columns is empty",
    remove_the_group: "/ holds .*, expected .*'columns'",
    replace_the_group: "columns is not a group",
}


@pytest.mark.parametrize(("forge", "fault"), FORGERIES.items())
def test_forged_columns_are_refused(table, photos, tmp_path, forge, fault):
    cache = extract(table, tmp_path / "c.h5", root=photos, backbone=FakeBackbone())
    with h5py.File(cache.path, "r+") as file:
        forge(file)
    with pytest.raises(CacheFormatError):
        FeatureCache.open(cache.path)  # the header does not belong to it
    seal(cache.path, 3)
    with pytest.raises(CacheFormatError, match=fault):
        FeatureCache.open(cache.path)


def test_verify_finds_a_changed_text(table, photos, tmp_path):
    cache = extract(table, tmp_path / "c.h5", root=photos, backbone=FakeBackbone())
    data = cache.path.read_bytes()
    for what in (b"tabby", np.array(cache.index.images["label"]).tobytes()):
        assert what in data
        cache.path.write_bytes(data.replace(what, what[:-1] + b"?", 1))
        assert verify(cache.path).problems == (
            f"{cache.path} is not a cache that can be read: its structure or index is damaged; move the file away and "
            "extract the images again",
        )
