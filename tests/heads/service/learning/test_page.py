"""The page in a real Chromium: images in, answers and similar images out, labels corrected, heads trained."""

import base64
import csv
import hashlib
import io
import json

import pytest
from axe_playwright_python.sync_playwright import Axe

import featurecache
import heads

pytestmark = pytest.mark.slow

LIGHT, DARK = "rgb(255, 255, 255)", "rgb(20, 22, 27)"
WIDTHS = [320, 390, 768, 1280, 1920]
HOSTILE = '<img src=x onerror="window.broken=1">'
DROP = """([selector, files, type]) => {
    const transfer = new DataTransfer();
    for (const [name, bytes, kind] of files) {
        const content = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
        transfer.items.add(new File([content], name, { type: kind }));
    }
    const event = type === "paste"
        ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
        : new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true });
    document.querySelector(selector).dispatchEvent(event);
}"""


def encoded(path):
    return [path.name, base64.b64encode(path.read_bytes()).decode(), "image/png"]


def cards(page, state=".card-body"):
    return page.locator(f".card:has({state})")


def classify(page, *paths):
    """Choose images, and wait for all answers."""
    before = page.locator(".card").count()
    page.set_input_files("#files", paths)
    page.wait_for_function(
        "count => document.querySelectorAll('.toggle:enabled').length === count", arg=before + len(paths)
    )


def said(page):
    return page.locator("#progress").inner_text()


def answers_of(card):
    """Return the first class and its percentage of every head of a card."""
    return {
        panel.locator("h4").text_content(): (
            panel.locator(".bar-name").first.text_content(),
            panel.locator(".bar-value").first.text_content(),
        )
        for panel in card.locator(".head").all()
    }


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def train(page):
    page.locator("#train").click()
    page.locator("#train:enabled").wait_for(timeout=30_000)
    return page.locator("#job-text").inner_text()


@pytest.fixture
def visit(open_page, service):
    """Open the page of the service, or of another one."""
    return lambda url=None, **options: open_page(url or f"{service.url}/", **{"locale": "en-US"} | options)


# Images in, answers out


def test_every_head_answers_side_by_side(visit, service, place):
    page = visit()
    path = place.image("valid/red/1.png")
    classify(page, path)
    shown = answers_of(page.locator(".card"))

    for name in ("colours", "nearest"):
        head = heads.TrainedHead.load(place.folder / "heads" / name)
        rows = place.cache.features("features")
        probabilities = head.predict_proba(rows.X[rows.paths == "valid/red/1.png"])[0]
        assert shown[name] == (head.classes[probabilities.argmax()], f"{100 * probabilities.max():.1f}%")
        panel = page.get_by_role("group", name=name, exact=True)
        assert panel.locator("code").inner_text() == head.identity[:8]
        width = panel.locator(".fill").first.evaluate("bar => parseFloat(bar.style.width)")
        assert width == pytest.approx(100 * probabilities.max())
    assert page.locator(".network .bar").count() == 5
    assert page.locator(".verdict").inner_text().split("\n") == ["red", "all 2 heads"]
    assert page.get_by_text("in the cache: no pass").count() == 1


def test_a_new_image_costs_a_pass_and_the_second_time_none(visit, place):
    page = visit()
    classify(page, place.folder / "new-red.png")
    assert page.get_by_text("new image: one pass").count() == 1
    classify(page, place.folder / "new-red.png")
    assert page.get_by_text("seen before: no pass").count() == 1


