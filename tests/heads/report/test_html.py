import base64
import hashlib
import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise

import pytest

from heads.report import Fact, FigureBlock, Gallery, GalleryImage, Report, Section, Table, Tone
from heads.report.html import fragment, frame, page
from heads.report.thumbnails import Thumbnail

EMPTY = Report("Nothing", "")
VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}
SVG = '<svg xmlns="http://www.w3.org/2000/svg"/>'


class Document(HTMLParser):
    """What a parser that is not ours finds in a page: elements, their texts, and whether they nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # innermost element, text
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self._open[-1] if self._open else "", data))

    def tags(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]

    def text(self, name):
        return [text for tag, text in self.texts if tag == name]


@pytest.fixture(scope="module")
def hostile_page(hostile_report):
    return page(hostile_report)


@pytest.fixture(scope="module")
def document(hostile_page):
    return Document(hostile_page)


def test_the_same_report_gives_the_same_page(hostile_report, hostile_page):
    assert page(hostile_report) == hostile_page == hostile_report.to_html()


def test_the_page_is_whole_html_and_names_make_no_elements(document):
    tags = Counter(tag for tag, _ in document.elements)

    assert tags["html"] == tags["head"] == tags["body"] == tags["main"] == tags["h1"] == tags["script"] == 1
    assert tags["b"] == tags["i"] == 0
    assert tags["img"] == 29 + 2 + 1  # shots, pictures, and the place for an enlarged one
    assert not [attributes for _, attributes in document.elements if attributes.get("class") == "broken"]


def test_no_attribute_can_hold_code_and_none_is_a_style(document):
    for tag, attributes in document.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert "autofocus" not in attributes


def test_nothing_comes_from_outside(document):
    addresses = [
        value for _, attributes in document.elements for name, value in attributes.items() if name in {"src", "href"}
    ]

    assert addresses
    assert all(re.match(r"data:(image/(jpeg|svg\+xml);base64)?,|#[\w-]+$", address) for address in addresses)


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(hostile_page, document):
    (policy,) = [each["content"] for each in document.tags("meta") if "http-equiv" in each]
    directives = dict(each.split(" ", 1) for each in policy.split("; "))

    assert directives["default-src"] == directives["base-uri"] == directives["form-action"] == "'none'"
    assert directives["img-src"] == "data:"
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", hostile_page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert directives[f"{tag}-src"] == f"'sha256-{digest}'"
    assert len(directives) == 6


def test_what_is_not_printable_is_shown_as_an_escape(hostile_page, document):
    assert "photo\\u202egpj.exe" in hostile_page
    assert "line\\nfeed\\ttab\\x00nul\\x1b[31m" in hostile_page
    assert "lone \\udc80 surrogate" in hostile_page
    assert "\u05d0\u05d1\u05d2 (1).jpg" in hostile_page
    assert all(letter.isprintable() or letter == "\n" for letter in hostile_page)


def test_spaces_that_do_not_break_stay_as_they_are():
    assert "95\u00a0% of 1\u202f000" in page(Report("x", "95\u00a0% of 1\u202f000"))


def test_all_that_comes_from_the_report_is_isolated(hostile_report, document):
    shown = document.text("bdi")
    shots = [shot for gallery in hostile_report.sections[2].blocks for shot in gallery.images]

    assert {"{{ 7 * 7 }}{% raw %}", "&lt;i&gt;&#60;i&#62;", '"><script>window.broken=1</script>'} <= set(shown)
    assert len([text for text in shown if re.match(r"\d\d ", text)]) == len(shots) == 30
    assert len([each for each in document.tags("bdi") if each.get("dir") == "ltr"]) == 30  # paths begin at the left


def test_headings_are_in_order(document):
    levels = [int(tag[1]) for tag, _ in document.elements if re.fullmatch(r"h\d", tag)]

    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_image_says_what_it_shows_and_every_label_and_link_has_its_target(document):
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    targets = [link["href"][1:] for link in document.tags("a")]
    targets += [attributes["aria-labelledby"] for _, attributes in document.elements if "aria-labelledby" in attributes]
    targets += [attributes["for"] for _, attributes in document.elements if "for" in attributes]

    assert len(ids) == len(set(ids))
    assert set(targets) <= set(ids)
    assert all(image["alt"] for image in document.tags("img") if "src" in image)
    assert document.tags("html")[0]["lang"] == "en"


def test_tables_say_what_their_rows_and_columns_are(document):
    scopes = Counter(cell["scope"] for cell in document.tags("th"))

    assert scopes == {"col": 2 * 13, "row": 60}
    assert len(document.tags("caption")) == 1


def test_tone_is_not_told_by_colour_alone(document):
    shown = Counter(text for text in document.text("span") if text in {"✓", "✗", "right", "wrong"})

    assert shown == {"✓": 10, "right": 10, "✗": 10, "wrong": 10}


@pytest.mark.parametrize(
    ("count", "visible", "more"), [(0, 0, []), (50, 50, []), (51, 50, ["1"]), (1234, 50, ["1,184"])]
)
def test_of_a_long_table_the_first_50_rows_are_shown(count, visible, more):
    table = Table(("name", "value"), tuple((f"row {n}", str(n)) for n in range(count)))
    text = page(Report("x", "", sections=(Section("s", (table,)),)))
    before, _, after = text.partition("<details>")

    assert re.findall("<summary>(.*?) more rows", after) == more
    assert len(re.findall(r">row \d+<", before)) == visible
    assert len(re.findall(r">row \d+<", after)) == count - visible


def test_columns_of_words_are_marked():
    table = Table(("name", "value", "word"), (("a", "1", "b"),), left={0, 2})
    document = Document(page(Report("x", "", sections=(Section("s", (table,)),))))

    assert [cell.get("class") for cell in document.tags("th")] == ["words", None, "words", "words"]
    assert [cell.get("class") for cell in document.tags("td")] == [None, "words"]


def test_words_stay_whole_and_paths_break_after_slashes():
    rows = (
        ("cats/cat.4085.jpg", "1"),
        ("a" * 40, "2"),
        ("f" * 64, "3"),
        (f"x/{'a' * 41}.jpg", "4"),
        ("a&/<b>", "5"),
        ("b_" * 21, "6"),
    )
    shot = GalleryImage("valid/cats/cat.4085.jpg", ("line",), (), Tone.GOOD, Thumbnail(b"jpeg", 1, 1))
    text = page(Report("x", "", sections=(Section("s", (Table(("path", "n"), rows), Gallery("g", "", (shot,)))),)))
    document = Document(text)

    assert [cell["class"] for cell in document.tags("th") if cell["scope"] == "row"] == [
        *["words"] * 2,
        *["words long"] * 2,
        "words",
        "words long",
    ]
    assert f"<bdi>{'b_<wbr>' * 20}b_</bdi>" in text
    assert '<bdi dir="ltr">valid/<wbr>cats/<wbr>cat.4085.jpg</bdi>' in text
    assert "<bdi>a&amp;/<wbr>&lt;b&gt;</bdi>" in text


def test_a_missing_thumbnail_says_why(document):
    assert "the file is <gone>" in document.text("span")


def test_only_classes_that_occur_are_offered(document):
    assert document.text("option") == ["all images (30)", "<b>bee</b> (11)", "ant (11)", "cow (11)"]


@pytest.mark.parametrize("classes", [(), ("ant",), ("ant", "ant")])
def test_one_class_needs_no_choice(classes):
    shots = (GalleryImage("a.jpg", ("line",), classes, Tone.GOOD, Thumbnail(b"jpeg", 1, 1)),)
    document = Document(page(Report("x", "", sections=(Section("s", (Gallery("g", "", shots),)),))))

    assert not document.tags("select")
    assert len(document.tags("dialog")) == 1


def test_a_thousand_classes():
    shots = tuple(
        GalleryImage(f"{n}.jpg", (f"line {n}",), (f"class {n}", f"class {n + 1}"), Tone.BAD, Thumbnail(b"jpeg", 1, 1))
        for n in range(999)
    )
    document = Document(page(Report("x", "", sections=(Section("s", (Gallery("g", "", shots),)),))))
    options = [option["value"] for option in document.tags("option")]

    assert options == ["", *map(str, range(1000))]
    assert {number for shot in document.tags("figure") for number in shot["data-classes"].split()} == set(options[1:])


def test_an_empty_report_has_no_controls():
    document = Document(page(EMPTY))

    assert not [tag for tag, _ in document.elements if tag in {"nav", "dialog", "select", "footer", "dl", "table"}]
    assert document.text("title") == ["Nothing"]


@pytest.mark.parametrize(("count", "contents"), [(1, 0), (2, 1)])
def test_more_than_one_section_has_a_list_of_contents(count, contents):
    sections = tuple(Section(f"Section {n}", ()) for n in range(count))

    assert len(Document(page(Report("x", "", sections=sections))).tags("nav")) == contents


def test_pictures_that_follow_each_other_stand_side_by_side():
    picture = FigureBlock(SVG, "caption", "alt")
    document = Document(page(Report("x", "", sections=(Section("s", (picture, picture, "text", picture)),))))

    assert [each["class"] for each in document.tags("div") if each["class"] == "figures"] == ["figures"] * 2
    (source, *_) = [image["src"] for image in document.tags("img")]
    assert base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode() == SVG


def test_a_fragment_has_no_style_and_no_script(hostile_report):
    blocks = [block for section in hostile_report.sections for block in section.blocks]
    text = fragment([*hostile_report.facts, *blocks])
    tags = {tag for tag, _ in Document(text).elements}

    assert not tags & {"style", "script", "b class=broken", "button", "select", "dialog"}
    assert "photo\\u202egpj.exe" in text
    assert text.count("<img ") == 29 + 2
    assert fragment([Fact("Accuracy", "0.9")]).count("Accuracy") == 1


def test_a_frame_holds_the_whole_page(hostile_report, hostile_page):
    (attributes,) = Document(frame(hostile_report)).tags("iframe")

    assert attributes["srcdoc"] == hostile_page
    assert attributes["sandbox"] == "allow-scripts"
    assert unescape(frame(EMPTY)).count("<!DOCTYPE html>") == 1
    assert EMPTY._repr_html_() == frame(EMPTY)


# Colours: WCAG 2.2, success criteria 1.4.3 (text, 4.5) and 1.4.11 (what is not text, 3)


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted([luminance(one), luminance(other)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def palettes() -> list[dict[str, str]]:
    style = files("heads.report").joinpath("templates", "style.css").read_text(encoding="utf-8")
    return [
        dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]


def test_black_on_white_has_the_contrast_that_the_standard_names():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_enough_contrast(scheme):
    colours = palettes()[scheme]

    for text in ("ink", "quiet", "accent", "good", "bad"):
        assert contrast(colours[text], colours["ground"]) >= 4.5, text
    for text in ("ink", "quiet"):
        assert contrast(colours[text], colours["raised"]) >= 4.5, text
    assert contrast(colours["ink"], colours["note"]) >= 4.5
