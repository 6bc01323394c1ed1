"""Reports as a person asks for them: evaluate, compare, audit, curve."""

import json
import re
import shutil

import pytest

pytestmark = pytest.mark.slow

CURVE = {"points", "forecast", "head", "tap"}


@pytest.fixture(scope="module")
def other_head(tmp_path_factory, invoke, fake_cache):
    directory = tmp_path_factory.mktemp("other") / "majority"
    done = invoke("train", fake_cache, directory, "--head", "majority", "--tap", "features")
    assert done.code == 0, done.err
    return directory


@pytest.fixture(scope="module")
def reports(tmp_path_factory, invoke, fake_head, other_head, fake_cache):
    """Return the output and the file of every kind of report in every format."""
    folder = tmp_path_factory.mktemp("reports")
    commands = {
        "evaluate": (fake_head, fake_cache),
        "compare": (fake_head, other_head, fake_cache),
        "audit": (fake_cache, "--tap", "features"),
        "curve": (fake_cache, "--tap", "features"),
    }
    made = {}
    for name, arguments in commands.items():
        for suffix in ("html", "md", "json"):
            path = folder / f"{name}.{suffix}"
            done = invoke(name, *arguments, "--report", path)
            assert done.code == 0, done.err
            assert done.out.endswith(f"\nreport: {path}\n")
            made[name, suffix] = done, path
    return made


@pytest.mark.parametrize("name", ["evaluate", "compare", "audit", "curve"])
def test_a_page_holds_all_that_it_needs(reports, name):
    _, path = reports[name, "html"]
    text = path.read_text("utf-8")
    assert path.stat().st_size < 5_000_000
    assert text.count("<h1") == 1
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sources
    assert all(each.startswith(("data:", "#")) for each in sources)
    assert "@import" not in text
    assert str(path.parent) not in text