def test_similar_images_come_with_labels_and_thumbnails(visit, place):
    page = visit()
    classify(page, place.image("valid/green/0.png"))
    neighbours = page.locator(".neighbour")
    neighbours.nth(7).wait_for()
    page.wait_for_function("() => document.querySelectorAll('.neighbour img').length === 8")
    [expected] = heads.SimilaritySearch(place.cache, "features").nearest(
        place.cache.features("features").X[place.cache.features("features").paths == "valid/green/0.png"], 8
    )
    for image, shown in zip(expected, neighbours.all(), strict=True):
        assert shown.get_attribute("title") == image.path
        assert shown.inner_text().split() == [image.label, f"{image.similarity:.3f}"]
    widths = page.eval_on_selector_all(".neighbour img", "images => images.map(image => image.naturalWidth)")
    assert widths == [96] * 8


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_images_are_dropped_and_pasted(visit, place, way):
    page = visit()
    page.evaluate(DROP, ["body", [encoded(place.folder / "new-red.png")], way])
    page.locator(".head").first.wait_for()
    assert answers_of(page.locator(".card"))["nearest"][0] == "red"


def test_the_page_shows_that_it_takes_a_drop(visit, place):
    page = visit()
    files = [encoded(place.folder / "new-red.png")]
    page.evaluate(DROP, ["#drop", files, "dragenter"])
    assert page.get_by_text("Let go to classify").is_visible()
    page.evaluate(DROP, ["#drop", files, "dragleave"])
    assert page.get_by_text("Drop images or folders here").is_visible()
    page.evaluate(DROP, ["body", [["notes.txt", "AAAA", "text/plain"]], "drop"])
    page.locator(".verdict.bad").wait_for()


def test_a_folder_gives_its_images_and_nothing_else(visit, place, tmp_path):
    (tmp_path / "some" / "deep").mkdir(parents=True)
    (tmp_path / "some" / "deep" / "a.png").write_bytes(place.image("valid/red/0.png").read_bytes())
    (tmp_path / "some" / "b.png").write_bytes(place.image("valid/blue/0.png").read_bytes())
    (tmp_path / "some" / "notes.txt").write_text("no image")
    page = visit()
    page.set_input_files("#folder", tmp_path / "some")
    page.wait_for_function("() => document.querySelectorAll('.card-body').length === 2")
    assert sorted(page.locator(".toggle").all_inner_texts()) == ["some/b.png", "some/deep/a.png"]


def test_the_camera_takes_a_picture(browser, browser_path, service):
    """Chromium's own fake camera stands for a real one."""
    arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with_camera = browser.browser_type.launch(executable_path=browser_path, args=arguments)
    page = with_camera.new_page(locale="en-US")
    page.goto(f"{service.url}/")
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    page.locator(".head").first.wait_for()
    assert page.locator(".toggle").inner_text() == "camera-1.jpg"
    assert not page.locator("#camera-dialog").is_visible()
    assert page.evaluate("document.querySelector('#video').srcObject") is None
    with_camera.close()


def test_a_camera_that_is_not_there_is_said(visit):
    page = visit()
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_text("The camera cannot be used").wait_for()
    assert page.get_by_role("button", name="Take the picture").is_disabled()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "camera"


def test_unusable_images_say_why_and_the_others_are_answered(visit, place):
    page = visit()
    classify(page, place.folder / "words.png", place.image("valid/red/0.png"))
    assert said(page) == "2 of 2 images, 1 cannot be used"
    bad, good = page.locator(".card").all()
    assert "a text that begins with 'these are words'" in bad.inner_text()
    assert bad.locator(".verdict").inner_text() == "not an image"
    assert answers_of(good)["nearest"][0] == "red"
    bad.get_by_role("button", name="Try again").click()
    page.wait_for_function("() => document.querySelectorAll('.toggle:enabled').length === 2")
    assert said(page) == "2 of 2 images, 1 cannot be used"


def test_many_images_are_answered_in_rows_that_open(visit, place):
    page = visit()
    paths = sorted(place.folder.glob("images/*/*/*.png"))
    classify(page, *paths)
    assert said(page) == f"{len(paths)} of {len(paths)} images"
    assert cards(page).count() == 3
    verdicts = page.locator(".verdict strong").all_text_contents()
    assert sum(verdict == path.parent.name for verdict, path in zip(verdicts, paths, strict=True)) >= 0.9 * len(paths)
    toggle = page.locator(".toggle").nth(10)
    toggle.focus()
    page.keyboard.press("Enter")
    assert (toggle.get_attribute("aria-expanded"), cards(page).count()) == ("true", 4)
    page.keyboard.press("Enter")
    assert (toggle.get_attribute("aria-expanded"), cards(page).count()) == ("false", 3)


