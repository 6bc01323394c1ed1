"""The report of an audit: likely label errors and duplicate images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurecache.text import counted
from heads.parameters import format_parameters
from heads.report import Fact, Gallery, GalleryImage, Report, Section, Table, Tone
from heads.reporting import parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurecache.recipe import Recipe
    from heads.auditing import Audit, Duplicate, LabelError
    from heads.report.model import Block
    from heads.report.thumbnails import Originals

_SHOWN = 60  # likely label errors that are shown
_PAIRS = 24  # pairs of duplicates that are shown
_LISTED = 200  # rows of a table


def audit_report(
    audit: Audit,
    *,
    recipe: Recipe | None = None,
    originals: Originals | None = None,
    about: Mapping[str, str] | None = None,
) -> Report:
    """Return the report of an audit.

    Parameters
    ----------
    audit
        The audit.
    recipe
        The recipe of the features, for the end of the report.
    originals
        Access to the image files; None for galleries without images.
    about
        Further facts for the end of the report, such as which cache it is of: label to text.

    Examples
    --------
    >>> found = heads.audit(cache, tap="features", head="centroid")
    >>> heads.audit_report(found).title
    'Audit of labels and images'
    """
    network = recipe.backbone if recipe else parts.A_NETWORK
    groups, checked = audit.groups, audit.accuracy is not None
    sections = (
        Section("Likely label errors", _labels(audit, originals, network)),
        Section(
            "Images that occur more than once", (*_duplicate_galleries(audit, originals), *_duplicate_table(audit))
        ),
    )
    return Report(
        title="Audit of labels and images",
        subtitle=_subtitle(audit),
        facts=(
            Fact("labels to check", f"{len(audit.label_errors):,}", "another class is more probable")
            if checked
            else Fact("labels", "not checked", "see the warnings"),
            Fact(
                "images that occur more than once",
                f"{sum(len(group.paths) for group in groups):,}",
                f"in {counted(len(groups), 'group')}",
            ),
            Fact(
                "groups across splits",
                f"{sum(group.crosses for group in groups):,}",
                "their images are in several splits",
            ),
            Fact(
                "groups with conflicting labels",
                f"{sum(group.conflict for group in groups):,}",
                "one image, or nearly, under two labels",
            ),
        ),
        warnings=tuple(map(str, audit.warnings)),
        sections=sections,
        about=(
            *(about or {}).items(),
            ("head", f"{audit.head}: {format_parameters(audit.params)}; {audit.folds} folds, seed {audit.seed}"),
            ("near-duplicates", f"cosine similarity of centred features at least {audit.near:g}"),
            *(parts.about_features(recipe, audit.tap) if recipe else ()),
            *parts.made_by(),
        ),
    )


def _subtitle(audit: Audit) -> str:
    images = counted(audit.n_images, "image")
    if audit.accuracy is None:
        return f"{images}, whose labels were not checked"
    return f"{images}, {len(audit.table):,} of them labelled and checked, of {len(audit.table.classes):,} classes"


def _labels(audit: Audit, originals: Originals | None, network: str) -> tuple[Block, ...]:
    accuracy = audit.accuracy
    if accuracy is None:
        return ("No label could be checked; see the warnings.",)
    explained = (
        "Each of these images was classified by heads that were trained without it and without any "
        f"{'duplicate that was found' if audit.apart else 'file with the same bytes'}"
        f"{', or image of its group' * (audit.table.groups is not None)}. These heads agree with "
        f"{parts.share(accuracy.value)} of the labels (95 % interval {parts.share_range(accuracy)}). Where they do "
        "not, the head or the label is wrong; the most confident disagreements come first."
    )
    return (explained, _label_gallery(audit, originals, network), *_label_table(audit))


def _label_gallery(audit: Audit, originals: Originals | None, network: str) -> Gallery:
    shown = audit.label_errors[:_SHOWN]
    text = ""
    if len(shown) < len(audit.label_errors):
        text = f"The first {len(shown):,} of {len(audit.label_errors):,}."
    return Gallery(
        "Labels to check",
        text,
        tuple(_label_error_image(audit, error, originals, network) for error in shown),
        empty="None: for every image the labelled class is the most probable one.",
    )


def _label_error_image(audit: Audit, error: LabelError, originals: Originals | None, network: str) -> GalleryImage:
    lines = (
        f"labelled {error.given}",
        f"suggested {error.suggested}, score {error.score:.3f}",
        *parts.imagenet_line(audit.table, error.row, network),
    )
    return GalleryImage(
        error.path, lines, (error.given, error.suggested), Tone.NEUTRAL, parts.thumbnail(originals, error.path)
    )


def _label_table(audit: Audit) -> tuple[Table, ...]:
    if not audit.label_errors:
        return ()
    rows = tuple(
        (error.path, error.split or "-", error.given, error.suggested, f"{error.score:.4f}")
        for error in audit.label_errors[:_LISTED]
    )
    caption = "Labels to check; the score is the probability of the suggested class minus that of the given one"
    return (Table(("image", "split", "labelled", "suggested", "score"), rows, caption, frozenset(range(4))),)


def _duplicate_galleries(audit: Audit, originals: Originals | None) -> tuple[Gallery, ...]:
    kinds = {
        "exact": ("The same file twice", "Their bytes are equal."),
        "near": (
            "Nearly the same image",
            "Their features are nearly equal: the file was saved again or slightly changed.",
        ),
    }
    return tuple(_duplicate_gallery(audit, kind, *words, originals) for kind, words in kinds.items())


def _duplicate_gallery(audit: Audit, kind: str, title: str, text: str, originals: Originals | None) -> Gallery:
    pairs = [pair for pair in audit.duplicates if pair.kind == kind]
    more = f" The first {_PAIRS} of {len(pairs):,} pairs." if len(pairs) > _PAIRS else ""
    images = [_pair_images(number, pair, originals) for number, pair in enumerate(pairs[:_PAIRS], start=1)]
    return Gallery(title, text + more, tuple(image for pair in images for image in pair))


def _pair_images(number: int, pair: Duplicate, originals: Originals | None) -> tuple[GalleryImage, GalleryImage]:
    involved = tuple(dict.fromkeys(name for name in (pair.class_a, pair.class_b) if name))
    sides = (pair.a, pair.split_a, pair.class_a), (pair.b, pair.split_b, pair.class_b)
    first, second = (
        GalleryImage(
            path,
            (
                ", ".join(filter(None, (split, name))) or "no label",
                f"pair {number}, similarity {pair.similarity:.3f}",
                *([f"problem: {_problem(pair)}"] if pair.conflict or pair.crosses or pair.tears_groups else []),
            ),
            involved,
            Tone.NEUTRAL,
            parts.thumbnail(originals, path),
        )
        for path, split, name in sides
    )
    return first, second


def _duplicate_table(audit: Audit) -> tuple[Table, ...]:
    if not audit.duplicates:
        return ()
    rows = tuple(
        (pair.a, pair.b, pair.kind, f"{pair.similarity:.4f}", _problem(pair)) for pair in audit.duplicates[:_LISTED]
    )
    return (
        Table(
            ("image", "duplicate", "kind", "similarity", "problem"),
            rows,
            "Pairs that join the images of a group",
            frozenset({0, 1, 2, 4}),
        ),
    )


def _problem(pair: Duplicate) -> str:
    problems = []
    if pair.conflict:
        problems.append(f"labelled {pair.class_a} and {pair.class_b}")
    if pair.crosses:
        problems.append(f"in {pair.split_a or 'no split'} and {pair.split_b or 'no split'}")
    if pair.tears_groups:
        problems.append(f"in the groups {pair.group_a or 'none'} and {pair.group_b or 'none'}")
    return "; ".join(problems) or "-"
