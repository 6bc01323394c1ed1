"""Archives are read in place as folders are; what is damaged, hostile or strange in them is a failure or is listed."""

import gzip
import io
import os
import pickle
import subprocess
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from featurecache import Failure, extract, open_source, read_manifest, verify, why
from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import ManifestError, NoImagesError
from featurecache.images.archives import ArchiveSource
from featurecache.images.sources import FolderSource

MB = 1 << 20


def pack(file, contents):
    """Write an archive of the kind that its name says; contents are names and bytes."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in contents:
                archive.writestr(name, data)
        return file
    with tarfile.open(file, "w:gz" if file.suffix in {".gz", ".tgz"} else "w") as archive:
        for name, data in contents:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def files_of(folder):
    return [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in folder.rglob("*.png")]


def noise(count):
    """Return bytes that do not compress, the same ones in each run."""
    return np.random.default_rng(0).bytes(count)


KINDS = ["a.zip", "a.tar", "a.tar.gz", "a.tgz"]


@pytest.fixture(params=KINDS)
def packed(request, photos, tmp_path):
    """The images of `photos` in an archive of each kind."""
    return pack(tmp_path / request.param, [*files_of(photos), ("notes.txt", b"none")])


def test_an_archive_gives_the_rows_of_its_folder(packed, photos, tmp_path):
    of_folder = extract(photos, tmp_path / "folder.h5", backbone=FakeBackbone())
    cache = extract(packed, tmp_path / "archive.h5", backbone=FakeBackbone())
    for column in ("path", "sha256", "label", "split", "size"):
        np.testing.assert_array_equal(cache.index.images[column], of_folder.index.images[column])
    np.testing.assert_array_equal(cache.read("features", 0, 20), of_folder.read("features", 0, 20))
    assert cache.provenance["images"] == str(packed)
    assert [item.path for item in read_manifest(packed).ignored] == ["notes.txt"]
    assert why(packed, cache.path, backbone=FakeBackbone()).count(["unchanged"]) == 20
    assert verify(cache.path, recompute=20, backbone=FakeBackbone()).recomputed == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [packed.name, "archive.h5", "folder.h5", "photos"]
    )


def test_a_folder_in_an_archive_is_a_folder(packed, photos):
    assert open_source(packed / "train") == ArchiveSource(packed, "train")
    inside, below = read_manifest(packed / "train"), read_manifest(photos / "train")
    assert inside.entries == below.entries
    assert inside.ignored == ()
    assert inside.source.name == f"{packed}/train"
    assert open_source(inside.source.name) == inside.source
    read = inside.source.read("cats/0.png", max_bytes=MB)
    assert read.data == (photos / "train/cats/0.png").read_bytes()
    with pytest.raises(NoImagesError, match=r"no image files in .*/nowhere"):
        read_manifest(packed / "nowhere")


def test_a_table_names_images_in_an_archive(packed, photos, tmp_path):
    (tmp_path / "table.csv").write_text("path,label\ntrain/cats/0.png,a\nvalid/dogs/3.png,b\n")
    manifest = read_manifest(tmp_path / "table.csv", root=packed)
    assert manifest.source == ArchiveSource(packed)
    for entry in manifest.entries:
        assert manifest.source.read(entry.path, max_bytes=MB).data == (photos / entry.path).read_bytes()
    with pytest.raises(ManifestError, match=r"gone\.zip .* is neither a folder nor an archive"):
        read_manifest(tmp_path / "table.csv", root=tmp_path / "gone.zip")


def test_many_threads_read_an_archive(packed, photos):
    source = pickle.loads(pickle.dumps(open_source(packed)))  # noqa: S301 - as a cluster does
    files = files_of(photos) * 20
    with ThreadPoolExecutor(8) as pool:
        read = pool.map(lambda file: source.read(file[0], max_bytes=MB).data, files)
        assert [*read] == [data for _, data in files]


def test_a_source_for_another_folder_has_the_absolute_path(packed, monkeypatch):
    monkeypatch.chdir(packed.parent)
    source = open_source(packed.name)
    assert source.anywhere() == ArchiveSource(packed)
    assert source.name == str(packed)
    assert open_source("photos").anywhere() == FolderSource(packed.parent / "photos")


def test_an_archive_that_changed_is_read_again(packed, photos):
    source = open_source(packed)
    before = source.stat("train/cats/0.png")
    assert before == source.stat("train/cats/0.png")
    changed = [(name, data + b"\n") for name, data in files_of(photos)]
    packed.unlink()
    pack(packed, changed)
    os.utime(packed, ns=(0, before.mtime_ns + 1))
    assert source.stat("train/cats/0.png") != before
    assert source.read("train/cats/0.png", max_bytes=MB).data == dict(changed)["train/cats/0.png"]


def test_an_archive_that_changes_while_it_is_read_is_a_failure(packed, monkeypatch):
    from featurecache.images import archives

    source = open_source(packed)
    source.list_images()
    identities = iter([archives._identity(packed)])
    monkeypatch.setattr(archives, "_identity", lambda path: next(identities, (0, 0, 0, 0)))
    assert source.read("train/cats/0.png", max_bytes=MB).code == "changed"


def test_an_archive_that_goes_away_is_a_failure(packed):
    source = open_source(packed)
    source.list_images()
    packed.unlink()
    failure = source.read("train/cats/0.png", max_bytes=MB)
    assert failure == Failure("unreadable", "its archive does not exist; expected a ZIP or TAR file of images")
    assert source.stat("train/cats/0.png") is None
    assert not source.exists()


def test_what_is_not_there_or_too_large_is_a_failure(packed):
    source = open_source(packed)
    assert source.read("train/cats/none.png", max_bytes=MB).code == "not_found"
    assert source.read("train/cats/0.png", max_bytes=10).code == "too_many_bytes"
    assert source.stat("train/cats/none.png") is None


@pytest.mark.parametrize("file", ["a.zip", "a.tar"])
@pytest.mark.parametrize(
    ("name", "path", "reason"),
    [
        ("../a.png", "../a.png", "a name that leads out of the archive"),
        ("x/../../a.png", "x/../../a.png", "a name that leads out of the archive"),
        ("/etc/a.png", "/etc/a.png", "a name that leads out of the archive"),
        (".hidden.png", ".hidden.png", "hidden"),
        ("__MACOSX/train/._a.png", "__MACOSX/train/._a.png", "hidden"),
        ("a.txt", "a.txt", "not an image file by its extension"),
    ],
)
def test_names_that_are_left_out(file, name, path, reason, tmp_path):
    source = open_source(pack(tmp_path / file, [(name, b"1"), ("b.png", b"2")]))
    images, ignored = source.list_images()
    assert images == ["b.png"]
    assert [(item.path, item.reason) for item in ignored] == [(path, reason)]
    assert source.read(path, max_bytes=MB).code == "not_found"


@pytest.mark.parametrize("file", ["a.zip", "a.tar"])
def test_names_are_those_of_the_files_that_would_be_unpacked(file, tmp_path):
    names = {"./a//b/./c.png": "a/b/c.png", "é.png": "é.png", "100%41.png": "100%2541.png"}
    images, _ = open_source(pack(tmp_path / file, [(name, b"1") for name in names])).list_images()
    assert images == list(names.values())


def test_names_that_are_not_utf_8_keep_their_bytes(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("é.png"))
    assert open_source(tmp_path / "a.tar").list_images()[0] == ["%E9.png"]
    # a ZIP file without the flag of UTF-8 has the bytes of the system where it was made
    for number, (name, path) in enumerate({b"\xc3\xa9.png": "é.png", b"\xe9\xe9.png": "%E9%E9.png"}.items()):
        file = pack(tmp_path / f"{number}.zip", [("aa.png" if b"\xc3" in name else "bb.png", b"123")])
        file.write_bytes(file.read_bytes().replace(b"aa.png", name).replace(b"bb.png", name))
        source = open_source(file)
        assert source.list_images()[0] == [path]
        assert source.read(path, max_bytes=MB).data == b"123"


def test_backslashes_of_windows_are_folders(tmp_path):
    info = zipfile.ZipInfo("train\\cats\\a.png")
    info.create_system = 0
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, b"1")
    assert open_source(tmp_path / "a.zip").list_images()[0] == ["train/cats/a.png"]


@pytest.mark.parametrize("file", KINDS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_members_of_a_name_the_later_one_holds(file, tmp_path):
    source = open_source(pack(tmp_path / file, [("a.png", b"first"), ("a.png", b"second")]))
    images, (ignored,) = source.list_images()
    assert images == ["a.png"]
    assert ignored.reason == "a later member of the archive has the same name"
    assert source.read("a.png", max_bytes=MB).data == b"second"


def test_links_and_devices_are_left_out(tmp_path):
    kinds = {"s.png": tarfile.SYMTYPE, "h.png": tarfile.LNKTYPE, "f.png": tarfile.FIFOTYPE, "c.png": tarfile.CHRTYPE}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    link = zipfile.ZipInfo("s.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    for file, count in (("a.tar", 4), ("a.zip", 1)):
        images, ignored = open_source(tmp_path / file).list_images()
        assert (images, len(ignored)) == ([], count)
        assert {item.reason for item in ignored} <= {
            "a link in an archive, which is not followed",
            "neither a file nor a folder",
        }


def test_encrypted_images_are_left_out(tmp_path):
    file = pack(tmp_path / "a.zip", [("a.png", b"123")])
    data = bytearray(file.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    file.write_bytes(data)
    images, (ignored,) = open_source(file).list_images()
    assert images == []
    assert ignored.reason == "encrypted; make the archive again without a password"


def test_a_bomb_is_a_failure_before_it_is_unpacked(tmp_path, monkeypatch):
    bomb = pack(tmp_path / "a.zip", [("a.png", bytes(50 * MB))])
    assert bomb.stat().st_size < MB
    assert open_source(bomb).read("a.png", max_bytes=MB).code == "too_many_bytes"
    # its header says 3 bytes: no more are unpacked, and they do not have its checksum
    data = bytearray(bomb.read_bytes())
    at = data.index(b"PK\1\2") + 24
    data[at : at + 4] = (3).to_bytes(4, "little")
    bomb.write_bytes(data)
    assert open_source(bomb).read("a.png", max_bytes=MB).code == "unreadable"


def test_a_header_that_claims_gigabytes_takes_no_memory(tmp_path):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 33
    with tarfile.open(tmp_path / "good.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
        archive.addfile(tarfile.TarInfo("b.png"))
    good = (tmp_path / "good.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(good[:512] + header.tobuf(tarfile.GNU_FORMAT) + good[512:])
    images, ignored = open_source(tmp_path / "a.tar").list_images()
    assert images == ["a.png", "b.png"]
    assert [(item.path, item.reason.partition(",")[0]) for item in ignored] == [
        ("byte 512", "the archive is damaged here")
    ]


def test_what_is_whole_in_a_cut_tar_file_is_read(tmp_path):
    contents = [(f"{number}.png", noise(700)) for number in range(4)]  # 512 + 1024 bytes each
    whole = pack(tmp_path / "a.tar", contents).read_bytes()
    for length in (1536, 1537, 2047, 2048, 2100, 2748, 2749, 3072, 6143, 6144):
        file = tmp_path / f"{length}.tar"
        file.write_bytes(whole[:length])
        source = open_source(file)
        images, ignored = source.list_images()
        read = [source.read(path, max_bytes=MB) for path in images]
        complete = sum(length >= 1536 * number + 512 + 700 for number in range(4))
        started = sum(length >= 1536 * number + 512 for number in range(4))
        assert images == [name for name, _ in contents[:started]], length
        assert [content.data for content in read[:complete]] == [data for _, data in contents[:complete]]
        assert all(isinstance(content, Failure) and content.code == "unreadable" for content in read[complete:])
        assert len(ignored) == 1, length
        assert "what may have followed is missing" in ignored[0].reason


def test_what_is_whole_in_a_damaged_tar_file_is_read(tmp_path):
    contents = [(f"in/{number}.png", noise(700)) for number in range(4)]
    file = pack(tmp_path / "a.tar", contents)
    data = bytearray(file.read_bytes())
    data[1536 : 1536 + 100] = b"x" * 100  # the second header
    file.write_bytes(data)
    source = open_source(file / "in")
    images, (ignored,) = source.list_images()
    assert images == ["0.png", "2.png", "3.png"]
    assert source.read("2.png", max_bytes=MB).data == contents[2][1]
    assert ignored.path == "byte 1536"
    assert ignored.reason == "the archive is damaged here, and what stood here is missing; copy it again"


def blocks(*members):
    """Return the blocks of members, without an end mark: pairs of a header and data."""
    return b"".join(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512) for info, data in members)


def header(name, size=0, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info


END = bytes(1024)


def test_a_header_of_zeros_is_damage(tmp_path):
    first, second, third = ((header(f"{number}.png", 700), noise(700)) for number in range(3))
    data = bytearray(blocks(first, second, third) + END)
    for lost, left in ((1536, ["0.png", "2.png"]), (3072, ["0.png", "1.png"])):
        damaged = bytearray(data)
        damaged[lost : lost + 512] = bytes(512)
        (tmp_path / f"{lost}.tar").write_bytes(damaged)
        images, (ignored,) = open_source(tmp_path / f"{lost}.tar").list_images()
        assert images == left
        assert ignored.path == f"byte {lost}"
        assert "damaged here" in ignored.reason


def test_what_follows_the_end_mark_is_not_read(tmp_path):
    one, other = blocks((header("a.png", 3), b"new")) + END, blocks((header("a.png", 3), b"old")) + END
    (tmp_path / "a.tar").write_bytes(one + bytes(5120) + other)
    source = open_source(tmp_path / "a.tar")
    images, (ignored,) = source.list_images()
    assert images == ["a.png"]
    assert source.read("a.png", max_bytes=MB).data == b"new"
    assert (ignored.path, "after the end mark" in ignored.reason) == ("byte 2048", True)


def test_an_archive_with_a_header_for_all_is_sound(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", pax_headers={"comment": "0123456789abcdef" * 2}) as archive:
        archive.addfile(header("a.png", 3), io.BytesIO(b"123"))
    source = open_source(tmp_path / "a.tar")
    assert source.list_images() == (["a.png"], [])
    assert source.read("a.png", max_bytes=MB).data == b"123"


@pytest.mark.parametrize("size", [-1, -512, -(10**12)])
def test_a_negative_length_is_damage(size, tmp_path):
    bad = bytearray(header("b.png").tobuf(tarfile.GNU_FORMAT))
    bad[124:136] = b"\xff" + (size % 2**88).to_bytes(11, "big")
    bad[148:156] = b" " * 8
    bad[148:156] = b"%06o\0 " % sum(bad)
    good = blocks((header("a.png", 3), b"123"))
    (tmp_path / "a.tar").write_bytes(good + bad + blocks((header("c.png", 3), b"456")) + END)
    images, (ignored,) = open_source(tmp_path / "a.tar").list_images()
    assert (images, ignored.path) == (["a.png", "c.png"], "byte 1024")


@pytest.mark.parametrize("text", [b"18 size=-9999999\n\n", b"99 path=a.png\n", b"no record", b"9" * 1_000_000])
def test_a_damaged_extended_header_is_damage(text, tmp_path):
    data = blocks((header("pax", len(text), tarfile.XHDTYPE), text), (header("a.png", 3), b"123")) + END
    (tmp_path / "a.tar").write_bytes(data)
    images, (ignored,) = open_source(tmp_path / "a.tar").list_images()
    assert (images, ignored.path) == (["a.png"], "byte 0")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_exact_times_are_read(form, tmp_path):
    names = [f"{'é' * 100}/{'long' * 40}/{number}.png" for number in range(3)]
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        for name in names:
            info = header(name, 3)
            info.mtime = 1.5
            archive.addfile(info, io.BytesIO(b"123"))
    source = open_source(tmp_path / "a.tar")
    assert source.list_images() == (names, [])
    assert all(source.read(name, max_bytes=MB).data == b"123" for name in names)


@pytest.mark.parametrize("form", ["gnu", "posix", "oldgnu"])
def test_sparse_files_are_left_out_and_others_read(form, tmp_path):
    (tmp_path / "after.png").write_bytes(b"123")
    for name in ("holes.png", "more.png"):
        with (tmp_path / name).open("wb") as file:
            for place in range(30):
                file.seek(place * 100_000)
                file.write(b"1")
    names = ["holes.png", "after.png", "more.png"]
    command = ["tar", "--sparse", f"--format={form}", "-cf", "a.tar", *names]
    subprocess.run(command, cwd=tmp_path, check=True)
    images, ignored = open_source(tmp_path / "a.tar").list_images()
    assert images == ["after.png"]
    assert [item.reason for item in ignored] == ["a sparse file; make the archive again without --sparse"] * 2


def test_an_archive_that_begins_with_pk_is_not_taken_for_zip(tmp_path):
    assert len(read_manifest(pack(tmp_path / "a.tar", [("PKLot/a.png", b"1")]))) == 1


@pytest.mark.parametrize("file", ["a.zip", "a.tar", "a.tar.gz"])
def test_archives_and_folders_whose_names_are_not_utf_8(file, photos, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    path = pack(folder / file, [(f"100%41/{name}", data) for name, data in files_of(photos)])
    source = open_source(path / "100%41")
    assert len(source.list_images()[0]) == 20
    assert source.read("train/cats/0.png", max_bytes=MB).size
    assert open_source(source.name) == source
    assert source.exists()
    assert not open_source(path / "typo").exists()


def test_a_table_finds_names_in_an_archive_as_in_a_folder(tmp_path):
    names = ["e\N{COMBINING ACUTE ACCENT}.png", "100%41.png"]
    pack(tmp_path / "a.zip", [(name, b"1") for name in names])
    (tmp_path / "table.csv").write_text("path\n\N{LATIN SMALL LETTER E WITH ACUTE}.png\n100%41.png\n")
    manifest = read_manifest(tmp_path / "table.csv", root=tmp_path / "a.zip")
    assert all(manifest.source.has_file(name.encode()) for name in names)
    assert all(manifest.source.read(entry.path, max_bytes=MB).size == 1 for entry in manifest.entries)


def test_a_compressed_archive_of_several_streams_is_one(photos, tmp_path):
    data = pack(tmp_path / "a.tar", files_of(photos)).read_bytes()
    (tmp_path / "a.tgz").write_bytes(gzip.compress(data[:5000]) + gzip.compress(data[5000:]))
    source = open_source(tmp_path / "a.tgz")
    images, ignored = source.list_images()
    assert (len(images), ignored) == (20, [])
    assert all(source.read(name, max_bytes=MB).data == data for name, data in files_of(photos))


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.99])
def test_what_is_whole_in_a_cut_compressed_file_is_read(cut, tmp_path):
    contents = [(f"{number}.png", noise(100_000)) for number in range(20)]
    file = pack(tmp_path / "a.tar.gz", contents)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * cut)])
    source = open_source(file)
    images, ignored = source.list_images()
    read = {path: source.read(path, max_bytes=MB) for path in images}
    whole = {path: content.data for path, content in read.items() if not isinstance(content, Failure)}
    assert whole == {path: data for path, data in contents if path in whole}
    assert 20 * cut - 2 <= len(whole) <= 20 * cut
    assert len(images) - len(whole) <= 1
    assert len(ignored) == 1


def test_damage_in_a_compressed_file_is_found_by_its_checksum(tmp_path):
    contents = [(f"{number}.png", noise(100_000)) for number in range(20)]
    file = pack(tmp_path / "a.tgz", contents)
    data = bytearray(file.read_bytes())
    data[1_000_000] ^= 255
    file.write_bytes(data)
    images, (ignored,) = open_source(file).list_images()
    assert len(images) == 20
    assert ignored.reason.startswith("the checksum of the compressed archive does not fit")


def test_a_member_of_a_zip_file_that_is_damaged_is_a_failure(tmp_path):
    file = pack(tmp_path / "a.zip", [("a.png", noise(1000)), ("b.png", b"123")])
    data = bytearray(file.read_bytes())
    data[500] ^= 255
    file.write_bytes(data)
    source = open_source(file)
    assert source.read("a.png", max_bytes=MB) == Failure("unreadable", "its bytes in the archive are damaged")
    assert source.read("b.png", max_bytes=MB).data == b"123"


def test_images_in_another_compression_of_zip_are_left_out(tmp_path):
    file = pack(tmp_path / "a.zip", [("a.png", b"123")])
    file.write_bytes(file.read_bytes().replace(b"\x08\0", b"\x09\0"))
    images, (ignored,) = open_source(file).list_images()
    assert images == []
    assert ignored.reason == "compressed in a way that is not read; make the archive again with deflate"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.zip", None, "does not exist; expected a ZIP or TAR file of images"),
        ("a.zip", b"", "is empty (0 bytes); expected a ZIP or TAR file of images"),
        ("a.zip", b"PK\3\4" + bytes(1000), "has no list of members, which a ZIP file has at its end"),
        ("a.tar", b"text" * 300, "is neither a ZIP nor a TAR file; pack its images as .zip, .tar or .tar.gz"),
        ("a.tar", b"BZh9" * 300, "is compressed with bzip2, which is not read"),
        ("a.tar.gz", gzip.compress(b"text" * 300, mtime=0), "is neither a ZIP nor a TAR file"),
        ("a.tar.gz", b"\x1f\x8b" + bytes(30), "cannot be read: unknown compression method"),
    ],
)
def test_what_is_no_archive_is_one_line(name, content, said, tmp_path):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    assert open_source(file).read("a.png", max_bytes=MB).code == "unreadable"
    with pytest.raises(ManifestError) as error:
        read_manifest(file)
    assert str(error.value).startswith(f"{file} {said}")


def test_the_first_bytes_say_what_an_archive_is(photos, tmp_path):
    pack(tmp_path / "a.zip", files_of(photos)).rename(tmp_path / "b.tar")
    assert len(read_manifest(tmp_path / "b.tar")) == 20


def test_an_archive_without_images_is_refused(tmp_path):
    with pytest.raises(NoImagesError, match=r"no image files in .*a\.tar \(found 1 other: 'a\.txt'\)"):
        read_manifest(pack(tmp_path / "a.tar", [("a.txt", b"1")]))
