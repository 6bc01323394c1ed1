"""What all pictures have in common, and how they become SVG."""

import io
import json
import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from heads import figures
from heads.epochs import Epoch
from heads.evaluation.compare import Comparison
from heads.evaluation.evaluate import evaluate_table
from heads.figures.style import shown

pytestmark = pytest.mark.slow

_SVG = "{http://www.w3.org/2000/svg}"
_DRAW = """
import hashlib, json, sys
import numpy as np
from heads import figures
from heads.evaluation.predictions import PredictionsTable
lazy = not {"matplotlib", "sklearn"} & set(sys.modules)
probabilities = np.random.default_rng(0).dirichlet(np.ones(3), size=200)
names = np.array([f"{row}" for row in range(200)], dtype=object)
table = PredictionsTable(names, names, np.arange(200) % 3, probabilities, ("a", "b", "c"))
svg = figures.to_svg(figures.reliability_diagram(table)) + figures.to_svg(figures.probability_histogram(table))
digest = hashlib.sha256(svg.encode()).hexdigest()
"""


def texts(svg):
    return ["".join(each.itertext()) for each in ET.fromstring(svg).iter(f"{_SVG}text")]  # noqa: S314


def pictures(table, features):
    yield figures.confusion_matrix(table)
    yield figures.confusion_matrix(table, normalize=True)
    yield figures.roc_curves(table)
    yield figures.precision_recall_curves(table)
    yield figures.reliability_diagram(table)
    yield figures.probability_histogram(table)
    yield figures.feature_map(features)
    yield figures.epochs([Epoch(1, 0.5, 0.8, None, None)], kept=1)
    evaluation = evaluate_table(table)
    yield figures.accuracies(Comparison({table.classes[0]: evaluation, "$b$": evaluation}, ()))


@pytest.fixture(scope="module")
def hostile_pictures(blobs, make_features, hostile_table):
    return [*pictures(hostile_table, make_features(*blobs(60, 5, 4), classes=hostile_table.classes))]


def test_hostile_names_are_text_and_nothing_else(hostile_pictures):
    seen = set()
    for figure in hostile_pictures:
        svg = figures.to_svg(figure)
        assert svg.startswith("<svg")
        assert svg.rstrip().endswith("</svg>")
        root = ET.fromstring(svg)  # noqa: S314
        assert not [each for each in root.iter() if each.tag in {f"{_SVG}b", f"{_SVG}script"}]
        assert "viewBox" in root.attrib
        seen |= {
            text for text in texts(svg) for name in (r"_a$x$\n", "<b onload", r"\u202eevil\x00", "日本") if name in text
        }
        for text in (figure.alt, figure.caption):
            assert text
            assert text.isprintable()
    assert any(r"_a$x$\n" in text for text in seen)
    assert any("<b onload" in text for text in seen)
    assert any("日本\\ud800" in text for text in seen)


def pixels(figure, **options):
    with io.BytesIO() as stream:
        figure.savefig(stream, format="png", dpi=30, **options)
        return np.asarray(Image.open(stream).convert("RGBA"))


def test_a_figure_shows_itself_in_a_notebook_and_its_ground_is_white_there_and_in_files(hostile_pictures):
    for figure in hostile_pictures:
        in_notebook = figure._repr_png_()
        assert in_notebook.startswith(b"\x89PNG")
        for shown_pixels in (np.asarray(Image.open(io.BytesIO(in_notebook)).convert("RGBA")), pixels(figure)):
            assert (shown_pixels[..., 3] == 255).all()
            assert shown_pixels[0, 0].tolist() == [255, 255, 255, 255]
        with mpl.rc_context({"savefig.facecolor": "black", "savefig.transparent": True}):
            assert (pixels(figure) == pixels(figure, transparent=False)).all()


def test_a_report_sees_through_a_figures_ground_and_its_legends(draw_table, tmp_path, open_page):
    svg = figures.to_svg(figures.roc_curves(draw_table(60, 3)))
    (tmp_path / "page.html").write_text(f"<body style='background: rgb(0, 128, 0)'>{svg}", encoding="utf-8")
    page = open_page((tmp_path / "page.html").as_uri())
    seen = np.asarray(Image.open(io.BytesIO(page.locator("svg").screenshot())).convert("RGB"))
    assert ((seen == (0, 128, 0)).all(axis=2)).mean() > 0.8
    assert not (seen == 255).all(axis=2).any()


