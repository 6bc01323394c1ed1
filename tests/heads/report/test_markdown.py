import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from featurecache.text import visible
from heads.report import Fact, FigureBlock, Gallery, GalleryImage, Report, Section, Table, Tone
from heads.report.markdown import markdown
from heads.report.thumbnails import Thumbnail

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
NONE = Thumbnail(None, 0, 0, "gone")


def read(text: str) -> list:
    """What a parser that is not ours makes of Markdown: its tokens, those in lines included."""
    return [each for token in READER.parse(text) for each in (token, *(token.children or ()))]


def shown(text: str) -> list[str]:
    """The text that a reader sees of each line or cell, without marks."""
    lines = [token.children or [] for token in READER.parse(text) if token.type == "inline"]
    return ["".join(child.content for child in line if child.type.startswith("text")) for line in lines]


def test_a_report_in_full():
    report = Report(
        "Cats and dogs",
        "On 500 images.",
        facts=(Fact("Accuracy", "97.8 %", "96.1 to 98.8 %"), Fact("Log loss", "0.07")),
        warnings=("One.", "Two."),
        sections=(
            Section(
                "Numbers",
                ("Text.", Table(("Class", "n"), (("cat", "1"),), "Counts"), FigureBlock("<svg/>", "c", "An alt")),
            ),
            Section(
                "Galleries",
                (
                    Gallery("Wrong", "Sure of it.", (GalleryImage("a_b.jpg", ("dog 0.9", "cat"), (), Tone.BAD, NONE),)),
                    Gallery("Twice", "", (), "None occurs twice."),
                ),
            ),
        ),
        about=(("Head", "logreg"),),
    )

    assert report.to_markdown() == (
        "# Cats and dogs\n\nOn 500 images.\n\n"
        "| Number | Value | Interval or comparison |\n| :-- | --: | :-- |\n"
        "| Accuracy | **97.8 %** | 96.1 to 98.8 % |\n| Log loss | **0.07** |  |\n\n"
        "> - One.\n> - Two.\n\n"
        "## Numbers\n\nText.\n\nCounts\n\n| Class | n |\n| :-- | --: |\n| cat | 1 |\n\n*An alt*\n\n"
        "## Galleries\n\n### Wrong\n\nSure of it.\n\n"
        "| Image | Labels and predictions |\n| :-- | :-- |\n| a\\_b.jpg | ✗ dog 0.9<br>cat |\n\n"
        "### Twice\n\nNone occurs twice.\n\n## About this report\n\n- Head: logreg\n"
    )


def test_hostile_names_stay_text(hostile_report):
    text = markdown(hostile_report)
    types = {token.type for token in read(text)}
    html = {token.content for token in read(text) if token.type.startswith("html")}

    assert html == {"<br>"}  # ours, between the lines about an image
    assert not types & {"link_open", "image", "code_inline", "code_block", "fence", "html_block", "s_open"}
    assert text == hostile_report.to_markdown() == markdown(hostile_report)
    assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_a_table_has_its_cells_whatever_is_in_them(hostile_report):
    (section,) = [each for each in hostile_report.sections if any(isinstance(block, Table) for block in each.blocks)]
    table = section.blocks[0]
    cells = shown(markdown(Report("x", "", sections=(Section("s", (table,)),))))[3:]

    assert cells == [visible(cell) for row in (table.header, *table.rows) for cell in row]


@given(st.text(st.characters(codec=None), min_size=1).filter(lambda text: visible(text).strip()))
def test_any_text_is_shown_as_it_is_wherever_it_stands(text):
    report = Report(
        text,
        text,
        facts=(Fact(text, "1", text),),
        warnings=(text,),
        sections=(
            Section(text, (text, Table((text,), ((text,),)), FigureBlock("", "", text), Gallery(text, text, (), text))),
        ),
    )
    ours = Counter(["Number", "Value", "Interval or comparison", "1"])

    assert Counter(shown(markdown(report))) == ours + Counter([visible(text).strip()] * 13)


@pytest.mark.parametrize(
    "text",
    [
        "# a",
        "- a",
        "+ a",
        "1. a",
        "12) a",
        "=====",
        "---",
        "    a",
        "> a",
        "a  ",
        "```",
        "~~a~~",
        "a#",
        "[a]: b",
        "-0.5",
        "1.5",
    ],
)
def test_what_begins_a_block_elsewhere_is_text_here(text):
    tokens = READER.parse(markdown(Report("x", text)))

    assert [token.type for token in tokens][3:] == ["paragraph_open", "inline", "paragraph_close"]
    assert shown(markdown(Report("x", text)))[1] == text.strip()


@pytest.mark.parametrize("text", ["https://x.org", "http://x.org", "www.x.org", "WWW.x.org"])
def test_addresses_are_not_made_into_links(text):
    escaped = markdown(Report("x", text))

    assert not re.search(r"://|www\.", escaped, re.IGNORECASE)
    assert shown(escaped)[1] == text