def test_results_are_downloaded_as_csv(visit, service, place):
    page = visit()
    classify(page, place.image("valid/red/0.png"), place.folder / "words.png")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    header, *rows = csv.reader(io.StringIO(download.value.path().read_text("utf-8"), newline=""))
    assert download.value.suggested_filename == "predictions.csv"
    assert [*header[:5], header[-1]] == ["path", "sha256", "head", "version", "predicted", "error"]
    assert sorted(header[5:-1]) == ["blue", "green", "red"]
    colours, nearest, bad = (dict(zip(header, row, strict=True)) for row in rows)
    [answer] = service.client.post("predict", content=place.image("valid/red/0.png").read_bytes()).json()["results"]
    for row in (colours, nearest):
        expected = answer["heads"][row["head"]]
        assert (row["path"], row["sha256"], row["version"]) == ("0.png", answer["sha256"], expected["version"])
        assert {name: float(row[name]) for name in expected["probabilities"]} == expected["probabilities"]
    assert (bad["path"], bad["head"]) == ("words.png", "")
    assert "a text that begins with" in bad["error"]


def test_everything_is_cleared(visit, place):
    page = visit()
    classify(page, place.folder / "new-red.png")
    page.get_by_role("button", name="Clear").click()
    assert page.locator(".card").count() == 0
    assert not page.locator("#results").is_visible()
    classify(page, place.folder / "new-red.png")
    assert said(page) == "1 of 1 image"


# Labels and trainings


def test_a_click_corrects_a_label_and_a_second_one_takes_it_back(visit, place):
    page = visit()
    classify(page, place.image("train/red/0.png"))
    table = place.folder / "corrections.csv"
    chip = page.locator(".card .labels").get_by_role("button", name="blue", exact=True)
    chip.click()
    page.get_by_text("0.png is kept as blue. 1 correction.").wait_for()
    assert table.read_text() == "path,label\ntrain/red/0.png,blue\n"
    assert page.locator(".chip[aria-pressed=true]").all_inner_texts() == ["blue"]
    page.locator(".neighbour", has_text="blue ✓").wait_for()
    assert "and 1 correction by click" in page.locator("#training-lead").inner_text()

    page.locator(".card .labels").get_by_role("button", name="green", exact=True).click()
    page.get_by_text("0.png is kept as green. 1 correction.").wait_for()
    assert table.read_text() == "path,label\ntrain/red/0.png,green\n"
    page.locator(".card .labels").get_by_role("button", name="green", exact=True).click()
    page.get_by_text("The correction of 0.png is taken back. 0 corrections.").wait_for()
    assert table.read_text() == "path,label\n"


def test_a_label_is_given_by_the_keyboard_alone(visit, place):
    page = visit()
    classify(page, place.image("train/red/0.png"))
    page.locator(".toggle").focus()
    for _ in range(2):
        page.keyboard.press("Tab")
    name = page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Space")
    page.locator(f".chip[aria-pressed=true]:text-is('{name}')").wait_for()
    assert page.evaluate("document.activeElement.textContent") == name
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "chip"


def test_a_similar_image_is_enlarged_and_corrected(visit, place):
    page = visit()
    classify(page, place.image("valid/red/0.png"))
    second = page.locator(".neighbour").nth(1)
    path = second.get_attribute("title")
    second.click()
    viewer = page.locator("#viewer")
    assert viewer.locator("h2").inner_text() == path
    viewer.get_by_role("button", name="green", exact=True).click()
    viewer.get_by_text("is kept as green").wait_for()
    assert place.folder.joinpath("corrections.csv").read_text() == f"path,label\n{path},green\n"
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    page.locator(".neighbour").nth(1).get_by_text("green ✓").wait_for()