@pytest.mark.parametrize(("k", "letter"), [(2, "W"), (10, "a "), (30, "W")])
def test_no_text_is_cut(blobs, make_features, draw_table, k, letter):
    classes = tuple(f"{letter * 40:.37}{each:03}" for each in range(k))
    table = draw_table(300, k, sharp=1.0, classes=classes)
    features = make_features(*blobs(300, 5, k), classes=classes)
    drawn = [*pictures(table, features), figures.feature_map(features, table.predicted)]
    for figure in drawn:
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert min(box.x0, box.y0) >= 0, figure.alt
        assert box.x1 <= width, figure.alt
        assert box.y1 <= height, figure.alt


def test_settings_of_the_user_change_nothing_and_are_left_alone(draw_table):
    table = draw_table(60, 3)
    expected = figures.to_svg(figures.roc_curves(table))
    with mpl.rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "path", "text.parse_math": True}):
        before = dict(mpl.rcParams)
        assert figures.to_svg(figures.roc_curves(table)) == expected
        assert dict(mpl.rcParams) == before


def test_a_figure_is_drawn_in_its_own_style_by_whoever_saves_it(draw_table):
    def saved(figure):
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=60)
        return stream.getvalue()

    table = draw_table(60, 3)
    expected = saved(figures.probability_histogram(table))
    with mpl.rc_context({"font.sans-serif": ["DejaVu Serif"], "xtick.labelsize": 30}):
        assert saved(figures.probability_histogram(table)) == expected


def test_a_figure_that_was_shown_is_still_written_the_same(hostile_pictures):
    for figure in hostile_pictures:
        before = figures.to_svg(figure)
        assert figure._repr_png_()
        assert figures.to_svg(figure) == before


def test_a_figure_is_laid_out_without_drawing_and_drawn_once_for_a_file(draw_table, monkeypatch):
    from matplotlib.figure import Figure

    draw, drawn = Figure.draw, []
    monkeypatch.setattr(Figure, "draw", lambda figure, renderer: drawn.append(figure) or draw(figure, renderer))
    figure = figures.roc_curves(draw_table(40, 2))
    assert drawn == []
    figures.to_svg(figure)
    assert drawn == [figure]


def test_ids_of_two_figures_in_one_page_differ_and_all_that_is_referred_to_is_there(hostile_pictures):
    all_ids = []
    for figure in hostile_pictures:
        svg = figures.to_svg(figure)
        ids = [each.attrib["id"] for each in ET.fromstring(svg).iter() if "id" in each.attrib]  # noqa: S314
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', svg)) <= set(ids)
        all_ids += ids
    assert len(all_ids) == len(set(all_ids)) > 20


def test_another_process_draws_the_same_bytes_and_imports_matplotlib_late_and_pyplot_never(fresh_python):
    here: dict[str, object] = {}
    exec(_DRAW, here)  # noqa: S102
    there = fresh_python(f"{_DRAW}print(json.dumps([digest, lazy, 'matplotlib.pyplot' in sys.modules]))")
    assert json.loads(there) == [here["digest"], True, False]


def test_another_name_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = figures.nonsense


def test_there_is_no_date_and_no_version_in_it(draw_table):
    svg = figures.to_svg(figures.reliability_diagram(draw_table(60, 3)))
    assert "metadata" not in svg
    assert mpl.__version__ not in svg


def test_no_picture_of_25000_rows_is_large(draw_table):
    table = draw_table(25_000, 10)
    drawn = [
        figures.confusion_matrix(table),
        figures.roc_curves(table),
        figures.precision_recall_curves(table),
        figures.reliability_diagram(table),
        figures.probability_histogram(table),
    ]
    assert max(len(figures.to_svg(figure)) for figure in drawn) < 100_000


def test_a_long_name_loses_its_middle():
    assert shown("a" * 30 + "b" * 30, 9) == "aaaa…bbbb"
    assert shown("a" * 9, 9) == "a" * 9
