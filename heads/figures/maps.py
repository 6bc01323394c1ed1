"""A map of features: rows as points in the plane, near each other if their features are alike."""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heads.errors import EvaluationError, ParameterError
from heads.figures.style import BLUE, COLOURS, FAINT, GREY, INK, VERMILION, shown
from heads.rows import first_not_finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

    from featurecache.feature_set import FeatureSet
    from heads.figures.canvas import ReportFigure

    Floats: TypeAlias = NDArray[np.float64]
    Method: TypeAlias = Literal["pca", "tsne"]

_METHODS = ("pca", "tsne")
_CIRCLES = 5  # classes that are drawn as circles; others are triangles
_COMPONENTS = 50  # what t-SNE is given, as its authors do
_PERPLEXITY = 30.0
_FEW_WRONG = 60  # rings that do not hide what they mark
_FEWEST = 5  # rows that t-SNE can place


@dataclass(frozen=True, slots=True, eq=False)
class _Kind:
    """Points that look alike: which rows they are, shape (n,), their colour and marker, and what they are called."""

    points: NDArray[np.bool_]
    colour: str
    marker: str
    name: str


def feature_map(
    features: FeatureSet,
    predicted: NDArray[np.int64] | None = None,
    *,
    method: Method = "pca",
    limit: int = 2000,
    seed: int = 0,
) -> ReportFigure:
    """Draw rows as points in the plane, coloured by class.

    Ten colours are all that can be told apart. With more classes, points are coloured by whether the head is right
    about them; if no head has spoken, the nine classes with the most rows have colours, and all others are grey.

    Parameters
    ----------
    features
        The rows; their features may be a memory map, of which no more than ``limit`` rows are read.
    predicted
        The class index that a head says for each row, shape (n,); rows where it is not the true one are ringed, or
        with more than ten classes coloured.
    method
        ``"pca"``: the two directions in which the rows differ most. ``"tsne"``: neighbours near each other (L. van der
        Maaten and G. Hinton, "Visualizing data using t-SNE", 2008), on 50 principal components; some ten seconds for
        2,000 rows.
    limit
        The most rows that are drawn: those with the lowest SHA-256 of ``SEED:PATH``.
    seed
        What the choice of rows follows from, and what either method draws at random.

    Raises
    ------
    ParameterError
        If there is no such method, or ``limit`` is below 1.
    EvaluationError
        If a row's features are not finite; names the image.
    """
    from heads.figures.canvas import drawing, legend, said

    if method not in _METHODS or limit < 1:
        raise ParameterError(f"method is {method!r} and limit {limit}, expected pca or tsne, and at least 1")
    rows = _chosen(features, limit, seed)
    if len(rows) < (_FEWEST if method == "tsne" else 1):
        return said(f"No map of the features: there are {len(rows)} rows.")
    places, explained = _places(features, rows, method, seed)
    wrong = None if predicted is None else (predicted[rows] != features.y[rows]) & (features.y[rows] >= 0)
    y = features.y[rows]
    many = len(np.unique(y[y >= 0])) > len(COLOURS)
    kinds = _kinds(y, features.classes) if wrong is None or not many else _by_correctness(y, wrong)
    with drawing((6.0, 4.9)) as figure:
        axes = figure.subplots()
        handles = [_draw(axes, places, kind) for kind in reversed(kinds)][::-1]
        names = [kind.name for kind in kinds]
        if wrong is not None and wrong.any() and not many:
            handles.append(_ring(axes, places[wrong]))
            names.append(f"wrong ({np.count_nonzero(wrong):,})")
        _label_axes(axes, explained)
        legend(figure, handles, names, "outside lower center")
    drawn = f"{len(rows):,} of {len(features):,} rows" if len(rows) < len(features) else f"{len(rows):,} rows"
    _describe(figure, drawn, explained, wrong, by_correctness=many and wrong is not None)
    return figure


def _chosen(features: FeatureSet, limit: int, seed: int) -> NDArray[np.intp]:
    """Return the numbers of the rows that are drawn, in an order that depends on their paths alone."""

    def draw(row: int) -> tuple[bytes, str, str]:
        path = features.paths[row]
        return hashlib.sha256(f"{seed}:{path}".encode("utf-8", "surrogatepass")).digest(), path, features.splits[row]

    return np.array(heapq.nsmallest(limit, range(len(features)), key=draw), dtype=np.intp)


def _places(features: FeatureSet, rows: NDArray[np.intp], method: Method, seed: int) -> tuple[Floats, Floats | None]:
    """Return points, shape (n, 2), and the share of the variance that each axis explains, if axes mean something."""
    X = features.X[rows].astype(np.float64)
    faulty = first_not_finite(X)
    if faulty is not None:
        row = int(rows[faulty])
        raise EvaluationError(f"{features.paths[row]}: features are not finite; extract them again", row)
    if method == "tsne":
        from sklearn.manifold import TSNE

        components, _ = _principal(X, _COMPONENTS, seed)
        perplexity = min(_PERPLEXITY, (len(X) - 1) / 3)
        return np.asarray(TSNE(perplexity=perplexity, random_state=seed).fit_transform(components), np.float64), None
    components, explained = _principal(X, 2, seed)
    return components, explained