def test_a_class_of_ones_own_is_typed_for_an_image_of_ones_own(visit, place):
    page = visit()
    path = place.folder / "new-red.png"
    classify(page, path)
    page.get_by_role("button", name="Other …").click()
    page.get_by_label("Class", exact=True).fill("  crimson ")
    page.keyboard.press("Enter")
    page.get_by_text("new-red.png is kept as crimson").wait_for()
    assert (place.folder / "corrections" / "train" / f"{digest(path)}.png").read_bytes() == path.read_bytes()
    assert featurecache.read_labels(place.folder / "corrections.csv") == {f"train/{digest(path)}.png": "crimson"}


def test_the_head_is_trained_again_and_its_new_answer_is_shown(visit, service, place):
    """What a person does: correct some labels, train, and see the new version's answer."""
    page = visit()
    reds = [place.image(f"train/red/{number}.png") for number in range(5)]
    classify(page, place.image("valid/red/0.png"), *reds)
    first = answers_of(page.locator(".card").first)
    for card in page.locator(".card").all()[1:]:
        if not card.locator(".chip").count():
            card.locator(".toggle").click()
        card.get_by_role("button", name="Other …").click()
        page.get_by_label("Class", exact=True).fill("crimson")
        page.keyboard.press("Enter")
        card.get_by_text("is kept as crimson").wait_for()
    page.get_by_label("Head", exact=True).fill("nearest")
    assert page.get_by_text("This head is exchanged").is_visible()
    page.get_by_label("Family").select_option("centroid")
    text = train(page)

    version = next(head["version"] for head in service.client.get("heads").json()["heads"] if head["name"] == "nearest")
    assert text.startswith(f"nearest, version {version[:8]}, answers now: 24 training rows, valid accuracy ")
    page.locator(".was", has_text="was red").first.wait_for()
    second = answers_of(page.locator(".card").first)
    assert (first["nearest"][0], second["nearest"][0]) == ("red", "crimson")
    assert first["colours"] == second["colours"]
    assert page.locator(".card").first.locator("code").nth(1).text_content() == version[:8]


def test_the_first_head_is_trained_on_the_page(serve, place, open_page):
    service = serve(place.folder / "none", cache=place.folder / "c.h5", ready=False)
    page = open_page(f"{service.url}/", locale="en-US")
    page.get_by_text("There is no head yet.").wait_for()
    classify(page, place.image("valid/blue/0.png"))
    assert page.locator(".neighbour").count() == 8
    assert page.locator(".head").count() == 0
    page.get_by_label("Family").select_option("centroid")
    page.get_by_label("Head", exact=True).fill("first")
    assert "first, version" in train(page)
    page.locator(".head").wait_for()
    assert answers_of(page.locator(".card"))["first"][0] == "blue"
    assert not page.locator("#banner").is_visible()


def test_a_training_is_watched_and_cancelled(visit):
    page = visit()
    page.route(
        "**/train",
        lambda route: route.continue_(
            post_data=json.dumps({"family": "softmax", "parameters": {"epochs": 100_000, "patience": 0}})
        ),
    )
    page.locator("#train").click()
    page.wait_for_function("() => /^epoch \\d+, loss /.test(document.querySelector('#job-text').textContent)")
    assert page.locator("#job-bar").evaluate("bar => bar.max") == 100_000
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("The training was cancelled; nothing has changed.").wait_for()
    assert page.locator("#train").is_enabled()


def test_a_training_that_fails_says_why(visit, place):
    (place.folder / "corrections.csv").write_text(
        "path,label\n" + "".join(f"{path},one\n" for path in place.cache.features("features").paths)
    )
    page = visit()
    assert "The training failed: all 24 training rows are of the class 'one'" in train(page)