@pytest.mark.parametrize("name", ["evaluate", "compare", "audit", "curve"])
@pytest.mark.parametrize("width", [1280, 360])
def test_a_page_opens_in_a_real_browser(reports, open_page, name, width):
    page = open_page(reports[name, "html"][1].as_uri(), viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "images => images.filter(image => !(image.complete && image.naturalWidth)).length"
    assert page.eval_on_selector_all("main img", broken) == 0
    assert page.eval_on_selector_all("main img", "images => images.filter(image => !image.alt).length") == 0
    if name != "evaluate":
        return
    page.get_by_label("Labelled or predicted as").select_option(index=1)
    shown = page.eval_on_selector_all(".shot", "shots => shots.filter(s => s.checkVisibility()).length")
    assert 0 < shown < page.locator(".shot").count()
    page.locator(".shot button:visible").first.click()
    assert page.locator("dialog[open] img").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_galleries_show_the_files(reports):
    text = reports["evaluate", "html"][1].read_text("utf-8")
    assert text.count("data:image/jpeg;base64,") >= 12
    assert "valid/red/000.png" in text


@pytest.mark.parametrize("name", ["evaluate", "compare", "audit", "curve"])
def test_a_report_as_json_holds_the_numbers(reports, invoke, name):
    _, path = reports[name, "json"]
    data = json.loads(path.read_text("utf-8"))
    assert data["format"] == "featurecache report"
    keys = {
        "evaluate": {"n", "accuracy", "intervals", "per_class", "confusion"},
        "compare": {"heads", "pairs"},
        "audit": {"label_errors", "duplicates"},
        "curve": {"points", "forecast"},
    }
    assert data.keys() >= keys[name] | {"title", "galleries"}


@pytest.mark.parametrize("name", ["evaluate", "compare", "audit", "curve"])
def test_a_report_as_markdown_has_headings_and_tables(reports, name):
    text = reports[name, "md"][1].read_text("utf-8")
    assert re.search(r"^# ", text, re.MULTILINE)
    assert re.search(r"^## ", text, re.MULTILINE)
    assert re.search(r"^\| ?---|^\| ?:?-+", text, re.MULTILINE)
    assert "data:" not in text


@pytest.mark.parametrize("suffix", ["html", "md", "json"])
def test_the_same_input_gives_the_same_bytes_and_replaces_the_old_report(
    reports, command, invoke, tmp_path, fake_head, fake_cache, suffix
):
    path = tmp_path / f"again.{suffix}"
    shutil.copy(reports["compare", suffix][1], path)
    run = command if suffix == "html" else invoke  # another process numbers nothing otherwise either
    done = run("evaluate", fake_head, fake_cache, "--report", path)
    assert done.code == 0, done.err
    assert path.read_bytes() == reports["evaluate", suffix][1].read_bytes()


def test_images_that_were_moved_are_pointed_at(invoke, tmp_path, images, fake_head, fake_cache):
    import featurecache
    from featurecache.backbones.fake import FakeBackbone

    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(images, old)
    cache = tmp_path / "moved.h5"
    featurecache.extract(old, cache, backbone=FakeBackbone())
    old.rename(new)
    path = tmp_path / "r.html"
    done = invoke("evaluate", fake_head, cache, "--report", path)
    assert done.code == 0
    assert "could not be shown" in done.err
    assert "--images ROOT" in done.err
    assert "data:image/jpeg" not in path.read_text("utf-8")
    done = invoke("evaluate", fake_head, cache, "--report", path, "--images", new)
    assert done.err == ""
    assert "data:image/jpeg" in path.read_text("utf-8")
    done = invoke("evaluate", fake_head, cache, "--report", path, "--no-thumbnails")
    assert done.err == ""
    assert "data:image/jpeg" not in path.read_text("utf-8")


def test_predictions_as_json_lines(invoke, tmp_path, fake_head, fake_cache):
    for _ in range(2):  # the second table replaces the first
        done = invoke("evaluate", fake_head, fake_cache, "--predictions", tmp_path / "table.jsonl")
        assert done.code == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 12
    assert rows[0]["path"] == "valid/blue/000.png"
    assert set(rows[0]["probabilities"]) == {"blue", "red"}


def test_compare_prints_promised_keys(invoke, fake_head, other_head, fake_cache):
    found = invoke("compare", fake_head, other_head, fake_cache, "--json").json
    assert [each["head_dir"] for each in found["heads"]] == [str(fake_head), str(other_head)]
    assert all(each["accuracy"].keys() == {"value", "low", "high"} for each in found["heads"])
    (pair,) = found["pairs"]
    assert pair.keys() >= {"a", "b", "p_value"}
    assert (pair["a"], pair["b"]) == (str(fake_head), str(other_head))


def test_audit_prints_promised_keys(invoke, fake_cache):
    found = invoke("audit", fake_cache, "--json").json
    assert found.keys() >= {"label_errors", "duplicates"}
    assert all(each.keys() >= {"path", "given", "suggested", "score"} for each in found["label_errors"])
    assert all(each.keys() >= {"a", "b", "kind", "similarity", "conflict"} for each in found["duplicates"])


def test_curve_prints_promised_keys(invoke, fake_cache):
    found = invoke("curve", fake_cache, "--json").json
    assert found.keys() >= CURVE
    assert found["points"]
    assert all(each["accuracy"].keys() == {"value", "low", "high"} for each in found["points"])


def test_curve_says_in_words_what_more_labels_would_buy(reports):
    done, _ = reports["curve", "html"]
    assert re.search(r"^labels +accuracy +95 % interval +runs$", done.out, re.MULTILINE)
    assert "labels" in done.out.rpartition("\n\n")[0].rpartition("\n\n")[2]


def test_hostile_names_of_classes_are_only_text(invoke, tmp_path, write_images, hostile):
    import featurecache
    from featurecache.backbones.fake import FakeBackbone

    names = ("<img src=x onerror=alert(1)>", "$a_b$|`*", hostile, "\u202egnp.exe")
    for number, name in enumerate(names):
        write_images(tmp_path / "photos" / name.replace("/", "_"), 6, (60 * number, 200, 30), seed=number)
    cache, head = tmp_path / "c.h5", tmp_path / "head"
    featurecache.extract(tmp_path / "photos", cache, backbone=FakeBackbone())
    assert invoke("train", cache, head, "--tap", "features", "--holdout", "0.4").code == 0
    for suffix in ("html", "md"):
        done = invoke("evaluate", head, cache, "--report", tmp_path / f"r.{suffix}")
        assert done.code == 0, done.err
        text = (tmp_path / f"r.{suffix}").read_text("utf-8")
        assert not re.search(r"(?<!\\)<img src=x", text)
        assert "\x1b" not in text
        assert "\x07" not in text


def test_an_unlabelled_cache_is_audited_for_copies_only(invoke, tmp_path, write_images, fake_head):
    import featurecache
    from featurecache.backbones.fake import FakeBackbone

    write_images(tmp_path / "photos", 12)
    shutil.copy(tmp_path / "photos" / "000.png", tmp_path / "photos" / "copy.png")
    cache = tmp_path / "c.h5"
    featurecache.extract(tmp_path / "photos", cache, backbone=FakeBackbone())
    done = invoke("audit", cache, "--near", "1", "--report", tmp_path / "r.html")
    assert done.code == 0, done.err
    assert "labels were not checked" in done.out
    assert "2 images in 1 group of duplicates: 0 across splits" in done.out
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "13 images, whose labels were not checked" in page
    assert "most probably what its label says" not in page
    assert "no labelled rows" in invoke("evaluate", fake_head, cache).error


def test_rows_that_trained_the_head_are_told(invoke, tmp_path, fake_head, fake_cache):
    done = invoke("evaluate", fake_head, fake_cache, "--split", "train", "--report", tmp_path / "r.md")
    assert done.err == "warning: all 28 rows trained the head: it is better on them than on new images\n"
    assert "train images of" in (tmp_path / "r.md").read_text("utf-8")
