"""``why``, ``verify`` and ``merge``: their output, promised keys and exit codes."""

import json
import re
import shutil

import h5py
import pytest

import featurecache
from featurecache.backbones.fake import FakeBackbone

REAL = ("--backbone", "mobilenet_v2", "--weights", "random:0")
FOUND = "found 40 images: 2 classes (blue, red); train 28, valid 12\n"
WHY = {"reuse", "compute", "gone", "refused", "warnings"}
VERIFY = {"ok", "problems"}
RECOMPUTED = VERIFY | {"recomputed", "max_relative_error"}
MERGE = {"rows", "failures", "classes"}


@pytest.fixture
def photos(tmp_path, images):
    """A copy of the images that a test may change; size and modification time are the same."""
    return shutil.copytree(images, tmp_path / "photos")


@pytest.fixture
def damaged(tmp_path, fake_cache):
    """A cache with one changed number."""
    path = tmp_path / "damaged.h5"
    shutil.copyfile(fake_cache, path)
    with h5py.File(path, "r+") as file:
        file["features/features"][3, 2] += 1
    return path


@pytest.fixture
def parts(tmp_path, write_images):
    """Two caches of one recipe: 3 red images and a failure, 4 blue ones, under one folder's paths."""
    for name, colour, count in (("red", (220, 40, 30), 3), ("blue", (30, 40, 220), 4)):
        write_images(tmp_path / name / "train" / name, count, colour)
    (tmp_path / "red" / "train" / "red" / "bad.png").write_bytes(b"bad")
    paths = [tmp_path / f"{name}.h5" for name in ("red", "blue")]
    for path in paths:
        featurecache.extract(path.with_suffix(""), path, backbone=FakeBackbone())
    return paths


def test_why_of_what_is_not_there_computes_everything(invoke, tmp_path, images, contents):
    done = invoke("why", images, tmp_path / "c.h5", *REAL, "--json")
    plan = done.json
    assert plan.keys() >= WHY
    assert (plan["reuse"], plan["compute"], plan["gone"], plan["refused"]) == (0, 40, 0, None)
    assert done.err == FOUND
    assert contents(tmp_path) == {}


def test_why_says_what_extract_then_does(invoke, tmp_path, photos, real_cache, write_images, contents):
    cache = tmp_path / "c.h5"
    shutil.copyfile(real_cache, cache)
    red = photos / "train" / "red"
    (red / "000.png").unlink()
    (red / "001.png").rename(red / "moved.png")
    write_images(photos / "train" / "blue", 1, seed=9)
    write_images(photos / "train" / "green", 2, (30, 200, 30))
    before = contents(tmp_path)
    plan = invoke("why", photos, cache, *REAL, "--json").json
    text = invoke("why", photos, cache, *REAL)
    assert contents(tmp_path) == before
    assert (plan["reuse"], plan["compute"], plan["gone"], plan["refused"]) == (38, 3, 2, None)
    assert (text.code, text.err) == (0, "found 41 images: 3 classes (blue, green, red); train 29, valid 12\n")
    assert text.out.startswith("38 images reused, 3 computed, 2 gone\n")
    for line in (
        r"images  why +first",
        r" +37  reused: path, size and modification time are unchanged +train/blue/001\.png",
        r" +1  reused: the content is known from another path +train/red/moved\.png",
        r" +1  computed: a known path with new content +train/blue/000\.png",
        r" +2  computed: a new path with new content +train/green/000\.png",
        r" +2  gone: in the cache, but no longer among the images +train/red/000\.png",
    ):
        assert re.search(f"^{line}$", text.out, re.MULTILINE), (line, text.out)
    ledger = invoke("extract", photos, cache, *REAL, "--batch-size", "8", "--json").json
    assert (ledger["reused"], ledger["forwarded"]) == (plan["reuse"], plan["compute"])


def test_why_names_the_fields_of_another_recipe(invoke, images, real_cache):
    options = ("--backbone", "mobilenet_v2", "--weights", "random:1", "--dtype", "float16")
    plan = invoke("why", images, real_cache, *options, "--json").json
    assert plan["refused"] == {"field": "weights", "cache": "random:0", "wanted": "random:1"}
    assert plan["reuse"] == 0
    done = invoke("why", images, real_cache, *options)
    assert (done.code, done.err) == (0, FOUND)
    first, *table = done.out.splitlines()
    assert first == f"refused: {real_cache} has another recipe; choose another path, or extract with --replace"
    assert [line.split() for line in table] == [
        ["field", "cache", "wanted"],
        ["weights", "random:0", "random:1"],
        ["dtype", "float32", "float16"],
    ]