def test_a_name_that_is_none_is_not_sent(visit, service):
    page = visit()
    page.get_by_label("Head", exact=True).fill("../x")
    page.locator("#train").click()
    page.get_by_text("Letters, digits, dot, dash and underscore.").wait_for()
    assert service.client.get("jobs").json() == {"jobs": []}


# Trouble


def test_names_and_labels_become_no_markup(serve, place, open_page, tmp_path):
    evil = tmp_path / f"{HOSTILE}.png".replace("/", "")
    evil.write_bytes(place.folder.joinpath("new-red.png").read_bytes())
    labels = {path: HOSTILE for path in place.cache.features("features").paths if "red" in path}
    heads.train(place.cache, "centroid", tap="features", labels=labels).save(place.folder / "heads" / "evil")
    service = serve(place.folder / "heads", cache=place.folder / "c.h5")
    page = open_page(f"{service.url}/", locale="en-US")
    classify(page, evil)
    page.get_by_role("button", name=HOSTILE, exact=True).first.click()
    page.get_by_text("is kept as").wait_for()

    assert page.evaluate("window.broken") is None
    assert page.locator("[onerror], img[src=x]").count() == 0
    assert page.locator(".toggle").inner_text() == evil.name
    assert answers_of(page.locator(".card"))["evil"][0] == HOSTILE


