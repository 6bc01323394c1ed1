"""The report of similar images: a gallery for each image that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurecache.text import counted
from heads.report import Fact, Gallery, GalleryImage, Report, Section, Tone
from heads.reporting import parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurecache.recipe import Recipe
    from heads.report.thumbnails import Originals
    from heads.similar_images import Similar, SimilarTo

_SHOWN = 100  # images that were asked for


def similar_report(
    similar: Similar,
    *,
    recipe: Recipe | None = None,
    originals: Originals | None = None,
    given: Originals | None = None,
    about: Mapping[str, str] | None = None,
) -> Report:
    """Return the report of similar images.

    Parameters
    ----------
    similar
        The similar images.
    recipe
        The recipe of the features, for the end of the report.
    originals, given
        Access to the images of the cache, and to the images that were given; None for galleries without images.
    about
        Further facts for the end of the report, such as which cache it is of: label to text.

    Examples
    --------
    >>> found = heads.similar(cache, rows=["valid/dark/02.png"], k=2, tap="features")
    >>> heads.similar_report(found).title
    'Similar images'
    """
    shown = similar.found[:_SHOWN]
    galleries = [_gallery(one, originals, originals if one.in_cache else given) for one in shown]
    more = [f"The first {_SHOWN:,} of {len(similar.found):,} images."] if len(shown) < len(similar.found) else []
    failed = [f"{path}: {failure.reason}" for path, failure in similar.failures.items()]
    return Report(
        title="Similar images",
        subtitle=f"{counted(len(similar.found), 'image')}, compared with the {similar.n_images:,} of the cache",
        facts=(
            Fact("images of the cache", f"{similar.n_images:,}", "all splits"),
            Fact("compared by", similar.tap, "cosine of the angle between features"),
        ),
        warnings=tuple(f"not compared: {line}" for line in failed),
        sections=(Section("The most similar images", (*more, *galleries)),),
        about=(
            *(about or {}).items(),
            *(parts.about_features(recipe, similar.tap) if recipe else ()),
            *parts.made_by(),
        ),
    )


def _gallery(one: SimilarTo, originals: Originals | None, of_query: Originals | None) -> Gallery:
    """Return an image, and the images that are similar to it."""
    asked = GalleryImage(one.path, ("looked for",), (), Tone.NEUTRAL, parts.thumbnail(of_query, one.path))
    similar = [
        GalleryImage(
            image.path,
            (
                f"similarity {image.similarity:.3f}",
                ", ".join(filter(None, (image.split, image.label))) or "no label",
            ),
            (image.label,) if image.label else (),
            Tone.NEUTRAL,
            parts.thumbnail(originals, image.path),
        )
        for image in one.images
    ]
    return Gallery(one.path, "", (asked, *similar))
