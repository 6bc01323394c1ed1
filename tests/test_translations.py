"""The Chinese documents keep step with the English ones: the same structure, code, links, commands and numbers."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRANSLATED = ["README.md", "docs/walkthrough.md", "docs/lesson.md"]
HAN = r"[\u4e00-\u9fff]"
_FENCE = re.compile(r"^ *```.*?^ *```$\n", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"\d(?:[\d.,]*\d)?")


@pytest.fixture(params=TRANSLATED)
def pair(request):
    """Return the paths of an English document and of its Chinese version."""
    english = ROOT / request.param
    return english, chinese_of(english)


@pytest.fixture
def texts(pair):
    """Return an English document and its Chinese version."""
    return tuple(path.read_text("utf-8") for path in pair)


def chinese_of(path):
    """Return where the Chinese version of a document is, or would be."""
    return path.with_name(f"{path.stem}.zh-CN.md")


def outline(text):
    """Return what a document is made of, in its order: code, headings, table rows, items of lists and pictures."""
    parts = []
    for piece in re.split(rf"({_FENCE.pattern})", text, flags=_FENCE.flags):
        if _FENCE.fullmatch(piece):
            parts.append(piece)
            continue
        for line in piece.splitlines():
            if found := re.match(r" *(#+|\d+\.|[-*]) ", line):
                parts.append(found[0])
            elif line.startswith("|"):
                parts.append(f"row of {line.count('|') - 1}")
            elif found := re.match(r"!\[.+\]\((.+)\)$", line):
                parts.append(f"picture {found[1]}")
    return parts


def sections(text):
    """Return the prose of each section, code blocks left out."""
    return re.split(r"^#+ ", _FENCE.sub("", text), flags=re.MULTILINE)


def inline_code(prose):
    """Return what is set as code within sentences; where a line is broken in it does not matter."""
    return Counter(" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose))


def targets(prose):
    """Return where links and pictures point to."""
    return re.findall(r"\]\(([^)]+)\)", prose)


def spoken(prose):
    """Return prose without inline code and targets."""
    return re.sub(r"`[^`]+`", "`", re.sub(r"\]\([^)]+\)", "]", prose))


def numbers(prose):
    """Return the numbers that prose says in digits."""
    return Counter(_NUMBER.findall(spoken(prose)))


def test_the_outline_is_the_same(texts):
    english, chinese = map(outline, texts)
    assert chinese == english


def test_every_command_option_and_name_occurs_as_often(texts):
    for english, chinese in zip(*map(sections, texts), strict=True):
        assert inline_code(chinese) == inline_code(english), english


def test_every_row_of_a_table_names_the_same(texts):
    english, chinese = (re.findall(r"^\|.*\|$", text, re.MULTILINE) for text in texts)
    for one, other in zip(english, chinese, strict=True):
        assert inline_code(other) == inline_code(one), one
        assert numbers(one) <= numbers(other), one


def test_every_number_in_digits_is_said(texts):
    for english, chinese in zip(*map(sections, texts), strict=True):
        assert not numbers(english) - numbers(chinese), english


def test_no_number_is_said_that_the_original_does_not_show(texts):
    """What a Chinese section says of its code, and the English one leaves to the code, has no numbers of its own."""
    english, chinese = (_FENCE.sub(lambda code: code[0].replace("#", " "), text) for text in texts)
    for shown, one in zip(re.split(r"^#+ ", english, flags=re.MULTILINE), sections(chinese), strict=True):
        assert set(numbers(one)) <= set(_NUMBER.findall(shown)), set(numbers(one)) - set(_NUMBER.findall(shown))


def test_links_are_the_same_but_for_the_language(texts):
    for english, chinese in zip(*map(sections, texts), strict=True):
        assert sorted(target.replace(".zh-CN.", ".") for target in targets(chinese)) == sorted(
            target.replace(".zh-CN.", ".") for target in targets(english)
        ), english


def test_each_links_to_the_other_below_its_title(pair):
    english, chinese = pair
    assert english.read_text("utf-8").splitlines()[1:4] == ["", f"[中文]({chinese.name})", ""]
    assert chinese.read_text("utf-8").splitlines()[1:4] == ["", f"[English]({english.name})", ""]


def test_chinese_links_stay_in_chinese(pair):
    _, chinese = pair
    for target in targets("\n".join(chinese.read_text("utf-8").splitlines()[4:])):
        other = chinese_of(chinese.parent / target)
        assert not target.endswith(".md") or not other.exists() or ".zh-CN." in target, f"{target}: there is {other}"


def test_chinese_is_set_as_chinese(texts):
    """Full-width punctuation, a space between Chinese and Latin, and lines that break at punctuation, not in a word."""
    prose = _FENCE.sub("", texts[1])
    assert not re.findall(rf".*{HAN}\n *{HAN}.*", prose)
    for line in prose.splitlines():
        said = spoken(line)
        assert not re.search(rf"{HAN}[,;:?!.()\"']|[,;:?!()\"']{HAN}", said), line
        assert not re.search(rf"{HAN}[A-Za-z0-9`]|[A-Za-z0-9%`]{HAN}", said), line