@pytest.mark.parametrize("own_process", [False, True])
def test_verify_of_a_whole_cache(invoke, command, fake_cache, contents, own_process):
    run = command if own_process else invoke
    before = contents(fake_cache.parent)
    done = run("verify", fake_cache, "--json")
    found = done.json
    assert found.keys() >= VERIFY
    assert (found["ok"], found["problems"]) == (True, [])
    assert done.err == ""
    assert run("verify", fake_cache).out == f"{fake_cache}: no problem\n"
    assert contents(fake_cache.parent) == before


@pytest.mark.parametrize("own_process", [False, True])
def test_verify_prints_problems_and_exits_with_1(invoke, command, damaged, own_process):
    run = command if own_process else invoke
    problem = "features/features: rows 0 to 39 are damaged; move the file away and extract the images again"
    done = run("verify", damaged)
    assert (done.code, done.out, done.err) == (1, f"problem: {problem}\n", "")
    done = run("verify", damaged, "--json")
    found = json.loads(done.out)
    assert (done.code, done.err) == (1, "")
    assert (found["ok"], found["problems"]) == (False, [problem])


@pytest.mark.slow
def test_verify_recomputes_rows(invoke, photos, real_cache):
    (photos / "valid" / "red" / "000.png").unlink()
    options = ("--recompute", "40", "--batch-size", "8", "--images", photos)
    found = invoke("verify", real_cache, *options, "--json").json
    assert found.keys() >= RECOMPUTED
    assert (found["ok"], found["problems"], found["recomputed"], found["skipped"]) == (True, [], 39, 1)
    assert 0 <= found["max_relative_error"] < 1e-4
    done = invoke("verify", real_cache, "--recompute", "2", "--batch-size", "8")
    said = [
        line for line in done.err.splitlines() if not line.startswith("verifying: ")
    ]  # a slow machine shows progress
    assert (done.code, said) == (0, ["starting mobilenet_v2 with random:0 weights on openvino"])
    first, last = done.out.splitlines()
    assert re.fullmatch(r"2 rows extracted again: largest relative error \S+", first)
    assert last == f"{real_cache}: no problem"


@pytest.mark.parametrize("own_process", [False, True])
def test_merge(invoke, command, parts, tmp_path, own_process):
    run = command if own_process else invoke
    out = tmp_path / "out.h5"
    done = run("merge", out, *parts, "--json")
    merged = done.json
    assert merged.keys() >= MERGE
    assert (merged["rows"], merged["failures"], merged["classes"]) == (7, 1, ["blue", "red"])
    assert done.err == ""
    assert invoke("verify", out).code == 0
    info = invoke("info", out, "--json").json
    assert (info["rows"], info["splits"], info["classes"]) == (7, {"train": 7}, ["blue", "red"])


def test_merge_in_text(invoke, parts, tmp_path):
    done = invoke("merge", tmp_path / "out.h5", *parts)
    assert (done.code, done.out, done.err) == (0, f"{tmp_path / 'out.h5'}: 7 rows, 1 failure\n", "")


def test_merge_of_a_path_with_two_contents_is_refused(invoke, tmp_path, write_images, contents):
    for seed in range(2):
        write_images(tmp_path / str(seed) / "train" / "red", 2, seed=seed)
        featurecache.extract(tmp_path / str(seed), tmp_path / f"{seed}.h5", backbone=FakeBackbone())
    before = contents(tmp_path)
    done = invoke("merge", tmp_path / "out.h5", tmp_path / "0.h5", tmp_path / "1.h5")
    assert done.code == 1
    assert "train/red/000.png" in done.error
    assert "rename the images of one" in done.error
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_a_cache_is_updated_without_options(command, invoke, photos, real_cache, write_images, tmp_path):
    cache = tmp_path / "c.h5"
    shutil.copyfile(real_cache, cache)
    before = cache.read_bytes()
    assert command("extract", photos, cache, "--json").json["forwarded"] == 0
    assert cache.read_bytes() == before
    write_images(photos / "train" / "green", 2, (30, 200, 30))
    assert invoke("why", photos, cache, "--json").json["compute"] == 2
    assert invoke("extract", photos, cache, "--json").json["forwarded"] == 2
    recipes = [featurecache.FeatureCache.open(path).recipe for path in (cache, real_cache)]
    assert recipes[0] == recipes[1]


def test_why_takes_the_command_line_of_extract(invoke, images, real_cache):
    options = ("--batch-size", "auto", "--workers", "2", "--device", "cpu", "--engine", "keras", "--max-pixels", "1000")
    options += ("--retry-failures", "--replace", "--strict", "--rehash")
    plan = invoke("why", images, real_cache, *REAL, *options, "--json").json
    assert (plan["reuse"], plan["compute"], plan["refused"]) == (40, 0, None)
    refused = invoke("why", images, real_cache, "--filter", "nearest", "--dtype", "float16", "--json").json
    assert refused["refused"] == {"field": "filter", "cache": "bilinear", "wanted": "nearest"}
