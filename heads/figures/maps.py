"""A map of features: rows as points in the plane, near each other if their features are alike."""

from __future__ import annotations

import hashlib
import heapq
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heads.errors import EvaluationError, ParameterError
from heads.figures.style import COLOURS, FAINT, GREY, INK, shown
from heads.rows import first_not_finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

    from featurecache.cache import FeatureSet
    from heads.figures.canvas import ReportFigure

    Floats: TypeAlias = NDArray[np.float64]
    Method: TypeAlias = Literal["pca", "tsne"]

_METHODS = ("pca", "tsne")
_CIRCLES = 5  # classes that are drawn as circles; others are triangles
_COMPONENTS = 50  # what t-SNE is given, as its authors do
_PERPLEXITY = 30.0
_SHORT = 20  # letters of names of which three stand in a line
_FEWEST = 5  # rows that t-SNE can place


def feature_map(
    features: FeatureSet,
    predicted: NDArray[np.int64] | None = None,
    *,
    method: Method = "pca",
    limit: int = 2000,
    seed: int = 0,
) -> ReportFigure:
    """Draw rows as points in the plane, coloured by class.

    Of more than ten classes, the nine with the most rows have colours, and all others are grey.

    Parameters
    ----------
    features
        The rows; their features may be a memory map, of which no more than ``limit`` rows are read.
    predicted
        The class index that a head says for each row, shape (n,); rows where it is not the true one are ringed.
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
    from heads.figures.canvas import drawing, said

    if method not in _METHODS or limit < 1:
        raise ParameterError(f"method is {method!r} and limit {limit}, expected pca or tsne, and at least 1")
    rows = _chosen(features, limit, seed)
    if len(rows) < (_FEWEST if method == "tsne" else 1):
        return said(f"No map of the features: there are {len(rows)} rows.")
    places, explained = _places(features, rows, method, seed)
    wrong = None if predicted is None else (predicted[rows] != features.y[rows]) & (features.y[rows] >= 0)
    with drawing((6.0, 5.4)) as figure:
        axes = figure.subplots()
        handles, names = _draw_classes(axes, places, features.y[rows], features.classes)
        if wrong is not None and wrong.any():
            x, y = places[wrong].T
            handles.append(axes.scatter(x, y, s=60, facecolors="none", edgecolors=INK, linewidths=1.1, rasterized=True))
            names.append(f"wrong ({np.count_nonzero(wrong):,})")
        _label_axes(axes, explained)
        columns = 2 if max(map(len, names)) > _SHORT else 3
        legend = figure.legend(
            handles,
            [str(each) for each in range(len(names))],
            loc="outside lower center",
            ncols=columns,
            markerscale=1.3,
        )
        for text, name in zip(legend.get_texts(), names, strict=True):
            text.set_text(name)  # a label that begins with an underscore would be left out
    some = f"{len(rows):,} of {len(features):,} rows" if len(rows) < len(features) else f"{len(rows):,} rows"
    _describe(figure, some, explained, wrong)
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


def _draw_classes(
    axes: Axes, places: Floats, y: NDArray[np.int64], classes: tuple[str, ...]
) -> tuple[list[PathCollection], list[str]]:
    """Draw the points of each class; return what stands for them in a legend, and the names."""
    counts = np.bincount(y[y >= 0], minlength=len(classes))
    present = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    coloured = sorted(present if len(present) <= len(COLOURS) else present[: len(COLOURS) - 1])
    kinds = [
        (y == index, COLOURS[position], "o" if position < _CIRCLES else "^", shown(classes[index], 18))
        for position, index in enumerate(coloured)
    ]
    for points, colour, name in (((y >= 0) & ~np.isin(y, coloured), GREY, "other classes"), (y < 0, FAINT, "no label")):
        if points.any():
            kinds.append((points, colour, "o", f"{name} ({np.count_nonzero(points):,})"))
    handles = [
        axes.scatter(
            places[points, 0],
            places[points, 1],
            s=16,
            c=colour,
            marker=marker,
            alpha=0.75,
            linewidths=0,
            rasterized=True,
        )
        for points, colour, marker, _ in reversed(kinds)
    ]
    return handles[::-1], [name for *_, name in kinds]


def _label_axes(axes: Axes, explained: Floats | None) -> None:
    axes.tick_params(labelbottom=False, labelleft=False, length=0)
    if explained is None:
        axes.set(xlabel="t-SNE: only nearness means something")
    else:
        axes.set_xlabel(f"1st principal component ({explained[0]:.1%} of the variance)")
        axes.set_ylabel(f"2nd ({explained[1]:.1%})", rotation_mode="anchor")


def _describe(figure: ReportFigure, some: str, explained: Floats | None, wrong: NDArray[np.bool_] | None) -> None:
    ringed = "" if wrong is None else f" Ringed: rows that the head gets wrong ({np.count_nonzero(wrong):,})."
    if explained is None:
        figure.alt = f"Map of the features of {some} by t-SNE, coloured by class.{ringed}"
        figure.caption = f"Features of {some}, by t-SNE: near each other means alike, distances mean little.{ringed}"
        return
    share = f"{explained.sum():.1%} of the variance"
    figure.alt = f"Map of the features of {some} by PCA, coloured by class; two components hold {share}.{ringed}"
    figure.caption = (
        f"Features of {some}, seen from where they differ most (PCA, {share}). Classes that lie apart here are easy; "
        f"what overlaps may still differ in other directions.{ringed}"
    )