def _principal(X: Floats, count: int, seed: int) -> tuple[Floats, Floats]:
    """Return rows in their first principal components, shape (n, count), and the share of variance of each.

    What there is no component for is 0. The direction of each is such that its largest coordinate is positive.
    """
    from sklearn.decomposition import PCA

    found = min(count, *X.shape)
    components, explained = np.zeros((len(X), count)), np.zeros(count)
    total = float(X.var(axis=0).sum())
    if total > 0:
        pca = PCA(found, svd_solver="randomized" if min(X.shape) > _COMPONENTS else "full", random_state=seed)
        components[:, :found] = pca.fit_transform(X)
        explained[:found] = components[:, :found].var(axis=0) / total
    largest = np.abs(components).argmax(axis=0)
    components *= np.where(components[largest, np.arange(count)] < 0, -1.0, 1.0)
    return components, explained


def _kinds(y: NDArray[np.int64], classes: tuple[str, ...]) -> list[_Kind]:
    """Return the rows of each class; of more than ten, of the nine with the most rows, and the others together."""
    counts = np.bincount(y[y >= 0], minlength=len(classes))
    present = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    coloured = sorted(present if len(present) <= len(COLOURS) else present[: len(COLOURS) - 1])
    kinds = [
        _Kind(y == index, COLOURS[position], "o" if position < _CIRCLES else "^", shown(classes[index], 18))
        for position, index in enumerate(coloured)
    ]
    return [*kinds, *_counted(((y >= 0) & ~np.isin(y, coloured), GREY, "other classes"), (y < 0, FAINT, "no label"))]


def _by_correctness(y: NDArray[np.int64], wrong: NDArray[np.bool_]) -> list[_Kind]:
    """Return the rows that a head gets wrong, those that it gets right, and those that nobody knows of."""
    return _counted((wrong, VERMILION, "wrong"), (~wrong & (y >= 0), BLUE, "right"), (y < 0, FAINT, "no label"))


def _counted(*kinds: tuple[NDArray[np.bool_], str, str]) -> list[_Kind]:
    """Return those kinds of rows that there are, each with the number of its rows."""
    return [
        _Kind(points, colour, "o", f"{name} ({np.count_nonzero(points):,})")
        for points, colour, name in kinds
        if points.any()
    ]


def _draw(axes: Axes, places: Floats, kind: _Kind) -> PathCollection:
    return axes.scatter(
        places[kind.points, 0],
        places[kind.points, 1],
        s=16,
        c=kind.colour,
        marker=kind.marker,
        alpha=0.75,
        linewidths=0,
        rasterized=True,
    )


def _ring(axes: Axes, places: Floats) -> PathCollection:
    """Draw rings around points, lighter ones if there are many."""
    size, width = (60, 1.1) if len(places) <= _FEW_WRONG else (30, 0.6)
    return axes.scatter(
        places[:, 0], places[:, 1], s=size, facecolors="none", edgecolors=INK, linewidths=width, rasterized=True
    )


def _label_axes(axes: Axes, explained: Floats | None) -> None:
    axes.tick_params(labelbottom=False, labelleft=False, length=0)
    if explained is None:
        axes.set(xlabel="t-SNE: only nearness means something")
    else:
        axes.set_xlabel(f"1st principal component ({explained[0]:.1%} of the variance)")
        axes.set_ylabel(f"2nd ({explained[1]:.1%})", rotation_mode="anchor")


def _describe(
    figure: ReportFigure,
    drawn: str,
    explained: Floats | None,
    wrong: NDArray[np.bool_] | None,
    *,
    by_correctness: bool,
) -> None:
    count = 0 if wrong is None else np.count_nonzero(wrong)
    coloured, ringed = (
        "coloured by class",
        "" if wrong is None else f" Ringed: rows that the head gets wrong ({count:,}).",
    )
    if by_correctness:
        coloured, ringed = "coloured by right and wrong", f" Orange: rows that the head gets wrong ({count:,})."
    if explained is None:
        figure.alt = f"Map of the features of {drawn} by t-SNE, {coloured}.{ringed}"
        figure.caption = f"Features of {drawn}, by t-SNE: near each other means alike, distances mean little.{ringed}"
        return
    share = f"{explained.sum():.1%} of the variance"
    figure.alt = f"Map of the features of {drawn} by PCA, {coloured}; two components hold {share}.{ringed}"
    apart = (
        "Where errors lie together, classes overlap"
        if by_correctness
        else "Classes that lie apart here are easy; what overlaps may still differ in other directions"
    )
    figure.caption = f"Features of {drawn}, seen from where they differ most (PCA, {share}). {apart}.{ringed}"
