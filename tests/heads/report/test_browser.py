"""What a report does in a real browser, Chromium: no doubt about escaping, styles and scripts is left to a parser."""

from pathlib import Path

import pytest

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
    return [shot for gallery in galleries for shot in gallery.shots]


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
        page.get_by_label("Show class").select_option(label=f"{name} (11)")
        wanted = [int(shot.path[:2]) for shot in shots if name in shot.classes]
        assert numbers(page) == wanted
        assert page.locator("output").inner_text() == "11 of 30 images"
        empty = page.locator(".nothing").filter(visible=True)
        assert empty.count() == (0 if name == "ant" else 1)

    page.get_by_label("Show class").select_option(label="all (30)")
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
    page.get_by_label("Show class").select_option(label="<b>bee</b> (11)")
    shots = [shot for shot in in_order(hostile_report) if "<b>bee</b>" in shot.classes]
    bees = [int(shot.path[:2]) for shot in shots if shot.thumbnail.jpeg]
    page.get_by_label("Show class").focus()
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

    state = page.evaluate(STATE)
    assert (int(state["focused"][:2]), state["open"]) == (bees[-1], False)  # one goes on where one has looked last
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

    inside.get_by_label("Show class").select_option(label="cow (11)")
    assert inside.locator(".shot").filter(visible=True).count() == 11
    inside.locator(".enlarge").filter(visible=True).first.click()
    assert inside.locator("dialog img").is_visible()
    inside.get_by_role("button", name="Close").click()
    inside.get_by_role("link", name="The end").click()
    inside.locator("#title-4").evaluate(IN_VIEW)