def test_the_browser_itself_would_stop_what_is_not_ours(browser, service):
    page = browser.new_page()
    refused = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(f"{service.url}/")
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.broken = 1";
        document.body.append(script);
        document.body.setAttribute("style", "color: red");
        new Image().src = "https://example.org/x.png";
        fetch("https://example.org/").catch(() => {});
    }""")
    assert page.evaluate("window.broken") is None
    assert len([text for text in refused if "Content Security Policy" in text]) >= 4
    page.close()


def test_a_token_is_asked_for_until_it_is_right(serve, place, open_page):
    service = serve(place.folder / "heads", cache=place.folder / "c.h5", token=b"correct horse battery")
    page = open_page(f"{service.url}/", locale="en-US")
    dialog = page.locator("#token-dialog")
    for token in ("wrong", "correct horse battery"):
        dialog.wait_for()
        page.get_by_role("textbox", name="Token").fill(token)
        page.get_by_role("button", name="Continue").click()
    page.get_by_text("2 heads").wait_for()
    assert not page.get_by_role("link", name="API").is_visible()  # a link cannot send the token
    classify(page, place.image("valid/red/0.png"))
    page.wait_for_function("() => document.querySelectorAll('.neighbour img').length === 8")
    page.reload()
    page.get_by_text("2 heads").wait_for()
    assert not dialog.is_visible()


def test_a_busy_service_is_asked_again(visit, place):
    page = visit()
    busy = [{"status": 429, "headers": {"Retry-After": "1"}, "json": {"error": {"code": "overloaded", "message": "-"}}}]
    page.route("**/predict", lambda route: route.fulfill(**busy.pop()) if busy else route.continue_())
    page.set_input_files("#files", place.image("valid/red/0.png"))
    page.get_by_text("The service is busy; the page asks again in 1 s.").wait_for()
    page.locator(".head").first.wait_for()
    assert busy == []


def test_a_service_that_is_gone_is_said_and_missed_no_longer_when_it_is_back(visit, place):
    page = visit()
    page.route("**/predict", lambda route: route.abort())
    page.route("**/heads", lambda route: route.abort())
    classify(page, place.image("valid/red/0.png"))
    assert page.get_by_role("alert").inner_text() == "The service does not answer. Is it still running?"
    page.unroute("**/predict")
    page.unroute("**/heads")
    page.get_by_role("button", name="Try again").click()
    page.locator(".head").first.wait_for()
    page.locator("#banner").wait_for(state="hidden")


def test_a_service_that_is_not_ready_says_why(serve, place, open_page):
    (place.folder / "heads" / "nearest" / "head.json").write_text("{}")
    page = open_page(f"{serve(place.folder / 'heads', ready=False).url}/", locale="en-US")
    page.get_by_text("The service is not ready: the head nearest failed to load: the head").wait_for()
    classify(page, place.folder / "new-red.png")
    assert answers_of(page.locator(".card"))["colours"][0] == "red"
    assert page.get_by_role("link", name="API").is_visible()


def test_without_a_cache_nothing_of_it_is_offered(serve, place, open_page):
    service = serve(place.folder / "heads")
    page = open_page(f"{service.url}/", locale="en-US")
    classify(page, place.folder / "new-red.png")
    assert answers_of(page.locator(".card"))["nearest"][0] == "red"
    assert page.locator(".labels, .similar, #training:visible").count() == 0


# Languages, layouts, people


def test_the_language_is_the_browsers_and_a_switch_changes_all(visit, place):
    page = visit(locale="zh-CN")
    assert page.get_by_role("heading", level=1).inner_text() == "一次询问所有分类头"
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    classify(page, place.image("valid/red/0.png"))
    assert said(page) == "已完成 1 / 1 张"
    page.get_by_role("button", name="English").click()
    assert said(page) == "1 of 1 image"
    assert page.get_by_text("Answers of the heads").is_visible()
    page.reload()
    assert page.get_by_role("heading", level=1).inner_text() == "Ask every head at once"
    assert page.evaluate("document.documentElement.lang") == "en"


def test_every_text_is_there_in_both_languages_and_no_other(visit):
    page = visit()
    shapes = page.evaluate("""async () => {
        const { MESSAGES } = await import("/static/messages.js");
        const shape = (texts) => Object.entries(texts).flatMap(([key, text]) =>
            typeof text === "object" ? shape(text).map((inner) => `${key}.${inner}`) : [`${key} ${typeof text}`]);
        return Object.values(MESSAGES).map(shape);
    }""")
    assert shapes[0] == shapes[1]
    named = page.eval_on_selector_all(
        "[data-text], [data-label]", "all => all.map(e => e.dataset.text ?? e.dataset.label)"
    )
    assert set(named) <= {key.split()[0] for key in shapes[0]}


def test_light_and_dark(visit):
    for scheme, ground in (("light", LIGHT), ("dark", DARK)):
        page = visit(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_screen(visit, place, width):
    page = visit(viewport={"width": width, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    classify(page, place.image("valid/red/0.png"), place.folder / "words.png")
    page.locator(".neighbour").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#viewer").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


def test_the_first_stop_of_the_keyboard_leads_to_the_results(visit, place):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    classify(page, place.image("valid/red/0.png"))
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "results"


def faults(page):
    """Return what axe finds, one line each."""
    found = Axe().run(page).response["violations"]
    return [f"{fault['impact']}: {fault['id']}: {node['html']}" for fault in found for node in fault["nodes"]]


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_no_fault(visit, place, scheme, width, locale):
    page = visit(color_scheme=scheme, viewport={"width": width, "height": 900}, locale=locale)
    page.emulate_media(reduced_motion="reduce")
    page.locator("#training").wait_for()
    assert faults(page) == []
    classify(page, place.image("valid/red/0.png"), place.folder / "words.png", place.folder / "new-blue.png")
    page.wait_for_function("() => document.querySelectorAll('.neighbour img').length === 16")
    page.locator(".chip").first.click()
    page.locator(".chip[aria-pressed=true]").wait_for()
    assert faults(page) == []
    page.locator(".neighbour").first.click()
    page.locator("#viewer").wait_for()
    assert faults(page) == []


def test_axe_would_find_a_fault(visit):
    page = visit()
    page.locator("#training").wait_for()
    page.evaluate("document.querySelector('label[for=train-name]').remove()")
    assert any("label" in fault for fault in faults(page))
