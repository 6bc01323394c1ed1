"""What a lesson's text, tables and pictures look like, and where pictures may go."""

import io
import struct

import pytest
from PIL import Image

from featurecache.cli.console.pictures import require_picture, write_picture
from featurecache.cli.lesson.catalog import LESSONS, find_lesson
from featurecache.cli.lesson.lesson_writer import LessonWriter
from featurecache.errors import OutputError, UnknownNameError
from heads.figures.canvas import drawing

SENTENCE = "A network is a chain of matrix products, and between two of them stands a function that is not linear."


@pytest.fixture
def figure():
    with drawing((2.0, 1.0)) as figure:
        figure.text(0.5, 0.5, "a picture")
    return figure


@pytest.fixture
def writer(tmp_path):
    return LessonWriter(tmp_path / "out")


def test_a_paragraph_is_wrapped_at_80_columns_and_followed_by_an_empty_line(writer, capsys):
    writer.say(f"{SENTENCE}\n        {SENTENCE}")
    out = capsys.readouterr().out
    assert out.endswith(".\n\n")
    assert out.split() == f"{SENTENCE} {SENTENCE}".split()
    lengths = [len(line) for line in out.splitlines()]
    assert max(lengths) <= 80
    assert lengths[0] > 70
    assert len(lengths) == 4


def test_words_are_not_broken(writer, capsys):
    writer.say(f"{'x' * 100} well-known")
    assert capsys.readouterr().out == f"{'x' * 100}\nwell-known\n\n"


def test_names_cannot_reach_the_terminal_as_they_are(writer, capsys, hostile):
    writer.say(f"the class {hostile}")
    writer.code("\x1b[31m")
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    assert "\\x1b[31m" in out


def test_code_is_indented_and_else_as_it_is(writer, capsys):
    writer.code("a  =  1\n\n  b  =  2")
    assert capsys.readouterr().out == "    a  =  1\n\n      b  =  2\n\n"


def test_a_table_is_followed_by_an_empty_line(writer, capsys):
    writer.table(("layer", "weights", "kind"), [("fc1", 12, "dense"), ("a", 1, "b")], left=(0, 2))
    assert capsys.readouterr().out == "layer  weights  kind\nfc1         12  dense\na            1  b\n\n"


def test_a_picture_is_a_png_file_in_a_folder_that_is_made_for_it(writer, tmp_path, figure, capsys):
    assert not (tmp_path / "out").exists()
    writer.draw("structure-weights", figure)
    path = tmp_path / "out" / "structure-weights.png"
    assert writer.pictures == [path]
    assert capsys.readouterr().out == f"figure: {path}\n\n"
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (240, 120)


def test_a_picture_replaces_the_one_of_an_earlier_run_and_has_the_same_bytes(writer, tmp_path, figure):
    path = tmp_path / "out" / "a.png"
    writer.draw("a", figure)
    first = path.read_bytes()
    writer.draw("a", figure)
    assert path.read_bytes() == first
    assert [each.name for each in path.parent.iterdir()] == ["a.png"]


def test_a_silent_board_draws_and_says_nothing(tmp_path, figure, capsys):
    writer = LessonWriter(tmp_path / "out", silent=True)
    writer.say(SENTENCE)
    writer.code("x")
    writer.table(("a",), [("b",)])
    writer.draw("a", figure)
    assert capsys.readouterr().out == ""
    assert writer.pictures == [tmp_path / "out" / "a.png"]


def test_a_picture_that_was_not_drawn_here_is_not_replaced(tmp_path, figure):
    path = tmp_path / "cat.png"
    Image.new("RGB", (8, 8)).save(path)
    kept = path.read_bytes()
    with pytest.raises(OutputError, match=r"cat\.png exists already and was not drawn by featurecache"):
        write_picture(path, figure)
    assert path.read_bytes() == kept


def test_one_that_was_drawn_here_and_saved_anew_by_another_program_is_not_replaced(tmp_path, figure):
    path = tmp_path / "a.png"
    write_picture(path, figure)
    require_picture(path)
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        image.save(path)
    with pytest.raises(OutputError, match="was not drawn by featurecache"):
        require_picture(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.jpg", "the suffix .png"), ("folder.png", "it is a directory"), ("nowhere/a.png", "nowhere does not exist")],
)
def test_a_place_that_is_none_for_a_picture(tmp_path, name, words):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=words):
        require_picture(tmp_path / name)


def test_a_folder_that_is_a_file(tmp_path, figure):
    (tmp_path / "out").write_text("text")
    with pytest.raises(OutputError, match="out: it is not a folder; choose one with --out"):
        LessonWriter(tmp_path / "out").draw("a", figure)


@pytest.mark.parametrize(("mode", "words"), [(0o555, "no permission to write"), (0, "permission denied")])
def test_a_folder_that_cannot_be_written(open_folder, figure, unprivileged, mode, words):
    closed = open_folder / "closed"
    closed.mkdir(mode=mode)
    for folder in (closed, closed / "new"):
        with unprivileged(), pytest.raises(OutputError, match=words):
            LessonWriter(folder / "new" if mode == 0 else folder).draw("a", figure)
    assert list(closed.iterdir()) == []


def test_the_lessons_stand_in_the_order_in_which_they_teach():
    assert list(LESSONS) == [
        "structure",
        "matrices",
        "activations",
        "initialisation",
        "gradient-descent",
        "linear-model",
        "filters",
        "epochs",
        "cats-and-dogs",
    ]
    assert [name for name, lesson in LESSONS.items() if lesson.needs_cache] == ["epochs", "cats-and-dogs"]


def test_an_unknown_lesson_names_the_one_that_is_close():
    with pytest.raises(UnknownNameError, match="unknown lesson 'matrixes'; did you mean 'matrices'"):
        find_lesson("matrixes")


def test_pictures_say_that_they_were_drawn_here(tmp_path, figure):
    write_picture(tmp_path / "a.png", figure)
    data = (tmp_path / "a.png").read_bytes()
    length, kind = struct.unpack(">I4s", data[33:41])  # the chunk after the 25 bytes of the header's, per PNG
    assert kind == b"tEXt"
    assert data[41 : 41 + length] == b"Software\0featurecache"
