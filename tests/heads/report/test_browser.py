"""What a report does in a real browser, Chromium: no doubt about escaping, styles and scripts is left to a parser."""

import io
from pathlib import Path

import pytest
from PIL import Image

from heads.report import Gallery, GalleryImage, Report, Section, Table, Tone
from heads.report.thumbnails import Thumbnail

pytestmark = pytest.mark.slow

LIGHT, DARK = "rgb(255, 255, 255)", "rgb(20, 22, 27)"
IN_VIEW = """heading => new Promise((resolve) => new IntersectionObserver(
    (entries) => { if (entries[0].isIntersecting) resolve(true); }).observe(heading))"""
STATE = """() => ({
    focused: document.activeElement.closest(".shot")?.querySelector(".path").textContent ?? null,
    open: document.querySelector("dialog").open,
    shown: document.querySelector(".viewer-caption .path")?.textContent ?? null,
    position: document.querySelector(".position").textContent,
})"""


@pytest.fixture(scope="module")
def file(hostile_report, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(hostile_report.to_html(), encoding="utf-8")
    return path


@pytest.fixture
def visit(open_page, file):
    """Open the report, or another page; see `open_page`."""
    return lambda url=None, **options: open_page(url or file.as_uri(), **options)


def visible_paths(page):
    return page.eval_on_selector_all(
        ".shot", "shots => shots.filter(s => s.checkVisibility()).map(s => s.querySelector('.path').textContent)"
    )


def numbers(page):
    return [int(path[:2]) for path in visible_paths(page)]


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def in_order(hostile_report):
    galleries = hostile_report.sections[2].blocks
    return [shot for gallery in galleries for shot in gallery.images]


def test_names_run_no_script_and_make_no_element(visit):
    page = visit()

    assert page.evaluate("window.broken") is None
    assert page.locator(".broken, b, i, img[src=x], [onerror], [onfocus], [style]").count() == 0
    assert page.locator("script").count() == page.locator("style").count() == 1
    assert page.title() == 'Report on <img src=x onerror="window.broken=1">.jpg'
    assert page.locator("h2 bdi", has_text="<script>window.broken=1</script>").count() == 1


def test_the_browser_itself_would_stop_what_is_not_ours(browser, file):
    page = browser.new_page()
    refused = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(file.as_uri())
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.broken = 1";
        document.body.append(script);
        document.body.setAttribute("style", "color: red");
        new Image().src = "https://example.org/x.png";
    }""")

    assert page.evaluate("window.broken") is None
    assert len([text for text in refused if "Content Security Policy" in text]) >= 3
    page.close()


def test_every_picture_can_be_shown(visit):
    sizes = visit().eval_on_selector_all("img[src]", "images => images.map(i => [i.complete, i.naturalWidth])")

    assert sizes == [[True, 200]] * 2 + [[True, 64]] * 29


def test_shots_of_one_class_are_shown_on_demand(visit, hostile_report):
    page = visit()
    shots = in_order(hostile_report)
    assert page.locator("output").inner_text() == "30 of 30 images"

    for name in ("ant", "<b>bee</b>", "cow"):
        page.get_by_label("Labelled or predicted as").select_option(label=f"{name} (11)")
        wanted = [int(shot.path[:2]) for shot in shots if name in shot.classes]
        assert numbers(page) == wanted
        assert page.locator("output").inner_text() == "11 of 30 images"
        empty = page.locator(".nothing").filter(visible=True)
        assert empty.count() == (0 if name == "ant" else 1)

    page.get_by_label("Labelled or predicted as").select_option(label="all images (30)")
    assert len(numbers(page)) == 30
    assert page.locator(".nothing").filter(visible=True).count() == 0


def test_a_picture_is_enlarged_by_the_mouse(visit):
    page = visit()
    small = page.locator(".enlarge").first.bounding_box()
    page.locator(".enlarge").first.click()
    large = page.locator("dialog img").bounding_box()

    assert page.evaluate("getComputedStyle(document.querySelector('dialog img')).objectFit") == "contain"
    assert large["width"] >= 2 * small["width"]
    assert large["height"] >= 2 * small["height"]
    assert page.evaluate("document.querySelector('dialog img').src === document.querySelector('.enlarge img').src")
    page.get_by_role("button", name="Next image").click()
    assert page.evaluate(STATE)["position"] == "2 of 29"
    page.get_by_role("button", name="Previous image").click()
    assert page.evaluate(STATE)["position"] == "1 of 29"
    page.get_by_role("button", name="Close").click()
    assert not page.evaluate(STATE)["open"]
    page.locator(".enlarge").first.click()
    page.mouse.click(5, 5)
    assert not page.evaluate(STATE)["open"]


def test_a_picture_is_enlarged_by_the_keyboard(visit, hostile_report):
    page = visit()
    page.get_by_label("Labelled or predicted as").select_option(label="<b>bee</b> (11)")
    shots = [shot for shot in in_order(hostile_report) if "<b>bee</b>" in shot.classes]
    bees = [int(shot.path[:2]) for shot in shots if shot.thumbnail.jpeg]
    page.get_by_label("Labelled or predicted as").focus()
    page.keyboard.press("Tab")
    state = page.evaluate(STATE)
    assert (int(state["focused"][:2]), state["open"]) == (bees[0], False)

    page.keyboard.press("Enter")
    assert page.evaluate(STATE)["open"]
    for key, place in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowLeft", 0), ("ArrowLeft", -1)):
        page.keyboard.press(key)
        state = page.evaluate(STATE)
        assert int(state["shown"][:2]) == bees[place]
        assert state["position"] == f"{place % len(bees) + 1} of {len(bees)}"
    page.keyboard.press("Escape")

    last = f"{bees[-1]:02}"  # one goes on where one has looked last
    page.wait_for_function(f"last => (({STATE})().focused ?? '').startsWith(last)", arg=last)
    assert not page.evaluate(STATE)["open"]
    assert page.locator("output").inner_text() == "11 of 30 images"


def test_the_first_stop_of_the_keyboard_leads_to_the_report(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    assert page.locator(".skip").bounding_box()["y"] >= 0

    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_the_rest_of_a_long_table_is_one_step_away(visit):
    page = visit()
    rows = page.locator("tbody tr").filter(visible=True)
    assert rows.count() == 50

    page.get_by_text("10 more rows").click()
    assert rows.count() == 60


def test_light_dark_and_print(visit):
    light, dark = visit(color_scheme="light"), visit(color_scheme="dark")
    filter_of = "getComputedStyle(document.querySelector('.picture img')).filter"
    assert (background(light), background(dark)) == (LIGHT, DARK)
    assert (light.evaluate(filter_of), dark.evaluate(filter_of)) == ("none", "invert(1) hue-rotate(180deg)")

    dark.emulate_media(media="print", color_scheme="dark")
    assert background(dark) == LIGHT
    assert dark.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 39)"
    assert dark.evaluate(filter_of) == "none"
    assert dark.locator(".toolbar, .contents, .skip, dialog").filter(visible=True).count() == 0
    assert len(visible_paths(dark)) == 30


@pytest.mark.parametrize("width", [320, 360, 768, 1280, 1920])
def test_no_page_is_wider_than_the_screen(visit, width):
    page = visit(viewport={"width": width, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".scroll").first.evaluate("box => box.scrollWidth > box.clientWidth")

    page.locator(".enlarge").last.click()
    box = page.locator("dialog").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_javascript_all_is_there(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())

    assert page.locator(".shot").filter(visible=True).count() == 30
    assert page.locator(".shot img").filter(visible=True).count() == 29
    assert page.locator(".toolbar, dialog, .nothing").filter(visible=True).count() == 0
    context.close()


def test_a_frame_in_a_notebook_works_as_the_page_does(visit, hostile_report, tmp_path):
    (tmp_path / "notebook.html").write_text(f"<!DOCTYPE html>{hostile_report._repr_html_()}", encoding="utf-8")
    inside = visit((tmp_path / "notebook.html").as_uri()).frame_locator("iframe")

    inside.get_by_label("Labelled or predicted as").select_option(label="cow (11)")
    assert inside.locator(".shot").filter(visible=True).count() == 11
    inside.locator(".enlarge").filter(visible=True).first.click()
    assert inside.locator("dialog img").is_visible()
    inside.get_by_role("button", name="Close").click()
    inside.get_by_role("link", name="The end").click()
    inside.locator("#title-4").evaluate(IN_VIEW)


# Tables: words, paths, captions and the keyboard

WORDS = """cell => {
    const text = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), broken = [];
    while (text.nextNode()) {
        for (const match of text.currentNode.data.matchAll(/[^\\s\\/-]+/g)) {
            const range = document.createRange();
            range.setStart(text.currentNode, match.index);
            range.setEnd(text.currentNode, match.index + match[0].length);
            if (new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1) broken.push(match[0]);
        }
    }
    return broken;
}"""
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
SCROLLS = "box => box.scrollWidth > box.clientWidth"


def _jpeg():
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> str:
    """The address of a page with a narrow table and a wide one of words, paths and a hash."""
    wide = Table(
        ("labelled", "predicted on predictions", "path", "content", "of the labelled ones"),
        (
            ("golden_retriever_and_labrador", "on-predictions", "valid/cats/cat.4085.jpg", "0123456789abcdef" * 4, "1"),
            ("cats", "dogs", "train/a.jpg", "fedcba9876543210" * 4, "2 %"),
        ),
        "A caption that is much longer than a small screen is wide, and that can be read without scrolling the table.",
        frozenset({0, 1, 2, 3}),
    )
    narrow = Table(("a", "b"), (("1", "2"),), "Narrow")
    shot = GalleryImage("valid/cats/cat.4085.jpg", ("line",), ("cats", "dogs"), Tone.GOOD, Thumbnail(_jpeg(), 64, 48))
    sections = (Section("One", (narrow, wide)), Section("Two", (Gallery("Shots", "", (shot,) * 6),)))
    path = tmp_path_factory.mktemp("tables") / "tables.html"
    path.write_text(Report("Tables", "", sections=sections).to_html(), encoding="utf-8")
    return path.as_uri()


def test_words_of_tables_are_whole_on_a_phone_and_only_hashes_are_broken(visit, tables):
    page = visit(tables, viewport={"width": 390, "height": 740})
    cells = page.locator("th, td")
    broken = {word for at in range(cells.count()) for word in cells.nth(at).evaluate(WORDS)}

    assert broken == {"0123456789abcdef" * 4, "fedcba9876543210" * 4}
    assert [box.evaluate(SCROLLS) for box in page.locator(".scroll").all()] == [False, True]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_caption_wraps_within_the_screen_and_stays_there(visit, tables):
    page = visit(tables, viewport={"width": 390, "height": 740})
    caption, box = page.locator(".caption").last, page.locator(".scroll").last
    before = caption.bounding_box()
    assert before["width"] <= box.bounding_box()["width"]
    assert before["height"] > 30

    box.evaluate("box => { box.scrollLeft = 100; }")
    assert caption.bounding_box()["x"] == before["x"]


def test_only_a_table_that_scrolls_is_a_stop_of_the_keyboard(visit, tables, browser):
    page = visit(tables, viewport={"width": 390, "height": 740})
    narrow, wide = page.locator(".scroll").all()
    page.evaluate(DRAWN)
    assert (narrow.get_attribute("tabindex"), wide.get_attribute("tabindex")) == (None, "0")

    page.set_viewport_size({"width": 1600, "height": 740})
    page.evaluate(DRAWN)
    assert wide.get_attribute("tabindex") is None
    assert not wide.evaluate(SCROLLS)

    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(tables)
    assert page.locator(".scroll[tabindex='0']").count() == 2
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_shadow_tells_that_there_is_more_to_the_right(visit, tables, scheme):
    page = visit(tables, viewport={"width": 390, "height": 740}, color_scheme=scheme)

    def edge(box):
        picture = Image.open(io.BytesIO(box.screenshot())).convert("L")
        return abs(picture.getpixel((picture.width - 2, 1)) - picture.getpixel((picture.width // 2, 1)))

    narrow, wide = page.locator(".scroll").all()
    assert edge(narrow) < 3
    assert edge(wide) > 20
    wide.evaluate("box => { box.scrollLeft = 10000; }")
    assert edge(wide) < 3


def test_file_names_under_thumbnails_are_whole_on_paper(visit, tables):
    page = visit(tables, viewport={"width": 670, "height": 900})
    page.emulate_media(media="print")
    for path in page.locator(".shot .path").all():
        assert path.evaluate(WORDS) == []
